"""Echo requests and replies as whole IP packets, v4 and v6, for hosts that are only a few lines of Python."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from deadpeer.values import ip_of

from .esp import ipv4_length, ipv6_length

HOP_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Echo:
    """An ICMP (RFC 792) or ICMPv6 (RFC 4443 section 4) echo message; `ident` and `seq` are 0..65535."""

    request: bool
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    ident: int
    seq: int
    data: bytes = b""


def echo_request(
    src: IPv4Address | IPv6Address | str,
    dst: IPv4Address | IPv6Address | str,
    ident: int,
    seq: int,
    data: bytes = b"",
) -> bytes:
    """An echo request as an IP packet. Raises ValueError if the addresses are of two versions."""
    return encode_echo(Echo(True, ip_of(src), ip_of(dst), ident, seq, data))


def echo_reply(packet: bytes) -> bytes | None:
    """The answer of a host that has the destination address; None if it is not a sound echo request."""
    echo = decode_echo(packet)
    if echo is None or not echo.request:
        return None
    return encode_echo(Echo(False, echo.destination, echo.source, echo.ident, echo.seq, echo.data))


def encode_echo(echo: Echo) -> bytes:
    """The IP packet, checksums included. Raises ValueError if the addresses are of two versions."""
    source, destination = echo.source, echo.destination
    if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
        message = _message(_ICMP_ECHO if echo.request else _ICMP_REPLY, echo, b"")
        total = _IPV4.size + len(message)
        ends = (source.packed, destination.packed)
        header = _IPV4.pack(0x45, 0, total, 0, _DONT_FRAGMENT, HOP_LIMIT, _ICMP, 0, *ends)
        checked = _IPV4.pack(
            0x45, 0, total, 0, _DONT_FRAGMENT, HOP_LIMIT, _ICMP, internet_checksum(header), *ends
        )
        return checked + message
    if isinstance(source, IPv6Address) and isinstance(destination, IPv6Address):
        length = _ECHO.size + len(echo.data)
        pseudo = _pseudo_header(source.packed, destination.packed, length)
        message = _message(_ICMPV6_ECHO if echo.request else _ICMPV6_REPLY, echo, pseudo)
        return _IPV6.pack(6 << 28, length, _ICMPV6, HOP_LIMIT, source.packed, destination.packed) + message
    raise ValueError(f"{source} and {destination} are of two IP versions")


def decode_echo(packet: bytes) -> Echo | None:
    """The echo message in an IP packet; None if it is another packet, a fragment, or a checksum is wrong.

    What follows the IP packet is left out. IPv6 extension headers are not looked behind.
    """
    if not packet:
        return None
    return _decode_v4(packet) if packet[0] >> 4 == 4 else _decode_v6(packet)


def internet_checksum(octets: bytes) -> int:
    """RFC 1071: 0 over octets that hold their own right checksum."""
    if len(octets) % 2:
        octets += b"\0"
    # A big number modulo 2**16 - 1 is the ones' complement sum of its 16-bit words.
    total = int.from_bytes(octets) % 0xFFFF
    if total == 0 and any(octets):
        total = 0xFFFF
    return ~total & 0xFFFF


_ICMP, _ICMPV6 = 1, 58
_ICMP_ECHO, _ICMP_REPLY = 8, 0
_ICMPV6_ECHO, _ICMPV6_REPLY = 128, 129
_DONT_FRAGMENT = 0x4000
_IPV4 = Struct("!BBHHHBBH4s4s")
_IPV6 = Struct("!IHBB16s16s")
_ECHO = Struct("!BBHHH")
_PSEUDO = Struct("!16s16sI3xB")


def _message(type_: int, echo: Echo, pseudo: bytes) -> bytes:
    checksum = internet_checksum(pseudo + _ECHO.pack(type_, 0, 0, echo.ident, echo.seq) + echo.data)
    return _ECHO.pack(type_, 0, checksum, echo.ident, echo.seq) + echo.data


def _pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    return _PSEUDO.pack(source, destination, length, _ICMPV6)


def _decode_v4(packet: bytes) -> Echo | None:
    length = ipv4_length(packet, len(packet))
    header = (packet[0] & 15) * 4
    if not length or packet[9] != _ICMP or (packet[6] << 8 | packet[7]) & 0x3FFF:
        return None
    if internet_checksum(packet[:header]) != 0:
        return None
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    return _decode(packet[header:length], b"", source, destination, (_ICMP_ECHO, _ICMP_REPLY))


def _decode_v6(packet: bytes) -> Echo | None:
    length = ipv6_length(packet, len(packet))
    if not length or packet[6] != _ICMPV6:
        return None
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    pseudo = _pseudo_header(source.packed, destination.packed, length - _IPV6.size)
    message = packet[_IPV6.size : length]
    return _decode(message, pseudo, source, destination, (_ICMPV6_ECHO, _ICMPV6_REPLY))


def _decode(
    message: bytes,
    pseudo: bytes,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    types: tuple[int, int],
) -> Echo | None:
    if len(message) < _ECHO.size or internet_checksum(pseudo + message) != 0:
        return None
    type_, code, _, ident, seq = _ECHO.unpack_from(message)
    if type_ not in types or code != 0:
        return None
    return Echo(type_ == types[0], source, destination, ident, seq, message[_ECHO.size :])
