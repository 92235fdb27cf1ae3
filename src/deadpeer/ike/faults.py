"""Faults on purpose: SAs vanish from a gateway that lives on, as if by a mistake in its program.

Nobody is told: no DELETE goes out, no extension hears of it, `close_action` is not asked. What is left is
what a crash leaves, unknown SPIs, but in a process that answers all the while.
"""

from __future__ import annotations

from deadpeer.ike.environment import Environment
from deadpeer.ike.exchange import Exchange
from deadpeer.ike.io import Lose
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.plane.model import RemoveChild
from deadpeer.values import Now

WHY = "lost by a fault on purpose"


def lose(env: Environment, now: Now, command: Lose) -> None:
    """Forget what the command names of the SAs that are up; its outcome says how much that was."""
    known = env.table if command.connection is None else env.table.of_connection(command.connection)
    sas = [sa for sa in known if sa.established_ns is not None]
    children = sum(_lose_children(env, sa, command.child) for sa in sas)
    if command.child is not None:
        text = f"{children} child SA(s) lost" if children else f"no child SA {command.child} is up"
        env.done(command.tag, children > 0, text)
        return
    waiting = [(sa, exchange) for sa in sas for exchange in _lose_ike(env, sa)]
    # Only now: what one SA tells its rival must find that one gone, too.
    for sa, exchange in waiting:
        exchange.abandoned(sa, now, WHY)
    for sa in sas:
        for callback in sa.when_closed:
            callback()
        sa.when_closed.clear()
    text = f"{len(sas)} IKE SA(s) with {children} child SA(s) lost" if sas else "no IKE SA is up"
    env.done(command.tag, bool(sas), text)


def _lose_ike(env: Environment, sa: IkeSa) -> list[Exchange]:
    """Forget an IKE SA; the requests that waited in it, whose commands must be answered."""
    waiting = ([sa.active] if sa.active is not None else []) + list(sa.queue)
    sa.active = None
    sa.queue.clear()
    sa.state = IkeState.CLOSED
    sa.predecessor = sa.successor = None
    env.timers.cancel_all(sa.number)
    env.table.remove(sa)
    return waiting


def _lose_children(env: Environment, sa: IkeSa, name: str | None) -> int:
    """Forget the children of that name (all if None); their number."""
    lost = [child for child in sa.children.values() if name in (None, child.name)]
    for child in lost:
        sa.release(child)
        env.timers.cancel_all(("child", child.number))
        env.plane(RemoveChild(child.number))
    return len(lost)
