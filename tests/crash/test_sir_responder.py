"""Who gets what from the SIR responder: the security rule of CHECK_SPI, row by row.

the SA in question     asked from                  answer
lives                  exactly its peer's address  ACK
lives                  anywhere else               none
one of its SPIs lives  anywhere                    none
unknown                anywhere                    NACK, within the limits; garbage SPIs in their own
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.crash.fakes import ALICE, BOB, MALLORY, FakeChild, FakeCore, FakeSa, at, connection

from deadpeer.cluster.ownership import Ownership, Single, Standing
from deadpeer.cluster.spi import EpochSpis, SpiCodec
from deadpeer.crash.options import CrashOptions, SirOptions, SirRole
from deadpeer.crash.sir_responder import SirResponder
from deadpeer.crash.sir_wire import VENDOR_ID, Check, Subject, Verb, decode, encode
from deadpeer.crypto import SeededEntropy
from deadpeer.ike.connection import Connection
from deadpeer.ike.extension import UnprotectedNews
from deadpeer.values import Address, Datagram
from deadpeer.wire import Message, encode_message

CODEC = SpiCodec(b"k" * 32)
EPOCH = 7
HERS, LOST = b"a's choc", b"a's lost"
COOKIE = b"a cookie of whoever asks"
OTHER_PORT = ALICE._replace(port=ALICE.port + 1)
OTHER_HOST = ALICE._replace(host="192.0.2.77")
ESP_IN = 0x1111_1111


def configured(role: SirRole = "auto", name: str = "peer") -> Connection:
    return replace(connection(name), extensions=(SirOptions(role),))


class Bob:
    """A responder with one living SA, whose peer is Alice."""

    def __init__(
        self, *roles: SirRole, ownership: Ownership | None = None, options: CrashOptions | None = None
    ) -> None:
        connections = [configured(role, f"c{n}") for n, role in enumerate(roles or ("auto",))]
        spis = EpochSpis(CODEC, EPOCH, 0, SeededEntropy(1))
        self.core = FakeCore()
        self.own, self.recent = spis.ike_spi(), spis.ike_spi()
        self.ended = EpochSpis(CODEC, EPOCH - 1, 0, SeededEntropy(2)).ike_spi()
        self.sa = FakeSa(1, connections[0], False, HERS, self.own, BOB, ALICE)
        self.sa.child_views = [FakeChild(spi_in=ESP_IN, spi_out=0x2222_2222)]
        self.core.sas.append(self.sa)
        self.responder = SirResponder(
            ownership or Single(CODEC, EPOCH), connections, options or CrashOptions(boot_window_s=0)
        )
        self.responder.attach(at(0), self.core)  # type: ignore[arg-type]

    def ask(
        self, subject: Subject, source: Address = ALICE, *, from_initiator: bool = True, after_s: float = 0.0
    ) -> Verb | None:
        """What somebody at `source` is told."""
        return self.hear(encode(Check(Verb.QUERY, subject, COOKIE, from_initiator)), source, after_s)

    def hear(self, message: Message, source: Address = ALICE, after_s: float = 0.0) -> Verb | None:
        datagram = Datagram(encode_message(message), BOB, source)
        before = len(self.core.answers)
        assert self.responder.orphan(at(after_s), UnprotectedNews(message, datagram, None))
        if len(self.core.answers) == before:
            return None
        [(answered, answer)] = self.core.answers[before:]
        assert answered is datagram
        assert len(encode_message(answer)) <= len(datagram.payload)
        told = decode(answer)
        asked = decode(message)
        assert told is not None
        assert asked is not None
        assert answer.is_response
        assert (told.subject, told.cookie) == (asked.subject, COOKIE)
        assert told.from_initiator is not asked.from_initiator
        return told.verb


def living(bob: Bob) -> list[Subject]:
    return [Subject.ike(HERS, bob.own), Subject.esp(ESP_IN)]


def half_living(bob: Bob) -> list[Subject]:
    return [
        Subject.ike(HERS, bob.recent),
        Subject.ike(HERS, b"whatever"),
        Subject.ike(LOST, bob.own),
        Subject.ike(bob.own, HERS),
        Subject.ike(bob.own, LOST),
    ]


def unknown(bob: Bob) -> list[Subject]:
    return [
        Subject.ike(LOST, bob.ended),
        Subject.ike(LOST, bob.recent),
        Subject.ike(LOST, b"whatever"),
        Subject.esp(0x2222_2222),
        Subject.esp(0xCAFE_CAFE),
    ]


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("index", [0, 1])
def test_about_a_living_sa_only_its_peer_is_told(index: int, flag: bool) -> None:
    bob = Bob()
    subject = living(bob)[index]
    for elsewhere in (OTHER_PORT, OTHER_HOST, MALLORY):
        assert bob.ask(subject, elsewhere, from_initiator=flag) is None
    assert bob.core.counts == {"check.not_told": 3}
    assert bob.ask(subject, ALICE, from_initiator=flag) is Verb.ACK
    assert bob.core.counts["check.ack_sent"] == 1


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("source", [ALICE, OTHER_PORT, MALLORY])
@pytest.mark.parametrize("index", range(5))
def test_about_a_pair_of_which_one_spi_lives_nobody_is_told(index: int, source: Address, flag: bool) -> None:
    bob = Bob()
    assert bob.ask(half_living(bob)[index], source, from_initiator=flag) is None
    assert bob.core.counts == {"check.not_told": 1}


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("source", [ALICE, OTHER_PORT, MALLORY])
@pytest.mark.parametrize("index", range(5))
def test_what_is_unknown_is_denied_to_everybody(index: int, source: Address, flag: bool) -> None:
    bob = Bob()
    assert bob.ask(unknown(bob)[index], source, from_initiator=flag) is Verb.NACK
    assert bob.core.counts == {"check.nack_sent": 1}


@pytest.mark.parametrize(
    ("kind", "subjects", "at_once"),
    [
        ("check", lambda bob, n: Subject.ike(LOST, bob.ended), 4),
        ("check", lambda bob, n: Subject.ike(n.to_bytes(8, "big"), bob.ended), 4),
        ("check-recent", lambda bob, n: Subject.ike(LOST, bob.recent), 4),
        ("check-esp", lambda bob, n: Subject.esp(0xCAFE_CAFE), 4),
        ("check-living", lambda bob, n: Subject.ike(HERS, bob.own), 4),
        ("check-esp", lambda bob, n: Subject.esp(0xCAFE_0000 + n), 12),
        ("garbage", lambda bob, n: Subject.ike(LOST, n.to_bytes(8, "big")), 12),
    ],
)
def test_how_often_one_source_is_told(kind: str, subjects: object, at_once: int) -> None:
    """`spi_burst` about one SPI of ours, whatever is made up beside it; `source_burst` to one source."""
    bob = Bob()
    asked = [subjects(bob, n) for n in range(1, 101)]  # type: ignore[operator]
    told = [bob.ask(subject) for subject in asked]
    assert len([verb for verb in told if verb is not None]) == at_once
    assert bob.core.counts[f"check.limited.{kind}"] == 100 - at_once
    assert bob.ask(asked[0], after_s=60.0) is not None


@pytest.mark.parametrize(
    ("kind", "subject", "at_once"),
    [
        ("check-esp", lambda n: Subject.esp(0xCAFE_0000 + n), 100),
        ("check-recent", lambda n: Subject.ike(LOST, CODEC.encode(EPOCH, 0, 1000 + n)), 400),
        ("garbage", lambda n: Subject.ike(LOST, (1000 + n).to_bytes(8, "big")), 20),
    ],
)
def test_how_often_all_sources_are_told_together(kind: str, subject: object, at_once: int) -> None:
    """And none of it touches what a peer gets who asks about an SA of an ended life, or about his own."""
    bob = Bob()
    for n in range(1000):
        bob.ask(subject(n), Address(f"198.18.{n // 250}.{n % 250}", 4500))  # type: ignore[operator]
    assert len(bob.core.answers) == at_once
    assert bob.core.counts[f"check.limited.{kind}"] == 1000 - at_once
    assert bob.ask(Subject.ike(LOST, bob.ended)) is Verb.NACK
    assert bob.ask(Subject.ike(HERS, bob.own)) is Verb.ACK


def test_a_stranger_can_not_use_up_what_the_peer_of_a_living_sa_gets() -> None:
    bob = Bob()
    for _ in range(1000):
        assert bob.ask(Subject.ike(HERS, bob.own), MALLORY) is None
    assert bob.ask(Subject.ike(HERS, bob.own)) is Verb.ACK


@pytest.mark.parametrize(
    ("roles", "serves"),
    [(("off",), False), (("off", "off"), False), (("off", "auto"), True), (("force",), True)],
)
def test_off_means_silence(roles: tuple[SirRole, ...], serves: bool) -> None:
    bob = Bob(*roles)
    assert (bob.ask(Subject.ike(LOST, bob.ended)) is Verb.NACK) is serves
    assert bob.core.counts["check.off"] == (0 if serves else 1)


def test_about_an_sa_of_a_connection_that_is_off_nobody_is_told() -> None:
    bob = Bob("off", "auto")
    assert [bob.ask(subject) for subject in living(bob)] == [None, None]
    assert bob.core.counts == {"check.not_told": 2}


@pytest.mark.parametrize(("role", "offered"), [("auto", (VENDOR_ID,)), ("force", (VENDOR_ID,)), ("off", ())])
def test_who_answers_says_so_in_ike_sa_init(role: SirRole, offered: tuple[bytes, ...]) -> None:
    bob = Bob(role, "auto")
    assert tuple(bob.responder.vendor_ids(at(0), bob.sa)) == offered  # type: ignore[arg-type]


class OfAnother:
    """What begins with the letter L (and each ESP SPI) another member made, whose life goes on."""

    alone = False
    ended_lives = 0

    def of_ike(self, spi: bytes) -> Standing:
        return Standing.LIVING if spi[:1] == b"L" else Standing.PAST

    def of_esp(self, spi: int) -> Standing:
        return Standing.LIVING


def test_another_member_alone_knows_whether_its_sas_live() -> None:
    """Whichever of the two SPIs is the other member's: which is whose is the stranger's word."""
    bob = Bob(ownership=OfAnother())
    pairs = [Subject.ike(b"L" * 8, LOST), Subject.ike(LOST, b"L" * 8), Subject.esp(0xCAFE_CAFE)]
    for subject in pairs:
        for flag in (True, False):
            assert bob.ask(subject, from_initiator=flag) is None
    assert bob.core.counts == {"check.other_member": 2 * len(pairs)}
    assert bob.ask(Subject.ike(LOST, LOST)) is Verb.NACK
    assert bob.ask(Subject.ike(HERS, bob.own)) is Verb.ACK


def test_what_is_malformed_is_not_answered_and_an_answer_is_not_for_us() -> None:
    bob = Bob()
    query = encode(Check(Verb.QUERY, Subject.ike(LOST, bob.ended), COOKIE, True))
    assert bob.hear(replace(query, message_id=1)) is None
    assert bob.hear(replace(query, payloads=query.payloads[:1])) is None
    assert bob.core.counts == {"check.malformed": 2}
    for verb in (Verb.ACK, Verb.NACK):
        answer = encode(Check(verb, Subject.ike(LOST, bob.ended), COOKIE, True))
        news = UnprotectedNews(answer, Datagram(encode_message(answer), BOB, ALICE), None)
        assert not bob.responder.orphan(at(0), news)
    assert bob.core.answers == []
