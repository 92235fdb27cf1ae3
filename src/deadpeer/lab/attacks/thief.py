"""A ticket thief: he has seen IKE_SESSION_RESUME requests, in which tickets are in the clear. Pure."""

from __future__ import annotations

from deadpeer.lab.attacks.attackers import Knowledge, Shot, Stranger
from deadpeer.lab.attacks.forgery import protected_request
from deadpeer.lab.attacks.replays import message_of, read_message
from deadpeer.lab.garbage import Dice
from deadpeer.lab.link import Passing
from deadpeer.lab.trace import Lane, Way
from deadpeer.wire import ExchangeType, Message, Nonce, Notify, NotifyType, encode_message

SOURCES = 8
NONCE = 32
URGENT = 6
"""He races the owner with so many requests."""


class TicketThief(Stranger):
    """Resumes with stolen tickets, from his own addresses and from their owner's, the newest one first; and
    says something in each half-open SA that he gets, though he lacks SK_d. He sends the owner's own requests
    again, too."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self._requests: list[Passing] = []
        self._tickets: list[bytes] = []
        self._urgent: list[Shot] = []
        self.tricks = (self._from_own, self._as_owner, self._again)

    def shot(self) -> Shot | None:
        return self._urgent.pop(0) if self._urgent else super().shot()

    def learn(self, knowledge: Knowledge) -> None:
        super().learn(knowledge)
        found = [
            (passing, message)
            for passing in knowledge.tape
            if (message := message_of(passing)) is not None
            and message.exchange == ExchangeType.IKE_SESSION_RESUME
            and not message.is_response
        ]
        self._requests = [passing for passing, _ in found]
        tickets = [n.data for _, message in found for n in message.notifies(NotifyType.TICKET_OPAQUE)]
        fresh = [ticket for ticket in dict.fromkeys(tickets) if ticket not in self._tickets]
        self._tickets += fresh
        for ticket in fresh:
            # Its owner is about to use it: be there first.
            self._urgent += [self._show(ticket, None, "stolen ticket, at once") for _ in range(URGENT)]

    def heard(self, source: int, way: Way, lane: Lane, payload: bytes) -> None:
        message = read_message(lane, payload)
        if message is None or message.exchange != ExchangeType.IKE_SESSION_RESUME:
            return
        if message.first(Nonce) is None:
            self.notes["refused"] += 1
            return
        self.notes["half-open SAs from elsewhere"] += 1
        sealed = self.dice.octets(120)
        auth = protected_request(message.spi_i, message.spi_r, True, 1, sealed, lane)
        self._urgent.append(Shot(source, way, lane, auth, "IKE_AUTH without the keys"))

    def _from_own(self) -> Shot | None:
        return self._shown(self.dice.below(SOURCES), "stolen ticket from elsewhere")

    def _as_owner(self) -> Shot | None:
        return self._shown(None, "stolen ticket from its owner's address")

    def _again(self) -> Shot | None:
        if not self._requests:
            return None
        passing = self._requests[-1 - self.dice.below(min(2, len(self._requests)))]
        source = None if self.dice.below(2) else self.dice.below(SOURCES)
        return Shot(source, passing.way, passing.lane, passing.payload, "the owner's request again")

    def _shown(self, source: int | None, what: str) -> Shot | None:
        if not self._tickets:
            return None
        ticket = self._tickets[-1 - (self.dice.below(len(self._tickets)) if self.dice.below(3) == 0 else 0)]
        return self._show(ticket, source, what)

    def _show(self, ticket: bytes, source: int | None, what: str) -> Shot:
        payloads = (Nonce(self.dice.octets(NONCE)), Notify(NotifyType.TICKET_OPAQUE, ticket))
        spi_i = self.dice.octets(8)
        message = Message(spi_i, bytes(8), ExchangeType.IKE_SESSION_RESUME, 0, True, False, payloads)
        return Shot(source, Way.TO_BOB, Lane.IKE, encode_message(message), what)
