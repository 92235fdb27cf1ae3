"""What the protocol core and a data plane say to each other: operations down, reports up.

A *child* is one pair of ESP SAs (a new number after each rekey). A *policy* is the pair of traffic
selector lists that children serve; it keeps its number across rekeys and across the loss and the
recovery of an SA, so that packets can wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deadpeer.crypto import EspKeys, EspSuite
from deadpeer.values import Address
from deadpeer.wire import TrafficSelector


@dataclass(frozen=True, slots=True)
class InstallChild:
    """Install both directions of a child SA.

    `spi_in` is ours (peers send to us with it), `spi_out` the peer's. `outbound_now` False defers
    sending on it until a valid packet came in on it or `ActivateOutbound` says so: a responder can't know
    yet whether its answer has arrived (RFC 7296 section 2.8), and another child serves. Of several active
    children of a policy the one installed last carries the outbound traffic.
    """

    child: int
    policy: int
    spi_in: int
    spi_out: int
    suite: EspSuite
    inbound: EspKeys = field(repr=False)
    outbound: EspKeys = field(repr=False)
    local: Address
    remote: Address
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    outbound_now: bool = True
    replay_window: int = 64
    soft_packets: int = 0
    """Report `Expiring` after so many packets or octets in either direction; 0 is without limit."""
    soft_octets: int = 0


@dataclass(frozen=True, slots=True)
class ActivateOutbound:
    """From now on send on this child (see `InstallChild.outbound_now`)."""

    child: int


@dataclass(frozen=True, slots=True)
class RemoveChild:
    """Stop sending on a child at once, and receiving after `linger_s` seconds (packets under way)."""

    child: int
    linger_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MoveChild:
    """The UDP end points of a child changed (NAT mapping, or the move to port 4500)."""

    child: int
    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class InstallTrap:
    """Outbound packets that match and find no active child wait (bounded) and cause an `Acquire`."""

    policy: int
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]


@dataclass(frozen=True, slots=True)
class RemoveTrap:
    """Forget the policy: packets that wait for it are dropped, later ones find no policy."""

    policy: int


@dataclass(frozen=True, slots=True)
class WatchSilence:
    """Report `Silence` when for `after_ns` outbound packets went out on the policy and none came in."""

    policy: int
    after_ns: int


PlaneOp = InstallChild | ActivateOutbound | RemoveChild | MoveChild | InstallTrap | RemoveTrap | WatchSilence


@dataclass(frozen=True, slots=True)
class Acquire:
    """A packet waits for a child of this policy; `summary` says which ("10.0.0.1 -> 10.0.1.1 proto 1")."""

    policy: int
    summary: str


@dataclass(frozen=True, slots=True)
class UnknownSpi:
    """An ESP packet came for an SPI that nobody has; `octets` is its UDP payload length."""

    spi: int
    octets: int
    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class Silence:
    """Since `since_ns` (monotonic) packets went out on the child and nothing protected came back."""

    child: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A packet of the child verified at `at_ns`; reported at most once a second, and after a `Silence`."""

    child: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """A valid, fresh packet of the child came from another address or port than the one in use."""

    child: int
    remote: Address


@dataclass(frozen=True, slots=True)
class Expiring:
    """A soft limit of the child is reached (`reason`: packets, octets or sequence): rekey it."""

    child: int
    reason: str


@dataclass(frozen=True, slots=True)
class Expired:
    """The sequence numbers of the child are used up: it can't send any more."""

    child: int


PlaneReport = Acquire | UnknownSpi | Silence | Heard | PeerMoved | Expiring | Expired


@dataclass(frozen=True, slots=True)
class ChildCounters:
    """What a child has carried so far; times are monotonic nanoseconds."""

    packets_in: int = 0
    octets_in: int = 0
    packets_out: int = 0
    octets_out: int = 0
    last_in_ns: int | None = None
    last_out_ns: int | None = None
