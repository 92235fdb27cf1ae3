"""What is done to a running cluster, one thing after the other, and what comes of each."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from deadpeer.lab.scenarios import clocks, failover, parting
from deadpeer.lab.scenarios.field import Field, Say, open_field
from deadpeer.lab.scenarios.outcome import Check, Outcome, client_of, none, within
from deadpeer.lab.scenarios.parts import (
    CALM_S,
    GRACE_S,
    Before,
    come_back,
    in_seconds,
    judge,
    round_trips,
    serves_again,
    until,
    victim,
    yes_or_no,
)
from deadpeer.lab.scenarios.plan import RESUME_S, ClusterPlan, Happening


async def run_cluster(plan: ClusterPlan, say: Say) -> list[Outcome]:
    """Start a cluster and let everything in the plan happen to it. Raises LabError if it can't even begin."""
    outcomes = []
    async with open_field(plan, say) as field:
        for happening in plan.happenings:
            outcome = await _HAPPENINGS[happening](field)
            say(outcome.summary())
            outcomes.append(outcome)
    return outcomes


async def kill(field: Field) -> Outcome:
    """SIGKILL to a member, which the balancer takes out; then it is started again."""
    before, member = victim(field)
    at_ns = await field.members[member].kill()
    field.truth.stopped(member, at_ns, dead=True)
    await field.steer(member, away=True)
    field.say(f"member {member} is killed (SIGKILL): its clients {before.concerned} land elsewhere")
    clients = await come_back(field, before, at_ns)
    began_ns = time.monotonic_ns()
    await field.members[member].start()
    await serves_again(field, member, began_ns)
    return await judge(field, "kill", before, at_ns, clients)


async def freeze(field: Field) -> Outcome:
    """SIGSTOP to a member for longer than its lease, then SIGCONT: it must not go on where it was."""
    before, member = victim(field)
    daemon = field.members[member]
    at_ns = daemon.signal(signal.SIGSTOP)
    field.truth.stopped(member, at_ns, dead=False)
    await field.steer(member, away=True)
    field.say(f"member {member} is stopped (SIGSTOP): its clients {before.concerned} land elsewhere")
    clients = await come_back(field, before, at_ns)
    await until(at_ns, field.plan.stopped_s)
    old = field.truth.holdings(member, at_ns)
    spis = {":".join(pair) for pair in old} | {spi for holding in old.values() for spi in holding.outbound}
    woken_ns = daemon.signal(signal.SIGCONT)
    field.say(f"member {member} goes on (SIGCONT): its lease has run out meanwhile")
    await serves_again(field, member, woken_ns)
    late = [
        spi for who, spi, last in await field.spoken() if who == member and spi in spis and last >= woken_ns
    ]
    over = Check(
        "the stopped member's old life is over", "yes", yes_or_no(daemon.first("epoch_ended", woken_ns)),
        daemon.first("epoch_ended", woken_ns) is not None,
    )  # fmt: skip
    checks = (over, none("SAs of its old life with which it sent once it went on", len(late)))
    return await judge(field, "freeze", before, at_ns, clients, checks, field.plan.stopped_s)


async def cut(field: Field) -> Outcome:
    """A member loses its way to etcd for longer than its lease, but not to its clients."""
    before, member = victim(field)
    daemon, road = field.members[member], field.roads[member]
    at_ns = time.monotonic_ns()
    old = field.truth.holdings(member, at_ns)
    road.cut()
    field.say(f"member {member} is cut off from etcd; its clients are {before.concerned}")
    fenced_ns = await field.wait_for(
        "the fence", lambda: daemon.first("fenced", at_ns), field.plan.lease_s + GRACE_S
    )
    field.say(
        f"member {member} fenced itself {in_seconds(fenced_ns - at_ns)} s later; the balancer takes it out"
    )
    await field.steer(member, away=True)
    clients = await come_back(field, before, at_ns)
    first_ns = min((said.at_ns for said in field.truth.told_of(old, at_ns)), default=None)
    await until(at_ns, field.plan.stopped_s)
    mended_ns = time.monotonic_ns()
    road.mend()
    field.say(f"member {member} reaches etcd again")
    await serves_again(field, member, mended_ns)
    ahead = None if first_ns is None else first_ns - fenced_ns
    checks = (
        within("the member fenced itself", (fenced_ns - at_ns) / 1e6, field.plan.lease_s),
        Check(
            "it fenced itself before anybody spoke for it", "yes",
            "nobody spoke" if ahead is None else f"{in_seconds(ahead)} s before",
            ahead is not None and ahead > 0,
        ),
    )  # fmt: skip
    return await judge(field, "cut", before, at_ns, clients, checks, field.plan.stopped_s)


async def etcd(field: Field) -> Outcome:
    """etcd is gone for longer than the lease, for all members, and comes back."""
    before = Before(None, list(range(field.plan.clients)), Counter(field.buyers.asked))
    at_ns = time.monotonic_ns()
    await field.etcd.kill()
    field.say("etcd is killed: no member can renew its lease")
    await until(at_ns, field.plan.stopped_s)
    fenced = sum(member.first("fenced", at_ns) is not None for member in field.members)
    await field.etcd.start()
    back_ns = time.monotonic_ns()
    field.say(f"etcd answers again; {fenced} members had fenced themselves")
    found = await round_trips(field, before.concerned, back_ns, RESUME_S)
    clients = [client_of(n, field.clients[n].events, back_ns, found.get(n)) for n in before.concerned]
    await asyncio.sleep(CALM_S)
    told = len(field.truth.told_of(field.truth.pairs(at_ns), at_ns))
    members = field.plan.members
    checks = (
        Check("members that fenced themselves", str(members), str(fenced), fenced == members),
        none("IKE SAs that were made anew", field.truth.made_since(at_ns)),
        none("tokens for SAs that were there when etcd went", told),
    )
    return await judge(field, "etcd", before, at_ns, clients, checks, field.plan.stopped_s, RESUME_S, back_ns)


async def blink(field: Field) -> Outcome:
    """etcd is gone for less than a lease: nobody is to notice."""
    before = Before(None, [], Counter(field.buyers.asked))
    at_ns = time.monotonic_ns()
    await field.etcd.kill()
    field.say(f"etcd is killed, for {field.plan.short_s:g} s: less than the leases last")
    await until(at_ns, field.plan.short_s)
    await field.etcd.start()
    gone_s = round((time.monotonic_ns() - at_ns) / 1e9, 3)
    field.say("etcd answers again")
    await asyncio.sleep(field.plan.lease_s / 2 + CALM_S)
    fenced = sum(member.first("fenced", at_ns) is not None for member in field.members)
    checks = (
        none("members that fenced themselves", fenced),
        none("IKE SAs that were made anew", field.truth.made_since(at_ns)),
        none("tokens for SAs that were there", len(field.truth.told_of(field.truth.pairs(at_ns), at_ns))),
    )
    return await judge(field, "blink", before, at_ns, [], checks, gone_s)


_HAPPENINGS: dict[Happening, Callable[[Field], Awaitable[Outcome]]] = {
    "kill": kill,
    "freeze": freeze,
    "cut": cut,
    "split": parting.split,
    "drain": parting.drain,
    "drift": clocks.drift,
    "skew": clocks.skew,
    "etcd": etcd,
    "blink": blink,
    "stall": failover.stall,
    "takeover": failover.takeover,
    "both": failover.both,
}
