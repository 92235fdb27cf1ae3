"""Garbage at a living gateway while another one crashes: nothing breaks, grows, or goes uncounted."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deadpeer.gateway.client import call
from deadpeer.lab.garbage import GarbageConfig, Target
from deadpeer.lab.options import LabError, LabOptions, Side
from deadpeer.lab.peers import GatewayPeer
from deadpeer.lab.process import Process, launch
from deadpeer.lab.recording import Silent
from deadpeer.lab.result import RunResult
from deadpeer.lab.runs import build, crash
from deadpeer.lab.session import Session, open_session
from deadpeer.lab.trace import IkeSeen, Way
from deadpeer.plane.drops import Drop
from deadpeer.values import Address

CAPTURE = 300
WEIGHTS: dict[Side, int] = {"alice": 4, "bob": 1}
"""Alice is the living gateway that gets the counted datagrams; Bob, who crashes, gets some too."""
RSS_BOUND_MB = 20.0
RECOVERY_BOUND_MS = 1000.0
SETTLE_S = 1.5
SETTLE_AT_MOST_S = 30.0

Counters = Mapping[str, Mapping[str, int]]

_ENDS = ("dropped: ", "orphan: ")
_OUTBOUND = {
    Drop.OUTBOUND_MALFORMED,
    Drop.NO_POLICY,
    Drop.NO_ACTIVE_CHILD,
    Drop.SEQUENCE_EXHAUSTED,
    Drop.OUTSIDE_CHILD_SELECTORS,
    Drop.HOLD_OVERFLOW,
    Drop.POLICY_REMOVED,
}
"""What is dropped of the host's own packets."""


@dataclass(frozen=True, slots=True)
class FloodResult:
    """`checks` are (what, whether it holds, the numbers)."""

    sent: int
    run: RunResult
    checks: tuple[tuple[str, bool, str], ...]
    counters: Mapping[str, Mapping[str, int]]

    @property
    def ok(self) -> bool:
        return all(holds for _, holds, _ in self.checks)


async def run_flood(
    options: LabOptions, count: int, per_s: int, progress: Callable[[int], None], slack: float = 1.0
) -> FloodResult:
    """Send `count` datagrams to Alice, `per_s` a second; Bob crashes half-way. Raises LabError.

    `slack`: so many times the bound of the recovery is allowed; with more than 1 the kernel may drop what
    this machine has no time for, and counts it.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            open_session(replace(options, capture=CAPTURE, strangers=True), Silent())
        )
        await build(session)
        await asyncio.sleep(SETTLE_S)
        before, rss_before = await _counters(session), _rss_mb(session.peers["alice"].pid)
        sent: list[int] = [0, 0]
        halfway = asyncio.Event()

        def take(record: dict[str, Any]) -> None:
            if "sent" in record:
                sent[:] = record["sent"]
                progress(sent[0])
                if sent[0] >= count / 2:
                    halfway.set()

        flood = await _launch_flood(session, count, per_s, take)
        stack.push_async_callback(flood.stop)
        finished = asyncio.create_task(flood.expect("finished", 60 + 3 * count / per_s))
        stack.callback(finished.cancel)
        await asyncio.wait([asyncio.create_task(halfway.wait()), finished], return_when="FIRST_COMPLETED")
        crashed = await crash(session)
        await finished
        await _settle(session, before, sent)
        await _still_flowing(session)
        after, rss_after = await _counters(session), _rss_mb(session.peers["alice"].pid)
        checks = [
            *_recovery_checks(session, crashed.result, slack),
            *_accounting(before, after, sent[0], _heard(session), paced=slack == 1.0),
            (
                "memory of the flooded gateway",
                rss_after - rss_before <= RSS_BOUND_MB,
                f"{rss_before:.1f} MB before, {rss_after:.1f} MB after",
            ),
        ]
        return FloodResult(sent[0], crashed.result, tuple(checks), after)


async def _launch_flood(
    session: Session, count: int, per_s: int, take: Callable[[dict[str, Any]], None]
) -> Process:
    site = session.site
    total = sum(WEIGHTS.values())
    config = GarbageConfig(
        targets=[
            Target(
                Address(site.outer[side].host, site.port),
                Address(site.outer[side].host, site.port_nat_t),
                weight,
            )
            for side, weight in WEIGHTS.items()
        ],
        count=count * total // WEIGHTS["alice"],
        per_s=per_s * total // WEIGHTS["alice"],
        seed=session.options.seed,
        seeds=[(lane.value, octets.hex()) for lane, octets in session.recording.captured],
    )
    # The samples are too long for a command line.
    path = site.directory / "garbage.json"
    path.write_text(config.to_json())
    return await launch("the garbage", [sys.executable, "-m", "deadpeer.lab.garbage", str(path)], take)


def _recovery_checks(session: Session, run: RunResult, slack: float) -> list[tuple[str, bool, str]]:
    events = list(session.recording.events)
    verdicts = [e for e in events if e.side == "alice" and e.kind == "verdict"]
    errors = [e for e in events if e.kind == "internal_error"]
    recovered = run.ok and run.recover_ms is not None and run.recover_ms <= RECOVERY_BOUND_MS * slack
    return [
        (
            f"the crashed gateway is recovered by QCD within {RECOVERY_BOUND_MS * slack / 1000:g} s",
            recovered,
            f"{run.recover_ms:.0f} ms" if run.recover_ms is not None else str(run.failure),
        ),
        ("no SA is condemned but the one that was lost", len(verdicts) == 1, f"{len(verdicts)} verdicts"),
        ("no exception passes the endpoint", not errors, f"{len(errors)} internal errors"),
    ]


def _accounting(
    before: Counters, after: Counters, sent: int, heard: int, *, paced: bool
) -> list[tuple[str, bool, str]]:
    """Every datagram is counted: by the kernel or as received, and then under the one reason of its end.

    `heard` IKE messages came from the peer meanwhile: those that an SA took ended without a reason.
    """
    received = _grown(before, after, "udp", "received")
    by_kernel = _grown(before, after, "udp", "kernel_dropped")
    ended = ends(after) - ends(before)
    missing = received - ended
    pacing = "the kernel drops nothing (pacing)" + ("" if paced else ", not judged here")
    return [
        (pacing, by_kernel == 0 or not paced, f"{by_kernel} dropped by the kernel"),
        (
            "every datagram is counted under a reason",
            received + by_kernel >= sent and 0 <= missing <= heard,
            f"{sent} sent, {received} received, {ended} ended under a reason; "
            f"{missing} taken by SAs, of the peer's {heard} IKE messages",
        ),
    ]


def ends(counters: Counters) -> int:
    """Datagrams from the network whose end is known, by the counters that say so. Pure."""
    endpoint, gateway = counters["endpoint"], counters["gateway"]
    ike = sum(n for name, n in endpoint.items() if name.startswith(_ENDS) and "ESP" not in name)
    answered = sum(n for name, n in endpoint.items() if name.startswith("sent: ") and "response" in name)
    esp = sum(n for name, n in counters["esp_dropped"].items() if name not in _OUTBOUND)
    passed = gateway.get("host_sent", 0) + gateway.get("host_refused", 0)
    return ike + answered + esp + passed + gateway.get("nat_keepalive_received", 0)


def _grown(before: Counters, after: Counters, group: str, name: str) -> int:
    return after[group].get(name, 0) - before[group].get(name, 0)


def _heard(session: Session) -> int:
    return sum(
        1
        for s in session.recording.sightings
        if s.way is Way.TO_ALICE and s.delivered_ns is not None and isinstance(s.seen, IkeSeen)
    )


async def _counters(session: Session) -> Counters:
    peer = session.peers["alice"]
    if not isinstance(peer, GatewayPeer):
        raise LabError("Alice has no counters to ask for")
    answer = await asyncio.to_thread(call, peer.files.control, "counters")
    counters: Counters = answer["data"]["counters"]
    return counters


async def _settle(session: Session, before: Counters, sent: Sequence[int]) -> None:
    """Wait for the datagrams under way: until all have come, or were dropped, or the time is over."""
    end = time.monotonic() + SETTLE_AT_MOST_S
    arrived = 0
    while arrived < sent[0] and time.monotonic() < end:
        await asyncio.sleep(SETTLE_S)
        after = await _counters(session)
        arrived = sum(_grown(before, after, "udp", name) for name in ("received", "kernel_dropped"))


async def _still_flowing(session: Session) -> None:
    await session.traffic.flow()
    began = max(session.recording.traffic.replies.values(), default=0)
    traffic = session.recording.traffic
    await session.wait_for("traffic after the flood", lambda: traffic.first_round_trip_after(began), 10)
    await session.traffic.pause()
    await asyncio.sleep(0.3)


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0
