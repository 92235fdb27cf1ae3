"""CHECK_SPI on the wire: what is not exactly right is nothing; and the cookie of an asker without state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.crash.fakes import at

from deadpeer.crash.sir_wire import (
    CHECK_SPI,
    COOKIE_SIZE,
    COOKIE_VALID_S,
    MAX_COOKIE,
    SECRET_LIFE_S,
    TICK_NS,
    Check,
    CookieMint,
    Subject,
    Verb,
    decode,
    encode,
    is_check,
)
from deadpeer.crypto import SeededEntropy
from deadpeer.values import NS_PER_S, Address
from deadpeer.wire import (
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    Payload,
    WireError,
    decode_message,
    encode_message,
)

spis = st.binary(min_size=8, max_size=8).filter(any)
subjects = st.one_of(
    st.builds(Subject.ike, spis, spis),
    st.builds(Subject.esp, st.integers(0, 2**32 - 1)),
)
checks = st.builds(
    Check, st.sampled_from(Verb), subjects, st.binary(min_size=1, max_size=MAX_COOKIE), st.booleans()
)

IKE = Subject.ike(b"initiate", b"responds")
QUERY = encode(Check(Verb.QUERY, IKE, b"cookie", True))
NACK = encode(Check(Verb.NACK, IKE, b"cookie", False))
OF_ESP = encode(Check(Verb.QUERY, Subject.esp(0xCAFE), b"cookie", True))
COOKIE = Notify(NotifyType.COOKIE, b"cookie")


@given(checks)
def test_round_trip(check: Check) -> None:
    message = decode_message(encode_message(encode(check)))
    assert is_check(message)
    assert decode(message) == check


@given(checks, st.data())
def test_no_garbage_says_anything_else(check: Check, data: st.DataObject) -> None:
    """Whatever is accepted means what it says. (Of a COOKIE nobody looks at the protocol.)"""
    octets = bytearray(encode_message(encode(check)))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = decode_message(bytes(octets))
    except WireError:
        return
    found = decode(message)
    if found is not None:
        again = encode(found)
        assert (again.spi_i, again.spi_r) == (message.spi_i, message.spi_r)
        assert (again.is_response, again.from_initiator) == (message.is_response, message.from_initiator)
        assert again.notify(CHECK_SPI) == message.notify(CHECK_SPI)
        assert [n.data for n in message.notifies(NotifyType.COOKIE)] == [found.cookie]


def check_spi(data: bytes = b"\x01", protocol: int = 1, spi: bytes = IKE.spi) -> Notify:
    return Notify(CHECK_SPI, data, protocol, spi)


def with_payloads(*payloads: Payload, of: Message = QUERY) -> Message:
    return replace(of, payloads=payloads)


@pytest.mark.parametrize(
    "message",
    [
        replace(QUERY, is_response=True),
        replace(NACK, is_response=False),
        replace(QUERY, message_id=1),
        replace(QUERY, exchange=ExchangeType.CREATE_CHILD_SA),
        replace(QUERY, spi_i=b"somebody"),
        replace(QUERY, spi_i=QUERY.spi_r, spi_r=QUERY.spi_i),
        replace(OF_ESP, spi_i=b"initiate"),
        with_payloads(COOKIE),
        with_payloads(check_spi()),
        with_payloads(check_spi(), check_spi(), COOKIE),
        with_payloads(check_spi(), COOKIE, COOKIE),
        with_payloads(check_spi(), COOKIE, Notify(NotifyType.INVALID_SPI, b"1234")),
        with_payloads(check_spi(b"\x00"), COOKIE),
        with_payloads(check_spi(b"\x04"), COOKIE),
        with_payloads(check_spi(b""), COOKIE),
        with_payloads(check_spi(b"\x01\x01"), COOKIE),
        with_payloads(check_spi(protocol=0, spi=b""), COOKIE),
        with_payloads(check_spi(protocol=2), COOKIE),
        with_payloads(check_spi(spi=IKE.spi[:8]), COOKIE),
        with_payloads(check_spi(protocol=3), COOKIE),
        with_payloads(check_spi(), Notify(NotifyType.COOKIE, b"")),
        with_payloads(check_spi(), Notify(NotifyType.COOKIE, bytes(MAX_COOKIE + 1))),
        encode(Check(Verb.QUERY, Subject.ike(bytes(8), b"responds"), b"cookie", True)),
        encode(Check(Verb.QUERY, Subject.ike(b"initiate", bytes(8)), b"cookie", True)),
    ],
)
def test_what_is_not_exactly_right_is_nothing(message: Message) -> None:
    assert decode(message) is None


# --- the cookie -------------------------------------------------------------------------------------

BOB = Address("198.51.100.2", 4500)
VALID_NS = int(COOKIE_VALID_S * NS_PER_S)


def mint(seed: int = 1) -> CookieMint:
    return CookieMint(at(0).mono_ns, SeededEntropy(seed))


@given(subjects, st.integers(0, VALID_NS), st.integers(0, 30 * 24 * 3600 * NS_PER_S))
def test_a_cookie_tells_when_it_was_made(subject: Subject, age_ns: int, start_ns: int) -> None:
    mine, made_ns = mint(), at(0).mono_ns + start_ns
    cookie = mine.make(made_ns, subject, BOB)
    assert len(cookie) == COOKIE_SIZE
    found = mine.made_ns(made_ns + age_ns, cookie, subject, BOB)
    assert found is not None
    assert found <= made_ns < found + TICK_NS


@given(subjects, subjects, st.integers(0, COOKIE_SIZE * 8 - 1))
def test_a_cookie_is_of_one_question_to_one_address(subject: Subject, other: Subject, bit: int) -> None:
    assume(subject != other)
    mine, now_ns = mint(), at(0).mono_ns
    cookie = mine.make(now_ns, subject, BOB)
    flipped = (int.from_bytes(cookie, "big") ^ (1 << bit)).to_bytes(COOKIE_SIZE, "big")
    assert mine.made_ns(now_ns, cookie, subject, BOB) is not None
    assert mine.made_ns(now_ns, cookie, other, BOB) is None
    assert mine.made_ns(now_ns, cookie, subject, BOB._replace(port=4501)) is None
    assert mine.made_ns(now_ns, cookie, subject, BOB._replace(host="198.51.100.3")) is None
    assert mine.made_ns(now_ns, cookie, subject, BOB._replace(host="2001:db8::2")) is None
    assert mine.made_ns(now_ns, flipped, subject, BOB) is None
    assert mine.made_ns(now_ns, cookie[:-1], subject, BOB) is None
    assert mine.made_ns(now_ns, cookie + b"\0", subject, BOB) is None
    assert mint(2).made_ns(now_ns, cookie, subject, BOB) is None


def test_a_cookie_grows_old_and_none_comes_from_the_future() -> None:
    mine, now_ns = mint(), at(0).mono_ns
    cookie = mine.make(now_ns, IKE, BOB)
    assert mine.made_ns(now_ns + VALID_NS, cookie, IKE, BOB) is not None
    assert mine.made_ns(now_ns + VALID_NS + TICK_NS, cookie, IKE, BOB) is None
    assert mine.made_ns(now_ns - TICK_NS, cookie, IKE, BOB) is None
    a_turn_of_the_counter_ns = 2**32 * TICK_NS
    assert mine.made_ns(now_ns + a_turn_of_the_counter_ns + VALID_NS + TICK_NS, cookie, IKE, BOB) is None


def test_the_secret_changes_every_hour_and_the_one_before_still_counts() -> None:
    mine, hour_ns = mint(), int(SECRET_LIFE_S * NS_PER_S)
    start_ns = at(0).mono_ns
    last_ns = start_ns + hour_ns - 1
    generations = [mine.make(last_ns, IKE, BOB)]
    now_ns = start_ns + hour_ns
    generations.append(mine.make(now_ns, IKE, BOB))
    assert [cookie[0] for cookie in generations] == [0, 1]
    assert all(mine.made_ns(now_ns, cookie, IKE, BOB) is not None for cookie in generations)
    # Within one tick, so that what refuses it is the secret that is gone, not its age.
    old = mint()
    cookie = old.make(start_ns + hour_ns - 1, IKE, BOB)
    old._rotate(now_ns)
    assert old.made_ns(now_ns, cookie, IKE, BOB) is not None
    old._rotate(now_ns)
    assert old.made_ns(now_ns, cookie, IKE, BOB) is None


def test_generations_wrap_and_an_old_secret_never_comes_back() -> None:
    mine, now_ns = mint(), at(0).mono_ns
    first = mine.make(now_ns, IKE, BOB)
    for _ in range(256):
        mine._rotate(now_ns)
    again = mine.make(now_ns, IKE, BOB)
    assert again[0] == first[0]
    assert mine.made_ns(now_ns, again, IKE, BOB) is not None
    assert mine.made_ns(now_ns, first, IKE, BOB) is None
