"""One run of the lab from beginning to end: build, flow, kill and restart (or lose), recover, measure."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from deadpeer.lab.ladder import Step, ladder
from deadpeer.lab.options import LabError, LabOptions, Lost, Side
from deadpeer.lab.recording import Observer, SideEvent
from deadpeer.lab.result import LOST_WORDS, Moments, RunResult, measure
from deadpeer.lab.session import Session, open_session

FLOW_S = 0.5
"""Traffic flows at least so long before Bob is killed."""
FLOW_REPLIES = 10
AFTERWARDS_S = 0.3
"""Traffic goes on so long after the recovery."""
TUNNEL_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Run:
    """A result, with the steps it was made of and the moment its times count from (monotonic ns)."""

    result: RunResult
    steps: tuple[Step, ...]
    origin_ns: int


async def run_once(options: LabOptions, observer: Observer) -> Run:
    """Do one run. Raises LabError if it can't even begin: no tunnel, a program missing.

    A tunnel that does not recover is a result whose `ok` is false.
    """
    async with open_session(options, observer) as session:
        await build(session)
        if options.lost is not None:
            return await forget(session, options.lost)
        return await crash(session)


async def build(session: Session) -> None:
    """Wait until the tunnel stands and has carried traffic for a moment. Raises LabError."""
    options, recording = session.options, session.recording
    recording.take_phase("building", time.monotonic_ns())
    await session.wait_for(
        "the tunnel's first child SA", lambda: recording.first("alice", "child_up", 0), TUNNEL_TIMEOUT_S
    )
    recording.take_phase("flowing", time.monotonic_ns())
    if options.idle:
        await asyncio.sleep(FLOW_S)
        return
    await session.traffic.flow()
    replies = recording.traffic.replies
    await session.wait_for(
        "traffic through the new tunnel",
        lambda: replies if len(replies) >= FLOW_REPLIES else None,
        TUNNEL_TIMEOUT_S,
    )
    await asyncio.sleep(FLOW_S)


async def crash(session: Session) -> Run:
    """Kill Bob, start him again, wait for the recovery, measure. Traffic is paused at the end."""
    options, recording = session.options, session.recording
    killed_ns = await session.kill("bob")
    recording.take_phase("killed", killed_ns)
    await asyncio.sleep(options.down_s)
    started_ns = time.monotonic_ns()
    recording.take_phase("started", started_ns)
    ready_ns = await session.restart("bob")
    recording.take_phase("ready", ready_ns)
    recovered_ns = await _recovery(session, killed_ns)
    await _afterwards(session, recovered_ns)
    verdict = _knows(session, killed_ns)
    moments = Moments(killed_ns, ready_ns, recovered_ns)
    steps = ladder(
        list(recording.events),
        list(recording.sightings),
        killed_ns=killed_ns,
        started_ns=started_ns,
        ready_ns=ready_ns,
        end_ns=recovered_ns or time.monotonic_ns(),
    )
    result = measure(options, moments, recording.traffic, verdict)
    timeline = tuple(step.to_record(ready_ns) for step in steps)
    return Run(replace(result, timeline=timeline), tuple(steps), ready_ns)


async def forget(session: Session, lost: Lost) -> Run:
    """Have Bob, who lives on, lose something and say nothing; wait for the recovery, measure."""
    options, recording = session.options, session.recording
    lost_ns = await session.lose("bob", lost)
    recording.take_phase("lost", lost_ns)
    recovered_ns = await _recovery(session, lost_ns)
    await _afterwards(session, recovered_ns)
    known = _knows(session, lost_ns)
    steps = ladder(
        list(recording.events),
        list(recording.sightings),
        killed_ns=lost_ns,
        started_ns=lost_ns,
        ready_ns=lost_ns,
        end_ns=recovered_ns or time.monotonic_ns(),
        lost=LOST_WORDS[lost],
    )
    result = measure(options, Moments(lost_ns, lost_ns, recovered_ns), recording.traffic, known)
    timeline = tuple(step.to_record(lost_ns) for step in steps)
    return Run(replace(result, timeline=timeline), tuple(steps), lost_ns)


async def _afterwards(session: Session, recovered_ns: int | None) -> None:
    """Let the traffic go on for a moment after a recovery, then wait for what is under way."""
    recording = session.recording
    if recovered_ns is not None:
        recording.take_phase("recovered", recovered_ns)
        _note_recovery(session, recovered_ns)
        await asyncio.sleep(AFTERWARDS_S)
    await session.traffic.pause()
    await asyncio.sleep(session.options.patience_s)
    recording.take_phase("done", time.monotonic_ns())


async def _recovery(session: Session, killed_ns: int) -> int | None:
    """When traffic flowed again over the new SA (with an idle tunnel: when its child was up)."""
    recording = session.recording

    def look() -> int | None:
        verdict = _knows(session, killed_ns)
        if verdict is None:
            return None
        if session.options.idle:
            up = recording.first("alice", "child_up", verdict.at_ns)
            return None if up is None else up.at_ns
        return recording.traffic.first_reply_after(verdict.at_ns)

    try:
        return await session.wait_for("the recovery", look, session.options.bound_s)
    except LabError:
        return None


def _knows(session: Session, from_ns: int) -> SideEvent | None:
    """When Alice knows: her verdict about the SA that Bob lost, or that he says under protection that he
    does not know the child."""
    kind = "child_down" if session.options.lost == "child" else "verdict"
    return session.recording.first("alice", kind, from_ns)


def _note_recovery(session: Session, at_ns: int) -> None:
    side: Side = "alice"
    what = "the tunnel stands again" if session.options.idle else "first reply from behind Bob"
    session.recording.take_event(side, {"event": "recovered", "mono_ns": at_ns, "what": what})
