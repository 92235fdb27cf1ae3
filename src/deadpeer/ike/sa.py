"""The IKE SA: keys, windows, queue of requests, children. Lifecycle state only; requests are `Exchange`s."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from deadpeer.crypto import AuthenticationFailed, IkeKeys, IkeSuite, SkCipher, derive_ike_keys
from deadpeer.crypto.identity import Identity
from deadpeer.ike import extension as ext
from deadpeer.ike import fragment
from deadpeer.ike.child import ChildSa, ChildState
from deadpeer.ike.collision import Own
from deadpeer.ike.connection import Connection
from deadpeer.ike.environment import Environment
from deadpeer.ike.exchange import Exchange
from deadpeer.ike.rtt import MAX_RTO_S, RttEstimator, interval_s
from deadpeer.ike.window import Arrival, Packets, RecvWindow, SendWindow
from deadpeer.plane.model import MoveChild, RemoveChild
from deadpeer.values import NS_PER_S, Address, Datagram, Now
from deadpeer.wire import (
    KEEPALIVE,
    Delete,
    ExchangeType,
    Header,
    Message,
    Notify,
    NotifyType,
    Payload,
    Protocol,
    UnsupportedCriticalPayload,
    WireError,
    decode_payloads,
    encode_payloads,
    label,
)

if TYPE_CHECKING:
    from deadpeer.ike.exchanges.setup import Setup

DELETE_TIMEOUT_S = 5.0
"""How long an unanswered DELETE is repeated before the SA is dropped anyway."""
IP_UDP_OCTETS = {4: 28, 6: 48}


class IkeState(Enum):
    """Lifecycle. What is in flight is kept in the windows and the queue."""

    INIT_SENT = "IKE_SA_INIT sent"
    AUTHENTICATING = "authenticating"
    ESTABLISHED = "established"
    REKEYED = "rekeyed"
    """Replaced by a newer IKE SA; waits to be deleted."""
    DELETING = "deleting"
    FAILED = "failed"
    """Refused in IKE_AUTH; kept a moment to answer retransmissions."""
    CLOSED = "closed"


class IkeSa:
    """One IKE SA, either role. Implements `extension.SaView`."""

    suite: IkeSuite
    sk_d: bytes

    def __init__(
        self,
        env: Environment,
        now: Now,
        connection: Connection,
        *,
        initiator: bool,
        own_spi: bytes,
        peer_spi: bytes,
        local: Address,
        remote: Address,
        rtt: RttEstimator | None = None,
    ) -> None:
        self.env = env
        self.number = env.sa_number()
        self.connection = connection
        self.initiator = initiator
        self.own_spi = own_spi
        self.peer_spi = peer_spi
        self.local = local
        self.remote = remote
        self.state = IkeState.INIT_SENT if initiator else IkeState.AUTHENTICATING
        self.created_ns = now.mono_ns
        self.established_ns: int | None = None
        self.last_heard_ns = now.mono_ns
        self.last_traffic_ns = now.mono_ns
        self.rtt = rtt or RttEstimator()
        self.send = SendWindow()
        self.recv = RecvWindow()
        self.keys: IkeKeys | None = None
        self.children: dict[int, ChildSa] = {}
        self.queue: deque[Exchange] = deque()
        self.active: Exchange | None = None
        self.setup: Setup | None = None
        self.remote_identity: Identity | None = None
        self.fragmentation = False
        self.peer_behind_nat = False
        self.local_behind_nat = False
        self.recovering = False
        self.initial_contact = False
        self.successor: IkeSa | None = None
        self.after_reply: list[Callable[[], None]] = []
        self.when_closed: list[Callable[[], None]] = []
        self._out: SkCipher | None = None
        self._in: SkCipher | None = None
        self._iv = 0
        self._requests = fragment.Reassembly()
        self._responses = fragment.Reassembly()

    # --- the view of extensions ------------------------------------------------------------------

    @property
    def spi_i(self) -> bytes:
        """The original initiator's SPI."""
        return self.own_spi if self.initiator else self.peer_spi

    @property
    def spi_r(self) -> bytes:
        """The original responder's SPI."""
        return self.peer_spi if self.initiator else self.own_spi

    @property
    def established(self) -> bool:
        """Authenticated, and neither replaced nor being deleted."""
        return self.state is IkeState.ESTABLISHED

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip time, seconds."""
        return self.rtt.smoothed_s

    @property
    def rto_s(self) -> float:
        """First retransmission interval, seconds."""
        return self.rtt.rto_s

    @property
    def request_in_flight(self) -> bool:
        """Whether a request of ours is unanswered."""
        return self.send.outstanding is not None

    @property
    def resumption(self) -> ext.Resumption | None:
        """What resuming this SA needs; None before it has keys."""
        return ext.Resumption(self.suite, self.sk_d) if self.keys is not None else None

    @property
    def child_views(self) -> Sequence[ChildSa]:
        """The children, oldest first."""
        return list(self.children.values())

    # --- keys ------------------------------------------------------------------------------------

    def set_keys(self, suite: IkeSuite, skeyseed: bytes, ni: bytes, nr: bytes) -> None:
        """Derive and take into use the SK_* keys (RFC 7296 section 2.14)."""
        keys = derive_ike_keys(suite, skeyseed, ni, nr, self.spi_i, self.spi_r)
        self.suite, self.keys, self.sk_d = suite, keys, keys.sk_d
        from_initiator = SkCipher(suite, keys.sk_ei, keys.sk_ai)
        from_responder = SkCipher(suite, keys.sk_er, keys.sk_ar)
        self._out, self._in = (
            (from_initiator, from_responder) if self.initiator else (from_responder, from_initiator)
        )
        self.env.keylog_sa(self)

    # --- requests of ours ------------------------------------------------------------------------

    def submit(self, now: Now, exchange: Exchange, *, urgent: bool = False) -> None:
        """Queue a request; it goes out when the window has room."""
        if self.state is IkeState.CLOSED:
            exchange.abandoned(self, now, "the IKE SA is closed")
            return
        if urgent:
            self.queue.appendleft(exchange)
        else:
            self.queue.append(exchange)
        self.pump(now)

    def pump(self, now: Now) -> None:
        """Send the next queued request if the window has room."""
        while self.queue and self.active is None and self.send.room and self._may_send():
            exchange = self.queue.popleft()
            payloads = exchange.request(self, now)
            if payloads is None or self.state is IkeState.CLOSED:
                continue
            self.active = exchange
            packets = self.seal(exchange.exchange_type, self.send.next_id, False, payloads)
            self.start_request(now, packets, exchange.reason)

    def start_request(self, now: Now, packets: Packets, reason: str) -> None:
        """Transmit a request for the first time and arm its retransmission."""
        self.send.open(packets, now.mono_ns)
        self._transmit(packets, reason)
        self._arm_retransmission(now)

    def retransmit(self, now: Now, reason: str, *, restart: bool = False) -> None:
        """Send the outstanding request again, identically. `restart` begins the backoff anew."""
        outstanding = self.send.outstanding
        if outstanding is None:
            return
        outstanding.attempts += 1
        self._transmit(outstanding.packets, reason)
        self._backoff = 1 if restart else self._backoff + 1
        self._arm_retransmission(now, keep_backoff=True)
        if self.state is not IkeState.INIT_SENT:
            self.env.signal(
                now, ext.RequestRetransmitted(self, outstanding.first_sent_ns, outstanding.attempts)
            )

    def own_request(self, child: ChildSa | None = None) -> Own:
        """Our request in flight as the collision table names it, seen from `child`."""
        active = self.active
        if active is None:
            return Own.DELETE_IKE if self.state is IkeState.DELETING else Own.NOTHING
        about = getattr(active, "child", None)
        if active.own is Own.REKEY_THIS_CHILD:
            return Own.REKEY_THIS_CHILD if about is child else Own.REKEY_OTHER_CHILD
        if active.own is Own.DELETE_THIS_CHILD:
            return Own.DELETE_THIS_CHILD if about is child else Own.DELETE_OTHER_CHILD
        return active.own

    # --- datagrams -------------------------------------------------------------------------------

    def receive(self, now: Now, octets: bytes, header: Header, fragmented: bool, datagram: Datagram) -> None:
        """A protected message for this SA. `octets` is the IKE message without marker."""
        if self._in is None:
            self.env.drop("no keys yet")
            return
        if header.is_response:
            if not self.send.awaits(header.message_id):
                self.env.drop("response not awaited")
                return
        else:
            arrival = self.recv.classify(header.message_id)
            if arrival is Arrival.REPEATED:
                self._answer_again(octets, datagram)
                return
            if arrival is not Arrival.NEW:
                self.env.drop(f"request {arrival.value}")
                return
        opened = self._open(octets, header, fragmented)
        if opened is None:
            return
        first_type, inner, first_packet = opened
        self.last_heard_ns = self.last_traffic_ns = now.mono_ns
        self._follow_address(now, datagram)
        if header.is_response:
            self._handle_response(now, header, first_type, inner)
        else:
            self._handle_request(now, header, first_type, inner, first_packet)

    def seal(self, exchange: int, message_id: int, is_response: bool, payloads: Sequence[Payload]) -> Packets:
        """Protect a message of ours; fragments if the peer takes them and it is too large for one."""
        if self._out is None:
            raise RuntimeError("the IKE SA has no keys yet")
        first_type, inner = encode_payloads(payloads)
        version = 6 if ":" in self.remote.host else 4
        room = self.connection.fragment_size - IP_UDP_OCTETS[version] - 4
        part_octets = self._out.max_inner(room)
        if self.fragmentation and len(inner) > part_octets > 0:
            parts = fragment.split(inner, part_octets)
            return tuple(
                self._out.seal_fragment(
                    spi_i=self.spi_i,
                    spi_r=self.spi_r,
                    exchange=exchange,
                    message_id=message_id,
                    from_initiator=self.initiator,
                    is_response=is_response,
                    number=number,
                    total=len(parts),
                    first_payload=first_type,
                    inner=part,
                    iv=self._next_iv(),
                )
                for number, part in enumerate(parts, 1)
            )
        return (
            self._out.seal_message(
                spi_i=self.spi_i,
                spi_r=self.spi_r,
                exchange=exchange,
                message_id=message_id,
                from_initiator=self.initiator,
                is_response=is_response,
                first_payload=first_type,
                inner=inner,
                iv=self._next_iv(),
            ),
        )

    # --- children --------------------------------------------------------------------------------

    def adopt(self, now: Now, child: ChildSa) -> None:
        """Enter a child (a new one, or one of the SA that this one replaces) and arm its lifetime."""
        self.children[child.number] = child
        self.env.table.add_child(self, child)
        self.env.lifecycle.arm_child(now, self, child)

    def release(self, child: ChildSa) -> None:
        """Forget a child without touching the data plane: another IKE SA takes it over."""
        if self.children.pop(child.number, None) is not None:
            self.env.table.remove_child(self, child)

    def drop_child(self, now: Now, child: ChildSa, reason: str, *, linger_s: float = 0.0) -> None:
        """Remove a child from the data plane and from this SA."""
        if child.number not in self.children:
            return
        self.release(child)
        self.env.timers.cancel_all(("child", child.number))
        self.env.plane(RemoveChild(child.number, linger_s))
        if child.state is not ChildState.REKEYED:
            self.env.event(
                "child_down", connection=self.connection.name, child=child.name, sa=self.number, reason=reason
            )
        self.env.signal(now, ext.ChildDown(self, child, reason))

    def child_by_outbound(self, spi: bytes) -> ChildSa | None:
        """The child that sends with this ESP SPI (4 octets)."""
        wanted = int.from_bytes(spi, "big")
        return next((c for c in self.children.values() if c.spi_out == wanted), None)

    def child_by_inbound(self, spi: bytes) -> ChildSa | None:
        """The child that receives with this ESP SPI (4 octets)."""
        wanted = int.from_bytes(spi, "big")
        return next((c for c in self.children.values() if c.spi_in == wanted), None)

    # --- lifecycle -------------------------------------------------------------------------------

    def established_now(self, now: Now) -> None:
        """Both sides are authenticated (or this SA replaces one that was)."""
        self.state = IkeState.ESTABLISHED
        self.established_ns = now.mono_ns
        self.setup = None
        self.env.table.settled(self)
        self.env.timers.cancel(self.number, "half-open")
        self.env.lifecycle.arm_ike(now, self)

    def close(self, now: Now, reason: str) -> None:
        """Forget the SA and its children at once, without a word to the peer."""
        if self.state is IkeState.CLOSED:
            return
        was_up = self.established_ns is not None
        replaced = self.state is IkeState.REKEYED
        for child in list(self.children.values()):
            self.drop_child(now, child, reason)
        self.state = IkeState.CLOSED
        self.env.timers.cancel_all(self.number)
        self.env.table.remove(self)
        waiting = ([self.active] if self.active is not None else []) + list(self.queue)
        self.active = None
        self.queue.clear()
        for exchange in waiting:
            exchange.abandoned(self, now, reason)
        if was_up and not replaced:
            self.env.event("ike_sa_down", connection=self.connection.name, sa=self.number, reason=reason)
        self.env.signal(now, ext.SaClosed(self, reason))
        for callback in self.when_closed:
            callback()
        self.when_closed.clear()

    def say_farewell(self) -> None:
        """One DELETE that nobody waits for (the peer most likely does not know this SA any more)."""
        packets = self.seal(ExchangeType.INFORMATIONAL, self.send.next_id, False, (delete_payload(),))
        self._transmit(packets, "farewell DELETE")

    def keepalive(self, now: Now) -> None:
        """Send a NAT keepalive if we are behind a NAT, and arm the next one (RFC 3948 section 4)."""
        if self.local_behind_nat and self.state in (IkeState.ESTABLISHED, IkeState.REKEYED):
            self.env.transmit_raw(KEEPALIVE, self.local, self.remote, "NAT keepalive")
            self.arm_keepalive(now)

    def arm_keepalive(self, now: Now) -> None:
        """Arm the next NAT keepalive."""
        at = now.after(self.env.config.nat_keepalive_s)
        self.env.timers.arm(self.number, "NAT keepalive", at, self.keepalive)

    def move(self, now: Now, local: Address, remote: Address) -> None:
        """Use these UDP end points from now on, for the children too."""
        old = self.remote
        if (local, remote) == (self.local, self.remote):
            return
        self.local, self.remote = local, remote
        for child in self.children.values():
            self.env.plane(MoveChild(child.number, local, remote))
        if old != remote and self.established_ns is not None:
            self.env.event(
                "address_changed",
                connection=self.connection.name,
                sa=self.number,
                old=str(old),
                new=str(remote),
            )
            self.env.signal(now, ext.AddressChanged(self, old))

    # --- helpers ---------------------------------------------------------------------------------

    _backoff = 1

    def _may_send(self) -> bool:
        return self.state not in (IkeState.CLOSED, IkeState.FAILED, IkeState.INIT_SENT)

    def _next_iv(self) -> bytes:
        assert self._out is not None
        if self._out.iv_octets == 16:
            return self.env.entropy.octets(16)
        self._iv += 1
        return self._iv.to_bytes(8, "big")

    def _transmit(self, packets: Packets, reason: str) -> None:
        for packet in packets:
            self.env.transmit(packet, self.local, self.remote, reason)

    def _timeout_s(self) -> float:
        if self.state in (IkeState.DELETING, IkeState.REKEYED):
            return DELETE_TIMEOUT_S
        if self.established_ns is None:
            return self.env.config.init_timeout_s
        return self.connection.dpd_timeout_s

    def _arm_retransmission(self, now: Now, *, keep_backoff: bool = False) -> None:
        outstanding = self.send.outstanding
        if outstanding is None:
            return
        if not keep_backoff:
            self._backoff = 1
        cap = self.env.config.retry_cap_s if self.recovering else MAX_RTO_S
        at = now.after(interval_s(self.rtt.rto_s, self._backoff, cap))
        limit = outstanding.first_sent_ns + int(self._timeout_s() * NS_PER_S)
        if now.mono_ns < limit:
            at = min(at, limit)
        self.env.timers.arm(self.number, "retransmission", at, self._retransmission_due)

    def _retransmission_due(self, now: Now) -> None:
        outstanding = self.send.outstanding
        if outstanding is None:
            return
        if now.mono_ns - outstanding.first_sent_ns >= int(self._timeout_s() * NS_PER_S):
            if self.state in (IkeState.DELETING, IkeState.REKEYED):
                self.close(now, "the DELETE was not answered")
                return
            if self.established_ns is None:
                self.fail_setup(now, "the peer does not answer")
                return
            self.env.signal(now, ext.RequestExhausted(self, outstanding.first_sent_ns, outstanding.attempts))
            if self.is_closed():
                return
        if self.setup is not None and self.env.lifecycle.impatient(now, self, outstanding.attempts):
            return
        self.env.event(
            "retransmit",
            "debug",
            connection=self.connection.name,
            sa=self.number,
            message_id=outstanding.message_id,
            attempt=outstanding.attempts + 1,
        )
        self.retransmit(now, "retransmission")

    def is_closed(self) -> bool:
        """Whether the SA is gone (asked after extensions were told something)."""
        return self.state is IkeState.CLOSED

    def fail_setup(self, now: Now, why: str) -> None:
        """An SA that we initiate does not come up."""
        setup = self.setup
        if setup is not None and setup.last_error:
            why = f"{why}; the last unprotected answer was {setup.last_error}"
        self.env.event(
            "initiate_failed", "warning", connection=self.connection.name, sa=self.number, reason=why
        )
        self.close(now, why)
        self.env.lifecycle.setup_failed(now, self, why)

    def _answer_again(self, octets: bytes, datagram: Datagram) -> None:
        stored = self.recv.stored(octets)
        if not stored:
            self.env.drop("repeated message ID, other octets")
            return
        for packet in stored:
            self.env.transmit(packet, datagram.local, datagram.remote, "response again")

    def _open(self, octets: bytes, header: Header, fragmented: bool) -> tuple[int, bytes, bytes] | None:
        assert self._in is not None
        try:
            if not fragmented:
                first_type, inner = self._in.open_message(octets)
                return first_type, inner, octets
            opened = self._in.open_fragment(octets)
        except AuthenticationFailed:
            self.env.drop("integrity")
            return None
        reassembly = self._responses if header.is_response else self._requests
        return reassembly.add(
            header.message_id,
            opened.number,
            opened.total,
            opened.first_payload,
            opened.inner_part,
            octets,
        )

    def _follow_address(self, now: Now, datagram: Datagram) -> None:
        """Fresh and authenticated: a peer behind a NAT may have moved (RFC 7296 section 2.23)."""
        if (datagram.local, datagram.remote) == (self.local, self.remote):
            return
        if self.established_ns is None or not self.local_behind_nat:
            self.move(now, datagram.local, datagram.remote)

    def _handle_response(self, now: Now, header: Header, first_type: int, inner: bytes) -> None:
        exchange = self.active
        outstanding = self.send.outstanding
        if exchange is None or outstanding is None or header.exchange != exchange.exchange_type:
            self.env.drop("response of another exchange")
            return
        try:
            payloads, _ = decode_payloads(first_type, inner)
        except WireError as error:
            self.env.count(f"malformed response: {error.where}")
            payloads = (Notify(NotifyType.INVALID_SYNTAX),)
        self.send.close()
        self.active = None
        self.env.timers.cancel(self.number, "retransmission")
        took = now.mono_ns - outstanding.first_sent_ns
        if outstanding.attempts == 1:
            self.rtt.sample(took / NS_PER_S)
        if self.established_ns is not None:
            self.env.signal(now, ext.RequestAnswered(self, took, outstanding.attempts > 1, exchange.reason))
        if not self.is_closed():
            exchange.response(self, now, self._inner(header, payloads))
            self.pump(now)

    def _handle_request(
        self, now: Now, header: Header, first_type: int, inner: bytes, first_packet: bytes
    ) -> None:
        fatal = False
        try:
            payloads, _ = decode_payloads(first_type, inner)
        except UnsupportedCriticalPayload as error:
            answer: Sequence[Payload] = (
                Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([error.payload_type])),
            )
        except WireError as error:
            self.env.event(
                "malformed_request",
                "warning",
                connection=self.connection.name,
                sa=self.number,
                error=str(error),
            )
            answer, fatal = (Notify(NotifyType.INVALID_SYNTAX),), True
        else:
            answer = self.env.lifecycle.respond(now, self, self._inner(header, payloads))
        if self.is_closed():
            return
        packets = self.seal(header.exchange, header.message_id, True, answer)
        self.recv.record(first_packet, packets)
        self._transmit(packets, f"{label(ExchangeType, header.exchange)} response")
        callbacks, self.after_reply = self.after_reply, []
        for callback in callbacks:
            callback()
        if fatal and not self.is_closed():
            self.close(now, "the peer sent a malformed message")
        if not self.is_closed():
            self.pump(now)

    def _inner(self, header: Header, payloads: tuple[Payload, ...]) -> Message:
        return Message(
            header.spi_i,
            header.spi_r,
            header.exchange,
            header.message_id,
            header.from_initiator,
            header.is_response,
            payloads,
        )


def delete_payload() -> Delete:
    """The Delete payload for the IKE SA that carries it (RFC 7296 section 3.11)."""
    return Delete(Protocol.IKE, ())
