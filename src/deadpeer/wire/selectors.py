"""Traffic Selector payloads (RFC 7296 section 3.13)."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Self

from deadpeer.wire.constants import PayloadType, TsType
from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.errors import WireError

MAX_SELECTORS = 255
OPAQUE_PORTS = (65535, 0)
"""Start and end port of a selector for packets whose ports can't be seen (RFC 7296 section 3.13.1)."""


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """A range of addresses, `start` to `end`, of one IP version, and a range of ports of one protocol.

    `ip_protocol` 0 is any protocol; ports 0 to 65535 are any port, `OPAQUE_PORTS` are hidden ones; for
    ICMP a port is type * 256 + code.
    """

    ip_protocol: int
    start_port: int
    end_port: int
    start: IPv4Address | IPv6Address
    end: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class TrafficSelectors:
    """TSi (`initiator`) or TSr: at least one selector.

    Selectors of unknown types are left out when decoding, which narrows the set; `unknown` has their types.
    """

    initiator: bool
    selectors: tuple[TrafficSelector, ...]
    unknown: tuple[int, ...] = ()

    @property
    def payload_type(self) -> int:
        return PayloadType.TSI if self.initiator else PayloadType.TSR

    @classmethod
    def decode_body(cls, cursor: Cursor, *, initiator: bool) -> Self:
        (count,) = cursor.unpack(_COUNT)
        if count == 0:
            raise cursor.error("no traffic selector")
        selectors: list[TrafficSelector] = []
        unknown: list[int] = []
        for position in range(1, count + 1):
            selector = _decode_selector(cursor, position)
            if isinstance(selector, int):
                unknown.append(selector)
            else:
                selectors.append(selector)
        cursor.expect_end()
        return cls(initiator, tuple(selectors), tuple(unknown))

    def encode_body(self) -> bytes:
        where = "TSi" if self.initiator else "TSr"
        if not 1 <= len(self.selectors) <= MAX_SELECTORS:
            raise WireError(where, f"{len(self.selectors)} traffic selectors, not 1 to {MAX_SELECTORS}")
        selectors = (_encode_selector(selector, where) for selector in self.selectors)
        return _COUNT.pack(len(self.selectors)) + b"".join(selectors)


_COUNT = Struct("!B3x")
# type, IP protocol (or its own meaning for other types), length
_SELECTOR = Struct("!BBH")
_PORTS = Struct("!HH")


def _decode_selector(cursor: Cursor, position: int) -> TrafficSelector | int:
    """A selector, or the type of one that is not known."""
    type_, ip_protocol, length = cursor.unpack(_SELECTOR)
    if length < _SELECTOR.size:
        raise cursor.error(f"length {length} of selector {position} is less than its header")
    body = cursor.sub(length - _SELECTOR.size, f"selector {position}")
    start: IPv4Address | IPv6Address
    end: IPv4Address | IPv6Address
    if type_ == TsType.IPV4_ADDR_RANGE:
        start_port, end_port = body.unpack(_PORTS)
        start, end = IPv4Address(body.take(4)), IPv4Address(body.take(4))
    elif type_ == TsType.IPV6_ADDR_RANGE:
        start_port, end_port = body.unpack(_PORTS)
        start, end = IPv6Address(body.take(16)), IPv6Address(body.take(16))
    else:
        return int(type_)
    body.expect_end()
    selector = TrafficSelector(ip_protocol, start_port, end_port, start, end)
    _check(selector, body.place)
    return selector


def _encode_selector(selector: TrafficSelector, where: str) -> bytes:
    _check(selector, where)
    type_ = TsType.IPV4_ADDR_RANGE if selector.start.version == 4 else TsType.IPV6_ADDR_RANGE
    body = pack(where, _PORTS, selector.start_port, selector.end_port)
    body += selector.start.packed + selector.end.packed
    return pack(where, _SELECTOR, type_, selector.ip_protocol, _SELECTOR.size + len(body)) + body


def _check(selector: TrafficSelector, where: str) -> None:
    if selector.start.version != selector.end.version:
        raise WireError(where, "start and end address of different IP versions")
    if int(selector.start) > int(selector.end):
        raise WireError(where, f"start address {selector.start} is after end address {selector.end}")
    ports = (selector.start_port, selector.end_port)
    if selector.start_port > selector.end_port and ports != OPAQUE_PORTS:
        raise WireError(where, f"start port {selector.start_port} is after end port {selector.end_port}")
