"""Do what a plan says, one after the other because they measure time, and keep what they gave."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from deadpeer.lab.attacks.model import AttackResult
from deadpeer.lab.attacks.run import run_attack
from deadpeer.lab.costs import measure
from deadpeer.lab.costs.model import Costs
from deadpeer.lab.options import LabError
from deadpeer.lab.recording import Silent
from deadpeer.lab.report.model import EARLIER, Measured, Reference, Rung, Wire, attack_record
from deadpeer.lab.report.plan import AttackTask, CostsTask, ReferenceTask, RunTask, Task
from deadpeer.lab.report.progress import Tracker
from deadpeer.lab.report.reference import measure_reference
from deadpeer.lab.result import RunResult
from deadpeer.lab.runs import Run, run_once
from deadpeer.lab.trace import IkeSeen, Sighting, Way


@dataclass(slots=True)
class Collected:
    """What the tasks gave, in their order. `failed`: what could not even begin, and why."""

    runs: list[Measured] = field(default_factory=list)
    attacks: list[AttackResult] = field(default_factory=list)
    costs: Costs | None = None
    reference: Reference = EARLIER
    failed: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all that ran came out well, and all that was to run did."""
        return (
            not self.failed
            and all(run.result.ok for run in self.runs)
            and all(attack.ok for attack in self.attacks)
        )

    def to_record(self) -> dict[str, Any]:
        """What `deadpeer lab --json` prints of several runs."""
        record: dict[str, Any] = {"runs": [run.to_record() for run in self.runs]}
        if self.attacks:
            record["attacks"] = [attack_record(attack) for attack in self.attacks]
        return record


class Listener(Silent):
    """An observer that keeps the IKE messages of a run."""

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []

    def sighting(self, sighting: Sighting) -> None:
        if isinstance(sighting.seen, IkeSeen):
            self.sightings.append(sighting)


async def collect(tasks: Sequence[Task], tracker: Tracker) -> Collected:
    """All of them. The reference runs beside the others; it needs no time of the processor to speak of."""
    collected = Collected()
    beside = [
        asyncio.create_task(_reference(t, collected, tracker)) for t in tasks if isinstance(t, ReferenceTask)
    ]
    try:
        for task in tasks:
            if not isinstance(task, ReferenceTask):
                tracker.begin(task.title)
                await _do(task, collected, tracker)
        for waiting in beside:
            tracker.begin("waiting for strongSwan's timers on both sides")
            await waiting
    finally:
        for waiting in beside:
            waiting.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return collected


async def _do(task: RunTask | AttackTask | CostsTask, collected: Collected, tracker: Tracker) -> None:
    match task:
        case RunTask():
            measured = await _run(task)
            collected.runs.append(measured)
            tracker.done(task.title, outcome(measured.result), ok=measured.result.ok)
        case AttackTask():
            await _attack(task, collected, tracker)
        case CostsTask():
            await _costs(task, collected, tracker)


async def _run(task: RunTask) -> Measured:
    """One run. One that can't begin counts as one that failed."""
    listener = Listener()
    try:
        run = await run_once(task.options, listener)
    except LabError as error:
        return Measured(task.variant, RunResult(task.options, ok=False, failure=str(error)))
    alice, bob = between(listener.sightings, run)
    return Measured(
        task.variant, run.result, alice, bob, tuple(Rung.of(step, run.origin_ns) for step in run.steps)
    )


def between(sightings: Iterable[Sighting], run: Run) -> tuple[Wire, Wire]:
    """The IKE messages that Alice and Bob sent from his return to the recovery. Pure.

    One that was under way to him when he could answer again counts: he hears it.
    """
    recover_ms = run.result.recover_ms
    if recover_ms is None:
        return Wire(), Wire()
    end_ns = run.origin_ns + round(recover_ms * 1e6)
    sizes: dict[Way, list[int]] = {Way.TO_BOB: [], Way.TO_ALICE: []}
    for sighting in sightings:
        heard_ns = sighting.arrived_ns if sighting.delivered_ns is None else sighting.delivered_ns
        if isinstance(sighting.seen, IkeSeen) and run.origin_ns <= heard_ns <= end_ns:
            sizes[sighting.way].append(sighting.size)
    to_bob, to_alice = sizes[Way.TO_BOB], sizes[Way.TO_ALICE]
    return Wire(len(to_bob), sum(to_bob)), Wire(len(to_alice), sum(to_alice))


def outcome(result: RunResult) -> str:
    """A run in a few words."""
    if result.failure is not None or result.recover_ms is None:
        return result.failure or "no recovery"
    ms = result.recover_ms
    return f"traffic after {ms:.0f} ms" if ms < 10_000 else f"traffic after {ms / 1000:.1f} s"


async def _attack(task: AttackTask, collected: Collected, tracker: Tracker) -> None:
    try:
        result = await run_attack(task.attack, task.options, Silent(), seconds=task.duration_s)
    except LabError as error:
        collected.failed.append(f"{task.title}: {error}")
        tracker.done(task.title, str(error), ok=False)
        return
    collected.attacks.append(result)
    broken = [f"{check.what}: {check.measured}" for check in result.checks if not check.holds]
    told = "; ".join([result.failure, *broken] if result.failure else broken)
    tracker.done(task.title, told or "everything held", ok=result.ok)


async def _costs(task: CostsTask, collected: Collected, tracker: Tracker) -> None:
    try:
        collected.costs = await _measured_apart(task.recoveries)
    except LabError as error:
        collected.failed.append(f"{task.title}: {error}")
        tracker.done(task.title, str(error), ok=False)
        return
    tracker.done(task.title, f"measured from {task.recoveries} recoveries each", ok=True)


async def _measured_apart(recoveries: int) -> Costs:
    """In a process of its own: nothing of ours is in its memory, and an interruption ends it at once."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_costs, args=(there, recoveries), daemon=True)
    process.start()
    there.close()
    try:
        answer = await asyncio.to_thread(here.recv)
    except EOFError as error:
        raise LabError("the process that measures costs has died") from error
    finally:
        process.kill()
        process.join()
    if isinstance(answer, Costs):
        return answer
    raise LabError(str(answer))


def _send_costs(there: Connection, recoveries: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        there.send(measure(lambda _: None, recoveries=recoveries))
    except LabError as error:
        there.send(str(error))


async def _reference(task: ReferenceTask, collected: Collected, tracker: Tracker) -> None:
    try:
        collected.reference = await measure_reference(task.options)
    except LabError as error:
        collected.failed.append(f"{task.title}: {error}")
        tracker.done(task.title, str(error), ok=False)
        return
    tracker.done(task.title, f"traffic after {collected.reference.recover_s:.0f} s", ok=True)
