"""How often a repeated request is answered again, and where to (RFC 7296 section 2.1).

A repetition has the octets of a request that was authentic once, so it proves nothing about who sends it:
whoever captured the peer's last request can send it for ever, from any address. The answer goes to that
address, for a peer behind a NAT may have got another one since (section 2.23). So it is limited for each
SA; and where it does not go to the peer's known address it is also, like every answer to a stranger, at
most three times as large as the question.
"""

from __future__ import annotations

from deadpeer.ike.window import Packets
from deadpeer.rates import AMPLIFICATION, Bucket, Rate

HOME = Rate(5.0, 10.0)
"""To the address of the SA's peer. Retransmissions back off: an honest peer needs fewer."""
ELSEWHERE = Rate(1.0, 3.0)


class Repeats:
    """The limits of one SA."""

    __slots__ = ("_elsewhere", "_home")

    def __init__(self, now_ns: int) -> None:
        self._home = Bucket(now_ns, HOME)
        self._elsewhere = Bucket(now_ns, ELSEWHERE)

    def allow(self, now_ns: int, request: bytes, response: Packets, *, home: bool) -> bool:
        """Whether to send `response` once more to where this `request` came from."""
        if home:
            return self._home.take(now_ns, HOME)
        if sum(map(len, response)) > AMPLIFICATION * len(request):
            return False
        return self._elsewhere.take(now_ns, ELSEWHERE)
