"""What costs nobody an SA: members that can't reach each other, a member that is taken out on purpose."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial

from deadpeer.lab.options import LabError
from deadpeer.lab.scenarios.field import Field
from deadpeer.lab.scenarios.outcome import Check, Client, Outcome, client_of, losses, none
from deadpeer.lab.scenarios.parts import (
    CALM_S,
    GRACE_S,
    Before,
    judge,
    round_trips,
    serves_again,
    until,
    victim,
)
from deadpeer.lab.scenarios.plan import RESUME_S

SPLIT_S = 4.0
"""How long members are cut off from each other: a client asks whether its peer lives, and gets no answer."""
QUIET_S = 0.5
"""After the cut: what was under way has arrived."""


async def split(field: Field) -> Outcome:
    """No member reaches another one, all reach etcd; clients of one of them are brought to others.

    They get silence: nobody may say a word about SAs of a member that lives. Then all goes on.
    """
    before, member = victim(field)
    began_ns = time.monotonic_ns()
    pairs = field.truth.pairs(began_ns)
    await field.steer(member, away=True)
    field.say(
        f"the balancer takes member {member} out, which lives: others hand it the packets of its clients"
        f" {before.concerned}"
    )
    await asyncio.sleep(CALM_S)
    moved = [field.traffic[number] for number in before.concerned]
    at_ns, handed = time.monotonic_ns(), field.byways.passed
    field.byways.cut()
    field.say("all members are cut off from each other, and not from etcd")
    await until(at_ns, SPLIT_S)
    stopped_s = round((time.monotonic_ns() - at_ns) / 1e9, 3)
    heard = _answers(field, before.concerned, at_ns + round(QUIET_S * 1e9))
    field.byways.mend()
    mended_ns = time.monotonic_ns()
    field.say("members reach each other again")
    found = await round_trips(field, before.concerned, mended_ns, RESUME_S)
    clients = [client_of(n, field.clients[n].events, mended_ns, found.get(n)) for n in before.concerned]
    await asyncio.sleep(CALM_S)
    await field.steer(member, away=False)
    field.say(f"the balancer puts member {member} back")
    await asyncio.sleep(CALM_S)
    sent, lost = losses(moved, began_ns, at_ns - round(QUIET_S * 1e9))
    fenced = sum(daemon.first("fenced", began_ns) is not None for daemon in field.members)
    there = field.truth.pairs(time.monotonic_ns())
    checks = (
        Check("packets were handed to their member before that", "yes", f"{handed}, {lost} of {sent} lost",
              handed > 0 and lost == 0),
        none("packets of the moved clients that were answered meanwhile", heard),
        none("tokens for SAs that were there", len(field.truth.told_of(pairs, began_ns))),
        none("IKE SAs that ended", len([pair for pair in pairs if pair not in there])),
        none("IKE SAs that were made anew", field.truth.made_since(began_ns)),
        none("members that fenced themselves", fenced),
    )  # fmt: skip
    return await judge(field, "split", before, began_ns, clients, checks, stopped_s, RESUME_S, mended_ns)


async def drain(field: Field) -> Outcome:
    """Members are taken out on purpose: one that has a client which follows a redirect, and one, if it is
    another, that has a client which does not. The first builds its new SA beside the old one, which then
    goes; the second is deleted, and comes back.
    """
    members = _with_both_kinds(field)
    concerned = sorted(client for member in members for client in field.served_by(member))
    before = Before(members[0], concerned, Counter(field.buyers.asked))
    at_ns = time.monotonic_ns()
    last: dict[int, Client] = {}
    for member in members:
        # A client that was sent from one to the other counts as it was the last time.
        last |= {client.number: client for client in await _take_out(field, member)}
    clients = [last[number] for number in concerned]
    follows = [client.number for client in field.place.clients if client.follows]
    sent, lost = _lost(field, [number for number in concerned if number in follows], at_ns)
    deleted = [number for number in concerned if number not in follows]
    sent_by_others, lost_by_others = _lost(field, deleted, at_ns)
    redirected = [n for n in concerned if field.clients[n].first("redirected", at_ns) is not None]
    field.say(
        f"{len(redirected)} client(s) followed the redirect and lost {lost} of {sent} packets;"
        f" {len(deleted)} were deleted, came back, and lost {lost_by_others} of {sent_by_others}"
    )
    wanted = [number for number in concerned if number in follows]
    checks = (
        Check("clients that were redirected", str(wanted), str(redirected), redirected == wanted),
        none("packets that redirected clients lost", lost),
    )
    return await judge(field, "drain", before, at_ns, clients, checks, bound_s=RESUME_S)


async def _take_out(field: Field, member: int) -> list[Client]:
    """Drain a member, stop it, start it again. Its clients; times count from the drain's beginning."""
    mine = field.served_by(member)
    await field.steer(member, away=True)
    at_ns = time.monotonic_ns()
    field.say(f"member {member} is drained: its clients {mine} shall go to the others")
    await field.drain(member)
    took_s = (time.monotonic_ns() - at_ns) / 1e9
    field.say(f"member {member} has no client any more, {took_s:.2f} s later, and is stopped")
    clients = []
    for number in mine:
        up_ns = await field.wait_for(
            f"a new SA of client {number}", partial(field.clients[number].first, "ike_sa_up", at_ns), GRACE_S
        )
        found = await round_trips(field, [number], up_ns, RESUME_S)
        clients.append(client_of(number, field.clients[number].events, at_ns, found.get(number)))
    await asyncio.sleep(CALM_S)
    field.truth.stopped(member, await field.members[member].terminate(), dead=True)
    began_ns = time.monotonic_ns()
    await field.members[member].start()
    await serves_again(field, member, began_ns)
    return clients


def _with_both_kinds(field: Field) -> list[int]:
    """Members that have, all together, clients which follow a redirect and such that don't."""
    found = []
    for kind in (True, False):
        wanted = {client.number for client in field.place.clients if client.follows is kind}
        having = [m for m in range(field.plan.members) if wanted.intersection(field.served_by(m))]
        found += having[:1]
    if not found:
        raise LabError("no member has a client")
    return sorted(set(found))


def _lost(field: Field, clients: list[int], after_ns: int) -> tuple[int, int]:
    """(sent, lost) by these clients since then, but for what may still be under way."""
    until_ns = time.monotonic_ns() - round(QUIET_S * 1e9)
    return losses([field.traffic[number] for number in clients], after_ns, until_ns)


def _answers(field: Field, clients: list[int], after_ns: int) -> int:
    """Answers to the packets that these clients sent from a moment on."""
    return sum(
        seq in log.replies
        for log in (field.traffic[number] for number in clients)
        for seq, at_ns in log.sent.items()
        if at_ns >= after_ns
    )
