"""Key Exchange and Nonce payloads (RFC 7296 sections 3.4 and 3.9)."""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Self

from deadpeer.wire.constants import PayloadType
from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.errors import WireError

MIN_NONCE = 16
MAX_NONCE = 256


@dataclass(frozen=True, slots=True)
class KeyExchange:
    """A public value of the key exchange method `group`. Whether it is a valid one, crypto decides."""

    payload_type: ClassVar[int] = PayloadType.KE

    group: int
    data: bytes

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        group, _reserved = cursor.unpack(_GROUP)
        return cls(group, cursor.rest())

    def encode_body(self) -> bytes:
        return pack("KE", _GROUP, self.group, 0) + self.data


@dataclass(frozen=True, slots=True)
class Nonce:
    """16 to 256 octets."""

    payload_type: ClassVar[int] = PayloadType.NONCE

    data: bytes

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        if not MIN_NONCE <= cursor.remaining <= MAX_NONCE:
            raise cursor.error(_nonce_size(cursor.remaining))
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        if not MIN_NONCE <= len(self.data) <= MAX_NONCE:
            raise WireError("Nonce", _nonce_size(len(self.data)))
        return self.data


_GROUP = Struct("!HH")


def _nonce_size(size: int) -> str:
    return f"{size} octets, not {MIN_NONCE} to {MAX_NONCE}"
