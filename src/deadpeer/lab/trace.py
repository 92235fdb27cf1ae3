"""What a bystander sees of a datagram on the wire, and the trace of the relay as lines of JSON.

Only what is in the clear is looked at: the IKE header, unprotected notifies, the ESP SPI and sequence
number. A token's octets never enter the trace.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from deadpeer.crash.sir_wire import CHECK_SPI, Verb
from deadpeer.wire import (
    Encrypted,
    EncryptedFragment,
    ExchangeType,
    Notify,
    NotifyType,
    UdpKind,
    WireError,
    classify,
    decode_esp_header,
    decode_header,
    decode_message,
    label,
    strip_marker,
)


class Way(StrEnum):
    """The direction of a datagram through the relay."""

    TO_BOB = "a>b"
    TO_ALICE = "b>a"


class Lane(StrEnum):
    """Which pair of UDP ports a datagram uses: that of IKE alone, or the one that IKE and ESP share."""

    IKE = "ike"
    NAT_T = "nat-t"


@dataclass(frozen=True, slots=True)
class IkeSeen:
    """The visible part of an IKE message. SPIs are hexadecimal text.

    `notifies` names the unprotected ones; `about` is the ESP SPI that an INVALID_SPI complains of.
    `fragment` is `(number, total)` of an SKF message.
    """

    exchange: int
    response: bool
    initiator: bool
    message_id: int
    spi_i: str
    spi_r: str
    protected: bool = False
    fragment: tuple[int, int] | None = None
    notifies: tuple[str, ...] = ()
    about: str = ""

    @property
    def exchange_name(self) -> str:
        return label(ExchangeType, self.exchange)


@dataclass(frozen=True, slots=True)
class EspSeen:
    """The visible part of an ESP packet: `spi` as hexadecimal text, `seq` from the wire."""

    spi: str
    seq: int


@dataclass(frozen=True, slots=True)
class OtherSeen:
    """A NAT keepalive, or octets that are neither IKE nor ESP."""

    kind: str


Seen = IkeSeen | EspSeen | OtherSeen


@dataclass(frozen=True, slots=True)
class Sighting:
    """One datagram on its way: when it came to the relay and left it (monotonic ns).

    `delivered_ns` None: the relay dropped it. `size` counts UDP payload octets.
    """

    way: Way
    lane: Lane
    size: int
    arrived_ns: int
    delivered_ns: int | None
    seen: Seen

    def to_json(self) -> str:
        """One line, without the line's end."""
        record = asdict(self)
        record["seen"] = {_TAGS[type(self.seen)]: record["seen"]}
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Sighting:
        """The inverse of `to_json`, from the parsed line. Raises KeyError or ValueError for anything else."""
        ((tag, fields),) = record["seen"].items()
        return cls(
            Way(record["way"]),
            Lane(record["lane"]),
            int(record["size"]),
            int(record["arrived_ns"]),
            None if record["delivered_ns"] is None else int(record["delivered_ns"]),
            _READERS[tag](fields),
        )


def look(payload: bytes, lane: Lane) -> Seen:
    """Describe a UDP payload. Never raises: what can't be read is `OtherSeen("garbage")`."""
    shared = lane is Lane.NAT_T
    kind = classify(payload, shared)
    try:
        if kind is UdpKind.IKE:
            return _look_at_ike(strip_marker(payload) if shared else payload)
        if kind is UdpKind.ESP:
            header = decode_esp_header(payload)
            return EspSeen(f"{header.spi:08x}", header.sequence)
    except WireError:
        return OtherSeen("garbage")
    return OtherSeen(kind.value)


def _look_at_ike(octets: bytes) -> IkeSeen:
    header = decode_header(octets)
    seen = IkeSeen(
        header.exchange,
        header.is_response,
        header.from_initiator,
        header.message_id,
        header.spi_i.hex(),
        header.spi_r.hex(),
    )
    try:
        message = decode_message(octets)
    except WireError:
        return seen
    return replace(
        seen,
        protected=message.protected is not None,
        fragment=_fragment(message.protected),
        notifies=tuple(_name(n) for n in message.all(Notify)),
        about=next((n.data.hex() for n in message.notifies(NotifyType.INVALID_SPI)), ""),
    )


def _name(notify: Notify) -> str:
    if notify.type != CHECK_SPI:
        return notify.name
    verb = notify.data[0] if len(notify.data) == 1 else 0
    return f"CHECK_SPI {label(Verb, verb)}"


def _fragment(sealed: Encrypted | EncryptedFragment | None) -> tuple[int, int] | None:
    return (sealed.number, sealed.total) if isinstance(sealed, EncryptedFragment) else None


def _read_ike(fields: dict[str, Any]) -> IkeSeen:
    fragment = fields["fragment"]
    return IkeSeen(
        **{
            **fields,
            "fragment": None if fragment is None else (int(fragment[0]), int(fragment[1])),
            "notifies": tuple(fields["notifies"]),
        }
    )


_TAGS = {IkeSeen: "ike", EspSeen: "esp", OtherSeen: "other"}
_READERS: dict[str, Callable[[dict[str, Any]], Seen]] = {
    "ike": _read_ike,
    "esp": lambda fields: EspSeen(**fields),
    "other": lambda fields: OtherSeen(**fields),
}
