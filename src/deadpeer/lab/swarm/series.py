"""The swarm's rows of the acceptance table."""

from __future__ import annotations

from deadpeer.lab.options import LabError
from deadpeer.lab.scenarios.etcd import require_etcd
from deadpeer.lab.scenarios.field import Say
from deadpeer.lab.swarm.outcome import SwarmOutcome
from deadpeer.lab.swarm.plan import FEW, RATIO, Event, SwarmPlan
from deadpeer.lab.swarm.runs import run_swarm

QUICK_LEASE_S = 3
Judged = tuple[str, str, str, bool | None]
"""What was done, what was wanted, what was measured, whether it holds (None: it could not be run)."""


async def judge_swarm(event: Event, clients: int, slack: float, seed: int, say: Say) -> Judged:
    """One run with a swarm. With `slack` above 1 it is not speed that is judged, and the lease is short."""
    plan = SwarmPlan(event, clients, members=2 if event == "takeover" else 4, seed=seed, slack=slack)
    if slack > 1.0:
        plan = SwarmPlan(event, clients, plan.members, QUICK_LEASE_S, processes=2, seed=seed, slack=slack)
    name, wanted = _words(plan)
    try:
        if not plan.standby:
            require_etcd()
        (outcome,) = await run_swarm(plan, say)
    except LabError as error:
        return (
            name,
            wanted,
            f"skipped: {error}" if error.usage else str(error),
            None if error.usage else False,
        )
    return name, wanted, measured(outcome), outcome.ok


def measured(outcome: SwarmOutcome) -> str:
    """What was measured, in figures; and what did not hold."""
    if outcome.shared:
        text = "; ".join(f"{s.keys} keys, {s.octets} octets at {s.ike_sas:,} IKE SAs" for s in outcome.shared)
    else:
        text = f"{outcome.back} back"
        spans = outcome.spans
        if spans is not None and spans.recover is not None and spans.cold is not None:
            text += f" after {spans.recover / 1000:.2f} s; connecting took {spans.cold / 1000:.2f} s"
        text += f"; {outcome.told_of_living} tokens for living SAs"
        if outcome.others:
            text += f"; the {outcome.others} others lost {outcome.others_lost} packets"
    return text if outcome.failure is None else f"{text}; but {outcome.failure}"


def _words(plan: SwarmPlan) -> tuple[str, str]:
    more = "" if plan.slack == 1.0 else f"; {plan.slack:g} times that passes here"
    if plan.event == "state":
        return f"shared state in etcd at {FEW} and at {plan.clients:,} SAs", "the same keys and octets"
    if plan.standby:
        name = f"{plan.clients} clients, the active gateway of two dies"
        return name, f"all back within {RATIO:g} times what as many cold connects take{more}"
    name = f"{plan.clients} clients, a member of {plan.members} dies"
    return (
        name,
        f"its clients back within the lease and {RATIO:g} times what as many cold connects take{more}",
    )
