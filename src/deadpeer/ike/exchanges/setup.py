"""What IKE_SA_INIT and IKE_SESSION_RESUME share: state of a setup, capabilities, admission of strangers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from deadpeer.crypto import Group, Identity, KeyPair
from deadpeer.crypto.auth import parse_hashes, supported_hashes_notify_data
from deadpeer.ike import nat, retransmission
from deadpeer.ike.connection import ChildConfig, Connection
from deadpeer.ike.cookie import CookieJar
from deadpeer.ike.environment import Environment
from deadpeer.ike.exchanges.auth import InitiatorAuth
from deadpeer.ike.extension import Resumption, Slot
from deadpeer.ike.refusals import reply
from deadpeer.ike.rtt import INITIAL_RTO_S
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.values import Address, Datagram, Now
from deadpeer.wire import (
    Message,
    Nonce,
    Notify,
    NotifyType,
    SecurityAssociation,
    VendorId,
    decode_message,
    encode_message,
)

if TYPE_CHECKING:
    from deadpeer.ike.exchanges.resume import Plan

MAX_COOKIES = 3
MAX_VENDOR_IDS = 32


@dataclass(slots=True)
class Setup:
    """What is kept between the first message and the end of IKE_AUTH."""

    nonce_i: bytes = field(default=b"", repr=False)
    nonce_r: bytes = field(default=b"", repr=False)
    key_pair: KeyPair | None = field(default=None, repr=False)
    offered: SecurityAssociation | None = None
    cookie: bytes = b""
    cookies_seen: int = 0
    groups_tried: list[Group] = field(default_factory=list)
    request: bytes = b""
    response: bytes = b""
    first_capabilities: tuple[Notify | VendorId, ...] = ()
    """Initiator: what our first message ended with; with a cookie it ends with the same."""
    peer_hashes: frozenset[int] | None = None
    peer_vendor_ids: tuple[bytes, ...] = ()
    peer_notifies: frozenset[int] = frozenset()
    candidates: tuple[Connection, ...] = ()
    """Responder: the connections that the peer may mean."""
    child: ChildConfig | None = None
    """Initiator: the child to bring up with IKE_AUTH."""
    pace_s: float = 0.0
    """Initiator: a request goes out again no sooner, seconds; see `retransmission.pace_s`."""
    tag: int = 0
    last_error: str = ""
    next_hint_ns: int = 0
    """Before then no further unprotected error is told."""
    resumption: Resumption | None = None
    """Set if the SA is resumed: AUTH is keyed by it alone."""
    resumed_identity: Identity | None = None
    """Resumed: who the peer is (None: initiator, not known)."""
    resume_plan: Plan | None = None
    """Initiator, while IKE_SESSION_RESUME waits for its answer."""
    jar: CookieJar | None = None
    """Responder: where its cookies come from."""

    def requests(self, now: Now, spi_i: bytes, source: Address) -> Iterator[bytes]:
        """Responder: what the initiator may have signed: the request that we answered, or the same with a
        cookie of ours before it.

        While we are busy at one moment and not at the next, a request is asked for a cookie, and its
        retransmission, which was under way, is let in. Our response does not say which of its requests it
        answers, and the initiator signs the one that it sent last (section 2.15), with the cookie, all else
        unchanged (section 2.6). It may be on its way, or lost, when IKE_AUTH is here.
        """
        yield self.request
        if self.jar is None:
            return
        bare = _but_for_cookie(decode_message(self.request))
        for cookie in self.jar.all(now, self.nonce_i, spi_i, source):
            octets = encode_message(
                replace(bare, payloads=(Notify(NotifyType.COOKIE, cookie), *bare.payloads))
            )
            if octets != self.request:
                yield octets


def capabilities(sa: IkeSa, now: Now, *, response: bool) -> list[Notify | VendorId]:
    """The notifies and Vendor IDs that end our first message."""
    force = sa.env.entropy.octets(20) if sa.connection.encap else None
    found: list[Notify | VendorId] = list(
        nat.detection_notifies(sa.spi_i, sa.spi_r, sa.local, sa.remote, force)
    )
    if sa.connection.fragmentation and (not response or sa.fragmentation):
        found.append(Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED))
    found.append(Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, supported_hashes_notify_data()))
    found += sa.env.contribute(now, Slot.INIT, sa, response=response)
    for extension in sa.env.extensions:
        found += [VendorId(octets) for octets in extension.vendor_ids(now, sa)]
    return found


def first_capabilities(sa: IkeSa, now: Now) -> tuple[Notify | VendorId, ...]:
    """Initiator: what ends our first message, unchanged however often it goes out (section 2.6)."""
    setup = sa.setup
    assert setup is not None
    setup.first_capabilities = setup.first_capabilities or tuple(capabilities(sa, now, response=False))
    return setup.first_capabilities


def read_capabilities(sa: IkeSa, message: Message, datagram: Datagram) -> None:
    """Take note of what the peer's first message says, and move to port 4500 if need be."""
    setup = sa.setup
    assert setup is not None
    if (hashes := message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)) is not None:
        setup.peer_hashes = parse_hashes(hashes.data)
    setup.peer_vendor_ids = tuple(v.data for v in message.all(VendorId)[:MAX_VENDOR_IDS])
    setup.peer_notifies = frozenset(n.type for n in message.all(Notify))
    supported = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    sa.fragmentation = sa.connection.fragmentation and supported
    judged = nat.behind_nat(message, datagram.local, datagram.remote)
    if judged is not None:
        sa.local_behind_nat, sa.peer_behind_nat = judged
    moved = sa.local.port == sa.env.config.port_nat_t
    if sa.initiator and not moved and judged is not None and (any(judged) or sa.connection.encap):
        # Section 2.23: the initiator moves to port 4500 once a NAT is found (or is to be assumed).
        sa.local = Address(sa.local.host, sa.env.config.port_nat_t)
        sa.remote = Address(sa.remote.host, sa.connection.remote_port_nat_t)


def take_cookie(sa: IkeSa, now: Now, cookie: Notify) -> bool:
    """Initiator: keep the responder's cookie for the next request; False if it is of no use.

    The responder is busy. As long as no request of the setup is answered the first time, the interval grows
    on from one to the next (RFC 6298 section 5.7; section 2.1: never make congestion worse).
    """
    setup = sa.setup
    assert setup is not None
    setup.cookies_seen += 1
    if setup.cookies_seen > MAX_COOKIES or not 1 <= len(cookie.data) <= 64 or cookie.data == setup.cookie:
        sa.env.drop("unusable cookie")
        return False
    setup.cookie = cookie.data
    # Who asks for a cookie has more to do than to answer a liveness check, from which round trips are known.
    setup.pace_s = max(INITIAL_RTO_S, retransmission.current_interval_s(sa, now))
    return True


def begin_auth(sa: IkeSa, now: Now) -> None:
    """Initiator: the keys are set, IKE_AUTH follows."""
    outstanding = sa.send.close()
    if outstanding is not None and outstanding.attempts == 1:
        sa.rtt.sample((now.mono_ns - outstanding.first_sent_ns) / 1e9, of_setup=True)
    sa.env.timers.cancel(sa.number, "retransmission")
    sa.env.timers.cancel(sa.number, "unprotected error")
    sa.state = IkeState.AUTHENTICATING
    sa.submit(now, InitiatorAuth())


def half_open(sa: IkeSa, now: Now, request: bytes) -> None:
    """Responder: send the first response, and wait a limited time for IKE_AUTH."""
    setup, env = sa.setup, sa.env
    assert setup is not None
    sa.recv.record(request, (setup.response,))
    env.timers.arm(
        sa.number,
        "half-open",
        now.after(env.config.half_open_timeout_s),
        lambda t: sa.close(t, "the initiator never authenticated"),
    )
    env.transmit(setup.response, sa.local, sa.remote, "IKE_SA_INIT response")


def begun_again(sa: IkeSa, message: Message, datagram: Datagram) -> bool:
    """Responder: whether this is the request of a half-open SA once more, with a cookie or without one.

    Then the initiator gets the same response: `Setup.requests` says why. A second half-open SA would be one
    that nobody goes on with.
    """
    setup = sa.setup
    if setup is None or sa.initiator:
        return False
    if _but_for_cookie(decode_message(setup.request)) != _but_for_cookie(message):
        return False
    sa.env.transmit(setup.response, datagram.local, datagram.remote, "response again")
    return True


def _but_for_cookie(message: Message) -> Message:
    rest = (p for p in message.payloads if not (isinstance(p, Notify) and p.type == NotifyType.COOKIE))
    return replace(message, payloads=tuple(rest))


@dataclass(frozen=True, slots=True)
class Admission:
    """A stranger may begin. `proven`: with a cookie, so that the source address is not forged."""

    proven: bool


def admitted(
    env: Environment, now: Now, message: Message, nonce: Nonce, datagram: Datagram, cookies: CookieJar
) -> Admission | None:
    """Half-open limits and the stateless cookie (section 2.6).

    What forged datagrams can fill up asks the source for a cookie and refuses nobody: else five of them in
    a peer's name would keep that peer away.
    """
    config, table = env.config, env.table
    returned = message.notify(NotifyType.COOKIE)
    valid = returned is not None and cookies.check(
        now, returned.data, nonce.data, message.spi_i, datagram.remote
    )
    if len(table) >= config.max_ike_sas:
        env.drop("too many IKE SAs")
        return None
    if table.half_open >= config.half_open_limit:
        env.drop("too many half-open SAs")
        return None
    host = datagram.remote.host
    crowded = table.half_open_from(host, proven=False) >= config.half_open_per_source
    if not valid and (crowded or table.half_open >= config.cookie_threshold):
        demand_cookie(env, now, message, nonce, datagram, cookies)
        return None
    if valid and table.half_open_from(host, proven=True) >= config.half_open_per_proven_source:
        env.drop("too many half-open SAs of one source")
        return None
    return Admission(valid)


def demand_cookie(
    env: Environment, now: Now, message: Message, nonce: Nonce, datagram: Datagram, cookies: CookieJar
) -> None:
    """Have the initiator show that it is where its message says; nothing is kept."""
    cookie = cookies.make(now, nonce.data, message.spi_i, datagram.remote)
    reply(env, message, datagram, Notify(NotifyType.COOKIE, cookie), "cookie demanded")
