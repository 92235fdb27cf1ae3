"""An off-path enumerator: asks for tokens, of SPIs that he makes up and of living ones. Pure."""

from __future__ import annotations

from deadpeer.lab.attacks.attackers import Shot
from deadpeer.lab.attacks.forgers import MESSAGE_IDS, Forger
from deadpeer.lab.attacks.forgery import (
    KnownSa,
    esp_packet,
    esp_spi,
    ike_datagram,
    invalid_ike_spi,
    invalid_spi,
    protected_request,
)
from deadpeer.lab.attacks.replays import read_message
from deadpeer.lab.garbage import Dice
from deadpeer.lab.trace import Lane, Way
from deadpeer.wire import NotifyType

SOURCES = 8
SMALLEST = 57 - 32
"""What is behind the headers in the smallest protected request that is plausible."""
KEPT_TOKENS = 64


class Enumerator(Forger):
    """Asks both gateways, from his own addresses and from the victim's, by protected requests (the
    Initiator flag both ways, SPIs swapped, paired with made-up ones) and by ESP.

    Tokens that he gets (of SAs that are dead) he presents at once for the living ones.
    """

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self._tokens: list[bytes] = []
        asks = [self._living, self._flipped, self._swapped, self._half, self._made_up, self._dead, self._esp]
        self.tricks = (*asks, *asks, self._present)

    def heard(self, source: int, way: Way, lane: Lane, payload: bytes) -> None:
        message = read_message(lane, payload)
        if message is not None:
            tokens = [n.data for n in message.notifies(NotifyType.QCD_TOKEN)]
            self.notes["tokens heard"] += len(tokens)
            self._tokens = [*self._tokens, *tokens][-KEPT_TOKENS:]

    def _living(self) -> Shot:
        way, sa = self._aim()
        return self._ask(way, sa.spi_i, sa.spi_r, (way is Way.TO_BOB) == sa.alice_began, "living SPIs")

    def _flipped(self) -> Shot:
        way, sa = self._aim()
        return self._ask(
            way, sa.spi_i, sa.spi_r, (way is Way.TO_BOB) != sa.alice_began, "living SPIs, flag flipped"
        )

    def _swapped(self) -> Shot:
        way, sa = self._aim()
        return self._ask(way, sa.spi_r, sa.spi_i, bool(self.dice.below(2)), "living SPIs, swapped")

    def _half(self) -> Shot:
        way, sa = self._aim()
        pair = [sa.spi_i if self.dice.below(2) else sa.spi_r, self.dice.octets(8)]
        if self.dice.below(2):
            pair.reverse()
        return self._ask(way, pair[0], pair[1], bool(self.dice.below(2)), "one living SPI")

    def _made_up(self) -> Shot:
        way, _ = self._aim()
        sa = KnownSa.made_up(self.dice)
        return self._ask(way, sa.spi_i, sa.spi_r, bool(self.dice.below(2)), "made-up SPIs")

    def _dead(self) -> Shot | None:
        sa = self.dice_of(self.known.dead)
        if sa is None:
            return None
        return self._ask(Way.TO_BOB, sa.spi_i, sa.spi_r, bool(self.dice.below(2)), "dead SPIs")

    def _esp(self) -> Shot:
        way, sa = self._aim()
        living = self.one_of(sa.to_bob if way is Way.TO_BOB else sa.to_alice)
        known = [living, self.outbound_of(way, sa), *[spi for old in self.known.dead for spi in old.to_bob]]
        spi = self.one_of(known) if self.dice.below(2) else esp_spi(self.dice)
        payload = esp_packet(
            spi, 1 + self.dice.below(1 << 31), self.dice.octets(28 + 4 * self.dice.below(20))
        )
        return Shot(self._source(), way, Lane.NAT_T, payload, "ESP")

    def _present(self) -> Shot | None:
        if not self._tokens:
            return None
        sa = self.target()
        if self.dice.below(2):
            message = invalid_ike_spi(sa, not sa.alice_began, self.dice.below(MESSAGE_IDS), self._tokens[-4:])
        else:
            message = invalid_spi(self.outbound_of(Way.TO_ALICE, sa), self._tokens[-4:], sa)
        lane = Lane.NAT_T
        return Shot(None, Way.TO_ALICE, lane, ike_datagram(message, lane), "token of a dead SA")

    def _aim(self) -> tuple[Way, KnownSa]:
        """Bob mostly: it is he who crashes."""
        return (Way.TO_ALICE if self.dice.below(4) == 0 else Way.TO_BOB), self.target()

    def _ask(self, way: Way, spi_i: bytes, spi_r: bytes, from_initiator: bool, what: str) -> Shot:
        lane, sealed = self.lane(), self.dice.octets(SMALLEST + self.dice.below(80))
        payload = protected_request(spi_i, spi_r, from_initiator, self.dice.below(1 << 16), sealed, lane)
        return Shot(self._source(), way, lane, payload, what)

    def _source(self) -> int | None:
        """One of his own addresses, or that of the victim's peer."""
        return None if self.dice.below(3) == 0 else self.dice.below(SOURCES)
