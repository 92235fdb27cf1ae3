"""The proofs of this room. Each is made only by the check that proves it."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import final

from deadpeer.ike.evidence import Proof
from deadpeer.values import NS_PER_S

MAX_TOKENS_CHECKED = 8
"""A taker must check at least four tokens of a message (RFC 6290 section 4.1); more is only work."""

MIN_ATTEMPTS = 3
"""RFC 7296 section 2.4: repeated attempts. Also guards against a clock that leapt while we were stopped."""

_TOKEN_KEY = object()
_LIVENESS_KEY = object()


@final
class TokenMatch(Proof):
    """The peer presented the token that it gave us under this IKE SA's protection (RFC 6290 section 4.5)."""

    __slots__ = ()
    kind = "qcd-token"
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
