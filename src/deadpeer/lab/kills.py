"""kill -9 at random moments of either side, over and over: does traffic flow again without a hand?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from deadpeer.lab.link import chance
from deadpeer.lab.options import LabError, LabOptions, Side
from deadpeer.lab.recording import Silent
from deadpeer.lab.runs import build
from deadpeer.lab.session import Session, open_session

Moment = Literal["flowing", "recovering", "booting"]
RECOVERY_BOUND_S = 10.0
"""Longer is a failure. A side that dies once more in the middle of a recovery costs about two seconds at
worst: the patience with an IKE_AUTH that nobody answers. The table shows how long recoveries took."""
MAX_FLOW_S = 1.5
MAX_RECOVERING_S = 0.3
MAX_BOOTING_S = 0.5
MAX_DOWN_S = 1.5


@dataclass(frozen=True, slots=True)
class Kill:
    """What is to be done: kill `side` `wait_s` after the beginning of `moment`, start it `down_s` later."""

    number: int
    side: Side
    moment: Moment
    wait_s: float
    down_s: float


@dataclass(frozen=True, slots=True)
class KillOutcome:
    """`recovery_s`: from the moment the killed side could answer again. None: killed again before."""

    kill: Kill
    recovery_s: float | None


def plan(count: int, seed: int) -> list[Kill]:
    """`count` kills; half of them while traffic flows, the others during a recovery or a boot. Pure."""
    kills = []
    for number in range(1, count + 1):
        draw = [chance(seed, name, number) for name in ("side", "moment", "wait", "down")]
        moment: Moment = "flowing"
        if number > 1 and draw[1] >= 0.5:
            moment = "recovering" if draw[1] < 0.85 else "booting"
        longest = {"flowing": MAX_FLOW_S, "recovering": MAX_RECOVERING_S, "booting": MAX_BOOTING_S}[moment]
        side: Side = "alice" if draw[0] < 0.5 else "bob"
        kills.append(Kill(number, side, moment, draw[2] * longest, draw[3] * MAX_DOWN_S))
    return kills


async def run_kills(
    options: LabOptions, kills: list[Kill], progress: Callable[[KillOutcome], None], slack: float = 1.0
) -> list[KillOutcome]:
    """Carry them out on one pair of gateways.

    Raises LabError, naming the kill, if traffic stays away for `slack` times RECOVERY_BOUND_S.
    """
    outcomes: list[KillOutcome] = []
    async with open_session(options, Silent()) as session:
        await build(session)
        for kill, following in zip(kills, [*kills[1:], None], strict=True):
            ready_ns = await _carry_out(session, kill)
            recovery_s = None
            # The next one waits for the recovery only if it is to come after it.
            if following is None or following.moment == "flowing":
                recovery_s = await _recovery(session, kill, ready_ns, RECOVERY_BOUND_S * slack)
            outcomes.append(KillOutcome(kill, recovery_s))
            progress(outcomes[-1])
    return outcomes


async def _carry_out(session: Session, kill: Kill) -> int:
    if kill.moment == "booting":
        # Killed while it runs, then once more while it boots.
        await session.kill(kill.side)
        boot = asyncio.create_task(session.restart(kill.side))
        await asyncio.sleep(kill.wait_s)
        if not boot.done():
            with contextlib.suppress(LabError):
                await session.kill(kill.side)
        with contextlib.suppress(LabError):
            await boot
    else:
        await asyncio.sleep(kill.wait_s)
    await session.kill(kill.side)
    await asyncio.sleep(kill.down_s)
    return await session.restart(kill.side)


async def _recovery(session: Session, kill: Kill, ready_ns: int, bound_s: float) -> float:
    traffic = session.recording.traffic
    what = f"recovery from kill {kill.number} ({kill.side}, {kill.moment})"
    replied_ns = await session.wait_for(what, lambda: traffic.first_round_trip_after(ready_ns), bound_s)
    return max(0.0, (replied_ns - ready_ns) / 1e9)


def worst(outcomes: list[KillOutcome]) -> KillOutcome | None:
    """The slowest recovery."""
    measured = [o for o in outcomes if o.recovery_s is not None]
    return max(measured, key=lambda o: o.recovery_s or 0.0, default=None)
