"""Off-path forgers: of INVALID_SPI, INVALID_IKE_SPI, tokens and CHECK_SPI answers. Pure.

Each aims at both gateways, in the name of the other one.
"""

from __future__ import annotations

from deadpeer.crash.sir_wire import COOKIE_SIZE, Check, Subject, Verb, encode
from deadpeer.lab.attacks.attackers import Shot, Stranger
from deadpeer.lab.attacks.forgery import (
    TOKEN,
    KnownSa,
    ike_datagram,
    invalid_ike_spi,
    invalid_spi,
)
from deadpeer.lab.garbage import Dice
from deadpeer.lab.trace import Lane, Way
from deadpeer.wire import ExchangeType, Message, Protocol

MESSAGE_IDS = 64
"""He does not know where the windows stand, and living SAs are young: he tries so many message IDs."""
PROVOKE_EVERY = 20
"""Some evidence counts only while a request is in flight: one in so many shots has the victim send one."""


class Forger(Stranger):
    """Helpers to forge in the name of the victim's peer."""

    def outbound_of(self, way: Way, sa: KnownSa) -> bytes:
        """An ESP SPI with which the one sends whom `way` points at."""
        return self.one_of(sa.to_bob if way is Way.TO_ALICE else sa.to_alice)

    def as_peer(self, way: Way, message: Message, what: str, lane: Lane | None = None) -> Shot:
        lane = self.lane() if lane is None else lane
        return Shot(None, way, lane, ike_datagram(message, lane), what)

    def provocation(self) -> Shot:
        """INVALID_SPI about a child of the victim: it checks whether its peer lives."""
        way = self.way()
        return self.as_peer(way, invalid_spi(self.outbound_of(way, self.target())), "INVALID_SPI")

    def tokens(self) -> list[bytes]:
        """One to four tokens as they look, of 16 to 128 octets (RFC 6290 section 4.1)."""
        size = TOKEN if self.dice.below(2) else TOKEN + self.dice.below(128 - TOKEN + 1)
        return [self.dice.octets(size) for _ in range(1 + self.dice.below(4))]


class InvalidSpi(Forger):
    """Floods N(INVALID_SPI) about the children that the victims send with."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.tricks = (self.provocation,)


class InvalidIkeSpi(Forger):
    """Floods N(INVALID_IKE_SPI) in answers to every message ID."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.tricks = (self.provocation, *[self._denial] * (PROVOKE_EVERY - 1))

    def _denial(self) -> Shot:
        way, sa = self.way(), self.target()
        exchange = ExchangeType.CREATE_CHILD_SA if self.dice.below(4) == 0 else ExchangeType.INFORMATIONAL
        from_initiator = (way is Way.TO_BOB) == sa.alice_began
        message = invalid_ike_spi(sa, from_initiator, self.dice.below(MESSAGE_IDS), (), exchange)
        return self.as_peer(way, message, "INVALID_IKE_SPI")


class Token(Forger):
    """Guesses tokens: one to four random ones behind INVALID_IKE_SPI, and behind INVALID_SPI."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        pairs = [self._with_ike_spi, self._with_esp_spi] * (PROVOKE_EVERY // 2)
        self.tricks = (self.provocation, *pairs)

    def _with_ike_spi(self) -> Shot:
        way, sa = self.way(), self.target()
        from_initiator = (way is Way.TO_BOB) == sa.alice_began
        message = invalid_ike_spi(sa, from_initiator, self.dice.below(MESSAGE_IDS), self.tokens())
        return self.as_peer(way, message, "INVALID_IKE_SPI + QCD_TOKEN")

    def _with_esp_spi(self) -> Shot:
        way, sa = self.way(), self.target()
        header = sa if self.dice.below(2) else None
        message = invalid_spi(self.outbound_of(way, sa), self.tokens(), header)
        return self.as_peer(way, message, "INVALID_SPI + QCD_TOKEN")


class CheckSpi(Forger):
    """Forges CHECK_SPI NACKs with guessed cookies, about the IKE SA and about its child."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.tricks = (self.provocation, *[self._nack] * (PROVOKE_EVERY - 1))

    def _nack(self) -> Shot:
        way, sa = self.way(), self.target()
        subject = Subject.ike(sa.spi_i, sa.spi_r)
        if self.dice.below(3) == 0:
            subject = Subject(Protocol.ESP, self.outbound_of(way, sa))
        from_initiator = (way is Way.TO_BOB) == sa.alice_began
        check = Check(Verb.NACK, subject, self._cookie(), from_initiator)
        return self.as_peer(way, encode(check), "CHECK_SPI NACK")

    def _cookie(self) -> bytes:
        """The first generation and a time that may be right; the MAC he can only guess."""
        size = COOKIE_SIZE if self.dice.below(8) else 1 + self.dice.below(64)
        return (bytes(2) + self.dice.octets(size))[:size]
