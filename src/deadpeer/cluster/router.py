"""Which member a datagram belongs to, where a balancer has brought it to another one."""

from __future__ import annotations

from typing import Protocol

from deadpeer.cluster.ownership import Cluster
from deadpeer.values import Datagram
from deadpeer.wire import UdpKind, WireError, classify, decode_esp_header, decode_header, strip_marker


class Known(Protocol):
    """The SAs of this member."""

    def alive(self, spi: bytes) -> bool:
        """Whether any SA has this IKE SPI."""
        ...

    def find_by_inbound(self, spi_in: int) -> object | None:
        """The SA that has a child with this inbound ESP SPI."""
        ...


def owner_of(datagram: Datagram, ownership: Cluster, known: Known, port_nat_t: int) -> int | None:
    """The other living member whose SA a datagram names; None: it is for us, or for nobody."""
    shared = datagram.local.port == port_nat_t
    kind = classify(datagram.payload, shared)
    try:
        if kind is UdpKind.ESP:
            spi = decode_esp_header(datagram.payload).spi
            return None if known.find_by_inbound(spi) is not None else ownership.esp_owner(spi)
        if kind is not UdpKind.IKE:
            return None
        header = decode_header(strip_marker(datagram.payload) if shared else datagram.payload)
    except WireError:
        return None
    ours = header.spi_r if header.from_initiator else header.spi_i
    if ours == bytes(8) or known.alive(ours):
        return None
    return ownership.owner(ours)
