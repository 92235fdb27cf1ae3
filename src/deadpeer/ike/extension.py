"""How something beside the IKE core takes part without the core knowing what it is.

An extension contributes notifies to named slots, observes signals, and is asked about orphans:
packets for which routing found no live SA. What it may do in return is `Core`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, get_args

from deadpeer.ike.connection import Connection
from deadpeer.ike.evidence import Verdict
from deadpeer.ike.io import ExtensionCommand, Field, Level
from deadpeer.ike.signals import (
    AddressChanged,
    ChildDown,
    ChildUp,
    Condemned,
    IdleTimeout,
    PeerNotifies,
    PeerVendorIds,
    RebuildFailed,
    Rebuilt,
    RequestAnswered,
    RequestExhausted,
    RequestRetransmitted,
    ResumeFellBack,
    SaClosed,
    SaEstablished,
    SaRekeyed,
    Signal,
    TrafficHeard,
    TrafficSilence,
)
from deadpeer.ike.views import (
    ChildView,
    ResumeGrant,
    ResumeOffer,
    ResumeRefusal,
    Resumption,
    SaView,
    Slot,
)
from deadpeer.plane.model import PlaneOp
from deadpeer.values import Address, Datagram, Deadline, Now
from deadpeer.wire import Header, Message, Notify

__all__ = [
    "AddressChanged",
    "ChildDown",
    "ChildUp",
    "ChildView",
    "Condemned",
    "Core",
    "Extension",
    "IdleTimeout",
    "Orphan",
    "OrphanEsp",
    "OrphanRequest",
    "PeerNotifies",
    "PeerVendorIds",
    "RebuildFailed",
    "Rebuilt",
    "RequestAnswered",
    "RequestExhausted",
    "RequestRetransmitted",
    "ResumeFellBack",
    "ResumeGrant",
    "ResumeOffer",
    "ResumeRefusal",
    "Resumption",
    "SaClosed",
    "SaEstablished",
    "SaRekeyed",
    "SaView",
    "Signal",
    "Slot",
    "SpiSource",
    "TrafficHeard",
    "TrafficSilence",
    "UnprotectedNews",
    "by_signal",
    "overriding",
]


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

    def with_peer(self, remote: Address) -> Sequence[SaView]:
        """The established SAs whose peer is at exactly this address and port, oldest first."""
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

    def rekey_child(self, now: Now, sa: SaView, spi_out: int, reason: str) -> bool:
        """Rekey the child that sends with `spi_out`. A peer that lost it says so, protected, and it is made
        anew. False if there is no such child, or it is being replaced already."""
        ...

    def condemn(self, now: Now, sa: SaView, verdict: Verdict, *, farewell: bool = False) -> None:
        """Drop the SA and its children and recover as the configuration says.

        No DELETE is sent; with `farewell` one is, once, in case that the peer lives after all.
        """
        ...

    def rebuild(self, now: Now, sa: SaView, reason: str, host: str | None = None) -> bool:
        """Build a new IKE SA for the same connection beside `sa`; `Rebuilt` or `RebuildFailed` follows.

        With `host`, at that address: the peer told us, protected, to go there.

        It never carries INITIAL_CONTACT. False if one is under way already, or none can be initiated.
        The caller limits how often.
        """
        ...

    def hurry_rebuild(self, now: Now, sa: SaView, reason: str) -> None:
        """The peer may be back: send again, at once and identically, what the rebuild beside `sa` waits for.

        The caller limits how often.
        """
        ...

    def abandon_rebuild(self, now: Now, sa: SaView, reason: str) -> None:
        """Give up the new SA that `rebuild` is building beside `sa`: it lives, as we know now."""
        ...

    def carry_over(self, now: Now, old: SaView, new: SaView) -> None:
        """Have the children of `old` up in `new`, another SA with the same peer, as well."""
        ...

    def dismiss(self, now: Now, sa: SaView, reason: str) -> None:
        """Delete an established SA politely, with its children: another SA serves in its place."""
        ...

    def close_doors(self) -> None:
        """Take no new IKE SAs of peers from now on."""
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
    observes: ClassVar[tuple[type[Signal], ...] | None] = None
    """The signals that `observe` is called with; None: all."""

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


def overriding(extensions: Sequence[Extension], *names: str) -> tuple[Extension, ...]:
    """Those of the extensions, in their order, that have methods of these names of their own: who has none
    need not be called, for each packet, to do nothing."""
    return tuple(
        extension
        for extension in extensions
        if any(getattr(type(extension), name) is not getattr(Extension, name) for name in names)
    )


def by_signal(extensions: Sequence[Extension]) -> Mapping[type[Signal], tuple[Extension, ...]]:
    """For each signal the extensions that observe it, in their order."""
    observers = overriding(extensions, "observe")
    return {
        kind: tuple(each for each in observers if each.observes is None or kind in each.observes)
        for kind in get_args(Signal)
    }


class SpiSource(Protocol):
    """Chooses the SPIs that we hand out."""

    def ike_spi(self) -> bytes:
        """Eight octets, never all zero, never repeated while an SA lives (the core checks collisions)."""
        ...

    def esp_spi(self) -> int:
        """An inbound ESP SPI, 32 bits (the core sees to reserved values and collisions)."""
        ...
