"""What is done with a swarm: the active gateway of two, or a member of a cluster, dies under it; or what the
members of a cluster share is read with few SAs and with many."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from deadpeer.lab.options import LabError
from deadpeer.lab.result import PROOF_OF
from deadpeer.lab.scenarios.failover import NOTICE_S
from deadpeer.lab.scenarios.field import Say
from deadpeer.lab.scenarios.outcome import Check, none
from deadpeer.lab.scenarios.parts import PATIENCE_S
from deadpeer.lab.swarm.field import SwarmField, open_swarm
from deadpeer.lab.swarm.outcome import Spans, SwarmOutcome
from deadpeer.lab.swarm.plan import CLIENTS, FEW, Event, SwarmPlan
from deadpeer.lab.swarm.shared import read_all

STEADY_S = 5.0
"""Traffic flows so long before anything happens: long enough that round trips are known, and all is quiet."""
SMALL_STEADY_S = 2.0
CALM_S = 2.0
"""It goes on so long after all are back."""


async def run_swarm(plan: SwarmPlan, say: Say) -> list[SwarmOutcome]:
    """One run. Raises LabError if it can't even begin."""
    async with open_swarm(plan, say) as field:
        outcome = await _EVENTS[plan.event](field)
    say(outcome.summary())
    return [outcome]


async def takeover(field: SwarmField) -> SwarmOutcome:
    """All connect to the active one of two; it is killed, the other is activated. Times count from that.

    Hosts send from the start: what they send costs the same while clients connect and while they come back.
    """
    everybody = range(field.plan.clients)
    field.traffic(flows=True)
    cold = await connect(field, everybody)
    await steady(field)
    killed_ns = await field.members[0].kill()
    field.truth.stopped(0, killed_ns, dead=True)
    field.say("gateway 0, the active one, is killed (SIGKILL)")
    await asyncio.sleep(NOTICE_S)
    at_ns = await field.activate(1)
    await field.steer(1, away=False)
    await field.steer(0, away=True)
    field.say("gateway 1 is active now")
    return await judge(field, cold, everybody, 0, killed_ns, at_ns)


async def kill(field: SwarmField) -> SwarmOutcome:
    """A member is killed, and the balancer takes it out. Times count from its death."""
    plan = field.plan
    homes = await field.homes()
    victim = random.Random(plan.seed).choice(sorted(set(homes)))  # noqa: S311 - which one is no secret
    concerned = [client for client, home in enumerate(homes) if home == victim]
    others = [client for client, home in enumerate(homes) if home != victim]
    # As many cold connects, to the members that will have to take the others in.
    together = others[: len(concerned)]
    field.traffic(flows=True)
    cold = await connect(field, together)
    await connect(field, [*others[len(concerned) :], *concerned])
    await steady(field)
    at_ns = await field.members[victim].kill()
    field.truth.stopped(victim, at_ns, dead=True)
    await field.steer(victim, away=True)
    field.say(f"member {victim} is killed (SIGKILL): its {len(concerned)} clients land elsewhere")
    return await judge(field, cold, concerned, victim, at_ns, at_ns)


async def state(field: SwarmField) -> SwarmOutcome:
    """What the members share in etcd with few SAs, and with many."""
    plan, shared = field.plan, []
    counts = sorted({min(FEW, plan.clients), plan.clients})
    begun = 0
    for count in counts:
        await connect(field, range(begun, count))
        begun = count
        # What a member writes it writes at once; a lease is renewed without writing.
        await asyncio.sleep(plan.lease_s)
        held = sum([await field.ike_sas(member) for member in range(plan.members)])
        shared.append(replace(await asyncio.to_thread(read_all, field.etcd.endpoint), ike_sas=held))
        field.say(f"{held} IKE SAs: {shared[-1].keys} keys in etcd, {shared[-1].octets} octets")
    first, last = shared[0], shared[-1]
    checks = (
        *(
            Check(
                f"IKE SAs that the members hold, of {count} clients",
                str(count),
                str(s.ike_sas),
                s.ike_sas == count,
            )
            for count, s in zip(counts, shared, strict=True)
        ),
        Check("keys in etcd", str(first.keys), str(last.keys), first.keys == last.keys),
        Check("octets in etcd", str(first.octets), str(last.octets), first.octets == last.octets),
    )
    return SwarmOutcome(plan, checks, shared=tuple(shared))


async def connect(field: SwarmField, clients: Collection[int]) -> Spans:
    """Have these clients connect at once, and wait until traffic flows for all, as it must after a recovery.

    Where they talk to the members themselves there is none: until all have a child SA.
    """
    began_ns = field.connect(list(clients))
    up = await field.all_are("up", clients, began_ns, "connected")
    if len(up) < len(clients):
        why = "; ".join(reason for reason, _ in field.moments.reasons.most_common(2))
        raise LabError(f"only {len(up)} of {len(clients)} clients could connect{why and f': {why}'}")
    if not field.plan.direct:
        up = await field.all_are("back", clients, began_ns, "traffic flows")
        if len(up) < len(clients):
            raise LabError(f"traffic flows for only {len(up)} of {len(clients)} clients")
    cold_ms = _ms(max(up.values()) - began_ns)
    field.say(f"{len(clients)} cold connects took {cold_ms / 1000:.2f} s")
    return Spans(len(clients), cold_ms)


async def steady(field: SwarmField) -> None:
    """Let traffic flow for a while."""
    began_ns = time.monotonic_ns()
    await field.all_are("back", range(field.plan.clients), 0, "traffic flows")
    field.say(f"each client's host sends a packet every {field.plan.interval_s:g} s")
    steady_s = STEADY_S if field.plan.clients >= CLIENTS else SMALL_STEADY_S
    await asyncio.sleep(max(0.0, steady_s - (time.monotonic_ns() - began_ns) / 1e9))


async def judge(
    field: SwarmField, cold: Spans, clients: Collection[int], member: int, killed_ns: int, at_ns: int
) -> SwarmOutcome:
    """Wait until these clients are back, then for what is under way, and judge. Times count from `at_ns`."""
    plan = field.plan
    up = await field.all_are("up", clients, killed_ns, "up again")
    back = await field.all_are("back", up, killed_ns, "back")
    end_ns = time.monotonic_ns()
    knew = field.moments.all_of("verdict", clients, killed_ns)
    spans = _spans(cold, clients, knew, back, at_ns)
    await asyncio.sleep(CALM_S)
    calm_ns = time.monotonic_ns()
    await asyncio.sleep(PATIENCE_S)
    sent, lost = await field.tally(killed_ns, calm_ns)
    _, lost_again = await field.tally(end_ns, calm_ns)
    others = set(range(plan.clients)) - set(clients)
    await field.hear()
    told = len(field.truth.told_of_living())
    unheard = len(field.truth.told_of_unheard(field.moments.pairs))
    proofs = Counter(
        next((proof for at, proof in field.moments.proofs.get(client, ()) if at >= killed_ns), "nothing")
        for client in clients
    )
    assert cold.cold is not None
    bound_s = plan.bound_s(cold.cold / 1000)
    wanted = PROOF_OF[plan.method]
    took = "never" if spans.recover is None else f"{spans.recover / 1000:.2f} s"
    in_time = spans.recover is not None and spans.recover <= bound_s * 1000
    others_lost = sum(lost.get(client, 0) for client in others)
    checks: tuple[Check, ...] = (
        Check("clients that came back", str(len(clients)), str(len(back)), len(back) == len(clients)),
        Check("the last one was back", f"within {bound_s:.2f} s", took, in_time),
        Check("clients knew by", wanted, ", ".join(sorted(proofs)), set(proofs) == {wanted}),
        none("tokens for living SAs", told),
        none("tokens for SAs that clients had and no member's log knows", unheard),
    )
    if plan.slack == 1.0:
        checks += (
            none("packets that the other clients lost", others_lost),
            none("packets that clients lost once they were back", sum(lost_again.values())),
        )
    return SwarmOutcome(
        plan,
        checks,
        member=member,
        spans=spans,
        bound_ms=round(bound_s * 1000, 3),
        back=len(back),
        verdicts=dict(proofs),
        sent=sum(sent.values()),
        lost=sum(lost.values()),
        others=len(others),
        others_lost=others_lost,
        told_of_living=told,
    )


_EVENTS: dict[Event, Callable[[SwarmField], Awaitable[SwarmOutcome]]] = {
    "takeover": takeover,
    "kill": kill,
    "state": state,
}


def _spans(
    cold: Spans, clients: Collection[int], knew: dict[int, int], back: dict[int, int], at_ns: int
) -> Spans:
    whole = len(back) == len(clients)
    return Spans(
        cold.together,
        cold.cold,
        _ms(max(knew.values()) - at_ns) if len(knew) == len(clients) else None,
        _ms(min(knew.values()) - at_ns) if knew else None,
        _ms(max(back.values()) - at_ns) if whole else None,
        _ms(round(statistics.median(back.values())) - at_ns) if back else None,
    )


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
