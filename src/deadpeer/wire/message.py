"""IKE messages: the header (RFC 7296 section 3.1) and the chain of payloads behind it."""

from dataclasses import dataclass
from struct import Struct
from typing import TypeVar

from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.encrypted import Encrypted, EncryptedFragment
from deadpeer.wire.errors import WireError
from deadpeer.wire.notify import Notify
from deadpeer.wire.opaque import UnknownPayload
from deadpeer.wire.payloads import Payload, decode_chain, encode_chain

HEADER_SIZE = 28
"""Octets of the IKE header."""

MAJOR_VERSION = 2

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class Header:
    """The IKE header. SPIs have 8 octets each; `length` counts the whole message in octets.

    `from_initiator` is the Initiator flag: sent by the original initiator of the IKE SA.
    """

    spi_i: bytes
    spi_r: bytes
    next_payload: int
    exchange: int
    from_initiator: bool
    is_response: bool
    message_id: int
    length: int
    major: int = MAJOR_VERSION
    minor: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """An IKE message of version 2.0 whose protected part, if any, is still sealed.

    `skipped` has the unknown payloads that were passed over when decoding; encoding ignores it.
    """

    spi_i: bytes
    spi_r: bytes
    exchange: int
    message_id: int
    from_initiator: bool
    is_response: bool
    payloads: tuple[Payload, ...]
    skipped: tuple[UnknownPayload, ...] = ()

    @property
    def protected(self) -> Encrypted | EncryptedFragment | None:
        """The SK or SKF payload, which is the last one, or None in a message that is all in the clear."""
        last = self.payloads[-1] if self.payloads else None
        return last if isinstance(last, Encrypted | EncryptedFragment) else None

    def first(self, kind: type[P]) -> P | None:
        """The first payload of class `kind`, or None."""
        return next((payload for payload in self.payloads if isinstance(payload, kind)), None)

    def all(self, kind: type[P]) -> tuple[P, ...]:
        """The payloads of class `kind`, in their order."""
        return tuple(payload for payload in self.payloads if isinstance(payload, kind))

    def notify(self, notify_type: int) -> Notify | None:
        """The first notify of this type, or None."""
        return next(iter(self.notifies(notify_type)), None)

    def notifies(self, notify_type: int) -> tuple[Notify, ...]:
        """The notifies of this type, in their order."""
        return tuple(notify for notify in self.all(Notify) if notify.type == notify_type)


def encode_header(header: Header) -> bytes:
    """The 28 octets of a header. Raises WireError for a value that does not fit its field."""
    if len(header.spi_i) != 8 or len(header.spi_r) != 8:
        raise WireError("IKE header", f"SPIs of {len(header.spi_i)} and {len(header.spi_r)} octets, not 8")
    if not (0 <= header.major <= 15 and 0 <= header.minor <= 15):
        raise WireError("IKE header", f"version {header.major}.{header.minor} does not fit")
    flags = (_INITIATOR if header.from_initiator else 0) | (_RESPONSE if header.is_response else 0)
    return pack(
        "IKE header",
        _HEADER,
        header.spi_i,
        header.spi_r,
        header.next_payload,
        header.major << 4 | header.minor,
        header.exchange,
        flags,
        header.message_id,
        header.length,
    )


def decode_header(octets: bytes) -> Header:
    """Read the header of a whole message, of any version: what to say to another one is the caller's choice.

    Raises WireError if there are fewer than 28 octets or the length field is not `len(octets)`.
    """
    cursor = Cursor(octets, "IKE header")
    spi_i, spi_r, next_payload, version, exchange, flags, message_id, length = cursor.unpack(_HEADER)
    if length != len(octets):
        raise WireError("IKE header at octet 24", f"length {length} in a message of {len(octets)} octets")
    return Header(
        spi_i,
        spi_r,
        next_payload,
        exchange,
        flags & _INITIATOR != 0,
        flags & _RESPONSE != 0,
        message_id,
        length,
        version >> 4,
        version & 15,
    )


def encode_message(message: Message) -> bytes:
    """The octets of a message; a protected payload, already sealed, may be the last.

    Raises WireError for a value that has no valid octets.
    """
    first_type, chain = encode_chain(message.payloads)
    header = Header(
        message.spi_i,
        message.spi_r,
        first_type,
        message.exchange,
        message.from_initiator,
        message.is_response,
        message.message_id,
        HEADER_SIZE + len(chain),
    )
    return encode_header(header) + chain


def decode_message(octets: bytes) -> Message:
    """Read a message of version 2; what an SK or SKF payload contains stays sealed.

    Raises UnsupportedCriticalPayload for an unknown payload that may not be skipped, WireError for
    everything else that is not as RFC 7296 and RFC 7383 have it.
    """
    header = decode_header(octets)
    if header.major != MAJOR_VERSION:
        raise WireError("IKE header at octet 17", f"major version {header.major}, not {MAJOR_VERSION}")
    payloads, skipped = decode_chain(header.next_payload, Cursor(octets, "IKE", HEADER_SIZE))
    return Message(
        header.spi_i,
        header.spi_r,
        header.exchange,
        header.message_id,
        header.from_initiator,
        header.is_response,
        payloads,
        skipped,
    )


# SPIi, SPIr, next payload, version, exchange type, flags, message ID, length
_HEADER = Struct("!8s8sBBBBII")
_INITIATOR = 0x08
_RESPONSE = 0x20
