"""Members whose clocks run slow or fast: within what the fence allows for, and far beyond it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container

from deadpeer.cluster.fence import Margin
from deadpeer.lab.scenarios.field import Field
from deadpeer.lab.scenarios.outcome import Check, Outcome, none, within
from deadpeer.lab.scenarios.parts import (
    GRACE_S,
    come_back,
    in_seconds,
    judge,
    serves_again,
    until,
    victim,
)
from deadpeer.lab.scenarios.plan import BACK_S
from deadpeer.lab.scenarios.truth import Pair

DRIFT = Margin().drift
"""What members are configured to allow for: the default."""
FAR = 0.2
"""A clock that is so much slower closes its fence after its lease has ended."""
FOUND_S = 20.0
"""By then it is found: it is measured every 5 s, and the time before that counts as well."""

BELIEVED_S = 12.0
"""By then it is believed again."""


async def drift(field: Field) -> Outcome:
    """A member's clock is as slow as is allowed, those of all others are as fast, and it is cut off from
    etcd: it is fenced before anybody speaks for it.
    """
    before, member = victim(field)
    daemon, road = field.members[member], field.roads[member]
    for number in range(field.plan.members):
        await field.skew(number, 1 - DRIFT if number == member else 1 + DRIFT)
    at_ns = time.monotonic_ns()
    old = field.truth.holdings(member, at_ns)
    road.cut()
    field.say(
        f"member {member}'s clock runs {DRIFT:.0%} slow, all others' as much fast; it is cut off from etcd;"
        f" its clients are {before.concerned}"
    )
    fenced_ns = await field.wait_for(
        "the fence", lambda: daemon.first("fenced", at_ns), field.plan.lease_s + GRACE_S
    )
    field.say(
        f"member {member} fenced itself {in_seconds(fenced_ns - at_ns)} s later; the balancer takes it out"
    )
    await field.steer(member, away=True)
    clients = await come_back(field, before, at_ns)
    await until(at_ns, field.plan.stopped_s)
    mended_ns = time.monotonic_ns()
    for number in range(field.plan.members):
        await field.skew(number, 1.0)
    road.mend()
    field.say(f"member {member} reaches etcd again, and all clocks are right")
    await serves_again(field, member, mended_ns)
    checks = (
        within("the member fenced itself", (fenced_ns - at_ns) / 1e6, field.plan.lease_s),
        _fenced_first(field, old, at_ns, fenced_ns),
        none("members that took their clocks for slow", _slow(field, at_ns)),
    )
    return await judge(field, "drift", before, at_ns, clients, checks, field.plan.stopped_s)


async def skew(field: Field) -> Outcome:
    """A member's clock is so slow that its fence would close after its lease has ended. It says so, serves
    nobody, and gives its lease back, so that its clients need not wait.
    """
    before, member = victim(field)
    daemon = field.members[member]
    at_ns = await field.skew(member, 1 - FAR)
    old = field.truth.holdings(member, at_ns)
    field.say(f"member {member}'s clock runs {FAR:.0%} slow; its clients are {before.concerned}")
    found_ns = await field.wait_for(
        "clock_slow", lambda: daemon.first("clock_slow", at_ns), FOUND_S + GRACE_S
    )
    why = (daemon.last("clock_slow") or {}).get("why")
    ended_ns = await field.wait_for(
        "the end of its life", lambda: daemon.first("epoch_ended", at_ns), GRACE_S
    )
    field.say(f"member {member} says clock_slow {in_seconds(found_ns - at_ns)} s later: {why}")
    await field.steer(member, away=True)
    field.say(f"the balancer takes member {member} out")
    clients = await come_back(field, before, found_ns)
    await asyncio.sleep(field.plan.lease_s)
    served = daemon.first("life_begins", found_ns) is not None
    mended_ns = await field.skew(member, 1.0)
    field.say(f"member {member}'s clock is right again")
    await serves_again(field, member, mended_ns, BELIEVED_S)
    checks = (
        within("the slow clock was found", (found_ns - at_ns) / 1e6, FOUND_S),
        _fenced_first(field, old, at_ns, ended_ns),
        none("lives that it began with a slow clock", int(served)),
        none("other members that took their clocks for slow", _slow(field, at_ns) - 1),
    )
    return await judge(field, "skew", before, at_ns, clients, checks, None, BACK_S, found_ns)


def _slow(field: Field, after_ns: int) -> int:
    """How many members have said since then that their clocks are slow."""
    return sum(daemon.first("clock_slow", after_ns) is not None for daemon in field.members)


def _fenced_first(field: Field, old: Container[Pair], at_ns: int, fenced_ns: int) -> Check:
    """Whether the member was fenced before anybody spoke for it."""
    first_ns = min((said.at_ns for said in field.truth.told_of(old, at_ns)), default=None)
    ahead = None if first_ns is None else first_ns - fenced_ns
    return Check(
        "it was fenced before anybody spoke for it", "yes",
        "nobody spoke" if ahead is None else f"{in_seconds(ahead)} s before",
        ahead is not None and ahead > 0,
    )  # fmt: skip
