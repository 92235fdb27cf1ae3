"""What is done to a running cluster, one thing after the other, and what comes of each."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from deadpeer.lab.options import LabError
from deadpeer.lab.scenarios.field import Field, Say, open_field
from deadpeer.lab.scenarios.outcome import Check, Client, Outcome, client_of, losses, none, within
from deadpeer.lab.scenarios.plan import BACK_S, RESUME_S, ClusterPlan, Happening

PATIENCE_S = 1.5
"""An inner packet without an answer after this time is lost."""
GRACE_S = 15.0
"""How much longer than the bound is waited, so that a failure has a number."""
CALM_S = 1.0
"""Traffic goes on so long after each recovery, and before what comes next."""


async def run_cluster(plan: ClusterPlan, say: Say) -> list[Outcome]:
    """Start a cluster and let everything in the plan happen to it. Raises LabError if it can't even begin."""
    outcomes = []
    async with open_field(plan, say) as field:
        for happening in plan.happenings:
            outcome = await _HAPPENINGS[happening](field)
            say(outcome.summary())
            outcomes.append(outcome)
    return outcomes


@dataclass(frozen=True, slots=True)
class _Before:
    """What was known when something was about to happen. `concerned`: clients whose SA may be lost."""

    member: int | None
    concerned: list[int]
    asked: Counter[str]


async def kill(field: Field) -> Outcome:
    """SIGKILL to a member, which the balancer takes out; then it is started again."""
    before, member = _victim(field)
    at_ns = await field.members[member].kill()
    field.truth.stopped(member, at_ns, dead=True)
    await field.steer(member, away=True)
    field.say(f"member {member} is killed (SIGKILL): its clients {before.concerned} land elsewhere")
    clients = await _back(field, before, at_ns)
    began_ns = time.monotonic_ns()
    await field.members[member].start()
    await _serves_again(field, member, began_ns)
    return await _outcome(field, "kill", before, at_ns, clients)


async def freeze(field: Field) -> Outcome:
    """SIGSTOP to a member for longer than its lease, then SIGCONT: it must not go on where it was."""
    before, member = _victim(field)
    daemon = field.members[member]
    at_ns = daemon.signal(signal.SIGSTOP)
    field.truth.stopped(member, at_ns, dead=False)
    await field.steer(member, away=True)
    field.say(f"member {member} is stopped (SIGSTOP): its clients {before.concerned} land elsewhere")
    clients = await _back(field, before, at_ns)
    await _until(at_ns, field.plan.stopped_s)
    old = field.truth.holdings(member, at_ns)
    spis = {":".join(pair) for pair in old} | {spi for holding in old.values() for spi in holding.outbound}
    woken_ns = daemon.signal(signal.SIGCONT)
    field.say(f"member {member} goes on (SIGCONT): its lease has run out meanwhile")
    await _serves_again(field, member, woken_ns)
    late = [
        spi for who, spi, last in await field.spoken() if who == member and spi in spis and last >= woken_ns
    ]
    over = Check(
        "the stopped member's old life is over", "yes", _yes(daemon.first("epoch_ended", woken_ns)),
        daemon.first("epoch_ended", woken_ns) is not None,
    )  # fmt: skip
    checks = (over, none("SAs of its old life with which it sent once it went on", len(late)))
    return await _outcome(field, "freeze", before, at_ns, clients, checks, field.plan.stopped_s)


async def cut(field: Field) -> Outcome:
    """A member loses its way to etcd for longer than its lease, but not to its clients."""
    before, member = _victim(field)
    daemon, road = field.members[member], field.roads[member]
    at_ns = time.monotonic_ns()
    old = field.truth.holdings(member, at_ns)
    road.cut()
    field.say(f"member {member} is cut off from etcd; its clients are {before.concerned}")
    fenced_ns = await field.wait_for(
        "the fence", lambda: daemon.first("fenced", at_ns), field.plan.lease_s + GRACE_S
    )
    field.say(f"member {member} fenced itself {_s(fenced_ns - at_ns)} s later; the balancer takes it out")
    await field.steer(member, away=True)
    clients = await _back(field, before, at_ns)
    first_ns = min((said.at_ns for said in field.truth.told_of(old, at_ns)), default=None)
    await _until(at_ns, field.plan.stopped_s)
    mended_ns = time.monotonic_ns()
    road.mend()
    field.say(f"member {member} reaches etcd again")
    await _serves_again(field, member, mended_ns)
    ahead = None if first_ns is None else first_ns - fenced_ns
    checks = (
        within("the member fenced itself", (fenced_ns - at_ns) / 1e6, field.plan.lease_s),
        Check(
            "it fenced itself before anybody spoke for it", "yes",
            "nobody spoke" if ahead is None else f"{_s(ahead)} s before", ahead is not None and ahead > 0,
        ),
    )  # fmt: skip
    return await _outcome(field, "cut", before, at_ns, clients, checks, field.plan.stopped_s)


async def etcd(field: Field) -> Outcome:
    """etcd is gone for longer than the lease, for all members, and comes back."""
    before = _Before(None, list(range(field.plan.clients)), Counter(field.buyers.asked))
    at_ns = time.monotonic_ns()
    await field.etcd.kill()
    field.say("etcd is killed: no member can renew its lease")
    await _until(at_ns, field.plan.stopped_s)
    fenced = sum(member.first("fenced", at_ns) is not None for member in field.members)
    await field.etcd.start()
    back_ns = time.monotonic_ns()
    field.say(f"etcd answers again; {fenced} members had fenced themselves")
    found = await _round_trips(field, before.concerned, back_ns, RESUME_S)
    clients = [client_of(n, field.clients[n].events, back_ns, found.get(n)) for n in before.concerned]
    await asyncio.sleep(CALM_S)
    told = len(field.truth.told_of(field.truth.pairs(at_ns), at_ns))
    members = field.plan.members
    checks = (
        Check("members that fenced themselves", str(members), str(fenced), fenced == members),
        none("IKE SAs that were made anew", field.truth.made_since(at_ns)),
        none("tokens for SAs that were there when etcd went", told),
    )
    return await _outcome(
        field, "etcd", before, at_ns, clients, checks, field.plan.stopped_s, RESUME_S, back_ns
    )


_HAPPENINGS: dict[Happening, Callable[[Field], Awaitable[Outcome]]] = {
    "kill": kill,
    "freeze": freeze,
    "cut": cut,
    "etcd": etcd,
}


# --- parts of what happens -------------------------------------------------------------------------


def _victim(field: Field) -> tuple[_Before, int]:
    """The member with the most clients, and what is known before something happens to it."""
    member = max(range(field.plan.members), key=lambda number: len(field.served_by(number)))
    concerned = field.served_by(member)
    if not concerned:
        raise LabError("no member has a client")
    return _Before(member, concerned, Counter(field.buyers.asked)), member


async def _back(field: Field, before: _Before, at_ns: int) -> list[Client]:
    """The clients that were concerned, as soon as all are back, or it has taken too long.

    A client is back with the first round trip that it began after its verdict.
    """

    def verdict_ns(number: int) -> int | None:
        return field.clients[number].first("verdict", at_ns)

    bound_s = field.plan.lease_s + BACK_S

    def knows() -> list[int] | None:
        found = [verdict_ns(number) for number in before.concerned]
        return [at for at in found if at is not None] if None not in found else None

    try:
        await field.wait_for("the verdicts", knows, bound_s + GRACE_S)
    except LabError as error:
        field.say(str(error))
    clients = []
    for number in before.concerned:
        known_ns = verdict_ns(number)
        found = {} if known_ns is None else await _round_trips(field, [number], known_ns, bound_s)
        clients.append(client_of(number, field.clients[number].events, at_ns, found.get(number)))
    return clients


async def _round_trips(field: Field, clients: list[int], after_ns: int, bound_s: float) -> dict[int, int]:
    """When each client had its first round trip after a moment; those that had none are left out."""
    try:
        return await field.wait_for("traffic", lambda: field.back(after_ns, clients), bound_s + GRACE_S)
    except LabError as error:
        field.say(str(error))
        alone = {number: field.back(after_ns, [number]) for number in clients}
        return {number: found[number] for number, found in alone.items() if found is not None}


async def _serves_again(field: Field, member: int, after_ns: int) -> None:
    """Wait until a member has a new life, and have the balancer use it."""
    bound_s = field.plan.lease_s + GRACE_S
    daemon = field.members[member]
    await field.wait_for(
        f"a new life of member {member}", lambda: daemon.first("life_begins", after_ns), bound_s
    )
    await field.steer(member, away=False)
    field.say(f"member {member} serves again, in a new life")
    await asyncio.sleep(CALM_S)


async def _outcome(
    field: Field,
    happening: Happening,
    before: _Before,
    at_ns: int,
    clients: list[Client],
    checks: tuple[Check, ...] = (),
    stopped_s: float | None = None,
    bound_s: float | None = None,
    back_ns: int | None = None,
) -> Outcome:
    """Wait for the packets under way, then judge. Clients' times count from `back_ns` if that is given."""
    end_ns = time.monotonic_ns()
    await asyncio.sleep(PATIENCE_S)
    others = [log for number, log in enumerate(field.traffic) if number not in before.concerned]
    sent, lost = losses(field.traffic, at_ns, end_ns)
    _, others_lost = losses(others, at_ns, end_ns)
    since = {
        client.number: (at_ns if back_ns is None else back_ns) + round(client.recover_ms * 1e6)
        for client in clients
        if client.recover_ms is not None
    }
    lost_again = sum(losses([field.traffic[n]], back, end_ns)[1] for n, back in since.items())
    told = len(field.truth.told_of_living(at_ns))
    used = len(field.truth.used_after(await field.spoken(), at_ns))
    bound_s = field.plan.lease_s + BACK_S if bound_s is None else bound_s
    asked = Counter(field.buyers.asked) - before.asked
    slowest = max(clients, key=lambda c: float("inf") if c.recover_ms is None else c.recover_ms)
    judged = (
        within("clients are back", slowest.recover_ms, bound_s),
        none("tokens for living SAs", told),
        none("tokens for SAs that were used again afterwards", used),
        none("packets that the other clients lost", others_lost),
        none("packets that clients lost once they were back", lost_again),
        Check("attackers asked", "at least once", f"{sum(asked.values())} times", bool(asked)),
        *checks,
    )
    return Outcome(
        plan=field.plan,
        happening=happening,
        member=before.member,
        clients=tuple(clients),
        checks=judged,
        sent=sent,
        lost=lost,
        others=len(others),
        others_lost=others_lost,
        told_of_living=told,
        asked=dict(asked),
        stopped_s=stopped_s,
    )


async def _until(began_ns: int, seconds: float) -> None:
    """Sleep until so long after a moment."""
    await asyncio.sleep(max(0.0, seconds - (time.monotonic_ns() - began_ns) / 1e9))


def _s(ns: int) -> str:
    return f"{ns / 1e9:.2f}"


def _yes(at_ns: int | None) -> str:
    return "no" if at_ns is None else "yes"
