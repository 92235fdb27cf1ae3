"""IKE SPIs that their maker recognizes after a crash.

An IKE SPI of ours is, under a keyed permutation of 64 bits: boot epoch (20 bits) | check tag (16, zero)
| member number (8) | random (20). To everybody else it is 64 random-looking bits. After a crash, a request
whose SPI of ours does not decode is garbage and can't use up what real peers need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from deadpeer.crypto import Entropy

EPOCH_BITS = 20
TAG_BITS = 16
MEMBER_BITS = 8
RANDOM_BITS = 20

MAX_KEYS = 5
"""Keys of an `SpiRing`: one in use, three older ones, one that is announced."""

KEY_SIZE = 32
"""Octets of the key of `SpiCodec`."""


@dataclass(frozen=True, slots=True)
class SpiOrigin:
    """Who chose an SPI: in which boot epoch (modulo 2**20), and which member of the cluster."""

    epoch: int
    member: int


class SpiCodec:
    """Permutes an SPI's fields into its 8 octets and back. `key`: 32 octets that survive a crash."""

    __slots__ = ("_block",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"an SPI key has {KEY_SIZE} octets, not {len(key)}")
        # One block, one call: ECB here is the bare block cipher as a PRF, no message is enciphered with it.
        self._block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305

    def encode(self, epoch: int, member: int, random_bits: int) -> bytes:
        """The 8 octets of an SPI. `epoch` and `random_bits` count modulo 2**20, `member` is 0 to 255."""
        if not 0 <= member < 1 << MEMBER_BITS:
            raise ValueError(f"member number {member} is not 0 to {(1 << MEMBER_BITS) - 1}")
        high = (epoch & _EPOCH_MASK) << (32 - EPOCH_BITS)
        # The tag is zero: its upper 12 bits end the left half, its lower 4 bits begin the right half.
        low = member << RANDOM_BITS | random_bits & _RANDOM_MASK
        for number in range(_ROUNDS):
            high, low = low, high ^ self._round(number, low)
        return _HALVES.pack(high, low)

    def decode(self, spi: bytes) -> SpiOrigin | None:
        """Where an SPI of 8 octets comes from, or None if its check tag is wrong: it is none of ours.

        Of what was not made with this key one in 2**16 passes; its epoch is then a random one.
        """
        if len(spi) != 8:
            return None
        high, low = _HALVES.unpack(spi)
        for number in reversed(range(_ROUNDS)):
            high, low = low ^ self._round(number, high), high
        if high & _HIGH_TAG or low & _LOW_TAG:
            return None
        return SpiOrigin(high >> (32 - EPOCH_BITS), low >> RANDOM_BITS & _MEMBER_MASK)

    def _round(self, number: int, half: int) -> int:
        out: int = _WORD.unpack_from(self._block.update(_ROUND_INPUT.pack(number, half)))[0]
        return out


def lives_since(epoch: int, spi_epoch: int) -> int | None:
    """How many lives before `epoch` an SPI's epoch (20 bits) was; 0: that one; None: it has not come yet.

    Once the counter has passed 2**20 every value of those bits has been used, and the nearest past one is
    meant.
    """
    if epoch < _EPOCHS and spi_epoch > epoch:
        return None
    return (epoch - spi_epoch) % _EPOCHS


class SpiReader(Protocol):
    """Whatever can tell where an IKE SPI comes from."""

    def decode(self, spi: bytes) -> SpiOrigin | None:
        """Where an SPI of 8 octets comes from, or None if it is none of ours."""
        ...


class SpiRing:
    """Several keys: new SPIs are made with the first one, those of all are known.

    Each further key lets one more in 2**16 of all foreign SPIs pass.
    """

    __slots__ = ("_codecs",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.renew(keys)

    def renew(self, keys: Sequence[bytes]) -> None:
        """Use these keys from now on; SPIs of keys that are not among them are nobody's."""
        if not 1 <= len(keys) <= MAX_KEYS:
            raise ValueError(f"{len(keys)} SPI keys, not 1 to {MAX_KEYS}")
        self._codecs = tuple(SpiCodec(key) for key in keys)

    def encode(self, epoch: int, member: int, random_bits: int) -> bytes:
        """The 8 octets of an SPI under the newest key."""
        return self._codecs[0].encode(epoch, member, random_bits)

    def decode(self, spi: bytes) -> SpiOrigin | None:
        """Where an SPI of 8 octets comes from, by the first key under which it passes."""
        return next(iter(self.origins(spi)), None)

    def origins(self, spi: bytes) -> list[SpiOrigin]:
        """Where an SPI may come from, by each key under which it passes."""
        found = (codec.decode(spi) for codec in self._codecs)
        return [origin for origin in found if origin is not None]


class EspCodec:
    """ESP SPIs (32 bits) that name their member: member number (8 bits) | random (24), permuted.

    There is no room for an epoch or a check tag, so that every SPI names some member: who has it is all
    that another member may ask, and never whether it lives.
    """

    __slots__ = ("_block",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"an SPI key has {KEY_SIZE} octets, not {len(key)}")
        self._block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305

    def encode(self, member: int, random_bits: int) -> int:
        """An SPI, perhaps a reserved one. `member` is 0 to 255, `random_bits` counts modulo 2**24."""
        if not 0 <= member < 1 << MEMBER_BITS:
            raise ValueError(f"member number {member} is not 0 to {(1 << MEMBER_BITS) - 1}")
        value = member << _ESP_RANDOM_BITS | random_bits & (1 << _ESP_RANDOM_BITS) - 1
        high, low = value >> 16, value & 0xFFFF
        for number in range(_ROUNDS):
            high, low = low, high ^ self._round(number, low)
        return high << 16 | low

    def member(self, spi: int) -> int:
        """The number of the member that an SPI (32 bits) belongs to."""
        high, low = spi >> 16, spi & 0xFFFF
        for number in reversed(range(_ROUNDS)):
            high, low = low ^ self._round(number, high), high
        return (high << 16 | low) >> _ESP_RANDOM_BITS

    def _round(self, number: int, half: int) -> int:
        out: int = _WORD.unpack_from(self._block.update(_ESP_INPUT.pack(number, 1, half)))[0]
        return out & 0xFFFF


class EpochSpis:
    """The `SpiSource` of one boot epoch and member. With `esp`, ESP SPIs name the member too."""

    def __init__(
        self,
        codec: SpiCodec | SpiRing,
        epoch: int,
        member: int,
        entropy: Entropy,
        esp: EspCodec | None = None,
    ) -> None:
        self._esp = esp
        self._codec = codec
        self._epoch = epoch
        self._member = member
        self._entropy = entropy

    def ike_spi(self) -> bytes:
        """A fresh SPI of 8 octets, never all zero (RFC 7296 section 3.1: zero is "not known yet")."""
        while True:
            random_bits = int.from_bytes(self._entropy.octets(3), "big")
            spi = self._codec.encode(self._epoch, self._member, random_bits)
            if any(spi):
                return spi

    def esp_spi(self) -> int:
        """An ESP SPI of 32 bits, random but for what it may tell other members."""
        if self._esp is None:
            return int.from_bytes(self._entropy.octets(4), "big")
        return self._esp.encode(self._member, int.from_bytes(self._entropy.octets(3), "big"))


# A balanced Feistel network over halves of 32 bits, each round function AES under one key, set apart by
# the round number. Four rounds are a strong pseudorandom permutation up to 2**16 seen values (Luby and
# Rackoff); six resist up to about 2**32 chosen ones (Patarin). An attacker sees only SPIs that we chose
# and can't ask for an inverse, so eight leave a margin, at about 1 microsecond a round. With a strong
# permutation a constant tag is as good as a computed one: any forged value inverts to random bits.
_ROUNDS = 8

_HALVES = Struct("!II")
_WORD = Struct("!I")
_ROUND_INPUT = Struct("!B3xI8x")
_ESP_INPUT = Struct("!B2xBI8x")
_ESP_RANDOM_BITS = 32 - MEMBER_BITS

_EPOCHS = 1 << EPOCH_BITS
_EPOCH_MASK = (1 << EPOCH_BITS) - 1
_RANDOM_MASK = (1 << RANDOM_BITS) - 1
_MEMBER_MASK = (1 << MEMBER_BITS) - 1
_HIGH_TAG = (1 << (32 - EPOCH_BITS)) - 1
_LOW_TAG = ((1 << (TAG_BITS - (32 - EPOCH_BITS))) - 1) << (MEMBER_BITS + RANDOM_BITS)
