"""Hot standby: two gateways with the same keys, of which one is active; whoever moves the address says which.

On loopback the balancer stands for that: it leads to the active one, and both are told by command.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from deadpeer.lab.options import LabError
from deadpeer.lab.scenarios.field import Field
from deadpeer.lab.scenarios.outcome import Check, Outcome, none
from deadpeer.lab.scenarios.parts import CALM_S, Before, come_back, judge, victim
from deadpeer.lab.scenarios.plan import BACK_S

NOTICE_S = 0.5
"""How long it takes until whoever moves the address has noticed a death."""


async def takeover(field: Field) -> Outcome:
    """The active gateway is killed, the other gets the address. Times count from its activation."""
    before, active = victim(field)
    other = 1 - active
    killed_ns = await field.members[active].kill()
    field.truth.stopped(active, killed_ns, dead=True)
    field.say(f"gateway {active}, the active one, is killed (SIGKILL)")
    await asyncio.sleep(NOTICE_S)
    at_ns = await field.activate(other)
    await field.steer(other, away=False)
    await field.steer(active, away=True)
    field.say(f"gateway {other} is active now")
    clients = await come_back(field, before, at_ns)
    await field.members[active].start()
    await field.members[active].ready()
    field.say(f"gateway {active} runs again, and stands by")
    await asyncio.sleep(CALM_S)
    told = len(field.truth.told_of(field.truth.pairs(killed_ns - 1), killed_ns))
    wanted = len(before.concerned)
    checks = (Check("tokens told for SAs that were lost", f"at least {wanted}", str(told), told >= wanted),)
    return await judge(field, "takeover", before, at_ns, clients, checks, NOTICE_S, BACK_S)


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
