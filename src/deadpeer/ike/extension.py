"""How something beside the IKE core takes part without the core knowing what it is.

An extension contributes notifies to named slots, observes signals, and is asked about orphans:
packets for which routing found no live SA. What it may do in return is `Core`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from deadpeer.crypto import Identity, IkeSuite
from deadpeer.ike.connection import Connection
from deadpeer.ike.evidence import Verdict
from deadpeer.ike.io import ExtensionCommand, Field, Level
from deadpeer.plane.model import PlaneOp
from deadpeer.values import Address, Datagram, Deadline, Now
from deadpeer.wire import Header, Message, Notify


class Slot(Enum):
    """Where notifies can ride."""

    INIT = "IKE_SA_INIT"
    AUTH = "IKE_AUTH (the message that carries AUTH)"
    IKE_REKEY = "CREATE_CHILD_SA that rekeys an IKE SA"
    RESUME = "IKE_SESSION_RESUME"
    INFORMATIONAL = "INFORMATIONAL"


class ChildView(Protocol):
    """What an extension sees of a child SA."""

    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def policy(self) -> int: ...
    @property
    def spi_in(self) -> int: ...
    @property
    def spi_out(self) -> int: ...


class SaView(Protocol):
    """What an extension sees of an IKE SA. `number` is local, unique, never reused in a process."""

    @property
    def number(self) -> int: ...
    @property
    def connection(self) -> Connection: ...
    @property
    def initiator(self) -> bool:
        """Whether we are the original initiator of this IKE SA."""
        ...

    @property
    def spi_i(self) -> bytes: ...
    @property
    def spi_r(self) -> bytes: ...
    @property
    def local(self) -> Address: ...
    @property
    def remote(self) -> Address: ...
    @property
    def established(self) -> bool:
        """Authenticated, and neither replaced by a rekey nor being deleted."""
        ...

    @property
    def last_heard_ns(self) -> int:
        """When the last protected IKE message of the peer verified (monotonic ns)."""
        ...

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip time in seconds, None before the first sample."""
        ...

    @property
    def rto_s(self) -> float:
        """First retransmission interval in seconds, from the measured round trip time."""
        ...

    @property
    def request_in_flight(self) -> bool: ...
    @property
    def remote_identity(self) -> Identity | None:
        """The peer's authenticated identity, None before."""
        ...

    @property
    def resumption(self) -> Resumption | None:
        """What resuming this SA needs; None before it has keys."""
        ...

    @property
    def resumed_by(self) -> ResumeOffer | ResumeGrant | None:
        """By what this SA is being, or was, resumed; None: by a full exchange (and after a fall-back)."""
        ...

    @property
    def credential_until_s(self) -> float | None:
        """Until when that with which the peer authenticated is valid (Unix time, seconds); None: no end."""
        ...

    @property
    def child_views(self) -> Sequence[ChildView]: ...


# --- signals -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaEstablished:
    """Authenticated and up, both sides' AUTH verified. Not sent for the new SA of a rekey."""

    sa: SaView


@dataclass(frozen=True, slots=True)
class SaRekeyed:
    """`new` took over the children of `old`. `initiated`: we initiated the exchange."""

    old: SaView
    new: SaView
    initiated: bool


@dataclass(frozen=True, slots=True)
class SaClosed:
    """The IKE SA is gone, for whatever reason; its number and SPIs mean nothing any more."""

    sa: SaView
    reason: str


@dataclass(frozen=True, slots=True)
class ChildUp:
    """A child SA is installed (`replaces` is the number of the child that it rekeys)."""

    sa: SaView
    child: ChildView
    replaces: int | None


@dataclass(frozen=True, slots=True)
class ChildDown:
    """A child SA is gone."""

    sa: SaView
    child: ChildView
    reason: str


@dataclass(frozen=True, slots=True)
class PeerNotifies:
    """Protected and authenticated notifies of the peer in this slot (all of the message)."""

    sa: SaView
    slot: Slot
    notifies: tuple[Notify, ...]


@dataclass(frozen=True, slots=True)
class PeerVendorIds:
    """The Vendor IDs of the peer's IKE_SA_INIT, said once the SA is authenticated (and so are they)."""

    sa: SaView
    vendor_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`new`, asked for with `Core.rebuild`, is authenticated as the same connection and identity as `old`.

    Its children are up and carry the traffic. `old` still stands: that is for the asker to decide.
    """

    old: SaView
    new: SaView


@dataclass(frozen=True, slots=True)
class RebuildFailed:
    """The SA asked for with `Core.rebuild` did not come up; `old` stands as it did."""

    old: SaView
    why: str


@dataclass(frozen=True, slots=True)
class Condemned:
    """The SA is about to be closed, on this verdict; a recovery may follow at once."""

    sa: SaView
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ResumeFellBack:
    """The peer does not resume `sa`, which goes on with a full exchange.

    `answered`: it refused (unauthenticated); else it said nothing at all, and may never have heard us.
    """

    sa: SaView
    offer: ResumeOffer
    answered: bool


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """The peer's address or port moved, by a protected message."""

    sa: SaView
    old: Address


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    """The response to our request verified, `took_ns` after its first transmission.

    `reason` is what `Core.probe` or `Core.inform` was given, or the core's own name for the request.
    """

    sa: SaView
    took_ns: int
    retransmitted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RequestRetransmitted:
    """Our request went out again. `attempts` counts transmissions so far."""

    sa: SaView
    first_sent_ns: int
    attempts: int


@dataclass(frozen=True, slots=True)
class RequestExhausted:
    """All retransmissions of an established SA's request are spent.

    If no extension condemns the SA now, the core goes on retransmitting at the slowest pace and says
    so again after each further attempt.
    """

    sa: SaView
    first_sent_ns: int
    attempts: int


@dataclass(frozen=True, slots=True)
class TrafficSilence:
    """The data plane sends on a child since `since_ns` and nothing protected comes back."""

    sa: SaView
    child: ChildView
    since_ns: int


@dataclass(frozen=True, slots=True)
class TrafficHeard:
    """A protected packet of the child arrived."""

    sa: SaView
    child: ChildView
    at_ns: int


@dataclass(frozen=True, slots=True)
class IdleTimeout:
    """Nothing protected was heard from the peer for the connection's `dpd_delay_s`."""

    sa: SaView


Signal = (
    SaEstablished
    | SaRekeyed
    | SaClosed
    | ChildUp
    | ChildDown
    | PeerNotifies
    | PeerVendorIds
    | Rebuilt
    | RebuildFailed
    | Condemned
    | ResumeFellBack
    | AddressChanged
    | RequestAnswered
    | RequestRetransmitted
    | RequestExhausted
    | TrafficSilence
    | TrafficHeard
    | IdleTimeout
)


# --- resumption ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resumption:
    """What is kept of an IKE SA to resume it (RFC 5723 section 5.1): the suite and SK_d."""

    suite: IkeSuite
    sk_d: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ResumeOffer:
    """Initiator: the notifies to present, what the two sides share, and who the peer was."""

    notifies: tuple[Notify, ...]
    resumption: Resumption
    remote_identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class ResumeGrant:
    """Responder: the peer may resume, as this identity of this connection of today's configuration."""

    connection: Connection
    remote_identity: Identity
    resumption: Resumption
    reference: bytes = b""
    """The extension's own name for what was redeemed."""


@dataclass(frozen=True, slots=True)
class ResumeRefusal:
    """Responder: the peer is told this, and falls back to IKE_SA_INIT."""

    notify: Notify


# --- orphans -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrphanRequest:
    """A protected IKE request whose SPI pair no live SA has (first payload SK, or SKF fragment 1)."""

    header: Header
    datagram: Datagram


@dataclass(frozen=True, slots=True)
class OrphanEsp:
    """An ESP packet with an SPI that nobody has; `octets` is its UDP payload length."""

    spi: int
    octets: int
    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class UnprotectedNews:
    """An unprotected message outside IKE_SA_INIT. `sa` is the live SA that its header's SPI pair names.

    Nothing in it can be believed.
    """

    message: Message
    datagram: Datagram
    sa: SaView | None


Orphan = OrphanRequest | OrphanEsp | UnprotectedNews


# --- the two sides of the contract ----------------------------------------------------------------


class Core(Protocol):
    """What an extension may ask of the endpoint."""

    def alive(self, spi: bytes) -> bool:
        """Whether any SA, in any state and either role, has this 8-octet IKE SPI on either side."""
        ...

    def find(self, spi_i: bytes, spi_r: bytes) -> SaView | None:
        """The SA with this pair of IKE SPIs."""
        ...

    def find_by_outbound(self, spi_out: int, remote: Address) -> SaView | None:
        """The SA that has a child with this outbound ESP SPI and whose peer has the host of `remote`."""
        ...

    def find_by_inbound(self, spi_in: int) -> SaView | None:
        """The SA that has a child with this inbound ESP SPI."""
        ...

    def find_with_peer(self, remote: Address) -> SaView | None:
        """An established SA whose peer is at exactly this address and port."""
        ...

    def views(self) -> Iterable[SaView]:
        """All IKE SAs that are not closed."""
        ...

    def connection(self, name: str) -> Connection | None:
        """The connection of that name in today's configuration."""
        ...

    def probe(self, now: Now, sa: SaView, reason: str) -> None:
        """One liveness check: an empty INFORMATIONAL; a request in flight is retransmitted instead."""
        ...

    def inform(self, now: Now, sa: SaView, notifies: Sequence[Notify], reason: str) -> None:
        """Queue a protected INFORMATIONAL request that carries these notifies."""
        ...

    def replace_child(self, now: Now, sa: SaView, spi_out: int, reason: str) -> bool:
        """The peer says, protected, that it lost the child it receives with `spi_out`: build it anew."""
        ...

    def condemn(self, now: Now, sa: SaView, verdict: Verdict, *, farewell: bool = False) -> None:
        """Drop the SA and its children and recover as the configuration says.

        No DELETE is sent; with `farewell` one is, once, in case that the peer lives after all.
        """
        ...

    def rebuild(self, now: Now, sa: SaView, reason: str) -> bool:
        """Build a new IKE SA for the same connection beside `sa`; `Rebuilt` or `RebuildFailed` follows.

        It never carries INITIAL_CONTACT. False if one is under way already, or none can be initiated.
        The caller limits how often.
        """
        ...

    def abandon_rebuild(self, now: Now, sa: SaView, reason: str) -> None:
        """Give up the new SA that `rebuild` is building beside `sa`: it lives, as we know now."""
        ...

    def answer(self, datagram: Datagram, message: Message, reason: str) -> int:
        """Answer a stranger's datagram, statelessly, to where it came from. Returns the octets sent."""
        ...

    def plane(self, op: PlaneOp) -> None:
        """Hand an operation to the data plane."""
        ...

    def event(self, kind: str, level: Level = "info", **fields: Field) -> None:
        """Report an event."""
        ...

    def persist(self, name: str, data: bytes) -> None:
        """Have `data` written durably before anything that is sent after this call."""
        ...

    def record(self, table: str, key: bytes, value: bytes | None, *, durable: bool = False) -> None:
        """Write, or delete, one record of the ledger (see `deadpeer.store.Ledger`)."""
        ...

    def done(self, tag: int, ok: bool, text: str) -> None:
        """Answer a command."""
        ...

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a named counter."""
        ...


class Extension:
    """Base class with the defaults: contributes nothing, observes nothing, takes no orphan."""

    name: str = "extension"

    def attach(self, now: Now, core: Core) -> None:
        """Called once, before anything else."""
        self.core = core

    def notifies(self, now: Now, slot: Slot, sa: SaView, *, response: bool) -> Sequence[Notify]:
        """Notifies to put into our message of this slot. For IKE_REKEY `sa` is the new SA."""
        return ()

    def answers(self, now: Now, slot: Slot, sa: SaView, request: Sequence[Notify]) -> Sequence[Notify]:
        """Notifies to put into our response of this slot, as the answer to those of the peer's request."""
        return ()

    def vendor_ids(self, now: Now, sa: SaView) -> Sequence[bytes]:
        """Vendor IDs to put into our IKE_SA_INIT message."""
        return ()

    def resume_offer(self, now: Now, connection: Connection, old: SaView | None) -> ResumeOffer | None:
        """Initiator: something that lets a new SA skip the key exchange. `old` is the SA to be replaced."""
        return None

    def resume_redeem(
        self, now: Now, notifies: Sequence[Notify], source: Address
    ) -> ResumeGrant | ResumeRefusal | None:
        """Responder: what the peer's IKE_SESSION_RESUME request is worth; None: not for this extension."""
        return None

    def resume_confirm(self, now: Now, sa: SaView, grant: ResumeGrant) -> bool:
        """Responder: the peer proved that it holds the keys of `grant`. False refuses `sa` even so."""
        return True

    def observe(self, now: Now, signal: Signal) -> None:
        """Something happened."""

    def orphan(self, now: Now, orphan: Orphan) -> bool:
        """A packet without a live SA. True if it was dealt with (then no other extension is asked)."""
        return False

    def command(self, now: Now, command: ExtensionCommand) -> bool:
        """A command named for an extension. True if it is ours."""
        return False

    def counters(self) -> Mapping[str, int]:
        """Sizes of the extension's own tables, for `sas` and metrics."""
        return {}

    def deadline(self) -> Deadline | None:
        """When `expire` wants to be called."""
        return None

    def expire(self, now: Now) -> None:
        """The deadline came."""


class SpiSource(Protocol):
    """Chooses the IKE SPIs that we hand out."""

    def ike_spi(self) -> bytes:
        """Eight octets, never all zero, never repeated while an SA lives (the core checks collisions)."""
        ...
