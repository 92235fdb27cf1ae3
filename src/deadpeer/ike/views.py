"""What an extension sees of the SAs, and where its notifies can ride."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from deadpeer.crypto import Identity, IkeSuite
from deadpeer.ike.connection import Connection
from deadpeer.values import Address
from deadpeer.wire import Notify


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
    @property
    def children_due(self) -> Sequence[str]:
        """The names of the children that we have asked the peer for on this SA, or are about to."""
        ...


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
