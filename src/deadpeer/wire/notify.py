"""Notify, Delete and Vendor ID payloads (RFC 7296 sections 3.10 to 3.12)."""

from dataclasses import dataclass, field
from struct import Struct
from typing import ClassVar, Self

from deadpeer.wire.constants import FIRST_STATUS_TYPE, NotifyType, PayloadType, Protocol, label
from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Notify:
    """A notification of `type` (`NotifyType`) about the SA that `protocol` and `spi` name, if any.

    The SPI has 0, 8 or 16 (both SPIs) octets for IKE and 0 or 4 for ESP and AH. A protocol without
    an SPI means nothing in RFC 7296, but RFC 6290 sends its token so.
    `data` may be a secret: not in the repr.
    """

    payload_type: ClassVar[int] = PayloadType.NOTIFY

    type: int
    data: bytes = field(default=b"", repr=False)
    protocol: int = 0
    spi: bytes = b""

    @property
    def is_error(self) -> bool:
        return self.type < FIRST_STATUS_TYPE

    @property
    def name(self) -> str:
        """The type's name, or its number when it is not a known one."""
        return label(NotifyType, self.type)

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        protocol, spi_size, type_ = cursor.unpack(_NOTIFY)
        spi = cursor.take(spi_size)
        _check_notify_spi(protocol, spi, cursor.place)
        return cls(type_, cursor.rest(), protocol, spi)

    def encode_body(self) -> bytes:
        _check_notify_spi(self.protocol, self.spi, "Notify")
        return pack("Notify", _NOTIFY, self.protocol, len(self.spi), self.type) + self.spi + self.data


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete(Protocol.IKE, ()) deletes the IKE SA it comes in; for ESP and AH each SPI has 4 octets."""

    payload_type: ClassVar[int] = PayloadType.DELETE

    protocol: int
    spis: tuple[bytes, ...]

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        protocol, size, count = cursor.unpack(_DELETE)
        _check_delete(protocol, size, count, cursor.place)
        if cursor.remaining != size * count:
            raise cursor.error(f"{cursor.remaining} octets for {count} SPIs of {size} octets")
        return cls(protocol, tuple(cursor.take(size) for _ in range(count)))

    def encode_body(self) -> bytes:
        size = len(self.spis[0]) if self.spis else _DELETE_SPI_SIZES.get(self.protocol, 0)
        if any(len(spi) != size for spi in self.spis):
            raise WireError("Delete", "SPIs of different sizes")
        _check_delete(self.protocol, size, len(self.spis), "Delete")
        return pack("Delete", _DELETE, self.protocol, size, len(self.spis)) + b"".join(self.spis)


@dataclass(frozen=True, slots=True)
class VendorId:
    """Opaque octets that only those who know them understand."""

    payload_type: ClassVar[int] = PayloadType.VENDOR

    data: bytes

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        return self.data


# protocol, SPI size, type
_NOTIFY = Struct("!BBH")
# protocol, SPI size, number of SPIs
_DELETE = Struct("!BBH")

_NOTIFY_SPI_SIZES: dict[int, tuple[int, ...]] = {
    Protocol.NONE: (0,),
    Protocol.IKE: (0, 8, 16),
    Protocol.AH: (0, 4),
    Protocol.ESP: (0, 4),
}
_DELETE_SPI_SIZES: dict[int, int] = {Protocol.IKE: 0, Protocol.AH: 4, Protocol.ESP: 4}


def _check_notify_spi(protocol: int, spi: bytes, where: str) -> None:
    sizes = _NOTIFY_SPI_SIZES.get(protocol)
    if sizes is not None and len(spi) not in sizes:
        raise WireError(where, f"SPI of {len(spi)} octets for protocol {protocol}")


def _check_delete(protocol: int, size: int, count: int, where: str) -> None:
    expected = _DELETE_SPI_SIZES.get(protocol)
    if expected is not None and size != expected:
        raise WireError(where, f"SPI size {size}, not {expected}, for protocol {protocol}")
    if size == 0 and count != 0:
        raise WireError(where, f"{count} SPIs of no octets")
