"""The IKE SA: keys, windows, queue of requests, children. Lifecycle state only; requests are `Exchange`s."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deadpeer.crypto import IkeKeys, IkeSuite, derive_ike_keys
from deadpeer.crypto.identity import Identity
from deadpeer.ike import extension as ext
from deadpeer.ike import retransmission, switch
from deadpeer.ike.child import ChildSa, ChildState
from deadpeer.ike.collision import Own
from deadpeer.ike.connection import Connection
from deadpeer.ike.environment import Environment
from deadpeer.ike.exchange import Exchange
from deadpeer.ike.protection import Protection
from deadpeer.ike.repeats import Repeats
from deadpeer.ike.rtt import RttEstimator
from deadpeer.ike.state import IkeState
from deadpeer.ike.window import REKEY_MESSAGE_ID, Packets, RecvWindow, SendWindow
from deadpeer.plane.model import MoveChild, RemoveChild
from deadpeer.values import Address, Now
from deadpeer.wire import (
    Delete,
    ExchangeType,
    Payload,
    Protocol,
    encode_payloads,
)

if TYPE_CHECKING:
    from deadpeer.ike.exchanges.setup import Setup

__all__ = ["IkeSa", "IkeState", "delete_payload"]

IP_UDP_OCTETS = {4: 28, 6: 48}
MAX_QUEUE = 256
"""Requests that wait for the window; what comes on top is abandoned."""
ATTEMPTS_IN_VAIN = 3
"""A request that went out so often without an answer is no packet lost by chance any more."""


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
        self.repeats: Repeats | None = None
        self.keys: IkeKeys | None = None
        self.children: dict[int, ChildSa] = {}
        self.queue: deque[Exchange] = deque()
        self.active: Exchange | None = None
        self.setup: Setup | None = None
        self.remote_identity: Identity | None = None
        self.resumed_by: ext.ResumeOffer | ext.ResumeGrant | None = None
        self.credential_until_s: float | None = None
        self.fragmentation = False
        self.peer_behind_nat = False
        self.local_behind_nat = False
        self.recovering = False
        self.initial_contact = False
        self.successor: IkeSa | None = None
        """The SA that replaces this one, or will when the collision of two rekeyings is decided."""
        self.predecessor: IkeSa | None = None
        """The SA whose children this one takes over once that is decided."""
        self.after_reply: list[Callable[[], None]] = []
        self.when_closed: list[Callable[[], None]] = []
        self.protection: Protection | None = None
        self.backoff = 1

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
        """Authenticated, neither replaced nor being deleted, and not a rekeying's rival still undecided."""
        return self.state is IkeState.ESTABLISHED and self.predecessor is None

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
    def in_doubt(self) -> bool:
        """Whether we wait for an answer that says if the peer lives, or have asked for one in vain."""
        outstanding, active = self.send.outstanding, self.active
        asked = active is not None and active.doubts
        return asked or (outstanding is not None and outstanding.attempts >= ATTEMPTS_IN_VAIN)

    @property
    def resumption(self) -> ext.Resumption | None:
        """What resuming this SA needs; None before it has keys."""
        return ext.Resumption(self.suite, self.sk_d) if self.keys is not None else None

    @property
    def child_views(self) -> Sequence[ChildSa]:
        """The children, oldest first."""
        return list(self.children.values())

    @property
    def children_due(self) -> Sequence[str]:
        """The names of the children that we have asked for, or are about to."""
        under_way = (exchange.child_name for exchange in (self.active, *self.queue) if exchange is not None)
        return [name for name in under_way if name is not None]

    # --- keys ------------------------------------------------------------------------------------

    def set_keys(self, suite: IkeSuite, skeyseed: bytes, ni: bytes, nr: bytes) -> None:
        """Derive and take into use the SK_* keys (RFC 7296 section 2.14)."""
        keys = derive_ike_keys(suite, skeyseed, ni, nr, self.spi_i, self.spi_r)
        self.suite, self.keys, self.sk_d = suite, keys, keys.sk_d
        spis = (self.spi_i, self.spi_r)
        self.protection = Protection(suite, keys, spis, self.env.entropy, initiator=self.initiator)
        self.env.keylog_sa(self)

    # --- requests of ours ------------------------------------------------------------------------

    def submit(self, now: Now, exchange: Exchange, *, urgent: bool = False) -> None:
        """Queue a request; it goes out when the window has room."""
        self._enqueue(now, exchange, urgent=urgent, not_before_ns=0)

    def submit_later(self, now: Now, exchange: Exchange, delay_s: float) -> None:
        """Queue a request that goes out in `delay_s` seconds at the earliest."""
        self._enqueue(now, exchange, urgent=False, not_before_ns=now.after(delay_s))

    def pump(self, now: Now) -> None:
        """Send the next queued request if the window has room."""
        while self.active is None and self.send.room and self._may_send():
            exchange = self._next_due(now)
            if exchange is None:
                return
            if self.send.exhausted:
                exchange.abandoned(self, now, "message IDs are used up")
                self.env.lifecycle.ended(now, self, "message IDs are used up")
                return
            payloads = exchange.request(self, now)
            if payloads is None or self.state is IkeState.CLOSED:
                continue
            self.active = exchange
            if exchange.doubts:
                switch.doubted(self)
            packets = self.seal(exchange.exchange_type, self.send.next_id, False, payloads)
            self.start_request(now, packets, exchange.reason)

    def start_request(self, now: Now, packets: Packets, reason: str) -> None:
        """Transmit a request for the first time and arm its retransmission."""
        self.send.open(packets, now.mono_ns)
        self.transmit(packets, reason)
        self.backoff = 1
        retransmission.arm(self, now)
        if self.send.next_id == REKEY_MESSAGE_ID:
            self.env.lifecycle.rekey_due(now, self)

    def retransmit(self, now: Now, reason: str, *, restart: bool = False) -> None:
        """Send the outstanding request again, identically. `restart` begins the backoff anew."""
        outstanding = self.send.outstanding
        if outstanding is None:
            return
        outstanding.attempts += 1
        self.transmit(outstanding.packets, reason)
        self.backoff = 1 if restart else self.backoff + 1
        retransmission.arm(self, now)
        switch.doubted(self)
        if self.state is not IkeState.INIT_SENT:
            self.env.signal(
                now, ext.RequestRetransmitted(self, outstanding.first_sent_ns, outstanding.attempts)
            )

    # --- messages --------------------------------------------------------------------------------

    def seal(self, exchange: int, message_id: int, is_response: bool, payloads: Sequence[Payload]) -> Packets:
        """Protect a message of ours; fragments if the peer takes them and it is too large for one."""
        if self.protection is None:
            raise RuntimeError("the IKE SA has no keys yet")
        version = 6 if ":" in self.remote.host else 4
        room = self.connection.fragment_size - IP_UDP_OCTETS[version] - 4
        content = encode_payloads(payloads)
        return self.protection.seal(
            exchange, message_id, is_response, content, room if self.fragmentation else None
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
        self._drop_child(now, child, reason, linger_s)
        switch.reconsider(self.env, child.policy)

    def _drop_child(self, now: Now, child: ChildSa, reason: str, linger_s: float) -> None:
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

    # --- lifecycle -------------------------------------------------------------------------------

    def established_now(self, now: Now) -> None:
        """Both sides are authenticated (or this SA replaces one that was)."""
        self.state = IkeState.ESTABLISHED
        self.established_ns = now.mono_ns
        self.recovering = False
        self.setup = None
        self.env.table.filed(self)
        self.env.table.settled(self)
        self.env.timers.cancel(self.number, "half-open")
        self.env.lifecycle.arm_ike(now, self)

    def close(self, now: Now, reason: str, *, linger_s: float = 0.0) -> None:
        """Forget the SA and its children at once, without a word to the peer.

        What is under way to us is received for `linger_s` seconds more, and for a while in any case where
        another SA serves the same policy: packets of this one may come after its DELETE.
        """
        if self.state is IkeState.CLOSED:
            return
        was_up = self.established_ns is not None
        replaced = self.state is IkeState.REKEYED
        children = list(self.children.values())
        for child in children:
            replaced = len(self.env.table.serving(child.policy)) > 1
            least_s = self.env.config.child_linger_s if replaced else 0.0
            self._drop_child(now, child, reason, max(linger_s, least_s))
        for policy in {child.policy for child in children}:  # not before all are gone
            switch.reconsider(self.env, policy)
        self.state = IkeState.CLOSED
        self.env.timers.cancel_all(self.number)
        self.env.table.remove(self)
        if self.predecessor is not None:
            self.predecessor.successor = None
            self.predecessor = None
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
        self.transmit(packets, "farewell DELETE")

    def move(self, now: Now, local: Address, remote: Address) -> None:
        """Use these UDP end points from now on, for the children too."""
        old = self.remote
        if (local, remote) == (self.local, self.remote):
            return
        self.local, self.remote = local, remote
        self.env.table.filed(self)
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

    def _enqueue(self, now: Now, exchange: Exchange, *, urgent: bool, not_before_ns: int) -> None:
        heir = self.successor
        if self.state is IkeState.REKEYED and heir is not None and exchange.own is not Own.DELETE_IKE:
            heir._enqueue(now, exchange, urgent=urgent, not_before_ns=not_before_ns)
            return
        if self.state is IkeState.CLOSED or len(self.queue) >= MAX_QUEUE:
            why = "the IKE SA is closed" if self.state is IkeState.CLOSED else "too many requests wait"
            exchange.abandoned(self, now, why)
            return
        exchange.not_before_ns = not_before_ns
        if urgent:
            self.queue.appendleft(exchange)
        else:
            self.queue.append(exchange)
        self.pump(now)

    def _next_due(self, now: Now) -> Exchange | None:
        """Take the first request out of the queue that need not wait; see to it that the others get on."""
        for position, exchange in enumerate(self.queue):
            if exchange.not_before_ns <= now.mono_ns:
                del self.queue[position]
                return exchange
        if self.queue:
            at_ns = min(exchange.not_before_ns for exchange in self.queue)
            self.env.timers.arm(self.number, "retry", at_ns, self.pump)
        return None

    def _may_send(self) -> bool:
        return self.state not in (IkeState.CLOSED, IkeState.FAILED, IkeState.INIT_SENT)

    def transmit(self, packets: Packets, reason: str) -> None:
        """Send the packets of one message to the peer."""
        for packet in packets:
            self.env.transmit(packet, self.local, self.remote, reason)

    def is_deleting(self) -> bool:
        """Whether we have asked the peer to delete it."""
        return self.state is IkeState.DELETING

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


def delete_payload() -> Delete:
    """The Delete payload for the IKE SA that carries it (RFC 7296 section 3.11)."""
    return Delete(Protocol.IKE, ())
