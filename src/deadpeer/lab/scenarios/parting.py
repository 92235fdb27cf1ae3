"""What costs nobody an SA: members that can't reach each other, a member that is taken out on purpose."""

from __future__ import annotations

import asyncio
import time

from deadpeer.lab.scenarios.field import Field
from deadpeer.lab.scenarios.outcome import Check, Outcome, client_of, losses, none
from deadpeer.lab.scenarios.parts import CALM_S, judge, round_trips, until, victim
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


def _answers(field: Field, clients: list[int], after_ns: int) -> int:
    """Answers to the packets that these clients sent from a moment on."""
    return sum(
        seq in log.replies
        for log in (field.traffic[number] for number in clients)
        for seq, at_ns in log.sent.items()
        if at_ns >= after_ns
    )
