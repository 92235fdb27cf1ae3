"""Does an inner packet lie within traffic selectors? (RFC 4301 section 4.4.1, RFC 7296 section 3.13.1)"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from deadpeer.wire import TrafficSelector

from .esp import ipv4_length, ipv6_length

OPAQUE = -1
"""A port or a protocol that can't be seen: in a fragment, or cut off."""


class Flow(NamedTuple):
    """What selectors look at.

    `source` and `destination` are the addresses as integers. `source_port` and `destination_port` are
    0..65535 or `OPAQUE`. ICMP, ICMPv6 and the mobility header have one such value for both: type * 256 +
    code, or the mobility header's type * 256; it stands in `source_port`, and `destination_port` is
    `OPAQUE` and not looked at.
    """

    version: int
    protocol: int
    source: int
    destination: int
    source_port: int
    destination_port: int

    def __str__(self) -> str:
        """For people: "10.0.0.1 -> 10.0.1.1 proto 17 ports 1024 -> 53"."""
        address = IPv4Address if self.version == 4 else IPv6Address
        text = f"{address(self.source)} -> {address(self.destination)} proto {self.protocol}"
        if self.protocol in _TWO_PORTS and self.source_port != OPAQUE:
            text += f" ports {self.source_port} -> {self.destination_port}"
        return text


def parse_flow(packet: bytes) -> Flow | None:
    """The flow of an IPv4 or IPv6 packet; None if its header, or an extension header, can't be read."""
    if not packet:
        return None
    version = packet[0] >> 4
    if version == 4:
        return _ipv4_flow(packet)
    return _ipv6_flow(packet) if version == 6 else None


class SelectorPair:
    """The selectors of one side and of the other, made ready for comparing."""

    __slots__ = ("_local", "_remote")

    def __init__(self, local: Iterable[TrafficSelector], remote: Iterable[TrafficSelector]) -> None:
        self._local = _ranges(local)
        self._remote = _ranges(remote)

    def outbound(self, flow: Flow) -> bool:
        """Is this a packet from the local to the remote side?"""
        return _from(self._local, flow) and _to(self._remote, flow)

    def destinations(self) -> list[tuple[int, int, int]]:
        """The remote side's ranges of addresses: IP version, first, last."""
        return [(r.version, r.start, r.end) for r in self._remote]

    def inbound(self, flow: Flow) -> bool:
        """Is this a packet from the remote to the local side?"""
        return _from(self._remote, flow) and _to(self._local, flow)


class _Range(NamedTuple):
    version: int
    protocol: int
    start: int
    end: int
    start_port: int
    end_port: int


_TWO_PORTS = frozenset({6, 17, 33, 132, 136})  # TCP, UDP, DCCP, SCTP, UDP-Lite
_ICMP, _ICMPV6, _MOBILITY = 1, 58, 135
_ONE_VALUE = frozenset({_ICMP, _ICMPV6, _MOBILITY})
# Hop-by-hop options, routing and destination options are skipped, and the fragment header is; AH and ESP
# are next layer protocols (RFC 4301 section 4.4.1.1).
_SKIPPED = frozenset({0, 43, 60})
_FRAGMENT = 44
_PORTS = Struct("!HH")


def _ranges(selectors: Iterable[TrafficSelector]) -> tuple[_Range, ...]:
    return tuple(
        _Range(ts.start.version, ts.ip_protocol, int(ts.start), int(ts.end), ts.start_port, ts.end_port)
        for ts in selectors
    )


def _from(ranges: tuple[_Range, ...], flow: Flow) -> bool:
    return any(_within(r, flow, flow.source) and _port_within(r, flow.source_port) for r in ranges)


def _to(ranges: tuple[_Range, ...], flow: Flow) -> bool:
    # RFC 4301 section 4.4.1.3: the type of an ICMP or mobility message is compared with the sender's side.
    if flow.protocol in _ONE_VALUE:
        return any(_within(r, flow, flow.destination) for r in ranges)
    return any(_within(r, flow, flow.destination) and _port_within(r, flow.destination_port) for r in ranges)


def _within(r: _Range, flow: Flow, address: int) -> bool:
    return (
        r.version == flow.version
        and r.start <= address <= r.end
        and r.protocol in (0, flow.protocol)  # 0: any
    )


def _port_within(r: _Range, port: int) -> bool:
    if r.start_port == 0 and r.end_port == 65535:
        return True
    if r.start_port > r.end_port:  # OPAQUE
        return port == OPAQUE
    return r.start_port <= port <= r.end_port


def _ipv4_flow(packet: bytes) -> Flow | None:
    length = ipv4_length(packet, len(packet))
    if not length:
        return None
    protocol = packet[9]
    later_fragment = (packet[6] << 8 | packet[7]) & 0x1FFF
    ports = (OPAQUE, OPAQUE) if later_fragment else _ports(packet, protocol, (packet[0] & 15) * 4, length)
    source, destination = int.from_bytes(packet[12:16]), int.from_bytes(packet[16:20])
    return Flow(4, protocol, source, destination, *ports)


def _ipv6_flow(packet: bytes) -> Flow | None:
    length = ipv6_length(packet, len(packet))
    if not length:
        return None
    source, destination = int.from_bytes(packet[8:24]), int.from_bytes(packet[24:40])
    protocol, at, hidden = packet[6], 40, False
    while protocol in _SKIPPED or protocol == _FRAGMENT:
        if hidden:  # a header that only the first fragment shows
            protocol = OPAQUE
            break
        if at + 8 > length:
            return None
        size = 8 if protocol == _FRAGMENT else (packet[at + 1] + 1) * 8
        hidden = protocol == _FRAGMENT and (packet[at + 2] << 8 | packet[at + 3]) & 0xFFF8 != 0
        protocol, at = packet[at], at + size
        if at > length:
            return None
    ports = (OPAQUE, OPAQUE) if hidden else _ports(packet, protocol, at, length)
    return Flow(6, protocol, source, destination, *ports)


def _ports(packet: bytes, protocol: int, at: int, length: int) -> tuple[int, int]:
    if protocol in _TWO_PORTS and at + 4 <= length:
        source, destination = _PORTS.unpack_from(packet, at)
        return source, destination
    if protocol in (_ICMP, _ICMPV6) and at + 2 <= length:
        return packet[at] << 8 | packet[at + 1], OPAQUE
    if protocol == _MOBILITY and at + 3 <= length:
        return packet[at + 2] << 8, OPAQUE
    return OPAQUE, OPAQUE
