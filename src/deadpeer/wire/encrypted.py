"""Protected payloads: SK (RFC 7296 section 3.14) and SKF (RFC 7383 section 2.5).

Their bodies stay as they are: crypto opens and seals them. Both are the last payload of a message, so the
octets before the body (what RFC 5282 authenticates with it) are `octets[:len(octets) - len(body)]`.
"""

from dataclasses import dataclass, field
from struct import Struct
from typing import ClassVar, Self

from deadpeer.wire.constants import PayloadType
from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Encrypted:
    """`body` is IV | ciphertext | ICV; `first_payload` is the type of the first payload inside."""

    payload_type: ClassVar[int] = PayloadType.SK

    first_payload: int
    body: bytes = field(repr=False)

    @classmethod
    def decode_body(cls, cursor: Cursor, *, first_payload: int) -> Self:
        return cls(first_payload, cursor.rest())

    def encode_body(self) -> bytes:
        return self.body


@dataclass(frozen=True, slots=True)
class EncryptedFragment:
    """Fragment `number` of `total`, from 1. Only the first one has a `first_payload`, others have 0."""

    payload_type: ClassVar[int] = PayloadType.SKF

    first_payload: int
    number: int
    total: int
    body: bytes = field(repr=False)

    @classmethod
    def decode_body(cls, cursor: Cursor, *, first_payload: int) -> Self:
        number, total = cursor.unpack(_FRAGMENT)
        _check(first_payload, number, total, cursor.place)
        return cls(first_payload, number, total, cursor.rest())

    def encode_body(self) -> bytes:
        _check(self.first_payload, self.number, self.total, "SKF")
        return pack("SKF", _FRAGMENT, self.number, self.total) + self.body


# fragment number, total fragments
_FRAGMENT = Struct("!HH")


def _check(first_payload: int, number: int, total: int, where: str) -> None:
    if not 1 <= number <= total:
        raise WireError(where, f"fragment {number} of {total}")
    if number > 1 and first_payload != PayloadType.NONE:
        raise WireError(where, f"next payload {first_payload} in fragment {number}, not 0")
