"""Which method acts when: the one table, and what is known about each peer.

    method     needs                     proof that condemns                  acts
    qcd        a token that the peer     TokenMatch: only the peer can have   at once: the liveness check
               gave under protection     made it                              asks for the token
    sir        the peer's Vendor ID,     SirReplaced: NACK without ACK for    at once: CHECK_SPI; behind a
               or `sir = "force"`        a window, and a new authenticated    token 2 round trips later
                                         SA
    reconnect  nothing                   Replaced: the liveness check stays   see `_RECONNECT`; behind each
                                         unanswered, and a new SA of the      stronger method that this peer
                                         same connection and identity         gives us 2 round trips later
    liveness   nothing                   LivenessExhausted: repeated          when retransmissions are spent
                                         attempts unanswered for `dpd_floor`

"Stronger" is what stands before it in the connection's `crash_methods` and is available with this peer.
All of them start from the same question, a liveness check under protection, and every one ends when it is
answered. A weaker method runs beside a stronger one after its wait, since each condemns on a proof of its
own: running two costs packets, not safety.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from deadpeer.crash.options import Method, methods_of, sir_of
from deadpeer.crash.sir_wire import VENDOR_ID
from deadpeer.ike.extension import Extension, PeerVendorIds, SaClosed, SaRekeyed, SaView, Signal
from deadpeer.values import NS_PER_S, Now


class Evidence(Enum):
    """What there is against an SA, weakest first. None of it is authenticated."""

    SILENCE = "traffic or a request goes out and nothing comes back"
    HINT = "somebody does not know an ESP SPI of the peer"
    DENIAL = "somebody at the peer's address does not know the IKE SA of our liveness check"

    @classmethod
    def of(cls, hint: str) -> Evidence:
        """How much a hint of this kind weighs."""
        return _EVIDENCE.get(hint, cls.SILENCE)


@dataclass(frozen=True, slots=True)
class Wait:
    """So long after the liveness check went out: round trips, retransmission intervals, at least."""

    rtts: float
    rtos: float = 0.0
    floor_s: float = 0.0

    def seconds(self, rtt_s: float, rto_s: float) -> float:
        return max(self.floor_s, self.rtts * rtt_s + self.rtos * rto_s)


_RECONNECT: Mapping[Evidence, Wait] = {
    # The liveness check has been sent twice, and its second answer could be here.
    Evidence.SILENCE: Wait(rtts=1.1, rtos=1.0, floor_s=0.5),
    Evidence.HINT: Wait(rtts=1.1, rtos=1.0),
    # The answer that came was not protected: a protected one would be here by now as well.
    Evidence.DENIAL: Wait(rtts=1.1),
}
_AT_ONCE: Mapping[Evidence, Wait] = dict.fromkeys(Evidence, Wait(0.0))
_WAITS: Mapping[Method, Mapping[Evidence, Wait]] = {
    Method.QCD: _AT_ONCE,
    Method.SIR: _AT_ONCE,
    Method.RECONNECT: _RECONNECT,
}
BEHIND_RTTS = 2.0
"""A method waits so much longer for each stronger one that is available: its question and answer, twice."""


def wait_s(
    method: Method,
    evidence: Evidence,
    configured: tuple[Method, ...],
    available: frozenset[Method],
    rtt_s: float,
    rto_s: float,
) -> float | None:
    """How many seconds after the liveness check this method acts; None: not here, or not by a wait."""
    if method not in configured or method not in available or method not in _WAITS:
        return None
    before = configured[: configured.index(method)]
    stronger = sum(1 for other in before if other in available and other in (Method.QCD, Method.SIR))
    return _WAITS[method][evidence].seconds(rtt_s, rto_s) + stronger * BEHIND_RTTS * rtt_s


class Policy(Extension):
    """Remembers with each SA what its peer supports, and applies the table."""

    name = "policy"
    observes = (SaRekeyed, SaClosed, PeerVendorIds)

    def __init__(self) -> None:
        self._learnt: dict[int, frozenset[Method]] = {}
        self._shared: dict[frozenset[Method], frozenset[Method]] = {}
        """Each set once: there are few of them, and many SAs."""

    def uses(self, sa: SaView, method: Method) -> bool:
        """Whether the connection's `crash_methods` have it."""
        return method in methods_of(sa.connection)

    def learn(self, sa: SaView, method: Method) -> None:
        """The peer supports it on this SA."""
        known = self._learnt.get(sa.number, frozenset()) | {method}
        self._learnt[sa.number] = self._shared.setdefault(known, known)

    def available(self, sa: SaView) -> frozenset[Method]:
        """What this peer gives us to work with on this SA."""
        found = {Method.RECONNECT, Method.LIVENESS} | self._learnt.get(sa.number, frozenset())
        role = sir_of(sa.connection).role
        if role == "force":
            found.add(Method.SIR)
        elif role == "off":
            found.discard(Method.SIR)
        return frozenset(found)

    def act_ns(self, sa: SaView, method: Method, evidence: Evidence, asked_ns: int) -> int | None:
        """When (monotonic ns) `method` acts on an SA whose liveness check went out at `asked_ns`, if ever."""
        rtt_s = sa.rtt_s if sa.rtt_s is not None else sa.rto_s
        wait = wait_s(method, evidence, methods_of(sa.connection), self.available(sa), rtt_s, sa.rto_s)
        return None if wait is None else asked_ns + int(wait * NS_PER_S)

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case PeerVendorIds(sa=sa, vendor_ids=vendor_ids):
                if VENDOR_ID in vendor_ids:
                    self.learn(sa, Method.SIR)
            case SaRekeyed(old=old, new=new):
                # The Vendor ID is the peer's for good; a token is that of one pair of SPIs.
                if Method.SIR in self._learnt.get(old.number, ()):
                    self.learn(new, Method.SIR)
            case SaClosed(sa=sa):
                self._learnt.pop(sa.number, None)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {"policy.sas": len(self._learnt)}


_EVIDENCE = {
    "invalid-spi": Evidence.HINT,
    "invalid-ike-spi": Evidence.DENIAL,
    "sir-nack": Evidence.DENIAL,
}
