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
from deadpeer.lab.copies.result import CopiesResult
from deadpeer.lab.costs import measure
from deadpeer.lab.costs.model import Costs
from deadpeer.lab.options import LabError
from deadpeer.lab.recording import Silent
from deadpeer.lab.report.cases import Case
from deadpeer.lab.report.model import EARLIER, Measured, Reference, Rung, Wire, attack_record
from deadpeer.lab.report.notation import duration
from deadpeer.lab.report.plan import (
    AttackTask,
    CaseTask,
    CopiesTask,
    CostsTask,
    ReferenceTask,
    RunTask,
    ScenarioTask,
    Task,
)
from deadpeer.lab.report.progress import Tracker
from deadpeer.lab.report.reference import measure_reference
from deadpeer.lab.report.use import Listener, case_of, run_case, run_copies_of, run_scenario
from deadpeer.lab.result import RunResult
from deadpeer.lab.runs import Run, run_once
from deadpeer.lab.scenarios.plan import ClusterPlan
from deadpeer.lab.trace import IkeSeen, Sighting, Way


@dataclass(slots=True)
class Collected:
    """What the tasks gave, in their order. `failed`: what could not even begin, and why."""

    runs: list[Measured] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    copies: list[CopiesResult] = field(default_factory=list)
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
            and all(case.ok for case in self.cases)
            and all(copies.ok for copies in self.copies)
            and all(attack.ok for attack in self.attacks)
        )

    def to_record(self) -> dict[str, Any]:
        """What `deadpeer lab --json` prints of several runs."""
        record: dict[str, Any] = {"ok": self.ok, "runs": [run.to_record() for run in self.runs]}
        if self.attacks:
            record["attacks"] = [attack_record(attack) for attack in self.attacks]
        return record


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


async def _do(task: Task, collected: Collected, tracker: Tracker) -> None:
    match task:
        case RunTask():
            measured = await _run(task)
            collected.runs.append(measured)
            tracker.done(task.title, outcome(measured.result), ok=measured.result.ok)
        case CaseTask():
            case = await run_case(task.options)
            collected.cases.append(case)
            tracker.done(task.title, told(case), ok=case.ok)
        case ScenarioTask():
            await _scenarios(task, collected, tracker)
        case CopiesTask():
            await _copies(task, collected, tracker)
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
    rungs = tuple(Rung.of(step, run.origin_ns) for step in run.steps)
    return Measured(task.variant, run.result, alice, bob, rungs, case_of(run, listener))


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


async def _scenarios(task: ScenarioTask, collected: Collected, tracker: Tracker) -> None:
    """The plans at the same time; what there is is kept, whatever becomes of the rest."""
    failures = len(collected.failed)
    found = await asyncio.gather(*(_scenario(plan, collected) for plan in task.plans))
    cases = [case for several in found for case in several]
    collected.cases += cases
    failed = collected.failed[failures:]
    ok = not failed and all(case.ok for case in cases)
    tracker.done(task.title, "; ".join([*failed, *map(told, cases)]), ok=ok)


async def _scenario(plan: ClusterPlan, collected: Collected) -> list[Case]:
    cases: list[Case] = []
    try:
        await run_scenario(plan, cases.append)
    except LabError as error:
        name = "failover" if plan.standby else "cluster"
        collected.failed.append(f"{name} by {plan.method}: {error}")
    return cases


async def _copies(task: CopiesTask, collected: Collected, tracker: Tracker) -> None:
    try:
        found = await run_copies_of(task.plans)
    except LabError as error:
        collected.failed.append(f"{task.title}: {error}")
        tracker.done(task.title, str(error), ok=False)
        return
    collected.copies += found
    texts = [
        one.failure or f"{one.plan.method}: {one.died} of {len(one.presented)} living SAs ended"
        for one in found
    ]
    tracker.done(task.title, "; ".join(texts), ok=all(one.ok for one in found))


def told(case: Case) -> str:
    """A use case in a few words."""
    if case.failure is not None:
        return f"{case.lost}, {case.method}: {case.failure}"
    ms = case.recover_ms
    what = "nothing was lost" if ms is None else f"traffic after {duration(ms)}"
    return f"{case.lost}, {case.method}: {what}, {case.packets_lost} packets lost"


async def _attack(task: AttackTask, collected: Collected, tracker: Tracker) -> None:
    try:
        result = await run_attack(task.attack, task.options, Silent(), seconds=task.duration_s)
    except LabError as error:
        collected.failed.append(f"{task.title}: {error}")
        tracker.done(task.title, str(error), ok=False)
        return
    collected.attacks.append(result)
    broken = [f"{check.what}: {check.measured}" for check in result.checks if not check.holds]
    text = "; ".join([result.failure, *broken] if result.failure else broken)
    tracker.done(task.title, text or "everything held", ok=result.ok)


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
