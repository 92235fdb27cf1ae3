"""Retransmission of our requests: identical, exponential, scaled to the round trip time (section 2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deadpeer.ike import extension as ext
from deadpeer.ike.rtt import MAX_RTO_S, interval_s
from deadpeer.ike.state import IkeState
from deadpeer.values import NS_PER_S, Now

if TYPE_CHECKING:
    from deadpeer.ike.sa import IkeSa

DELETE_TIMEOUT_S = 5.0
"""How long an unanswered DELETE is repeated before the SA is dropped anyway."""
SETUP_SHARE = 0.25
BUSY_CAP_S = 4.0
"""The largest interval towards one who asked for a cookie, in a setup."""


def give_up_ns(sa: IkeSa, first_sent_ns: int) -> int:
    """When the retransmissions of a request end that went out first at `first_sent_ns`."""
    if sa.state in (IkeState.DELETING, IkeState.REKEYED):
        return first_sent_ns + int(DELETE_TIMEOUT_S * NS_PER_S)
    if sa.established_ns is None:
        return sa.created_ns + int(sa.env.config.init_timeout_s * NS_PER_S)
    return first_sent_ns + int(sa.connection.dpd_timeout_s * NS_PER_S)


def current_interval_s(sa: IkeSa, now: Now) -> float:
    """How long the outstanding request waits for its answer before it goes out again, seconds."""
    return interval_s(max(sa.rtt.rto_s, pace_s(sa)), sa.backoff, _cap_s(sa, now))


def pace_s(sa: IkeSa) -> float:
    """The first interval of a setup's request is no shorter: of its first message, and of all of them where
    the responder asked for a cookie."""
    if sa.setup is None or not (sa.setup.cookie or sa.state is IkeState.INIT_SENT):
        return 0.0
    return sa.setup.pace_s


def arm(sa: IkeSa, now: Now) -> None:
    """Arm the next retransmission of the outstanding request."""
    outstanding = sa.send.outstanding
    if outstanding is None:
        return
    at = now.after(current_interval_s(sa, now))
    limit = give_up_ns(sa, outstanding.first_sent_ns)
    if now.mono_ns < limit:
        at = min(at, limit)
    sa.env.timers.arm(sa.number, "retransmission", at, lambda then: _due(sa, then))


def _cap_s(sa: IkeSa, now: Now) -> float:
    """The largest interval. Of a setup it is a quarter of the time that it has taken so far: still
    exponential, and who was away for a short time is not waited for much longer after it is back. Who has
    asked for a cookie is there, and busy: to such a one requests soon become rarer."""
    if sa.setup is not None and sa.setup.cookie:
        return BUSY_CAP_S
    shortest = sa.env.config.retry_cap_s
    if sa.recovering:
        return shortest
    if sa.established_ns is not None:
        return MAX_RTO_S
    return min(max(shortest, (now.mono_ns - sa.created_ns) / NS_PER_S * SETUP_SHARE), MAX_RTO_S)


def _due(sa: IkeSa, now: Now) -> None:
    outstanding = sa.send.outstanding
    if outstanding is None:
        return
    if now.mono_ns >= give_up_ns(sa, outstanding.first_sent_ns):
        if sa.state in (IkeState.DELETING, IkeState.REKEYED):
            if sa.active is not None:
                sa.active.gave_up(sa, now)
            return
        if sa.established_ns is None:
            sa.fail_setup(now, "the peer does not answer")
            return
        sa.env.signal(now, ext.RequestExhausted(sa, outstanding.first_sent_ns, outstanding.attempts))
        if sa.is_closed():
            return
    if sa.setup is not None and sa.env.lifecycle.impatient(now, sa, outstanding.attempts):
        return
    sa.env.event(
        "retransmit",
        "debug",
        connection=sa.connection.name,
        sa=sa.number,
        message_id=outstanding.message_id,
        attempt=outstanding.attempts + 1,
    )
    sa.retransmit(now, "retransmission")
