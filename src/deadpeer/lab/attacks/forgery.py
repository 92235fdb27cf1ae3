"""The datagrams that attackers make up: whole UDP payloads, from nothing but SPIs and random octets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deadpeer.lab.garbage import Dice
from deadpeer.lab.trace import Lane
from deadpeer.wire import (
    ExchangeType,
    Header,
    Message,
    Notify,
    NotifyType,
    PayloadType,
    Protocol,
    add_marker,
    encode_header,
    encode_message,
)

HEADER = 28
TOKEN = 16


@dataclass(frozen=True, slots=True)
class KnownSa:
    """What a stranger may know of an IKE SA: its pair of SPIs (8 octets each), whether Alice began it, and
    the ESP SPIs (4 octets each) that go to Bob and to Alice."""

    spi_i: bytes
    spi_r: bytes
    alice_began: bool
    to_bob: tuple[bytes, ...] = ()
    to_alice: tuple[bytes, ...] = ()

    @classmethod
    def made_up(cls, dice: Dice) -> KnownSa:
        """One that most likely does not exist."""
        return cls(dice.octets(8), dice.octets(8), True, (esp_spi(dice),), (esp_spi(dice),))


def esp_spi(dice: Dice) -> bytes:
    """A random ESP SPI, not one of the reserved ones."""
    return bytes([1 + dice.below(255)]) + dice.octets(3)


def ike_datagram(message: Message, lane: Lane) -> bytes:
    """A message as the payload of a datagram of this lane."""
    octets = encode_message(message)
    return add_marker(octets) if lane is Lane.NAT_T else octets


def invalid_spi(spi: bytes, tokens: Sequence[bytes] = (), sa: KnownSa | None = None) -> Message:
    """N(INVALID_SPI) about an ESP SPI (RFC 7296 section 1.5), with tokens (RFC 6290 section 8.2)."""
    pair = (sa.spi_i, sa.spi_r) if sa is not None else (bytes(8), bytes(8))
    payloads = (Notify(NotifyType.INVALID_SPI, spi), *map(_token, tokens))
    return Message(*pair, ExchangeType.INFORMATIONAL, 0, True, False, payloads)


def invalid_ike_spi(
    sa: KnownSa,
    from_initiator: bool,
    message_id: int,
    tokens: Sequence[bytes] = (),
    exchange: int = ExchangeType.INFORMATIONAL,
) -> Message:
    """N(INVALID_IKE_SPI), the answer of one who does not know the SA (RFC 7296 section 2.21.4), with tokens
    (RFC 6290 section 4.5)."""
    payloads = (Notify(NotifyType.INVALID_IKE_SPI), *map(_token, tokens))
    return Message(sa.spi_i, sa.spi_r, exchange, message_id, from_initiator, True, payloads)


def protected_request(
    spi_i: bytes, spi_r: bytes, from_initiator: bool, message_id: int, sealed: bytes, lane: Lane
) -> bytes:
    """A datagram that looks like a protected INFORMATIONAL request; `sealed` is what no key has sealed."""
    body = bytes([PayloadType.NONE, 0]) + (4 + len(sealed)).to_bytes(2) + sealed
    header = Header(
        spi_i,
        spi_r,
        PayloadType.SK,
        ExchangeType.INFORMATIONAL,
        from_initiator,
        False,
        message_id,
        HEADER + len(body),
    )
    octets = encode_header(header) + body
    return add_marker(octets) if lane is Lane.NAT_T else octets


def esp_packet(spi: bytes, sequence: int, sealed: bytes) -> bytes:
    """A datagram that looks like ESP in UDP."""
    return spi + sequence.to_bytes(4) + sealed


def with_spis(payload: bytes, lane: Lane, sa: KnownSa) -> bytes:
    """An IKE datagram with the SPIs of another SA in its header."""
    marker = 4 if lane is Lane.NAT_T else 0
    return payload[:marker] + sa.spi_i + sa.spi_r + payload[marker + 16 :]


def _token(octets: bytes) -> Notify:
    return Notify(NotifyType.QCD_TOKEN, octets, Protocol.IKE)
