"""The man in the middle as pure policies: what he forges, drops and delays, and that he rests when told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from deadpeer.crash.sir_wire import Check, Subject, Verb, decode, encode
from deadpeer.lab.attacks.forgery import esp_packet, ike_datagram, protected_request
from deadpeer.lab.attacks.policies import AttackPolicy, wrap
from deadpeer.lab.link import Delivery, Link, Passing, PlainPolicy
from deadpeer.lab.trace import IkeSeen, Lane, Way, look
from deadpeer.wire import decode_message, strip_marker

MS = 1_000_000
SPI_I, SPI_R = b"alicespi", b"bobsspi!"
ESP_SPI = bytes.fromhex("c1d2e3f4")
COOKIE = bytes(range(21))


def policy(**attack: Any) -> AttackPolicy:
    return wrap(attack, PlainPolicy(20.0, 0.0, 1), 1)


def passing(way: Way, payload: bytes, at_ms: float = 0.0) -> Passing:
    return Passing(way, Lane.NAT_T, payload, round(at_ms * MS))


def esp(way: Way, at_ms: float = 0.0) -> Passing:
    return passing(way, esp_packet(ESP_SPI, 7, bytes(40)), at_ms)


def check(verb: Verb, way: Way, at_ms: float = 0.0) -> Passing:
    message = encode(Check(verb, Subject.ike(SPI_I, SPI_R), COOKIE, from_initiator=way is Way.TO_BOB))
    return passing(way, ike_datagram(message, Lane.NAT_T), at_ms)


def answer(at_ms: float = 0.0) -> Passing:
    """What Bob answers to a liveness check, as a bystander sees it."""
    octets = bytearray(protected_request(SPI_I, SPI_R, False, 3, bytes(40), Lane.NAT_T))
    octets[4 + 19] |= 0x20
    return passing(Way.TO_ALICE, bytes(octets), at_ms)


def seen(delivery: Delivery) -> IkeSeen:
    found = look(delivery.payload, delivery.lane)
    assert isinstance(found, IkeSeen)
    return found


def genuine(deliveries: Sequence[Delivery]) -> list[Delivery]:
    return [delivery for delivery in deliveries if not delivery.forged]


@pytest.mark.parametrize(
    "attack",
    [
        {"name": "nack", "drop": ["traffic"]},
        {"name": "chaos", "drop": 1.0},
        {"name": "blackout"},
        {"name": "theft"},
    ],
    ids=lambda attack: str(attack["name"]),
)
def test_before_and_after_he_does_nothing(attack: Mapping[str, Any]) -> None:
    man, plain = wrap(attack, PlainPolicy(20.0, 0.0, 1), 1), PlainPolicy(20.0, 0.0, 1)
    datagrams = [esp(Way.TO_BOB), esp(Way.TO_ALICE), check(Verb.QUERY, Way.TO_BOB), answer()]
    assert [man.decide(each) for each in datagrams] == [plain.decide(each) for each in datagrams]
    man.begin(0)
    man.decide(esp(Way.TO_ALICE, 1))
    man.rest()
    assert [man.decide(each) for each in datagrams] == [plain.decide(each) for each in datagrams]


def test_a_query_is_denied_before_bob_can_confirm() -> None:
    man = policy(name="nack", drop=[""], seconds=1.0)
    man.begin(0)
    query, lie = man.decide(check(Verb.QUERY, Way.TO_BOB, 5))
    assert (query.way, query.at_ns, query.forged) == (Way.TO_BOB, 15 * MS, False)
    assert (lie.way, lie.at_ns, lie.forged) == (Way.TO_ALICE, 5 * MS, True)
    denial = decode(decode_message(strip_marker(lie.payload)))
    assert denial == Check(Verb.NACK, Subject.ike(SPI_I, SPI_R), COOKIE, from_initiator=False)
    assert man.decide(check(Verb.ACK, Way.TO_ALICE, 6))[0].way is Way.TO_ALICE
    assert man.mischief["forged NACK"] == 1


def test_a_liveness_check_is_denied_with_guesses() -> None:
    man = policy(name="nack", drop=[""], seconds=1.0, deny=True)
    man.begin(0)
    asked = protected_request(SPI_I, SPI_R, True, 9, bytes(40), Lane.NAT_T)
    question, lie = man.decide(passing(Way.TO_BOB, asked, 5))
    assert not question.forged
    assert (lie.way, lie.at_ns) == (Way.TO_ALICE, 5 * MS)
    denial = seen(lie)
    assert (denial.message_id, denial.response, denial.initiator) == (9, True, False)
    assert (denial.spi_i, denial.spi_r) == (SPI_I.hex(), SPI_R.hex())
    assert denial.notifies == ("INVALID_IKE_SPI", *["QCD_TOKEN"] * 4)
    assert genuine(man.decide(answer(6)))


def test_he_provokes_at_his_pace_once_he_has_seen_the_child() -> None:
    man = policy(name="nack", drop=[""], seconds=1.0)
    man.begin(0)
    assert len(man.decide(answer(1))) == 1
    forged = [d for at in range(2, 402, 10) for d in man.decide(esp(Way.TO_BOB, at)) if d.forged]
    assert len(forged) == 4
    assert {seen(d).about for d in forged} == {ESP_SPI.hex()}
    assert {d.way for d in forged} == {Way.TO_ALICE}


def test_what_he_drops_grows_in_equal_parts() -> None:
    man = policy(name="nack", drop=["ack", "answers", "traffic"], seconds=3.0)
    man.begin(0)
    ack, esp_in = Verb.ACK, Way.TO_ALICE
    passes = {
        part: [
            bool(genuine(man.decide(each)))
            for each in (check(ack, esp_in, at), answer(at), esp(esp_in, at), esp(Way.TO_BOB, at))
        ]
        for part, at in (("ack", 500.0), ("answers", 1500.0), ("traffic", 2500.0), ("later", 9000.0))
    }
    assert passes == {
        "ack": [False, True, True, True],
        "answers": [False, False, True, True],
        "traffic": [False, False, False, True],
        "later": [False, False, False, True],
    }
    assert man.mischief["dropped ACK"] == 4
    assert man.mischief["dropped ESP"] == 2


def test_chaos_does_what_it_is_told_and_the_same_again() -> None:
    def played() -> tuple[list[Delivery], Mapping[str, int]]:
        man = policy(name="chaos", drop=0.2, copy=0.1, delay=0.3, delay_ms=50.0)
        man.begin(0)
        return [d for at in range(2000) for d in man.decide(esp(Way.TO_BOB, at))], man.mischief

    deliveries, mischief = played()
    assert (deliveries, mischief) == played()
    assert 320 < mischief["dropped ESP"] < 480
    assert len(genuine(deliveries)) == 2000 - mischief["dropped ESP"]
    assert 100 < mischief["forged copy"] < 220
    assert 380 < mischief["delayed"] < 580
    assert [d.at_ns for d in deliveries] != sorted(d.at_ns for d in deliveries)
    assert max(d.at_ns - at * MS for d, at in zip(deliveries[:1], range(1), strict=True)) <= 60 * MS


def test_a_blackout_ends_by_itself() -> None:
    man = policy(name="blackout", seconds=2.0)
    man.begin(1000 * MS)
    assert not man.decide(esp(Way.TO_BOB, 1500))
    assert not man.decide(answer(2999))
    assert man.decide(esp(Way.TO_BOB, 3000))
    assert man.mischief["dropped everything"] == 2


def test_a_link_counts_a_datagram_as_lost_though_forgeries_came_of_it() -> None:
    man = policy(name="nack", drop=["traffic"], seconds=1.0)
    link = Link(man)
    assert link.offer(esp(Way.TO_BOB, 0))
    man.begin(0)
    assert not link.offer(esp(Way.TO_ALICE, 200))
    delivered = [delivery.forged for delivery, _ in link.due(10_000 * MS)]
    assert sorted(delivered) == [False, True]


def test_an_unknown_attack_is_no_policy() -> None:
    with pytest.raises(KeyError):
        policy(name="patience")
