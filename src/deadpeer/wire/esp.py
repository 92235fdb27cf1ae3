"""ESP packets, still sealed (RFC 4303 section 2)."""

from dataclasses import dataclass, field
from struct import Struct

from deadpeer.wire.cursor import pack
from deadpeer.wire.errors import WireError
from deadpeer.wire.sa import FIRST_ESP_SPI

ESP_HEADER_SIZE = 8
"""Octets of the SPI and the sequence number."""


@dataclass(frozen=True, slots=True)
class EspHeader:
    """`spi` 256..2**32-1; `sequence` the number on the wire, 0..2**32-1 (the low half with ESN)."""

    spi: int
    sequence: int


@dataclass(frozen=True, slots=True)
class EspPacket:
    """As `EspHeader`, with `body`: IV | ciphertext | ICV."""

    spi: int
    sequence: int
    body: bytes = field(repr=False)


def decode_esp_header(octets: bytes) -> EspHeader:
    """Read the first 8 octets. Raises WireError if there are fewer, or the SPI is a reserved one."""
    if len(octets) < ESP_HEADER_SIZE:
        raise WireError("ESP at octet 0", f"needs {ESP_HEADER_SIZE} octets, {len(octets)} are left")
    spi, sequence = _HEADER.unpack_from(octets)
    if spi < FIRST_ESP_SPI:
        raise WireError("ESP at octet 0", f"SPI {spi} is a reserved one")
    return EspHeader(spi, sequence)


def decode_esp(octets: bytes) -> EspPacket:
    """Read a packet. Raises WireError as `decode_esp_header` does, or if nothing follows the header."""
    header = decode_esp_header(octets)
    if len(octets) == ESP_HEADER_SIZE:
        raise WireError(f"ESP at octet {ESP_HEADER_SIZE}", "no body")
    return EspPacket(header.spi, header.sequence, octets[ESP_HEADER_SIZE:])


def encode_esp_header(header: EspHeader) -> bytes:
    """The 8 octets before the IV. Raises WireError for a reserved SPI or a number that does not fit."""
    if header.spi < FIRST_ESP_SPI:
        raise WireError("ESP", f"SPI {header.spi} is a reserved one")
    return pack("ESP", _HEADER, header.spi, header.sequence)


def encode_esp(packet: EspPacket) -> bytes:
    """The octets of a packet. Raises WireError as `encode_esp_header` does, or if the body is empty."""
    if not packet.body:
        raise WireError("ESP", "no body")
    return encode_esp_header(EspHeader(packet.spi, packet.sequence)) + packet.body


_HEADER = Struct("!II")
