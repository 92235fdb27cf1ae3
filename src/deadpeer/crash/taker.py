"""The token taker (RFC 6290), and what else an unprotected message can tell.

Tokens come under protection and are kept with the SA. News from strangers matches a living SA or is
ignored; a token in it that is the kept one is a proof, all else is a hint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deadpeer.crash.evidence import TokenMatch
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import Method, qcd_of
from deadpeer.crash.policy import Policy
from deadpeer.crash.tokens import token_of
from deadpeer.ike.evidence import Hint
from deadpeer.ike.extension import (
    Extension,
    Orphan,
    PeerNotifies,
    SaClosed,
    SaView,
    Signal,
    Slot,
    UnprotectedNews,
)
from deadpeer.rates import Bucket, Rate
from deadpeer.values import Now
from deadpeer.wire import Message, Notify, NotifyType

MISMATCH_EVENTS = Rate(1.0, 5.0)
"""How often a token that does not match is worth an event; all are counted."""


class TokenTaker(Extension):
    """Keeps peers' tokens on connections whose QCD roles are both or taker, and judges news."""

    name = "qcd-taker"
    observes = (SaClosed, PeerNotifies)

    def __init__(self, monitor: Monitor, policy: Policy) -> None:
        self._monitor = monitor
        self._policy = policy
        self._tokens: dict[int, _Held] = {}
        self._mismatches: Bucket | None = None

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case PeerNotifies(sa=sa, slot=slot, notifies=notifies):
                wanted = qcd_of(sa.connection).takes and self._policy.uses(sa, Method.QCD)
                if slot in _SLOTS and wanted:
                    self._accept(now, sa, notifies)
            case SaClosed(sa=sa):
                self._tokens.pop(sa.number, None)
            case _:
                pass

    def orphan(self, now: Now, orphan: Orphan) -> bool:
        if not isinstance(orphan, UnprotectedNews):
            return False
        message = orphan.message
        if message.is_response and message.notify(NotifyType.INVALID_IKE_SPI) is not None:
            self._invalid_ike_spi(now, orphan)
        elif not message.is_response and message.notify(NotifyType.INVALID_SPI) is not None:
            self._invalid_spi(now, orphan)
        else:
            self.core.count("news.other")
        return True

    def holds(self, sa: SaView) -> bool:
        """Whether the peer gave us a token for this SA."""
        return sa.number in self._tokens

    def counters(self) -> dict[str, int]:
        return {"qcd.tokens_held": len(self._tokens)}

    # --- protected -------------------------------------------------------------------------------

    def _accept(self, now: Now, sa: SaView, notifies: Sequence[Notify]) -> None:
        """A token may come at any time and replaces the one before (RFC 6290 section 4.3)."""
        offered = [n for n in notifies if n.type == NotifyType.QCD_TOKEN]
        for notify in offered:
            token = token_of(notify)
            if token is None:
                self.core.count("token_malformed")
                continue
            self._tokens[sa.number] = _Held(token, now.mono_ns)
            self._policy.learn(sa, Method.QCD)
            self.core.count("token_received")
            self.core.event("token_received", connection=sa.connection.name, sa=sa.number, octets=len(token))

    # --- unprotected -----------------------------------------------------------------------------

    def _invalid_ike_spi(self, now: Now, news: UnprotectedNews) -> None:
        """The answer of one who does not know the SA (RFC 7296 section 2.21.4, RFC 6290 section 4.5).

        It counts only from where the request in flight went.
        """
        sa = news.sa
        if sa is None or not sa.established:
            self.core.count("news.no_sa")
        elif news.datagram.remote != sa.remote:
            self.core.count("news.other_address")
        elif not sa.request_in_flight:
            self.core.count("news.no_request")
        elif not self._judge_tokens(now, sa, news):
            self._hint(now, sa, news, "invalid-ike-spi", "")

    def _invalid_spi(self, now: Now, news: UnprotectedNews) -> None:
        """Somebody does not know an ESP SPI (RFC 7296 section 1.5); with tokens: RFC 6290 section 8.2.

        The SPI may be that of a child that we have deleted while the map of the peer, who died just then, has
        it still. A token is then judged for the SA that the header names, if the header names one.
        """
        spi = _invalid_spi_of(news.message)
        sa = None if spi is None else self.core.find_by_outbound(spi, news.datagram.remote)
        if spi is None or sa is None or not sa.established:
            named = news.sa
            if named is None or not named.established or named.remote.host != news.datagram.remote.host:
                self.core.count("news.no_sa")
            elif not self._judge_tokens(now, named, news):
                self.core.count("news.no_child")
        elif not self._judge_tokens(now, sa, news):
            self._hint(now, sa, news, "invalid-spi", f"{spi:08x}")

    def _hint(self, now: Now, sa: SaView, news: UnprotectedNews, kind: str, detail: str) -> None:
        self._monitor.hint(now, sa, Hint(kind, now.mono_ns, str(news.datagram.remote), detail))

    def _judge_tokens(self, now: Now, sa: SaView, news: UnprotectedNews) -> bool:
        """True if there were tokens that we can judge, whatever the judgement."""
        presented = [n.data for n in news.message.all(Notify) if token_of(n) is not None]
        held = self._tokens.get(sa.number)
        if not presented or held is None:
            return False
        source = str(news.datagram.remote)
        proof = TokenMatch.check(
            at_ns=now.mono_ns,
            stored=held.token,
            since_ns=held.since_ns,
            presented=presented,
            source=source,
        )
        if proof is not None:
            self.core.condemn(now, sa, self._monitor.verdict(sa, proof))
        else:
            self._mismatch(now, sa, source, len(presented))
        return True

    def _mismatch(self, now: Now, sa: SaView, source: str, presented: int) -> None:
        """RFC 6290 section 4.5: nothing is sent, the SA stays."""
        self.core.count("token_mismatch")
        if self._mismatches is None:
            self._mismatches = Bucket(now.mono_ns, MISMATCH_EVENTS)
        if self._mismatches.take(now.mono_ns, MISMATCH_EVENTS):
            self.core.event(
                "token_mismatch",
                "warning",
                connection=sa.connection.name,
                sa=sa.number,
                source=source,
                presented=presented,
            )


@dataclass(frozen=True, slots=True)
class _Held:
    token: bytes = field(repr=False)
    since_ns: int


_SLOTS = (Slot.AUTH, Slot.IKE_REKEY, Slot.INFORMATIONAL)


def _invalid_spi_of(message: Message) -> int | None:
    """The ESP SPI in question: our outbound one."""
    notify = message.notify(NotifyType.INVALID_SPI)
    return int.from_bytes(notify.data, "big") if notify is not None and len(notify.data) == 4 else None
