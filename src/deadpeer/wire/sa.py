"""The Security Association payload: proposals, transforms, attributes (RFC 7296 section 3.3)."""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Self

from deadpeer.wire.constants import AttributeType, PayloadType, Protocol
from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.errors import WireError

MAX_PROPOSALS = 64
MAX_TRANSFORMS = 128
MAX_ATTRIBUTES = 16

FIRST_ESP_SPI = 256
"""ESP and AH SPIs below this are reserved (RFC 4303 section 2.1)."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A transform attribute: an int value (0..65535) in the short form (TV), octets in the long (TLV)."""

    type: int
    value: bytes | int


@dataclass(frozen=True, slots=True)
class Transform:
    """One algorithm: its transform type (`TransformType`), its number there, and its attributes."""

    type: int
    id: int
    attributes: tuple[Attribute, ...] = ()

    @property
    def key_length(self) -> int | None:
        """Key length in bits, if the attribute is there."""
        for attribute in self.attributes:
            if attribute.type == AttributeType.KEY_LENGTH and isinstance(attribute.value, int):
                return attribute.value
        return None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A set of transforms for one protocol. `spi` has 0 or 8 octets for IKE, 4 for ESP and AH."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """One proposal or more, in the order of preference.

    Several are numbered 1, 2, 3 and so on. A single one may have any number from 1: as an answer it has
    that of the proposal chosen (RFC 7296 section 3.3.1).
    """

    payload_type: ClassVar[int] = PayloadType.SA

    proposals: tuple[Proposal, ...]

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        """Read the payload's body. Raises WireError."""
        proposals: list[Proposal] = []
        more = True
        while more:
            if len(proposals) == MAX_PROPOSALS:
                raise cursor.error(f"more than {MAX_PROPOSALS} proposals")
            proposal, more = _decode_proposal(cursor, len(proposals) + 1)
            proposals.append(proposal)
        cursor.expect_end()
        _check_numbers(proposals, cursor.place)
        return cls(tuple(proposals))

    def encode_body(self) -> bytes:
        """The payload's body. Raises WireError for a value that has no valid octets."""
        if not 1 <= len(self.proposals) <= MAX_PROPOSALS:
            raise WireError("SA", f"{len(self.proposals)} proposals, not 1 to {MAX_PROPOSALS}")
        _check_numbers(self.proposals, "SA")
        last = len(self.proposals) - 1
        return b"".join(
            _encode_proposal(proposal, more=index != last) for index, proposal in enumerate(self.proposals)
        )


# more (0 last, 2 more), reserved, length, number, protocol, SPI size, number of transforms
_PROPOSAL = Struct("!BBHBBBB")
_MORE_PROPOSALS = 2
# more (0 last, 3 more), reserved, length, type, reserved, ID
_TRANSFORM = Struct("!BBHBBH")
_MORE_TRANSFORMS = 3
# format bit and type, then value (TV) or length (TLV)
_ATTRIBUTE = Struct("!HH")
_SHORT_FORM = 0x8000

_SPI_SIZES: dict[int, tuple[int, ...]] = {Protocol.IKE: (0, 8), Protocol.AH: (4,), Protocol.ESP: (4,)}


def _check_numbers(proposals: list[Proposal] | tuple[Proposal, ...], where: str) -> None:
    numbers = [proposal.number for proposal in proposals]
    if len(numbers) == 1:
        if numbers[0] == 0:
            raise WireError(where, "proposal number 0")
    elif numbers != list(range(1, len(numbers) + 1)):
        raise WireError(where, f"proposals numbered {numbers}, not from 1 in steps of 1")


def _check_spi(protocol: int, spi: bytes, where: str) -> None:
    sizes = _SPI_SIZES.get(protocol)
    if sizes is None:
        return
    if len(spi) not in sizes:
        raise WireError(where, f"SPI of {len(spi)} octets for protocol {protocol}")
    if protocol != Protocol.IKE and int.from_bytes(spi) < FIRST_ESP_SPI:
        raise WireError(where, f"SPI {spi.hex()} is a reserved one")


def _decode_proposal(cursor: Cursor, position: int) -> tuple[Proposal, bool]:
    more, _, length, number, protocol, spi_size, count = cursor.unpack(_PROPOSAL)
    if more not in (0, _MORE_PROPOSALS):
        raise cursor.error(f"first octet of proposal {position} is {more}, not 0 or 2")
    if length < _PROPOSAL.size:
        raise cursor.error(f"length {length} of proposal {position} is less than its header")
    body = cursor.sub(length - _PROPOSAL.size, f"proposal {position}")
    if count > MAX_TRANSFORMS:
        raise body.error(f"{count} transforms, more than {MAX_TRANSFORMS}")
    spi = body.take(spi_size)
    _check_spi(protocol, spi, body.place)
    transforms = tuple(_decode_transform(body, index, last=index == count) for index in range(1, count + 1))
    body.expect_end()
    return Proposal(number, protocol, spi, transforms), more != 0


def _decode_transform(cursor: Cursor, position: int, *, last: bool) -> Transform:
    more, _, length, type_, _, id_ = cursor.unpack(_TRANSFORM)
    if more != (0 if last else _MORE_TRANSFORMS):
        raise cursor.error(f"first octet of transform {position} is {more}, against the number of transforms")
    if length < _TRANSFORM.size:
        raise cursor.error(f"length {length} of transform {position} is less than its header")
    if length == _TRANSFORM.size:
        return Transform(type_, id_)
    body = cursor.sub(length - _TRANSFORM.size, f"transform {position}")
    attributes: list[Attribute] = []
    while body.remaining:
        if len(attributes) == MAX_ATTRIBUTES:
            raise body.error(f"more than {MAX_ATTRIBUTES} attributes")
        attributes.append(_decode_attribute(body))
    _check_key_length(attributes, body.place)
    return Transform(type_, id_, tuple(attributes))


def _decode_attribute(cursor: Cursor) -> Attribute:
    type_, value = cursor.unpack(_ATTRIBUTE)
    if type_ & _SHORT_FORM:
        return Attribute(type_ & ~_SHORT_FORM, value)
    return Attribute(type_, cursor.take(value))


def _check_key_length(attributes: list[Attribute] | tuple[Attribute, ...], where: str) -> None:
    """A key length has the short form (RFC 7296 section 3.3.5), and two of them would say nothing."""
    lengths = [attribute for attribute in attributes if attribute.type == AttributeType.KEY_LENGTH]
    if len(lengths) > 1:
        raise WireError(where, "more than one key length")
    if lengths and not isinstance(lengths[0].value, int):
        raise WireError(where, "key length in the long attribute form")


def _encode_proposal(proposal: Proposal, *, more: bool) -> bytes:
    where = f"SA/proposal {proposal.number}"
    _check_spi(proposal.protocol, proposal.spi, where)
    count = len(proposal.transforms)
    if count > MAX_TRANSFORMS:
        raise WireError(where, f"{count} transforms, more than {MAX_TRANSFORMS}")
    body = proposal.spi + b"".join(
        _encode_transform(transform, f"{where}/transform {index}", more=index != count)
        for index, transform in enumerate(proposal.transforms, 1)
    )
    length = _PROPOSAL.size + len(body)
    header = pack(
        where,
        _PROPOSAL,
        _MORE_PROPOSALS if more else 0,
        0,
        length,
        proposal.number,
        proposal.protocol,
        len(proposal.spi),
        count,
    )
    return header + body


def _encode_transform(transform: Transform, where: str, *, more: bool) -> bytes:
    if len(transform.attributes) > MAX_ATTRIBUTES:
        raise WireError(where, f"more than {MAX_ATTRIBUTES} attributes")
    _check_key_length(transform.attributes, where)
    body = b"".join(_encode_attribute(attribute, where) for attribute in transform.attributes)
    length = _TRANSFORM.size + len(body)
    more_octet = _MORE_TRANSFORMS if more else 0
    return pack(where, _TRANSFORM, more_octet, 0, length, transform.type, 0, transform.id) + body


def _encode_attribute(attribute: Attribute, where: str) -> bytes:
    if not 0 <= attribute.type < _SHORT_FORM:
        raise WireError(where, f"attribute type {attribute.type} needs more than 15 bits")
    if isinstance(attribute.value, int):
        return pack(where, _ATTRIBUTE, attribute.type | _SHORT_FORM, attribute.value)
    return pack(where, _ATTRIBUTE, attribute.type, len(attribute.value)) + attribute.value
