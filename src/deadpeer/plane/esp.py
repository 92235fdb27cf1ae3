"""One ESP packet in tunnel mode: sealing, opening, and what the plaintext holds (RFC 4303 sections 2 and 3).

Pure but for the entropy of CBC's IVs. Which sequence number to use or to believe is the caller's choice.
"""

from struct import Struct

from deadpeer.crypto import Encryption, Entropy, EspKeys, EspSuite, PacketCipher
from deadpeer.wire import EspHeader, EspPacket, encode_esp_header

from .drops import Drop

NEXT_IPV4 = 4
NEXT_IPV6 = 41
NEXT_NONE = 59
"""The next header of a dummy packet (RFC 4303 section 2.6)."""


class EspSealer:
    """The outbound half of a child SA. Raises ValueError on keys of the wrong length for the suite."""

    __slots__ = ("_align", "_cipher", "_counter_iv", "_entropy", "_esn", "_spi")

    def __init__(self, spi: int, suite: EspSuite, keys: EspKeys, entropy: Entropy) -> None:
        self._spi = spi
        self._esn = suite.esn
        self._cipher = PacketCipher(suite.encryption, suite.integrity, keys)
        self._counter_iv = suite.encryption.aead
        self._align = alignment(suite.encryption)
        self._entropy = entropy

    def seal(self, sequence: int, packet: bytes) -> bytes:
        """The UDP payload for an inner IP packet under the full `sequence` number, never used before.

        The IV of an AEAD is the sequence number, so it can't repeat (RFC 4106 section 3.1); that of CBC is
        unpredictable (RFC 3602 section 3).
        """
        trailer = padding(len(packet), self._align) + _NEXT_HEADER[packet[0] >> 4]
        header = encode_esp_header(EspHeader(self._spi, sequence & _LOW))
        if self._counter_iv:
            aad = _ESN_AAD.pack(self._spi, sequence) if self._esn else header
            return header + self._cipher.seal(_COUNTER.pack(sequence), packet + trailer, aad)
        iv = self._entropy.octets(self._cipher.iv_octets)
        return header + self._cipher.seal(iv, packet + trailer, header, _high(sequence) if self._esn else b"")


class EspOpener:
    """The inbound half of a child SA. Raises ValueError on keys of the wrong length for the suite."""

    __slots__ = ("_aead", "_cipher", "_esn", "_spi")

    def __init__(self, spi: int, suite: EspSuite, keys: EspKeys) -> None:
        self._spi = spi
        self._esn = suite.esn
        self._aead = suite.encryption.aead
        self._cipher = PacketCipher(suite.encryption, suite.integrity, keys)

    def open(self, sequence: int, packet: EspPacket) -> bytes:
        """The plaintext (payload | padding | pad length | next header) under the full `sequence` number.

        Raises AuthenticationFailed if the packet does not verify.
        """
        if not self._esn:
            return self._cipher.open(packet.body, _HEADER.pack(packet.spi, packet.sequence))
        if self._aead:
            return self._cipher.open(packet.body, _ESN_AAD.pack(packet.spi, sequence))
        return self._cipher.open(packet.body, _HEADER.pack(packet.spi, packet.sequence), _high(sequence))


def inner_packet(plaintext: bytes) -> bytes | Drop:
    """The IP packet in a verified plaintext, or why it is dropped.

    Traffic flow confidentiality padding after the packet is cut off: the inner header says how long the
    packet is (RFC 4303 section 2.7).
    """
    if len(plaintext) < 2:
        return Drop.BAD_TRAILER
    pad_length, next_header = plaintext[-2], plaintext[-1]
    if next_header == NEXT_NONE:  # what a dummy holds need not be well formed
        return Drop.DUMMY
    end = len(plaintext) - 2 - pad_length
    if end < 0:
        return Drop.BAD_TRAILER
    if plaintext[end:-2] != _PADS[pad_length]:
        return Drop.BAD_PADDING
    if next_header == NEXT_IPV4:
        length = ipv4_length(plaintext, end)
    elif next_header == NEXT_IPV6:
        length = ipv6_length(plaintext, end)
    else:
        return Drop.BAD_NEXT_HEADER
    return plaintext[:length] if length else Drop.INNER_MALFORMED


def alignment(encryption: Encryption) -> int:
    """Payload, padding, pad length and next header fill a multiple of so many octets (section 2.4)."""
    return max(4, encryption.block_octets)


def padding(payload_octets: int, align: int) -> bytes:
    """Padding 1, 2, 3 ... and the pad length."""
    count = -(payload_octets + 2) % align
    return _PADS[count] + _OCTET[count]


def ipv4_length(octets: bytes, end: int) -> int:
    """The total length that an IPv4 header at the start of `octets[:end]` gives; 0 where it can't be true."""
    if end < 20 or octets[0] >> 4 != 4:
        return 0
    header = (octets[0] & 15) * 4
    total = octets[2] << 8 | octets[3]
    return total if 20 <= header <= total <= end else 0


def ipv6_length(octets: bytes, end: int) -> int:
    """The same for IPv6. Jumbograms (RFC 2675) do not exist here."""
    if end < 40 or octets[0] >> 4 != 6:
        return 0
    total = 40 + (octets[4] << 8 | octets[5])
    return total if total <= end else 0


def _high(sequence: int) -> bytes:
    """The high half of an extended sequence number, which the ICV covers unsent (section 2.2.1)."""
    return _HIGH.pack(sequence >> 32)


_LOW = 0xFFFFFFFF
_HEADER = Struct("!II")
_ESN_AAD = Struct("!IQ")
_COUNTER = Struct("!Q")
_HIGH = Struct("!I")
_OCTET = tuple(bytes([n]) for n in range(256))
_PADS = tuple(bytes(range(1, n + 1)) for n in range(256))
_NEXT_HEADER = {4: _OCTET[NEXT_IPV4], 6: _OCTET[NEXT_IPV6]}
