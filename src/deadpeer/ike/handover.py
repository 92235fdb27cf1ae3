"""A new IKE SA takes over what an old one holds (RFC 7296 section 2.8)."""

from __future__ import annotations

from deadpeer.ike import extension as ext
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.values import Now

REKEYED_LINGER_S = 60.0
"""How long a replaced IKE SA waits for the peer's DELETE."""


def successor_of(old: IkeSa, now: Now, *, we_initiated: bool, own_spi: bytes, peer_spi: bytes) -> IkeSa:
    """A new IKE SA for the same peer, without keys yet, not entered in the table."""
    new = IkeSa(
        old.env,
        now,
        old.connection,
        initiator=we_initiated,
        own_spi=own_spi,
        peer_spi=peer_spi,
        local=old.local,
        remote=old.remote,
        rtt=old.rtt,
    )
    new.remote_identity, new.credential_until_s = old.remote_identity, old.credential_until_s
    new.fragmentation = old.fragmentation
    new.peer_behind_nat, new.local_behind_nat = old.peer_behind_nat, old.local_behind_nat
    return new


def take_over(now: Now, old: IkeSa, new: IkeSa, *, initiated: bool) -> None:
    """Children and queued requests move; `old` only waits for its DELETE."""
    old.state, old.successor = IkeState.REKEYED, new
    new.predecessor = None
    for child in list(old.children.values()):
        old.release(child)
        new.adopt(now, child)
    waiting = list(old.queue)
    old.queue.clear()
    retire(now, old)
    new.env.event(
        "ike_sa_rekeyed",
        connection=new.connection.name,
        old=old.number,
        sa=new.number,
        role="initiator" if new.initiator else "responder",
        spi_i=new.spi_i.hex(),
        spi_r=new.spi_r.hex(),
        suite=new.suite.name,
    )
    new.env.signal(now, ext.SaRekeyed(old, new, initiated))
    new.queue.extend(exchange for exchange in waiting if exchange.moves(old, now))
    new.pump(now)


def await_decision(old: IkeSa, new: IkeSa) -> None:
    """`new` was made by the peer while our own rekeying of `old` is under way (section 2.8.2)."""
    old.successor, new.predecessor = new, old


def discard(now: Now, sa: IkeSa, reason: str) -> None:
    """Close an IKE SA that never carried anything, without a word."""
    sa.state, sa.predecessor = IkeState.REKEYED, None
    sa.close(now, reason)


def retire(now: Now, sa: IkeSa) -> None:
    """A replaced IKE SA is dropped if the DELETE never comes."""
    sa.state, sa.predecessor = IkeState.REKEYED, None
    timers = sa.env.timers
    for reason in ("IKE SA rekey", "IKE SA end of life", "idle", "NAT keepalive"):
        timers.cancel(sa.number, reason)
    timers.arm(
        sa.number,
        "replaced IKE SA",
        now.after(REKEYED_LINGER_S),
        lambda t: sa.close(t, "replaced, and the peer sent no DELETE"),
    )
