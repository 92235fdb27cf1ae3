"""Payloads that the codec does not look into: EAP (RFC 7296 section 3.16) and unknown ones (2.5)."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from deadpeer.wire.constants import PayloadType
from deadpeer.wire.cursor import Cursor


@dataclass(frozen=True, slots=True)
class Eap:
    """An EAP message; some methods put passwords there: not in the repr."""

    payload_type: ClassVar[int] = PayloadType.EAP

    data: bytes = field(repr=False)

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """A payload of a type that nothing here knows. Decoding refuses critical ones and skips the others."""

    type: int
    data: bytes = field(repr=False)
    critical: bool = False

    @property
    def payload_type(self) -> int:
        return self.type

    def encode_body(self) -> bytes:
        return self.data
