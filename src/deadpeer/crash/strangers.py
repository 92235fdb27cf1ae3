"""What is said to strangers about SPIs that we do not know, statelessly. Peers are told by `lost_children`.

Never a token for a living SA, never more than three times the question, never more often than the
limiter says, never an answer to a response or to an unprotected message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from deadpeer.cluster.ownership import Ownership, Ruling, Standing, rule
from deadpeer.crash.limiter import Kind, Limiter
from deadpeer.crash.lost_children import LostChildren
from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.options import CrashOptions, TokenMethod, qcd_of
from deadpeer.crash.spi_map import SpiMap, dead_message
from deadpeer.crash.spi_records import SpiRecord
from deadpeer.crash.tokens import MAX_TOKENS_SENT, MakerRole, recompute, token_notify
from deadpeer.ike.connection import Connection
from deadpeer.ike.extension import (
    Core,
    Extension,
    Orphan,
    OrphanEsp,
    OrphanRequest,
)
from deadpeer.rates import AMPLIFICATION
from deadpeer.values import Datagram, Now, ip_of
from deadpeer.wire import (
    NON_ESP_MARKER,
    ExchangeType,
    Header,
    Message,
    Notify,
    NotifyType,
    PayloadType,
    encode_message,
)

MIN_REQUEST = 57
"""Header 28, SK header 4, IV 8, pad length 1, ICV 16: an empty protected request of our shortest suite."""

MIN_ESP = 36
"""SPI and sequence number 8, IV 8, padding and trailer 4, ICV 16: a dummy packet of our shortest suite."""

KIND_OF: Mapping[Ruling, Kind | None] = {
    Ruling.SILENCE: None,
    Ruling.GARBAGE: Kind.GARBAGE,
    Ruling.RECENT: Kind.RECENT,
    Ruling.RETURNING: Kind.RETURNING,
}
"""Whose budget an answer is charged to; None: there is none."""


class Strangers(Extension):
    """Answers protected requests and ESP packets with SPIs that nobody here has.

    `connections` say which methods tokens may have been made with before the crash.
    """

    name = "strangers"

    def __init__(
        self,
        ownership: Ownership,
        maker: TokenMaker,
        connections: Sequence[Connection],
        lost_children: LostChildren,
        options: CrashOptions,
        spi_map: SpiMap | None = None,
    ) -> None:
        self._lost_children = lost_children
        self._spi_map = spi_map
        self._ownership = ownership
        self._maker = maker
        self._methods_of = _Methods(connections)
        self._options = options

    def attach(self, now: Now, core: Core) -> None:
        super().attach(now, core)
        self._limiter = Limiter(now.mono_ns, self._options, self._ownership.ended_lives)

    def orphan(self, now: Now, orphan: Orphan) -> bool:
        self._limiter.heed(now.mono_ns, self._ownership.ended_lives)
        match orphan:
            case OrphanRequest():
                self._request(now, orphan)
            case OrphanEsp():
                self._esp(now, orphan)
            case _:
                return False
        return True

    def counters(self) -> dict[str, int]:
        return self._limiter.sizes()

    # --- IKE -------------------------------------------------------------------------------------

    def _request(self, now: Now, orphan: OrphanRequest) -> None:
        """RFC 7296 sections 1.5 and 2.21.4, RFC 6290 section 4.5."""
        header = orphan.header
        if not _plausible(header, len(orphan.datagram.payload)):
            self.core.count("orphan.implausible")
            return
        # Either SPI, in either role, in any state: the Initiator flag is the stranger's word, and who
        # flips it must not get the token of a living SA.
        if self.core.alive(header.spi_i) or self.core.alive(header.spi_r):
            self.core.count("orphan.alive")
            return
        if not self._options.answer_strangers:
            self.core.count("orphan.silent")
            return
        source = orphan.datagram.remote.host
        ours, theirs = header.spi_r, header.spi_i
        if not header.from_initiator:
            ours, theirs = theirs, ours
        owner = self._ownership
        kind = KIND_OF[rule(owner.of_ike(ours), owner.of_ike(theirs), alone=owner.alone)]
        if kind is Kind.RETURNING and self._in_map(header):
            kind = Kind.MAPPED_IKE
        if kind is None:
            self.core.count("orphan.other_member")
        elif not self._limiter.allow(now.mono_ns, source, kind, ours):
            self.core.count(f"orphan.limited.{kind.value}")
        else:
            self._answer_request(orphan, kind, self._tokens(header, source, kind))

    def _in_map(self, header: Header) -> bool:
        """Whether the SPI map awaits this pair's peer. Its budget is one that nobody can draw on with SPIs
        of SAs that ended otherwise, of which a stranger may have collected any number."""
        return self._spi_map is not None and self._spi_map.has_pair(header.spi_i, header.spi_r)

    def _tokens(self, header: Header, source: str, kind: Kind) -> list[bytes]:
        methods = self._methods(source)
        if kind is Kind.GARBAGE or not methods:
            return []
        role = MakerRole.RESPONDER if header.from_initiator else MakerRole.INITIATOR
        return recompute(self._maker.generations, methods, role, header.spi_i, header.spi_r, source)

    def _methods(self, source: str) -> set[TokenMethod]:
        """The methods of the connections that `source` may belong to, or of all: usually one.

        With both in question the two newest generations are presented, not four.
        """
        methods = self._methods_of.all | self._maker.methods
        return methods if len(methods) < 2 else self._methods_of.peer(source) or methods

    def _answer_request(self, orphan: OrphanRequest, kind: Kind, tokens: list[bytes]) -> None:
        header, question = orphan.header, len(orphan.datagram.payload)
        while True:
            message = Message(
                header.spi_i,
                header.spi_r,
                header.exchange,
                header.message_id,
                from_initiator=not header.from_initiator,
                is_response=True,
                payloads=(Notify(NotifyType.INVALID_IKE_SPI), *map(token_notify, tokens)),
            )
            if _fits(message, question):
                break
            if not tokens:
                self.core.count("orphan.too_small")
                return
            tokens = tokens[:-1]
        self.core.answer(orphan.datagram, message, "invalid ike spi")
        self.core.count("invalid_ike_spi_sent")
        self.core.event(
            "invalid_ike_spi_sent",
            "info" if tokens else "debug",
            to=str(orphan.datagram.remote),
            spi_i=header.spi_i.hex(),
            spi_r=header.spi_r.hex(),
            spi=kind.value,
            tokens=len(tokens),
        )

    # --- ESP -------------------------------------------------------------------------------------

    def _esp(self, now: Now, orphan: OrphanEsp) -> None:
        """RFC 7296 section 1.5: inside the IKE SAs where some with the sender live, else in the clear."""
        if orphan.octets < MIN_ESP or orphan.spi < 256:
            self.core.count("orphan.implausible")
            return
        if self._ownership.of_esp(orphan.spi) is Standing.LIVING:
            self.core.count("orphan.other_member")
            return
        strangers = self._options.answer_strangers
        record = self._spi_map.dead(orphan.spi) if self._spi_map is not None and strangers else None
        if record is not None and record.local.host == orphan.local.host:
            self._mapped(now, orphan, record)
            return
        if self._lost_children.tell(now, orphan):
            return
        notify = Notify(NotifyType.INVALID_SPI, orphan.spi.to_bytes(4, "big"))
        if not strangers:
            self.core.count("orphan.silent")
            return
        host, spi = orphan.remote.host, notify.data
        if not self._limiter.allow(now.mono_ns, host, Kind.ESP, spi):
            self.core.count("orphan.limited.esp")
            return
        # No IKE SPI means anything here; zero is as good as a random one and costs nothing.
        message = Message(
            bytes(8), bytes(8), ExchangeType.INFORMATIONAL, 0, True, is_response=False, payloads=(notify,)
        )
        if not _fits(message, orphan.octets):
            self.core.count("orphan.too_small")
            return
        self._send_unprotected(orphan, message, 0)

    def _mapped(self, now: Now, orphan: OrphanEsp, record: SpiRecord) -> None:
        """RFC 6290 section 8.2: the tokens at once, whatever other SA the peer has with us.

        To where the packet came from, the recorded address or not: behind a NAT a peer's address changes
        just when we are away for a while. What a stranger who hits a mapped SPI learns is the token of an
        SA that is dead; whoever presents it tells the peer the truth.
        """
        if self._spi_map is None:
            return
        host = orphan.remote.host
        if not self._limiter.allow(now.mono_ns, host, Kind.MAPPED, orphan.spi.to_bytes(4, "big")):
            self.core.count("orphan.limited.mapped")
            return
        tokens = self._spi_map.tokens(record, host, MAX_TOKENS_SENT)
        while not _fits(message := dead_message(orphan.spi, record, tokens), orphan.octets):
            tokens.pop()
        self._send_unprotected(orphan, message, len(tokens))
        if tokens:
            self._spi_map.told(orphan.spi)

    def _send_unprotected(self, orphan: OrphanEsp, message: Message, tokens: int) -> None:
        self.core.answer(Datagram(b"", orphan.local, orphan.remote), message, "invalid spi")
        self.core.count("invalid_spi_sent")
        self.core.event(
            "invalid_spi_sent",
            "info" if tokens else "debug",
            to=str(orphan.remote),
            spi=f"{orphan.spi:08x}",
            protected=False,
            tokens=tokens,
        )


class _Methods:
    """Which methods of making tokens the connections use, by the peers' configured addresses."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.all: set[TokenMethod] = set()
        self._hosts: dict[bytes, set[TokenMethod]] = {}
        self._nets: set[tuple[IPv4Network | IPv6Network, TokenMethod]] = set()
        self._any: set[TokenMethod] = set()
        for connection in connections:
            if qcd_of(connection).makes:
                self._add(connection)

    def peer(self, source: str) -> set[TokenMethod]:
        """The methods of the connections whose peer may have this address."""
        ip = ip_of(source)
        nets = {method for net, method in self._nets if ip in net}
        return self._any | nets | self._hosts.get(ip.packed, set())

    def _add(self, connection: Connection) -> None:
        method = qcd_of(connection).method
        self.all.add(method)
        if not connection.remote_addrs:
            self._any.add(method)
        for net in connection.remote_addrs:
            if net.prefixlen == net.max_prefixlen:
                self._hosts.setdefault(net.network_address.packed, set()).add(method)
            else:
                self._nets.add((net, method))


_PROTECTED = (ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL)


def _plausible(header: Header, octets: int) -> bool:
    """Whether it may be a protected request of an SA that we had. The core has looked already."""
    return (
        not header.is_response
        and any(header.spi_i)
        and any(header.spi_r)
        and header.exchange in _PROTECTED
        and header.next_payload in (PayloadType.SK, PayloadType.SKF)
        and MIN_REQUEST <= header.length <= octets
    )


def _fits(message: Message, question: int) -> bool:
    """Whether the answer, with a marker in any case, keeps the bound."""
    return len(encode_message(message)) + len(NON_ESP_MARKER) <= AMPLIFICATION * question
