"""Off-path replayers: of a captured token, of whole exchanges, of cookies. Pure.

What they replay was captured once, by somebody who was on the path then; they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deadpeer.crash.sir_wire import Subject, Verb, decode, encode
from deadpeer.lab.attacks.attackers import Knowledge, Shot, Stranger
from deadpeer.lab.attacks.forgers import MESSAGE_IDS, Forger
from deadpeer.lab.attacks.forgery import invalid_ike_spi, invalid_spi, with_spis
from deadpeer.lab.garbage import Dice
from deadpeer.lab.link import Passing
from deadpeer.lab.trace import IkeSeen, Lane, Way, look
from deadpeer.wire import (
    ExchangeType,
    Message,
    Nonce,
    Notify,
    NotifyType,
    SecurityAssociation,
    WireError,
    decode_message,
    encode_message,
    strip_marker,
)


def message_of(passing: Passing) -> Message | None:
    """The IKE message in a captured datagram, or None if there is none that can be read."""
    return read_message(passing.lane, passing.payload)


def read_message(lane: Lane, payload: bytes) -> Message | None:
    """The IKE message in the payload of a datagram, or None."""
    if not isinstance(look(payload, lane), IkeSeen):
        return None
    try:
        return decode_message(strip_marker(payload) if lane is Lane.NAT_T else payload)
    except WireError:
        return None


class ReplayToken(Forger):
    """Presents the token of an SA that died, which was in the clear then, for the SAs of today."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self._answers: list[Passing] = []
        self._tokens: list[bytes] = []
        self.tricks = (
            self.provocation,
            *[self._as_it_was, self._patched, self._denial, self._about_child] * 4,
        )

    def learn(self, knowledge: Knowledge) -> None:
        super().learn(knowledge)
        found = [(p, m) for p in knowledge.tape if (m := message_of(p)) and m.notify(NotifyType.QCD_TOKEN)]
        self._answers = [passing for passing, _ in found]
        self._tokens = [n.data for _, message in found for n in message.notifies(NotifyType.QCD_TOKEN)]

    def _as_it_was(self) -> Shot | None:
        answer = self._any(self._answers)
        if answer is None:
            return None
        return Shot(None, answer.way, answer.lane, answer.payload, "token as it was")

    def _patched(self) -> Shot | None:
        answer = self._any(self._answers)
        if answer is None:
            return None
        payload = with_spis(answer.payload, answer.lane, self.target())
        return Shot(None, answer.way, answer.lane, payload, "token with the SPIs of today")

    def _denial(self) -> Shot | None:
        if not self._tokens:
            return None
        sa = self.target()
        tokens = self._tokens[-4:]
        message = invalid_ike_spi(sa, not sa.alice_began, self.dice.below(MESSAGE_IDS), tokens)
        return self.as_peer(Way.TO_ALICE, message, "INVALID_IKE_SPI + old token")

    def _about_child(self) -> Shot | None:
        if not self._tokens:
            return None
        sa = self.target()
        message = invalid_spi(self.outbound_of(Way.TO_ALICE, sa), self._tokens[-4:], sa)
        return self.as_peer(Way.TO_ALICE, message, "INVALID_SPI + old token")

    def _any(self, passings: Sequence[Passing]) -> Passing | None:
        return passings[self.dice.below(len(passings))] if passings else None


class ReplayExchange(Stranger):
    """Sends again all that was captured: to whom it went, back to whom it came from, and from elsewhere."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self._next = 0
        self.tricks = (self._again, self._reflected, self._from_elsewhere, self._again)

    def _again(self) -> Shot | None:
        return self._replay(None, "again")

    def _reflected(self) -> Shot | None:
        shot = self._replay(None, "reflected")
        return None if shot is None else replace(shot, way=_other(shot.way))

    def _from_elsewhere(self) -> Shot | None:
        return self._replay(self.dice.below(256), "from elsewhere")

    def _replay(self, source: int | None, what: str) -> Shot | None:
        passing = self._turn()
        return None if passing is None else Shot(source, passing.way, passing.lane, passing.payload, what)

    def _turn(self) -> Passing | None:
        if not self.known.tape:
            return None
        self._next += 1
        return self.known.tape[self._next % len(self.known.tape)]


class Beginner(Stranger):
    """Begins IKE SAs in the name of the victims' peers, with the algorithms of a captured IKE_SA_INIT."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self._init: Message | None = None
        self.tricks = (self._begin,)

    def learn(self, knowledge: Knowledge) -> None:
        super().learn(knowledge)
        self._init = first_init(knowledge.tape) or self._init

    def _begin(self) -> Shot | None:
        if self._init is None:
            return None
        octets = encode_message(begun_anew(self._init, self.dice.octets(8)))
        return Shot(None, self.way(), Lane.IKE, octets, "IKE_SA_INIT in the peer's name")


class CookieReplay(Forger):
    """Uses cookies that others got: of CHECK_SPI later and for other SAs, of IKE_SA_INIT from elsewhere.

    From each of his addresses he opens as many half-open SAs at Alice as make her ask for cookies. What he
    gets at one of them he returns from another that she asks, too; `notes` say how often that was accepted,
    and, so that the refusals mean something, how often he was admitted with a cookie of his own.
    """

    SOURCES = 8

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self._checks: list[tuple[Passing, Message]] = []
        self._init: Message | None = None
        self._returns: list[Shot] = []
        self._stolen: set[tuple[int, bytes]] = set()
        self._own: set[tuple[int, bytes]] = set()
        self._crowded: set[int] = set()
        check = [self.provocation, self._as_it_was, self._for_another, self._as_nack, self._from_elsewhere]
        self.tricks = (*check, self._ask, self._return, *check[1:], self._ask, self._return)

    def learn(self, knowledge: Knowledge) -> None:
        super().learn(knowledge)
        messages = [(p, m) for p in knowledge.tape if (m := message_of(p)) is not None]
        self._checks = [(p, m) for p, m in messages if decode(m) is not None]
        self._init = first_init(knowledge.tape) or self._init

    def heard(self, source: int, way: Way, lane: Lane, payload: bytes) -> None:
        message = read_message(lane, payload)
        if message is None or message.exchange != ExchangeType.IKE_SA_INIT:
            return
        key = (source, message.spi_i)
        if message.first(SecurityAssociation) is not None:
            if key in self._stolen:
                self.notes["cookies accepted from elsewhere"] += 1
            elif key in self._own:
                self.notes["cookies accepted from where they belong"] += 1
        elif (cookie := message.notify(NotifyType.COOKIE)) is not None:
            self.notes["cookies demanded"] += 1
            self._crowded.add(source)
            self._return_to(message.spi_i, cookie, source)

    def _return_to(self, spi_i: bytes, cookie: Notify, source: int) -> None:
        elsewhere = (source + 1) % self.SOURCES
        asked = self._request(spi_i)
        if asked is None or elsewhere not in self._crowded or (source, spi_i) in self._stolen | self._own:
            return
        payloads = (Notify(NotifyType.COOKIE, cookie.data), *asked.payloads)
        octets = encode_message(replace(asked, payloads=payloads))
        self._stolen.add((elsewhere, spi_i))
        self._returns.append(Shot(elsewhere, Way.TO_ALICE, Lane.IKE, octets, "cookie from elsewhere"))
        if spi_i[7] % 4 == 0:
            self._own.add((source, spi_i))
            self._returns.append(Shot(source, Way.TO_ALICE, Lane.IKE, octets, "own cookie"))

    # --- CHECK_SPI

    def _as_it_was(self) -> Shot | None:
        found = self._check()
        return found and Shot(None, found[0].way, found[0].lane, found[0].payload, "CHECK_SPI as it was")

    def _for_another(self) -> Shot | None:
        """The cookie of another question, for the IKE SA or the child of today."""
        return self._altered(Verb.NACK, another=True, what="cookie for another SA")

    def _as_nack(self) -> Shot | None:
        """An answer with its own cookie, turned into NACK."""
        return self._altered(Verb.NACK, another=False, what="CHECK_SPI turned into NACK")

    def _altered(self, verb: Verb, *, another: bool, what: str) -> Shot | None:
        found = self._check()
        check = decode(found[1]) if found is not None else None
        if found is None or check is None:
            return None
        sa, subject = self.target(), check.subject
        if another:
            esp = self.dice.below(3) == 0
            subject = (
                Subject(3, self.outbound_of(Way.TO_ALICE, sa)) if esp else Subject.ike(sa.spi_i, sa.spi_r)
            )
        began = check.from_initiator if check.verb is not Verb.QUERY else not check.from_initiator
        lie = replace(check, verb=verb, subject=subject, from_initiator=began)
        return self.as_peer(Way.TO_ALICE, encode(lie), what, found[0].lane)

    def _from_elsewhere(self) -> Shot | None:
        found = self._check()
        return found and Shot(
            self.dice.below(self.SOURCES),
            found[0].way,
            found[0].lane,
            found[0].payload,
            "CHECK_SPI from elsewhere",
        )

    def _check(self) -> tuple[Passing, Message] | None:
        return self._checks[self.dice.below(len(self._checks))] if self._checks else None

    # --- IKE_SA_INIT

    def _ask(self) -> Shot | None:
        message = self._request(self.dice.octets(8))
        if message is None:
            return None
        source = self.dice.below(self.SOURCES)
        return Shot(source, Way.TO_ALICE, Lane.IKE, encode_message(message), "IKE_SA_INIT")

    def _return(self) -> Shot | None:
        return self._returns.pop(0) if self._returns else None

    def _request(self, spi_i: bytes) -> Message | None:
        return None if self._init is None else begun_anew(self._init, spi_i)


def first_init(tape: Sequence[Passing]) -> Message | None:
    """The first captured request of IKE_SA_INIT."""
    messages = (message_of(passing) for passing in tape)
    return next(
        (m for m in messages if m and m.exchange == ExchangeType.IKE_SA_INIT and not m.is_response), None
    )


def begun_anew(init: Message, spi_i: bytes) -> Message:
    """A captured IKE_SA_INIT with another SPI, and a nonce that follows from it."""
    payloads = tuple(Nonce((spi_i * 8)[: len(p.data)]) if isinstance(p, Nonce) else p for p in init.payloads)
    return replace(init, spi_i=spi_i, payloads=payloads)


def _other(way: Way) -> Way:
    return Way.TO_ALICE if way is Way.TO_BOB else Way.TO_BOB
