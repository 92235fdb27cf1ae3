"""The proofs of this room. Each is made only by the check that proves it."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import final

from deadpeer.ike.evidence import Proof
from deadpeer.ike.extension import SaView
from deadpeer.values import NS_PER_S

MAX_TOKENS_CHECKED = 8
"""A taker must check at least four tokens of a message (RFC 6290 section 4.1); more is only work."""

MIN_ATTEMPTS = 3
"""RFC 7296 section 2.4: repeated attempts. Also guards against a clock that leapt while we were stopped."""

_TOKEN_KEY = object()
_LIVENESS_KEY = object()
_REPLACED_KEY = object()
_SIR_KEY = object()
_RESUMED_KEY = object()


def same_peer(old: SaView, new: SaView) -> bool:
    """Whether `new` is up and authenticated as the same connection and identity as `old`."""
    return (
        new.established
        and new.number != old.number
        and new.connection.name == old.connection.name
        and new.remote_identity is not None
        and new.remote_identity == old.remote_identity
    )


@final
class TokenMatch(Proof):
    """The peer presented the token that it gave us under this IKE SA's protection (RFC 6290 section 4.5)."""

    __slots__ = ()
    kind = "qcd-token"
    spoken = True
    _key = _TOKEN_KEY

    @classmethod
    def check(
        cls, *, at_ns: int, stored: bytes, since_ns: int, presented: Sequence[bytes], source: str
    ) -> TokenMatch | None:
        """A proof if one of the first eight presented tokens is the one stored (at `since_ns`).

        Every one is compared, in constant time, whether or not one before it has matched.
        """
        checked = presented[:MAX_TOKENS_CHECKED]
        matches = [hmac.compare_digest(token, stored) for token in checked]
        if not stored or not any(matches):
            return None
        return cls(
            _TOKEN_KEY,
            at_ns,
            f"token {matches.index(True) + 1} of {len(presented)} from {source} is the one that the peer"
            f" gave us {(at_ns - since_ns) / NS_PER_S:.1f} s before",
        )


@final
class LivenessExhausted(Proof):
    """Requests went unanswered and nothing protected came for long enough (RFC 7296 section 2.4)."""

    __slots__ = ()
    kind = "liveness"
    _key = _LIVENESS_KEY

    @classmethod
    def check(
        cls, *, at_ns: int, first_sent_ns: int, last_heard_ns: int, attempts: int, floor_s: float
    ) -> LivenessExhausted | None:
        """A proof if the request was sent three times or more, and both its first transmission and the
        last protected word of the peer lie at least `floor_s` seconds back."""
        unanswered_s = (at_ns - first_sent_ns) / NS_PER_S
        silent_s = (at_ns - last_heard_ns) / NS_PER_S
        if attempts < MIN_ATTEMPTS or unanswered_s < floor_s or silent_s < floor_s:
            return None
        return cls(
            _LIVENESS_KEY,
            at_ns,
            f"{attempts} attempts in {unanswered_s:.1f} s unanswered, nothing protected for {silent_s:.1f} s",
        )


@final
class Replaced(Proof):
    """A new SA of the same connection and identity is up, and a liveness check of the old one, sent before
    it was begun, has no answer (make before break: nothing is lost if the peer holds the old one still)."""

    __slots__ = ()
    kind = "replaced"
    _key = _REPLACED_KEY

    @classmethod
    def check(cls, *, at_ns: int, old: SaView, new: SaView, asked_ns: int) -> Replaced | None:
        """A proof if `new` is the same peer's, and no protected IKE message came on `old` since it was
        asked. (Protected traffic ends the suspicion, and with it the new SA.)"""
        if not same_peer(old, new) or old.last_heard_ns > asked_ns:
            return None
        return cls(
            _REPLACED_KEY,
            at_ns,
            f"the peer authenticated anew (SA {new.number}), while nothing protected came on this SA for"
            f" {(at_ns - asked_ns) / NS_PER_S:.2f} s after it was asked",
        )


@final
class SirReplaced(Proof):
    """The peer denied the SA, nobody contradicted for a whole window, and a new SA of the same connection
    and identity is up (draft-detienne-ikev2-recovery)."""

    __slots__ = ()
    kind = "sir"
    _key = _SIR_KEY

    @classmethod
    def check(
        cls, *, at_ns: int, old: SaView, new: SaView, nack_ns: int, window_s: float, contradicted: bool
    ) -> SirReplaced | None:
        """A proof if `new` is the same peer's and `window_s` passed after the NACK without an ACK and
        without a protected word on `old`."""
        closed = at_ns - nack_ns >= window_s * NS_PER_S
        if not same_peer(old, new) or not closed or contradicted or old.last_heard_ns > nack_ns:
            return None
        return cls(
            _SIR_KEY,
            at_ns,
            f"NACK, no ACK for {window_s:.2f} s, and the peer authenticated anew (SA {new.number})",
        )


@final
class Resumed(Proof):
    """The old SA's session was resumed: in IKE_AUTH the peer proved that it holds the old SA's SK_d, and that
    it has, or takes, another SA in its place (RFC 5723)."""

    __slots__ = ()
    kind = "resumed"
    _key = _RESUMED_KEY

    @classmethod
    def check(cls, *, at_ns: int, old: SaView, new: SaView) -> Resumed | None:
        """A proof if `new` was resumed from the keys of `old`, with the same peer."""
        used, given = new.resumed_by, old.resumption
        if used is None or given is None or not same_peer(old, new):
            return None
        if not hmac.compare_digest(used.resumption.sk_d, given.sk_d):
            return None
        return cls(_RESUMED_KEY, at_ns, f"this SA's session was resumed as SA {new.number}")
