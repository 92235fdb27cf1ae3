"""Hot standby: two gateways with the same keys, of which one is active; whoever moves the address says which.

On loopback the balancer stands for that: it leads to the active one, and both are told by command.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

from deadpeer.cluster.standby import HOLD_S
from deadpeer.lab.options import LabError
from deadpeer.lab.scenarios.field import Field
from deadpeer.lab.scenarios.outcome import Check, Outcome, none
from deadpeer.lab.scenarios.parts import CALM_S, Before, come_back, judge, until, victim
from deadpeer.lab.scenarios.plan import BACK_S

STALL_S = HOLD_S + 1.0
"""How long the active one is stopped: longer than it counts that the address was seen to be ours."""
NOTICE_S = 0.5
"""How long it takes until whoever moves the address has noticed a death."""


async def takeover(field: Field) -> Outcome:
    """The active gateway is killed, the other gets the address. Times count from its activation."""
    before, active = victim(field)
    other = 1 - active
    killed_ns = await field.members[active].kill()
    field.truth.stopped(active, killed_ns, dead=True)
    field.say(f"gateway {active}, the active one, is killed (SIGKILL)")
    at_ns = await _hand_over(field, active, other)
    clients = await come_back(field, before, at_ns)
    await field.members[active].start()
    await field.members[active].ready()
    field.say(f"gateway {active} runs again, and stands by")
    await asyncio.sleep(CALM_S)
    told = len(field.truth.told_of(field.truth.pairs(killed_ns - 1), killed_ns))
    wanted = len(before.concerned)
    checks = (Check("tokens told for SAs that were lost", f"at least {wanted}", str(told), told >= wanted),)
    return await judge(field, "takeover", before, at_ns, clients, checks, NOTICE_S, BACK_S)


async def stall(field: Field) -> Outcome:
    """The active gateway is stopped, the other gets the address, the first one goes on as if nothing was."""
    before, active = victim(field)
    other, daemon = 1 - active, field.members[active]
    old = field.truth.holdings(active, time.monotonic_ns())
    spis = {":".join(pair) for pair in old} | {spi for holding in old.values() for spi in holding.outbound}
    stopped_ns = daemon.signal(signal.SIGSTOP)
    field.truth.stopped(active, stopped_ns, dead=False)
    field.say(f"gateway {active}, the active one, is stopped (SIGSTOP)")
    at_ns = await _hand_over(field, active, other)
    clients = await come_back(field, before, at_ns)
    await until(stopped_ns, STALL_S)
    woken_ns = daemon.signal(signal.SIGCONT)
    field.say(f"gateway {active} goes on (SIGCONT), and still believes to be active")
    await asyncio.sleep(CALM_S)
    await field.stand_by(active)
    field.say(f"gateway {active} is told to stand by")
    late = [spi for who, spi, last in await field.spoken() if who == active and last >= woken_ns]
    checks = (none("SAs of its old life with which it sent once it went on", len(spis.intersection(late))),)
    return await judge(field, "stall", before, at_ns, clients, checks, STALL_S, BACK_S)


async def both(field: Field) -> Outcome:
    """Both are told that the address is theirs: nothing is told, nobody loses anything."""
    active = max((0, 1), key=lambda number: len(field.served_by(number)))
    other = 1 - active
    before = Before(active, [], Counter(field.buyers.asked))
    at_ns = time.monotonic_ns()
    pairs = field.truth.pairs(at_ns)
    if not pairs:
        raise LabError("no gateway has a client")
    await field.activate(other)
    field.say(f"gateway {other} is told that it is active, though {active} is")
    await asyncio.sleep(3 * CALM_S)
    told = len(field.truth.told_of(pairs, at_ns))
    made = field.truth.made_since(at_ns)
    await field.stand_by(other)
    field.say(f"gateway {other} stands by again")
    await asyncio.sleep(CALM_S)
    checks = (
        none("tokens for SAs that were there", told),
        none("IKE SAs that were made anew", made),
    )
    return await judge(field, "both", before, at_ns, [], checks)


async def _hand_over(field: Field, active: int, other: int) -> int:
    """Whoever moves the address has noticed, and moves it. Returns when the other was told (monotonic ns)."""
    await asyncio.sleep(NOTICE_S)
    at_ns = await field.activate(other)
    await field.steer(other, away=False)
    await field.steer(active, away=True)
    field.say(f"gateway {other} is active now")
    return at_ns
