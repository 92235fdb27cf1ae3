"""Configuration payload (RFC 7296 section 3.15)."""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Self

from deadpeer.wire.constants import PayloadType
from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.errors import WireError

MAX_CONFIG_ATTRIBUTES = 256


@dataclass(frozen=True, slots=True)
class ConfigAttribute:
    """`type` has 15 bits; an empty value asks for one."""

    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Configuration:
    """Attributes that are requested, given, set or acknowledged, as `cfg_type` (`ConfigType`) says."""

    payload_type: ClassVar[int] = PayloadType.CP

    cfg_type: int
    attributes: tuple[ConfigAttribute, ...]

    @classmethod
    def decode_body(cls, cursor: Cursor) -> Self:
        (cfg_type,) = cursor.unpack(_TYPE)
        attributes: list[ConfigAttribute] = []
        while cursor.remaining:
            if len(attributes) == MAX_CONFIG_ATTRIBUTES:
                raise cursor.error(_TOO_MANY)
            type_, length = cursor.unpack(_ATTRIBUTE)
            # the top bit is reserved and ignored
            attributes.append(ConfigAttribute(type_ & 0x7FFF, cursor.take(length)))
        return cls(cfg_type, tuple(attributes))

    def encode_body(self) -> bytes:
        if len(self.attributes) > MAX_CONFIG_ATTRIBUTES:
            raise WireError("CP", _TOO_MANY)
        return pack("CP", _TYPE, self.cfg_type) + b"".join(map(_encode_attribute, self.attributes))


_TYPE = Struct("!B3x")
# type, length of the value
_ATTRIBUTE = Struct("!HH")
_TOO_MANY = f"more than {MAX_CONFIG_ATTRIBUTES} attributes"


def _encode_attribute(attribute: ConfigAttribute) -> bytes:
    if attribute.type > 0x7FFF:
        raise WireError("CP", f"attribute type {attribute.type} needs more than 15 bits")
    return pack("CP", _ATTRIBUTE, attribute.type, len(attribute.value)) + attribute.value
