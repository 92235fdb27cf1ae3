"""Who is speaking, and the proof: Identification, Certificate, Certificate Request, Authentication.

RFC 7296 sections 3.5 to 3.8.
"""

from dataclasses import dataclass, field
from struct import Struct
from typing import ClassVar, Self

from deadpeer.wire.constants import IdType, PayloadType
from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Identification:
    """IDi (`initiator`) or IDr. An IPv4 or IPv6 identity has 4 or 16 octets.

    `reserved` keeps the three octets that are sent as zero and ignored when received: they are covered by
    AUTH as they came, but do not take part in comparisons.
    """

    initiator: bool
    id_type: int
    data: bytes
    reserved: bytes = field(default=bytes(3), compare=False, repr=False)

    @property
    def payload_type(self) -> int:
        return PayloadType.IDI if self.initiator else PayloadType.IDR

    @property
    def body(self) -> bytes:
        """The payload after its generic header, as AUTH signs it (RFC 7296 section 2.15)."""
        return self.encode_body()

    @classmethod
    def decode_body(cls, cursor: Cursor, *, initiator: bool) -> Self:
        id_type = cursor.u8()
        reserved = cursor.take(3)
        _check_size(id_type, cursor.remaining, cursor.place)
        return cls(initiator, id_type, cursor.rest(), reserved)

    def encode_body(self) -> bytes:
        where = "IDi" if self.initiator else "IDr"
        _check_size(self.id_type, len(self.data), where)
        if len(self.reserved) != 3:
            raise WireError(where, f"{len(self.reserved)} reserved octets, not 3")
        return pack(where, _TYPE, self.id_type) + self.reserved + self.data


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate, or what else `encoding` (`CertEncoding`) says."""

    payload_type: ClassVar[int] = PayloadType.CERT

    encoding: int
    data: bytes

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        return cls(cursor.u8(), cursor.rest())

    def encode_body(self) -> bytes:
        return pack("CERT", _TYPE, self.encoding) + self.data


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """For X.509, `authorities` are the SHA-1 hashes of trusted CAs' public keys, 20 octets each."""

    payload_type: ClassVar[int] = PayloadType.CERTREQ

    encoding: int
    authorities: bytes

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        return cls(cursor.u8(), cursor.rest())

    def encode_body(self) -> bytes:
        return pack("CERTREQ", _TYPE, self.encoding) + self.authorities


@dataclass(frozen=True, slots=True)
class Authentication:
    """A signature or MAC by `method` (`AuthMethod`). A shared key's MAC invites guessing: not in the repr."""

    payload_type: ClassVar[int] = PayloadType.AUTH

    method: int
    data: bytes = field(repr=False)

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        (method,) = cursor.unpack(_METHOD)
        return cls(method, cursor.rest())

    def encode_body(self) -> bytes:
        return pack("AUTH", _METHOD, self.method) + self.data


_TYPE = Struct("!B")
_METHOD = Struct("!B3x")

_ADDRESS_SIZES: dict[int, int] = {IdType.IPV4: 4, IdType.IPV6: 16}


def _check_size(id_type: int, size: int, where: str) -> None:
    expected = _ADDRESS_SIZES.get(id_type)
    if expected is not None and size != expected:
        raise WireError(where, f"address of {size} octets, not {expected}")
