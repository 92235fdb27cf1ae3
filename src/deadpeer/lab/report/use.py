"""Do the use cases on real processes, and keep what the pictures need."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from deadpeer.lab.copies.place import CopiesPlan
from deadpeer.lab.copies.result import CopiesResult
from deadpeer.lab.copies.run import run_copies
from deadpeer.lab.options import LabError, LabOptions
from deadpeer.lab.process import Record
from deadpeer.lab.recording import SideEvent, Silent
from deadpeer.lab.report.cases import (
    Case,
    Strip,
    given_up_alive,
    of_outcome,
    of_run,
    pair_before,
    strip_of,
    tokens_of_living,
)
from deadpeer.lab.result import RunResult
from deadpeer.lab.runs import Run, run_once
from deadpeer.lab.scenarios import cluster, failover, parting
from deadpeer.lab.scenarios.field import Field, open_field
from deadpeer.lab.scenarios.outcome import Client, Outcome, losses
from deadpeer.lab.scenarios.parts import PATIENCE_S, victim
from deadpeer.lab.scenarios.plan import ClusterPlan, Happening
from deadpeer.lab.trace import IkeSeen, Sighting
from deadpeer.lab.traffic import TrafficLog

HAPPENINGS: dict[Happening, Callable[[Field], Awaitable[Outcome]]] = {
    "kill": cluster.kill,
    "freeze": cluster.freeze,
    "cut": cluster.cut,
    "split": parting.split,
    "drain": parting.drain,
    "etcd": cluster.etcd,
    "takeover": failover.takeover,
    "stall": failover.stall,
    "both": failover.both,
}
"""What a report has happen."""

BEFORE_MS, AFTER_MS = 400.0, 1000.0
"""So much is shown before the moment from which times count, and after traffic flows again."""
MOVED_S = 2.0
"""For so long the balancer leads clients to members that do not have their SAs."""
LATE_MS = 150.0
"""What takes so much longer than a round trip has waited somewhere."""


class Listener(Silent):
    """An observer that keeps the IKE messages of a run, its packets, Alice's verdicts, and its phases."""

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self.log = TrafficLog()
        self.verdicts: list[SideEvent] = []
        self.phases: dict[str, int] = {}

    def phase(self, name: str, at_ns: int) -> None:
        self.phases[name] = at_ns

    def event(self, event: SideEvent) -> None:
        if event.side == "alice" and event.kind == "verdict":
            self.verdicts.append(event)

    def sighting(self, sighting: Sighting) -> None:
        if isinstance(sighting.seen, IkeSeen):
            self.sightings.append(sighting)

    def traffic(self, record: Record) -> None:
        self.log.take(record)


async def run_case(options: LabOptions) -> Case:
    """One run between two gateways as a use case. One that can't begin counts as one that failed."""
    listener = Listener()
    try:
        run = await run_once(options, listener)
    except LabError as error:
        return of_run(RunResult(options, ok=False, failure=str(error)), None, 0, 0)
    return case_of(run, listener)


def case_of(run: Run, listener: Listener) -> Case:
    """What a run that was listened to was, as a use case."""
    options, result = run.result.options, run.result
    lost_ns = listener.phases.get("killed", listener.phases.get("lost", run.origin_ns))
    child_only = options.lost == "child"
    pair = None if child_only else pair_before(listener.sightings, lost_ns)
    until_ms = AFTER_MS + (result.recover_ms or 0.0)
    from_ms = (lost_ns - run.origin_ns) / 1e6 - BEFORE_MS
    late_ms = options.rtt_ms + LATE_MS
    strip = strip_of(
        "Alice",
        listener.log,
        run.origin_ns,
        (from_ms, until_ms),
        late_ms,
        result.detect_ms,
        result.recover_ms,
    )
    return of_run(
        result,
        strip,
        given_up_alive(listener.verdicts, lost_ns, child_only=child_only),
        tokens_of_living(listener.sightings, lost_ns, pair),
    )


async def run_scenario(plan: ClusterPlan, keep: Callable[[Case], None]) -> None:
    """A failover or a cluster, to which everything of the plan happens; `keep` gets what came of each.

    Raises LabError if something can't be done: nothing happens any more then.
    """
    async with open_field(plan, lambda _text: None) as field:
        if plan.forward:
            keep(await _moved(field))
        for happening in plan.happenings:
            counts = [len(client.events) for client in field.clients]
            outcome = await HAPPENINGS[happening](field)
            keep(_case_of(field, outcome, counts))


async def run_copies_of(plans: Sequence[CopiesPlan]) -> list[CopiesResult]:
    """Copies of a gateway, beside each other: they mostly wait. Raises LabError if one can't begin."""
    return list(await asyncio.gather(*(run_copies(plan, lambda _text: None) for plan in plans)))


async def _moved(field: Field) -> Case:
    """The balancer leads the clients of a member that lives to others, for a while."""
    before, member = victim(field)
    counts = [len(client.events) for client in field.clients]
    at_ns = time.monotonic_ns()
    await field.steer(member, away=True)
    await asyncio.sleep(MOVED_S)
    end_ns = time.monotonic_ns()
    await field.steer(member, away=False)
    await asyncio.sleep(PATIENCE_S)
    sent, lost = losses([field.traffic[client] for client in before.concerned], at_ns, end_ns)
    fresh = [client.events[count:] for client, count in zip(field.clients, counts, strict=True)]
    verdicts = [event for events in fresh for event in events if event["event"] == "verdict"]
    span = (-BEFORE_MS, (end_ns - at_ns) / 1e6)
    strip = strip_of("one of its clients", field.traffic[before.concerned[0]], at_ns, span, LATE_MS)
    return Case(
        use="cluster",
        lost="moved",
        method=field.plan.method,
        detect_ms=None,
        recover_ms=None,
        packets_sent=sent,
        packets_lost=lost,
        living_lost=len(verdicts),
        tokens=len(field.truth.told_of_living(at_ns)),
        asked=sum((Counter(field.buyers.asked) - before.asked).values()),
        strips=(strip,),
        record={
            "scenario": "cluster",
            "lost": "moved",
            "method": field.plan.method,
            "members": field.plan.members,
            "clients": field.plan.clients,
            "lease_s": field.plan.lease_s,
            "forward": field.plan.forward,
            "seed": field.plan.seed,
        },
    )


def _case_of(field: Field, outcome: Outcome, counts: Sequence[int]) -> Case:
    """`counts`: how many events each client had logged before."""
    fresh = [client.events[count:] for client, count in zip(field.clients, counts, strict=True)]
    concerned = {client.number: client for client in outcome.clients}
    verdicts = {
        number: [event for event in events if event["event"] == "verdict"]
        for number, events in enumerate(fresh)
    }
    living_lost = sum(
        len(found) if number not in concerned else max(0, len(found) - 1)
        for number, found in verdicts.items()
    )
    zero_ns = _zero(concerned, verdicts)
    strips = () if zero_ns is None else _strips(field, concerned, zero_ns)
    return of_outcome(outcome, strips, living_lost)


def _zero(concerned: dict[int, Client], verdicts: dict[int, list[Record]]) -> int | None:
    """The moment that an outcome's times count from, by a client's verdict."""
    for number, client in concerned.items():
        if client.detect_ms is not None and verdicts[number]:
            return int(verdicts[number][0]["mono_ns"]) - round(client.detect_ms * 1e6)
    return None


def _strips(field: Field, concerned: dict[int, Client], zero_ns: int) -> tuple[Strip, ...]:
    """One of the clients that were concerned, and one of the others."""
    slowest = max(concerned.values(), key=lambda client: client.recover_ms or 0.0)
    noticed_ms = 1000 * failover.NOTICE_S if field.plan.standby else 0.0
    span = (-noticed_ms - BEFORE_MS, AFTER_MS + (slowest.recover_ms or 0.0))
    name = "its client" if len(concerned) == 1 else f"one of its {len(concerned)} clients"
    mine = strip_of(
        name, field.traffic[slowest.number], zero_ns, span, LATE_MS, slowest.detect_ms, slowest.recover_ms
    )
    others = [number for number in range(field.plan.clients) if number not in concerned]
    if not others:
        return (mine,)
    return (mine, strip_of("another member's client", field.traffic[others[0]], zero_ns, span, LATE_MS))
