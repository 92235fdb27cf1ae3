"""What the core tells its extensions: values, each of one moment."""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.ike.evidence import Verdict
from deadpeer.ike.views import ChildView, ResumeOffer, SaView, Slot
from deadpeer.values import Address
from deadpeer.wire import Notify


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
    """The Vendor IDs of the peer's first message, and the types of its notifies, said once the SA is
    authenticated (and so are they: but everybody could read them)."""

    sa: SaView
    vendor_ids: tuple[bytes, ...]
    notifies: frozenset[int] = frozenset()


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
