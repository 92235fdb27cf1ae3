"""What the happenings have in common: who is concerned, when clients are back, and the judgement."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from deadpeer.lab.options import LabError
from deadpeer.lab.result import PROOF_OF
from deadpeer.lab.scenarios.field import Field
from deadpeer.lab.scenarios.outcome import Check, Client, Outcome, client_of, losses, none, within
from deadpeer.lab.scenarios.plan import BACK_S, NO_VERDICT, Happening

PATIENCE_S = 1.5
"""An inner packet without an answer after this time is lost."""
GRACE_S = 15.0
"""How much longer than the bound is waited, so that a failure has a number."""
CALM_S = 1.0
"""Traffic goes on so long after each recovery, and before what comes next."""


@dataclass(frozen=True, slots=True)
class Before:
    """What was known when something was about to happen. `concerned`: clients whose SA may be lost."""

    member: int | None
    concerned: list[int]
    asked: Counter[str]


def victim(field: Field) -> tuple[Before, int]:
    """The member with the most clients, and what is known before something happens to it."""
    member = max(range(field.plan.members), key=lambda number: len(field.served_by(number)))
    concerned = field.served_by(member)
    if not concerned:
        raise LabError("no member has a client")
    return Before(member, concerned, Counter(field.buyers.asked)), member


async def come_back(field: Field, before: Before, at_ns: int) -> list[Client]:
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
        found = {} if known_ns is None else await round_trips(field, [number], known_ns, bound_s)
        clients.append(client_of(number, field.clients[number].events, at_ns, found.get(number)))
    return clients


async def round_trips(field: Field, clients: list[int], after_ns: int, bound_s: float) -> dict[int, int]:
    """When each client had its first round trip after a moment; those that had none are left out."""
    try:
        return await field.wait_for("traffic", lambda: field.back(after_ns, clients), bound_s + GRACE_S)
    except LabError as error:
        field.say(str(error))
        alone = {number: field.back(after_ns, [number]) for number in clients}
        return {number: found[number] for number, found in alone.items() if found is not None}


async def serves_again(field: Field, member: int, after_ns: int, extra_s: float = 0.0) -> None:
    """Wait until a member has a new life, and have the balancer use it. `extra_s`: what is waited for
    before it begins one."""
    bound_s = field.plan.lease_s + GRACE_S + extra_s
    daemon = field.members[member]
    await field.wait_for(
        f"a new life of member {member}", lambda: daemon.first("life_begins", after_ns), bound_s
    )
    await field.steer(member, away=False)
    field.say(f"member {member} serves again, in a new life")
    await asyncio.sleep(CALM_S)


async def judge(
    field: Field,
    happening: Happening,
    before: Before,
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
    unheard = len(field.truth.told_of_unheard(field.had(), at_ns))
    bound_s = field.plan.lease_s + BACK_S if bound_s is None else bound_s
    asked = Counter(field.buyers.asked) - before.asked
    times = [float("inf") if c.recover_ms is None else c.recover_ms for c in clients]
    proof = "nothing" if happening in NO_VERDICT else PROOF_OF[field.plan.method]
    found = sorted({client.verdict or "nothing" for client in clients})
    judged = (
        *([within("clients are back", max(times), bound_s)] if times else []),
        *([Check("clients knew by", proof, ", ".join(found), found == [proof])] if times else []),
        none("tokens for living SAs", told),
        none("tokens for SAs that were used again afterwards", used),
        none("tokens for SAs that clients had and no member's log knows", unheard),
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


async def until(began_ns: int, seconds: float) -> None:
    """Sleep until so long after a moment."""
    await asyncio.sleep(max(0.0, seconds - (time.monotonic_ns() - began_ns) / 1e9))


def in_seconds(ns: int) -> str:
    return f"{ns / 1e9:.2f}"


def yes_or_no(at_ns: int | None) -> str:
    return "no" if at_ns is None else "yes"
