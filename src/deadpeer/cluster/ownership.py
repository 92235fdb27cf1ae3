"""Whose an SPI is, and whether the life that it was made in goes on: what the SPI alone tells.

Who has lost an SA may say so only if nobody can have it. The owner of an SPI looks into its own table of
SAs; everybody else may speak of it once the owner's life has ended, and never before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from deadpeer.cluster.records import View
from deadpeer.cluster.spi import EPOCH_BITS, EspCodec, SpiCodec, SpiOrigin, SpiRing, lives_since


class Standing(Enum):
    """What is known of an SPI."""

    UNKNOWN = "made by nobody here, or in a life that has not come yet"
    PRESENT = "made by this member in its present life: its table of SAs decides"
    PAST = "made by this member in an earlier life"
    LIVING = "made by another member, whose life may go on"
    ENDED = "made by another member in a life that has ended"


class Ownership(Protocol):
    """What a member knows of all SPIs that the members make."""

    @property
    def alone(self) -> bool:
        """Whether there is no other member, so that an SPI that nobody made can't be another's."""
        ...

    @property
    def ended_lives(self) -> int:
        """How many lives of other members have ended, as far as is known: with each more, its peers come."""
        ...

    def of_ike(self, spi: bytes) -> Standing:
        """The standing of an IKE SPI of 8 octets."""
        ...

    def of_esp(self, spi: int) -> Standing:
        """The standing of an inbound ESP SPI."""
        ...


class Ruling(Enum):
    """What may be said to a stranger who uses SPIs that no SA here has."""

    SILENCE = "another member may have the SA"
    GARBAGE = "nobody here made that SPI: nothing is given away by saying so"
    RECENT = "ours, of this life"
    RETURNING = "of a life that has ended"


def rule(own: Standing, other: Standing, *, alone: bool) -> Ruling:
    """The one table. `own`: the SPI that should be one of ours, `other`: the one that should be the peer's.

    Which is which the stranger says, by a flag in the clear: so that the other one counts as well wherever
    it could name a living SA.
    """
    if Standing.LIVING in (own, other):
        return Ruling.SILENCE
    match own:
        case Standing.PRESENT:
            return Ruling.RECENT
        case Standing.PAST | Standing.ENDED:
            return Ruling.RETURNING
        case _:
            return Ruling.GARBAGE if alone else Ruling.SILENCE


@dataclass(frozen=True, slots=True)
class Holder:
    """Another member that may have an SPI's SA. `leased`: it has a lease for the life that made the SPI."""

    member: int
    leased: bool


class Single:
    """One member by itself: every other number in an SPI of our key is one that we do not know."""

    alone = True
    ended_lives = 0

    def __init__(self, codec: SpiCodec, epoch: int, member: int = 0) -> None:
        self._codec = codec
        self._epoch = epoch
        self._member = member

    def of_ike(self, spi: bytes) -> Standing:
        origin = self._codec.decode(spi)
        lives = None if origin is None else lives_since(self._epoch, origin.epoch)
        if origin is None or lives is None:
            return Standing.UNKNOWN
        if origin.member != self._member:
            return Standing.LIVING
        return Standing.PAST if lives else Standing.PRESENT

    def of_esp(self, spi: int) -> Standing:
        """Nothing can be read from 32 random bits."""
        return Standing.UNKNOWN


class Cluster:
    """One member of several. `view` is replaced with each piece of news; it may be old, never wrong."""

    alone = False

    def __init__(self, spis: SpiRing, esp: EspCodec, epoch: int, member: int, view: View) -> None:
        self.spis = spis
        self.view = view
        self._esp = esp
        self._epoch = epoch
        self._member = member

    @property
    def ended_lives(self) -> int:
        return sum(record.ended for number, record in self.view.members.items() if number != self._member)

    def of_ike(self, spi: bytes) -> Standing:
        return _cautious(self._of_origin(origin) for origin in self.spis.origins(spi))

    def of_esp(self, spi: int) -> Standing:
        """Another member's has ended once that member is written off. As the SPI names no epoch, a view that
        is late may take a child of its next life for one of the last: good for a hint, and no more.
        """
        number = self._esp.member(spi)
        if number == self._member:
            return Standing.PRESENT
        record = self.view.members.get(number)
        if record is None or record.ended < record.registered or number in self.view.leases:
            return Standing.LIVING
        return Standing.ENDED

    def holder(self, spi: bytes) -> Holder | None:
        """The other member that made this IKE SPI in a life that may go on; rather one that has a lease."""
        found = None
        for origin in self.spis.origins(spi):
            number, lease = origin.member, self.view.leases.get(origin.member)
            if number == self._member:
                continue
            if lease is not None and origin.epoch == lease.epoch % (1 << EPOCH_BITS):
                return Holder(number, leased=True)
            if found is None and self._of_origin(origin) is Standing.LIVING:
                found = Holder(number, leased=False)
        return found

    def esp_holder(self, spi: int) -> Holder | None:
        """The other member that makes such ESP SPIs and may live. Nobody, if no member has that number."""
        number = self._esp.member(spi)
        record = self.view.members.get(number)
        if number == self._member:
            return None
        if number in self.view.leases:
            return Holder(number, leased=True)
        return None if record is None or record.ended >= record.registered else Holder(number, leased=False)

    def _of_origin(self, origin: SpiOrigin) -> Standing:
        if origin.member == self._member:
            return _own(self._epoch, origin)
        record = self.view.members.get(origin.member)
        if record is None:
            return Standing.LIVING  # a member that we have not heard of yet
        # Half of all 20-bit epochs lie behind the registered one, the others before it: an epoch above it
        # is one that we have not heard of yet.
        behind = (record.registered - origin.epoch) % (1 << EPOCH_BITS)
        epoch = record.registered - behind
        ended = behind < 1 << (EPOCH_BITS - 1) and 0 < epoch <= record.ended
        return Standing.ENDED if ended else Standing.LIVING


class AddressHeld:
    """One of two that share an address: who holds it speaks for both, unless the partner claims it too.

    `partner_lives`: whether the partner claims the address as well, or has not been asked yet.
    """

    alone = False

    def __init__(self, spis: SpiRing, esp: EspCodec, epoch: int, member: int) -> None:
        self.spis = spis
        self.ended_lives = 0
        self._partner_lives = True
        self._esp = esp
        self._epoch = epoch
        self._member = member

    @property
    def partner_lives(self) -> bool:
        return self._partner_lives

    @partner_lives.setter
    def partner_lives(self, lives: bool) -> None:
        self._partner_lives = lives
        if not lives:
            # Once in a life of ours: who plays old words of the partner's back makes us doubt, each second.
            self.ended_lives = 1

    def of_ike(self, spi: bytes) -> Standing:
        return _cautious(
            _own(self._epoch, origin) if origin.member == self._member else self._partners
            for origin in self.spis.origins(spi)
        )

    def of_esp(self, spi: int) -> Standing:
        """An SPI of 32 bits names its member and not its life."""
        return Standing.PRESENT if self._esp.member(spi) == self._member else self._partners

    def holder(self, spi: bytes) -> Holder | None:
        """The partner, if it made this IKE SPI and may hold the address as well."""
        if not self.partner_lives or self.of_ike(spi) is not Standing.LIVING:
            return None
        return Holder(1 - self._member, leased=False)

    def esp_holder(self, spi: int) -> Holder | None:
        """The partner, if it makes such ESP SPIs and may hold the address as well."""
        partner = 1 - self._member
        if not self.partner_lives or self._esp.member(spi) != partner:
            return None
        return Holder(partner, leased=False)

    @property
    def _partners(self) -> Standing:
        return Standing.LIVING if self.partner_lives else Standing.ENDED


def _own(epoch: int, origin: SpiOrigin) -> Standing:
    """Of an SPI of ours, in the life with this epoch."""
    lives = lives_since(epoch, origin.epoch)
    if lives is None:
        return Standing.UNKNOWN
    return Standing.PAST if lives else Standing.PRESENT


def _cautious(standings: Iterable[Standing]) -> Standing:
    """Of an SPI that passes under several keys (one in 2**16 does by chance): what says the least."""
    return min(standings, key=_CAUTION.index, default=Standing.UNKNOWN)


_CAUTION = (Standing.LIVING, Standing.PRESENT, Standing.PAST, Standing.ENDED, Standing.UNKNOWN)
