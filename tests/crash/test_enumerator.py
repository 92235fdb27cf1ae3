"""
Somebody asks Bob about SPIs: made up and living, in every order, with either flag, in every state of the SA,
from his own address and from the victim's.

    Mallory                                              Bob
      HDR(SPIs, flag), SK{...}            ──▶
                                          ◀──            N(INVALID_IKE_SPI)        about what never was
                                                         not a word                about what lives
      N(CHECK_SPI, QUERY), N(COOKIE)      ──▶
                                          ◀──            NACK, ACK, or not a word

What must hold: no token of a living SA is ever in the clear, an error or a NACK is never said about one, and
an ACK goes only to exactly the address of the SA's peer. Everything that is said is rate limited, and never
more than three times as large as the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.crash.fakes import protected_request
from tests.crash.stories import ALICE, BOB, LATENCY_S, MALLORY, methods
from tests.support.pair import Pair

from deadpeer.crash import boot
from deadpeer.crash.options import CrashOptions, Method
from deadpeer.crash.sir_wire import Check, Subject, Verb, decode, encode
from deadpeer.crash.tokens import MakerRole, make_token
from deadpeer.ike.io import Initiate, Rekey, Terminate
from deadpeer.values import Address, Datagram
from deadpeer.wire import (
    NON_ESP_MARKER,
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    decode_message,
    encode_message,
)

COOKIE = b"a cookie of Mallory's"
ALL = methods(*Method)


def fresh() -> Pair:
    return Pair.with_psk(latency_s=LATENCY_S, both=ALL)


def up() -> Pair:
    pair = fresh()
    pair.up()
    return pair


# --- the states of an SA ----------------------------------------------------------------------------


def half_open() -> Pair:
    """Bob has answered IKE_SA_INIT, IKE_AUTH is on its way."""
    pair = fresh()
    pair.hold("IKE_AUTH request")
    pair.feed("alice", Initiate("home", None, 1))
    pair.settle()
    return pair


def half_open_by_bob() -> Pair:
    """Bob has begun, and has no answer yet."""
    pair = fresh()
    pair.hold("IKE_SA_INIT response")
    pair.feed("bob", Initiate("home", None, 1))
    pair.settle()
    return pair


def authenticating() -> Pair:
    """Bob has begun, and sent IKE_AUTH."""
    pair = fresh()
    pair.hold("IKE_AUTH response")
    pair.feed("bob", Initiate("home", None, 1))
    pair.settle()
    return pair


def rekeying() -> Pair:
    """Bob rekeys the IKE SA, and waits for the answer."""
    pair = up()
    pair.hold("CREATE_CHILD_SA response")
    pair.feed("bob", Rekey("home"))
    pair.settle()
    return pair


def rekeyed() -> Pair:
    """The IKE SA is replaced, the DELETE of the old one is on its way: both are there."""
    pair = up()
    pair.hold("IKE SA delete request", "retransmission")
    pair.feed("alice", Rekey("home"))
    pair.settle()
    return pair


def deleting() -> Pair:
    """Bob deletes the IKE SA, and waits for the answer."""
    pair = up()
    pair.hold("INFORMATIONAL response", "response again")
    pair.feed("bob", Terminate("home"))
    pair.settle()
    return pair


STATES = (half_open, half_open_by_bob, authenticating, up, rekeying, rekeyed, deleting)
SOURCES = {
    "his own address": MALLORY,
    "the victim's address": ALICE,
    "the victim's other port": Address(ALICE.host, 31337),
}


def living(pair: Pair) -> list[tuple[bytes, bytes]]:
    """The pairs of SPIs that Bob has, in any state."""
    return [(sa.spi_i, sa.spi_r) for sa in pair.bob.ike.views()]


def orders(spi_i: bytes, spi_r: bytes) -> Iterator[tuple[bytes, bytes]]:
    """As they are, swapped, and each half with something made up."""
    other = b"made up!"
    yield from (
        (spi_i, spi_r),
        (spi_r, spi_i),
        (spi_i, other),
        (other, spi_r),
        (other, spi_i),
        (spi_r, other),
    )


def questions(spi_i: bytes, spi_r: bytes) -> Iterator[bytes]:
    """Protected requests and CHECK_SPI about these SPIs, with either flag."""
    exchanges = (ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL)
    for flag, exchange in product((True, False), exchanges):
        yield protected_request(spi_i, spi_r, from_initiator=flag, exchange=exchange, octets=200)
    if any(spi_i) and any(spi_r):
        for flag in (True, False):
            yield encode_message(encode(Check(Verb.QUERY, Subject.ike(spi_i, spi_r), COOKIE, flag)))


def ask(pair: Pair, octets: bytes, source: Address) -> list[Datagram]:
    """What Bob says at once to an IKE message from `source`."""
    before = len(pair.trace)
    pair.inject(Datagram(NON_ESP_MARKER + octets, source, BOB))
    return [sent.datagram for sent in pair.trace[before:] if sent.sender == "bob"]


def ike_of(datagram: Datagram) -> Message:
    return decode_message(datagram.payload.removeprefix(NON_ESP_MARKER))


def tokens_of_the_living(pair: Pair) -> set[bytes]:
    """Every token that somebody could hold for an SA of Bob's: either role, every generation."""
    data = pair.bob.store.get(boot.STATE_NAME)
    assert data is not None
    return {
        make_token(generation.secret, role, *spis)
        for generation in boot.decode(data).generations
        for role in MakerRole
        for spis in living(pair)
    }


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_nothing_is_said_about_what_lives(state: Callable[[], Pair], source: str) -> None:
    pair = state()
    assert living(pair)
    before = living(pair)
    acks = 0
    for pair_of_spis in living(pair):
        for spis in orders(*pair_of_spis):
            if not all(map(any, spis)):
                continue
            for question in questions(*spis):
                for answer in ask(pair, question, SOURCES[source]):
                    message = ike_of(answer)
                    check = decode(message)
                    assert check is not None, f"{message} to {question.hex()}"
                    assert (check.verb, spis) == (Verb.ACK, pair_of_spis)
                    acks += 1
                # Less than what the shortest of these states lasts.
                pair.run(0.01)
    assert source == "the victim's address" or acks == 0
    assert living(pair) == before
    if state is up:
        assert acks == (2 if source == "the victim's address" else 0)
        assert pair.ping()


def test_no_token_of_a_living_sa_is_ever_in_the_clear() -> None:
    """All states one after the other, all questions, also about ESP SPIs: search all that Bob sent."""
    for state in STATES:
        pair = state()
        secret = tokens_of_the_living(pair)
        for spis in living(pair):
            for order, source in product(orders(*spis), SOURCES.values()):
                for question in questions(*order):
                    ask(pair, question, source)
        sent = b"".join(s.datagram.payload for s in pair.trace if s.sender == "bob")
        assert not any(token in sent for token in secret), state.__name__


def test_made_up_spis_get_an_error_without_a_token_and_not_often() -> None:
    """Ten thousand in ten seconds, from a thousand addresses: the bucket of garbage, and no token."""
    pair = up()
    options = CrashOptions()
    pair.run(options.boot_window_s)
    answers = 0
    for n in range(10_000):
        spis = (n.to_bytes(4, "big") + b"made", n.to_bytes(4, "big") + b"it up"[:4])
        source = Address(f"203.0.113.{n % 250}", 1024 + n % 1000)
        for answer in ask(pair, protected_request(*spis, from_initiator=bool(n & 1)), source):
            message = ike_of(answer)
            assert message.notify(NotifyType.INVALID_IKE_SPI) is not None
            assert message.notify(NotifyType.QCD_TOKEN) is None
            answers += 1
        pair.run(0.001)
    assert 0 < answers <= options.garbage_burst + 10 * options.garbage_rate + 1
    assert pair.ping()


def test_after_a_boot_a_dead_sa_s_token_is_for_who_knows_its_spis_and_limited() -> None:
    """Who saw the SPIs gets the token of a dead SA: true, whoever says it. Four at once, two a second."""
    pair = up()
    [spis] = living(pair)
    pair.crash("bob")
    pair.boot("bob")
    tokens = 0
    for _ in range(1000):
        for answer in ask(pair, protected_request(*spis, from_initiator=True, octets=100), MALLORY):
            tokens += ike_of(answer).notify(NotifyType.QCD_TOKEN) is not None
        pair.run(0.005)
    options = CrashOptions()
    assert 4 <= tokens <= options.spi_burst + 5 * options.spi_rate + 1


# --- the oracle of ACK and NACK ---------------------------------------------------------------------


def verdict_on(pair: Pair, subject: Subject, source: Address) -> Verb | None:
    """What Bob says to CHECK_SPI."""
    answers = ask(pair, encode_message(encode(Check(Verb.QUERY, subject, COOKIE, True))), source)
    assert len(answers) <= 1
    for answer in answers:
        check = decode(ike_of(answer))
        assert check is not None
        assert check.cookie == COOKIE
        assert (answer.remote, check.subject) == (source, subject)
        return check.verb
    return None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (ALICE, Verb.ACK),
        (Address(ALICE.host, 500), None),
        (Address(ALICE.host, 31337), None),
        (MALLORY, None),
        (BOB, None),
    ],
    ids=str,
)
def test_only_the_peer_s_exact_address_is_told_that_an_sa_lives(source: Address, said: Verb | None) -> None:
    pair = up()
    [spis] = living(pair)
    [sa] = pair.bob.ike.views()
    assert verdict_on(pair, Subject.ike(*spis), source) is said
    assert verdict_on(pair, Subject.esp(sa.child_views[0].spi_in), source) is said
    # Bob's own outbound SPI is the peer's to know.
    assert verdict_on(pair, Subject.esp(sa.child_views[0].spi_out), MALLORY) is Verb.NACK


def test_what_remains_of_the_oracle_is_rate_limited() -> None:
    """
    NACK against silence tells which ESP SPIs live. Of 2^32, one who asks from anywhere learns about 50 a
    second: one child in a thousand SPIs' worth of luck every three years.
    """
    pair = up()
    options = CrashOptions()
    pair.run(options.boot_window_s)
    nacks = 0
    for n in range(5000):
        source = Address(f"198.18.{n % 256}.{n // 256}", 4500)
        nacks += verdict_on(pair, Subject.esp(0x1000_0000 + n), source) is Verb.NACK
        pair.run(0.001)
    assert 0 < nacks <= options.check_esp_burst + 5 * options.check_esp_rate + 1
    nacks = sum(
        verdict_on(pair, Subject.ike(n.to_bytes(8, "big"), b"not ours"), Address(f"198.18.0.{n % 250}", 4500))
        is Verb.NACK
        for n in range(1, 1000)
    )
    assert nacks <= options.garbage_burst


def test_the_peer_itself_is_limited_too() -> None:
    """Mallory sends as Alice: each ACK goes to Alice, and there are not more of them than she may ask for."""
    pair = up()
    [spis] = living(pair)
    pair.run(CrashOptions().boot_window_s)
    acks = 0
    for _ in range(1000):
        acks += verdict_on(pair, Subject.ike(*spis), ALICE) is Verb.ACK
        pair.run(0.002)
    options = CrashOptions()
    assert acks <= options.spi_burst + 2 * options.spi_rate + 1
    assert pair.ping()


# --- amplification ----------------------------------------------------------------------------------


@st.composite
def strangers(draw: st.DrawFn) -> tuple[bytes, int]:
    """A question that no SA answers: IKE with SPIs from all sorts of places, CHECK_SPI, ESP, noise."""
    kind = draw(st.sampled_from(["request", "check", "esp", "error", "noise"]))
    which = draw(st.integers(0, 5))
    if kind == "request":
        octets = draw(st.integers(57, 400))
        exchange = draw(st.sampled_from([35, 36, 37]))
        body = protected_request(
            b"i" * 8, b"r" * 8, from_initiator=draw(st.booleans()), octets=octets, exchange=exchange
        )
        return NON_ESP_MARKER + body, which
    if kind == "check":
        cookie = draw(st.binary(min_size=1, max_size=64))
        subject = Subject.ike(b"i" * 8, b"r" * 8) if draw(st.booleans()) else Subject.esp(0x0102_0304)
        return NON_ESP_MARKER + encode_message(encode(Check(Verb.QUERY, subject, cookie, True))), which
    if kind == "esp":
        return b"\x01\x02\x03\x04" + draw(st.binary(min_size=0, max_size=200)), which
    if kind == "error":
        notify = draw(st.sampled_from([NotifyType.INVALID_SPI, NotifyType.INVALID_IKE_SPI]))
        head = protected_request(b"i" * 8, b"r" * 8, from_initiator=True)[:28]
        return NON_ESP_MARKER + head + int(notify).to_bytes(2, "big") + draw(st.binary(max_size=40)), which
    return draw(st.binary(max_size=300)), which


class Bob:
    """Bob with a life behind him, its map on disk, and an SA with Alice that lives."""

    def __init__(self) -> None:
        self.pair = up()
        [dead] = self.pair.bob.ike.views()
        self.dead, self.dead_child = (dead.spi_i, dead.spi_r), dead.child_views[0].spi_in
        self.pair.crash("bob")
        self.pair.crash("alice")
        self.pair.bob.options = CrashOptions(announce=False)
        self.pair.boot("bob")
        self.pair.boot("alice")
        self.pair.up()
        [alive] = self.pair.bob.ike.views()
        self.alive, self.living_child = (alive.spi_i, alive.spi_r), alive.child_views[0].spi_in

    def aimed(self, octets: bytes, which: int) -> bytes:
        """The question, about SPIs that are dead, alive, swapped, or made up."""
        made_up = (b"i" * 8, b"r" * 8)
        spis = (self.dead, self.alive, self.dead[::-1], self.alive[::-1], made_up, self.dead)[which]
        child = (self.dead_child, self.living_child)[which % 2]
        octets = octets.replace(b"i" * 8, spis[0]).replace(b"r" * 8, spis[1])
        return octets.replace(b"\x01\x02\x03\x04", child.to_bytes(4, "big"))

    def asked(self, payload: bytes) -> list[Datagram]:
        """What it answers to a datagram from Mallory, at once."""
        before = len(self.pair.trace)
        self.pair.inject(Datagram(payload, MALLORY, BOB))
        return [s.datagram for s in self.pair.trace[before:] if s.sender == "bob"]


@pytest.fixture(scope="module")
def bob() -> Bob:
    return Bob()


@settings(max_examples=300)
@given(st.lists(strangers(), min_size=1, max_size=4))
def test_nobody_gets_more_than_three_times_what_he_sent(bob: Bob, asked: list[tuple[bytes, int]]) -> None:
    for octets, which in asked:
        payload = bob.aimed(octets, which)
        answers = bob.asked(payload)
        assert len(answers) <= 1
        assert sum(len(answer.payload) for answer in answers) <= 3 * len(payload)
        assert all(answer.remote == MALLORY for answer in answers)
        bob.pair.run(0.5)


def test_the_questions_of_that_property_get_every_kind_of_answer(bob: Bob) -> None:
    """A property about answers says nothing where there are none."""
    request = NON_ESP_MARKER + protected_request(b"i" * 8, b"r" * 8, from_initiator=True, octets=100)
    check = NON_ESP_MARKER + encode_message(
        encode(Check(Verb.QUERY, Subject.ike(b"i" * 8, b"r" * 8), COOKIE, True))
    )
    esp = b"\x01\x02\x03\x04" + bytes(60)
    found = []
    for octets, which in ((request, 0), (request, 1), (request, 4), (check, 0), (check, 1), (esp, 0)):
        bob.pair.run(5.0)
        answers = bob.asked(bob.aimed(octets, which))
        found.append([kind(answer) for answer in answers])
    token, error, nack = ["INVALID_IKE_SPI 1"], ["INVALID_IKE_SPI 0"], ["NACK"]
    assert found == [token, [], error, nack, [], ["INVALID_SPI 1"]]


def kind(answer: Datagram) -> str:
    """What was said, and with how many tokens."""
    message = ike_of(answer)
    check = decode(message)
    if check is not None:
        return check.verb.name
    error = message.payloads[0]
    assert isinstance(error, Notify)
    return f"{NotifyType(error.type).name} {len(message.notifies(NotifyType.QCD_TOKEN))}"
