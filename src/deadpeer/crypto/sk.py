"""Sealing whole IKE messages: the SK payload (RFC 7296 section 3.14, RFC 5282) and SKF fragments (RFC 7383).

Works on the octets of the message, because what is authenticated is octets: everything from the IKE header to
the end of the SK (SKF) payload's own header.
"""

import struct
from typing import NamedTuple

from .aead import PacketCipher
from .errors import AuthenticationFailed
from .keys import split_keys
from .suites import IkeSuite

_HEADER = struct.Struct("!8s8sBBBBII")
_GENERIC = struct.Struct("!BBH")
_FRAGMENT = struct.Struct("!HH")
_VERSION = 0x20
_FLAG_INITIATOR, _FLAG_RESPONSE = 0x08, 0x20
_SK, _SKF = 46, 53


class OpenedFragment(NamedTuple):
    """A verified fragment: `number` of `total`, the first inner payload's type (else 0), its part."""

    number: int
    total: int
    first_payload: int
    inner_part: bytes


class SkCipher:
    """Seals or opens the messages of one direction of an IKE SA.

    `encryption_key` is all of SK_ei or SK_er (key | salt), `integrity_key` SK_ai or SK_ar (empty: AEAD).
    The caller gives each IV: with an AEAD 8 octets that never repeat under the key (a counter), with CBC 16
    octets that nobody can predict.
    """

    __slots__ = ("_block", "_packet", "iv_octets")

    def __init__(self, suite: IkeSuite, encryption_key: bytes, integrity_key: bytes = b"") -> None:
        keys = split_keys(suite.encryption, suite.integrity, encryption_key, integrity_key)
        self._packet = PacketCipher(suite.encryption, suite.integrity, keys)
        self._block = suite.encryption.block_octets
        self.iv_octets = suite.encryption.iv_octets

    def seal_message(
        self,
        *,
        spi_i: bytes,
        spi_r: bytes,
        exchange: int,
        message_id: int,
        from_initiator: bool,
        is_response: bool,
        first_payload: int,
        inner: bytes,
        iv: bytes,
    ) -> bytes:
        """Return a complete IKE message whose one payload is SK around `inner` (octets of whole payloads).

        `first_payload` is the type of the first payload in `inner`, 0 where it is empty.
        Raises ValueError for an IV or SPI of the wrong length and for what does not fit 65,535 octets.
        """
        flags = _flags(from_initiator, is_response)
        start = (spi_i, spi_r, _SK, exchange, flags, message_id)
        return self._seal(start, first_payload, b"", inner, iv)

    def seal_fragment(
        self,
        *,
        spi_i: bytes,
        spi_r: bytes,
        exchange: int,
        message_id: int,
        from_initiator: bool,
        is_response: bool,
        number: int,
        total: int,
        first_payload: int,
        inner: bytes,
        iv: bytes,
    ) -> bytes:
        """Return a complete IKE message whose one payload is SKF, fragment `number` (from 1) of `total`.

        `inner` is this fragment's part of the payloads. `first_payload` is put into the first fragment only;
        the others carry 0 (RFC 7383 section 2.5). Raises ValueError as seal_message does.
        """
        if not 1 <= number <= total <= 0xFFFF:
            raise ValueError(f"there is no fragment {number} of {total}")
        flags = _flags(from_initiator, is_response)
        start = (spi_i, spi_r, _SKF, exchange, flags, message_id)
        first = first_payload if number == 1 else 0
        return self._seal(start, first, _FRAGMENT.pack(number, total), inner, iv)

    def open_message(self, octets: bytes) -> tuple[int, bytes]:
        """Return the first inner payload's type and the inner payloads' octets, padding taken off.

        Payloads before SK are covered by the ICV and skipped here; SK must be the last one.
        Raises AuthenticationFailed where the message does not verify or has no well-formed SK payload.
        """
        first, at, end = _find(octets, _SK)
        return first, self._open(octets, at, end)

    def open_fragment(self, octets: bytes) -> OpenedFragment:
        """Return (number, total, first inner payload's type, inner part) of a message with one SKF payload.

        Raises AuthenticationFailed as open_message does, and for a number outside 1..total.
        """
        first, at, end = _find(octets, _SKF)
        body = at + _FRAGMENT.size
        if body > end:
            raise AuthenticationFailed("the SKF payload is too short for its fragment number")
        number, total = _FRAGMENT.unpack_from(octets, at)
        part = self._open(octets, body, end)
        if not 1 <= number <= total:
            raise AuthenticationFailed(f"there is no fragment {number} of {total}")
        return OpenedFragment(number, total, first, part)

    def max_inner(self, mtu_octets: int) -> int:
        """How many inner octets fit one SKF message of at most `mtu_octets`, 0 where not even one does.

        The IKE header is counted; the headers of UDP and IP and the non-ESP marker are not.
        """
        fixed = _HEADER.size + _GENERIC.size + _FRAGMENT.size + self._packet.overhead
        room = max(0, mtu_octets - fixed)
        return max(0, room - room % self._block - 1)

    def _seal(
        self,
        start: tuple[bytes, bytes, int, int, int, int],
        first: int,
        extra: bytes,
        inner: bytes,
        iv: bytes,
    ) -> bytes:
        spi_i, spi_r, kind, exchange, flags, message_id = start
        if len(spi_i) != 8 or len(spi_r) != 8:
            raise ValueError("an IKE SPI is 8 octets")
        # Pad Length is the plaintext's last octet; the sender chooses the padding (RFC 7296 section 3.14).
        pad = -(len(inner) + 1) % self._block
        plaintext = inner + bytes(pad) + bytes((pad,))
        payload_octets = _GENERIC.size + len(extra) + len(plaintext) + self._packet.overhead
        if payload_octets > 0xFFFF:
            raise ValueError(f"a payload of {payload_octets} octets does not fit: fragment the message")
        length = _HEADER.size + payload_octets
        aad = (
            _HEADER.pack(spi_i, spi_r, kind, _VERSION, exchange, flags, message_id, length)
            + _GENERIC.pack(first, 0, payload_octets)
            + extra
        )
        return aad + self._packet.seal(iv, plaintext, aad)

    def _open(self, octets: bytes, at: int, end: int) -> bytes:
        plaintext = self._packet.open(octets[at:end], octets[:at])
        if not plaintext or plaintext[-1] >= len(plaintext):
            raise AuthenticationFailed("the pad length is more than there is")
        return plaintext[: len(plaintext) - plaintext[-1] - 1]

    def __repr__(self) -> str:
        return "SkCipher(...)"


def _flags(from_initiator: bool, is_response: bool) -> int:
    return (_FLAG_INITIATOR if from_initiator else 0) | (_FLAG_RESPONSE if is_response else 0)


def _find(octets: bytes, wanted: int) -> tuple[int, int, int]:
    """Walk to the last payload, `wanted`: its next payload field, start and end of its body."""
    if len(octets) < _HEADER.size:
        raise AuthenticationFailed("too short for an IKE header")
    _, _, kind, _, _, _, _, length = _HEADER.unpack_from(octets)
    if length != len(octets):
        raise AuthenticationFailed(f"the header says {length} octets, there are {len(octets)}")
    at = _HEADER.size
    while kind:
        if at + _GENERIC.size > length:
            raise AuthenticationFailed(f"payload header at octet {at} is cut off")
        following, _, size = _GENERIC.unpack_from(octets, at)
        if size < _GENERIC.size or at + size > length:
            raise AuthenticationFailed(f"payload at octet {at} has the impossible length {size}")
        if kind == wanted:
            if at + size != length:
                raise AuthenticationFailed("the encrypted payload is not the last one")
            return following, at + _GENERIC.size, at + size
        if kind in (_SK, _SKF):
            break
        kind, at = following, at + size
    raise AuthenticationFailed("no such encrypted payload in the message")
