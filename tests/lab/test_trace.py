"""What a bystander sees of a datagram, and that it survives the trip through JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.lab.ladder import name_of
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, OtherSeen, Sighting, Way, look
from deadpeer.wire import (
    Encrypted,
    EncryptedFragment,
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    Payload,
    add_marker,
    encode_message,
)

TOKEN = bytes(range(16))


def message(*payloads: Payload, exchange: int = 37, response: bool = False) -> bytes:
    return encode_message(Message(b"I" * 8, b"R" * 8, exchange, 7, True, response, payloads))


def seen_ike(octets: bytes) -> IkeSeen:
    seen = look(octets, Lane.IKE)
    assert isinstance(seen, IkeSeen)
    assert look(add_marker(octets), Lane.NAT_T) == seen
    return seen


def test_a_hint_names_the_spi() -> None:
    seen = seen_ike(message(Notify(NotifyType.INVALID_SPI, b"\xc1\xd2\xe3\xf4")))
    assert name_of(seen) == "INVALID_SPI c1d2e3f4"


def test_tokens_are_counted_and_never_shown() -> None:
    octets = message(
        Notify(NotifyType.INVALID_IKE_SPI),
        Notify(NotifyType.QCD_TOKEN, TOKEN, protocol=1),
        Notify(NotifyType.QCD_TOKEN, TOKEN, protocol=1),
        response=True,
    )
    seen = seen_ike(octets)
    assert name_of(seen) == "INVALID_IKE_SPI + QCD_TOKEN x2"
    line = Sighting(Way.TO_ALICE, Lane.IKE, len(octets), 1, 2, seen).to_json()
    assert TOKEN.hex() not in line


@pytest.mark.parametrize(("verb", "name"), [(1, "QUERY"), (2, "ACK"), (3, "NACK"), (9, "9")])
def test_a_question_about_an_spi_is_named(verb: int, name: str) -> None:
    check = Notify(40970, bytes([verb]), 1, b"I" * 8 + b"R" * 8)
    seen = seen_ike(message(check, Notify(NotifyType.COOKIE, b"c" * 21), response=verb != 1))
    assert name_of(seen) == f"CHECK_SPI {name} + COOKIE"


def test_protected_messages_are_named_by_their_header() -> None:
    seen = seen_ike(message(Encrypted(41, b"sealed" * 8)))
    assert seen.protected
    assert seen.notifies == ()
    assert name_of(seen) == "INFORMATIONAL request"
    auth = message(EncryptedFragment(35, 1, 3, b"sealed" * 8), exchange=ExchangeType.IKE_AUTH, response=True)
    assert name_of(seen_ike(auth)) == "IKE_AUTH response, fragment 1 of 3"


def test_esp_keepalives_and_garbage() -> None:
    assert look(bytes.fromhex("c1d2e3f400000005") + b"body", Lane.NAT_T) == EspSeen("c1d2e3f4", 5)
    assert look(b"\xff", Lane.NAT_T) == OtherSeen("keepalive")
    assert look(b"\x01\x02", Lane.NAT_T) == OtherSeen("garbage")
    assert look(b"\x01" * 40, Lane.IKE) == OtherSeen("garbage")


@given(st.binary(max_size=120), st.sampled_from(Lane))
def test_looking_never_fails(octets: bytes, lane: Lane) -> None:
    seen = look(octets, lane)
    sighting = Sighting(Way.TO_BOB, lane, len(octets), 1, None, seen)
    assert Sighting.from_record(json.loads(sighting.to_json())) == sighting


@pytest.mark.parametrize("cut", [0, 4, 28])
def test_a_broken_message_shows_what_its_header_says(cut: int) -> None:
    octets = message(Notify(NotifyType.INVALID_SPI, b"1234"))
    seen = look(octets[: len(octets) - cut], Lane.IKE)
    if cut == 0:
        assert isinstance(seen, IkeSeen)
    else:
        assert seen == OtherSeen("garbage")


def test_sightings_of_every_kind_survive_json() -> None:
    for seen in (
        IkeSeen(35, True, False, 1, "0" * 16, "f" * 16, True, (2, 3)),
        EspSeen("deadbeef", 9),
        OtherSeen("keepalive"),
    ):
        sighting = Sighting(Way.TO_ALICE, Lane.NAT_T, 99, 10, 20, seen)
        assert Sighting.from_record(json.loads(sighting.to_json())) == sighting
