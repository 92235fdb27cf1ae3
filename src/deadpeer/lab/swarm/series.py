"""The swarm's rows of the acceptance table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from deadpeer.lab.options import LabError
from deadpeer.lab.scenarios.etcd import require_etcd
from deadpeer.lab.scenarios.field import Say
from deadpeer.lab.swarm.outcome import SwarmOutcome
from deadpeer.lab.swarm.plan import FEW, RATIO, Event, SwarmPlan
from deadpeer.lab.swarm.runs import run_swarm

QUICK_LEASE_S = 3
Judged = tuple[str, str, str, bool | None]
"""What was done, what was wanted, what was measured, whether it holds (None: it could not be run)."""


async def judge_swarm(event: Event, clients: int, runs: int, slack: float, seed: int, say: Say) -> Judged:
    """So many runs. With `slack` above 1 it is not speed that is judged, and the lease is short."""
    plan = SwarmPlan(event, clients, members=2 if event == "takeover" else 4, seed=seed, slack=slack)
    if slack > 1.0:
        plan = SwarmPlan(event, clients, plan.members, QUICK_LEASE_S, processes=2, seed=seed, slack=slack)
    name, wanted = _words(plan)
    outcomes: list[SwarmOutcome] = []
    try:
        if not plan.standby:
            require_etcd()
        for number in range(runs):
            outcomes += await run_swarm(replace(plan, seed=seed + number), say)
    except LabError as error:
        return (
            name,
            wanted,
            f"skipped: {error}" if error.usage else str(error),
            None if error.usage else False,
        )
    return name, wanted, *judged(outcomes)


def judged(outcomes: Sequence[SwarmOutcome]) -> tuple[str, bool]:
    """What was measured in all runs, in figures, and whether every check of each run holds."""
    failures = [each.failure for each in outcomes if each.failure is not None]
    failure = failures[0] if failures else None
    if failure is not None and len(outcomes) > 1:
        failure = f"in {len(failures)} of them not all held: {failure}"
    text = measured(outcomes[0]) if len(outcomes) == 1 else _together(outcomes)
    return text if failure is None else f"{text}; but {failure}", failure is None


def measured(outcome: SwarmOutcome) -> str:
    """What was measured in a run, in figures."""
    if outcome.shared:
        return "; ".join(f"{s.keys} keys, {s.octets} octets at {s.ike_sas:,} IKE SAs" for s in outcome.shared)
    text = f"{outcome.back} back"
    spans = outcome.spans
    if spans is not None and spans.recover is not None and spans.cold is not None:
        text += f" after {spans.recover / 1000:.2f} s; connecting took {spans.cold / 1000:.2f} s"
    text += f"; {outcome.told_of_living} tokens for living SAs"
    if outcome.others:
        text += f"; the {outcome.others} others lost {outcome.others_lost} packets"
    return text


def _together(outcomes: Sequence[SwarmOutcome]) -> str:
    spans = [each.spans for each in outcomes if each.spans is not None]
    text = f"{len(outcomes)} runs, {sum(each.back for each in outcomes)} back"
    text += f" after {_range(s.recover for s in spans)}; connecting took {_range(s.cold for s in spans)}"
    ratios = [s.ratio for s in spans if s.ratio is not None]
    if ratios and outcomes[0].plan.standby:
        text += (
            f"; {min(ratios):.2f} to {max(ratios):.2f} times as long, median {statistics.median(ratios):.2f}"
        )
    text += f"; {sum(each.told_of_living for each in outcomes)} tokens for living SAs"
    if any(each.others for each in outcomes):
        text += f"; the others lost {sum(each.others_lost for each in outcomes)} packets"
    return text


def _range(times_ms: Iterable[float | None]) -> str:
    known = sorted(time / 1000 for time in times_ms if time is not None)
    return f"{known[0]:.2f} to {known[-1]:.2f} s" if known else "never"


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
