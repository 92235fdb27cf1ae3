"""Which member a datagram belongs to, where a balancer has brought it to another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deadpeer.cluster.ownership import AddressHeld, Cluster
from deadpeer.values import Datagram
from deadpeer.wire import Header, UdpKind, WireError, classify, decode_header, strip_marker


class Known(Protocol):
    """The SAs of this member."""

    def alive(self, spi: bytes) -> bool:
        """Whether any SA has this IKE SPI."""
        ...

    def find_by_inbound(self, spi_in: int) -> object | None:
        """The SA that has a child with this inbound ESP SPI."""
        ...


@dataclass(frozen=True, slots=True)
class Foreign:
    """What a datagram is about: an SA that no SA here is, and that another member may have.

    `spi`: the one of the SA's SPIs that a member made, 8 octets, or 4 of ESP. `leased`: that member has a
    lease for the life that made it, so the datagram can be handed to it. `header` None: it is ESP.
    """

    spi: bytes
    member: int
    leased: bool
    header: Header | None = None


def trace(
    datagram: Datagram, ownership: Cluster | AddressHeld, known: Known, port_nat_t: int
) -> Foreign | None:
    """The SA of another member's life that may go on which a datagram names; None: it is for us, or for
    nobody."""
    payload, shared = datagram.payload, datagram.local.port == port_nat_t
    kind = classify(payload, shared)
    if kind is UdpKind.ESP:
        spi = payload[:4]
        number = int.from_bytes(spi, "big")
        # Of an SA here: nearly all there is.
        if known.find_by_inbound(number) is not None:
            return None
        holder = ownership.esp_holder(number)
        return None if holder is None else Foreign(spi, holder.member, holder.leased)
    if kind is not UdpKind.IKE:
        return None
    try:
        header = decode_header(strip_marker(payload) if shared else payload)
    except WireError:
        return None
    ours = header.spi_r if header.from_initiator else header.spi_i
    if ours == bytes(8) or known.alive(ours):
        return None
    holder = ownership.holder(ours)
    return None if holder is None else Foreign(ours, holder.member, holder.leased, header)
