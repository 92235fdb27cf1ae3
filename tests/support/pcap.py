"""A pcap file of UDP datagrams: raw IP (link type 101), IPv4 or IPv6 by the address."""

import ipaddress
import struct
from collections.abc import Iterable
from pathlib import Path

from deadpeer.values import Address, Datagram

_LINKTYPE_RAW = 101
_UDP = 17


def write_pcap(path: Path, packets: Iterable[tuple[int, Datagram]]) -> None:
    """Write `(monotonic ns, datagram as its sender saw it: from `local` to `remote`)` to `path`."""
    with path.open("wb") as file:
        # nanosecond magic, version 2.4, zone 0, accuracy 0, snap length, link type
        file.write(struct.pack("!IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, _LINKTYPE_RAW))
        for at_ns, datagram in packets:
            frame = ip_packet(datagram.local, datagram.remote, datagram.payload)
            file.write(struct.pack("!IIII", *divmod(at_ns, 1_000_000_000), len(frame), len(frame)))
            file.write(frame)


def ip_packet(source: Address, destination: Address, payload: bytes) -> bytes:
    """The IP packet, checksums filled in, that carries a UDP datagram."""
    src, dst = ipaddress.ip_address(source.host), ipaddress.ip_address(destination.host)
    length = 8 + len(payload)
    pseudo = src.packed + dst.packed + struct.pack("!II", length, _UDP)
    bare = struct.pack("!HHHH", source.port, destination.port, length, 0) + payload
    # RFC 768: a sum of zero is sent as all ones, zero means that there is none
    checksum = _checksum(pseudo + bare) or 0xFFFF
    udp = bare[:6] + struct.pack("!H", checksum) + payload
    if src.version == 6:
        return struct.pack("!IHBB", 6 << 28, length, _UDP, 64) + src.packed + dst.packed + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, _UDP, 0) + src.packed + dst.packed
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + udp


def _checksum(octets: bytes) -> int:
    padded = octets + bytes(len(octets) % 2)
    total: int = sum(word for (word,) in struct.iter_unpack("!H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
