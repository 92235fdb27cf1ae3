"""The attackers beside the link, without a link: what they shoot, and what they make of what they know."""

from __future__ import annotations

from collections import Counter

import pytest

from deadpeer.crash.sir_wire import Check, Subject, Verb, decode, encode
from deadpeer.lab.attacks.attackers import Attacker, Knowledge, Shot
from deadpeer.lab.attacks.beside import ATTACKERS, question_key
from deadpeer.lab.attacks.catalogue import ATTACKS, scenario
from deadpeer.lab.attacks.forgery import (
    KnownSa,
    esp_packet,
    ike_datagram,
    invalid_ike_spi,
    invalid_spi,
    protected_request,
    with_spis,
)
from deadpeer.lab.attacks.replays import read_message
from deadpeer.lab.attacks.tapes import recorded
from deadpeer.lab.garbage import Dice
from deadpeer.lab.link import Passing
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, Way, look
from deadpeer.wire import (
    ExchangeType,
    Message,
    Nonce,
    Notify,
    NotifyType,
    Proposal,
    SecurityAssociation,
    Transform,
    encode_message,
)

LIVING = KnownSa(b"living-i", b"living-r", True, (b"\xb0\0\0\1",), (b"\xa0\0\0\1",))
DEAD = KnownSa(b"dead---i", b"dead---r", True, (b"\xb0\0\0\2",), (b"\xa0\0\0\2",))
TOKEN = b"the token of DEAD"[:16]
TICKET = b"a ticket, sealed"
NONCE = bytes(32)


def passing(way: Way, message: Message, at_ns: int = 0) -> Passing:
    return Passing(way, Lane.NAT_T, ike_datagram(message, Lane.NAT_T), at_ns)


INIT = Message(b"dead---i", bytes(8), ExchangeType.IKE_SA_INIT, 0, True, False, (Nonce(NONCE),))
RESUME = Message(
    b"dead---i",
    bytes(8),
    ExchangeType.IKE_SESSION_RESUME,
    0,
    True,
    False,
    (Nonce(NONCE), Notify(NotifyType.TICKET_OPAQUE, TICKET)),
)
TAPE = (
    Passing(Way.TO_BOB, Lane.IKE, encode_message(INIT), 1),
    passing(Way.TO_ALICE, invalid_ike_spi(DEAD, False, 4, (TOKEN,)), 2),
    passing(Way.TO_ALICE, encode(Check(Verb.ACK, Subject.ike(DEAD.spi_i, DEAD.spi_r), b"cookie", False)), 3),
    Passing(Way.TO_BOB, Lane.IKE, encode_message(RESUME), 4),
    Passing(Way.TO_BOB, Lane.NAT_T, esp_packet(DEAD.to_bob[0], 1, bytes(40)), 5),
)
KNOWLEDGE = Knowledge((LIVING,), (DEAD,), TAPE)


def shots(name: str, count: int, knowledge: Knowledge | None = KNOWLEDGE, seed: int = 1) -> list[Shot]:
    attacker: Attacker = ATTACKERS[name](Dice(seed))
    if knowledge is not None:
        attacker.learn(knowledge)
    return [shot for _ in range(count) if (shot := attacker.shot()) is not None]


def messages(found: list[Shot]) -> list[Message]:
    return [m for shot in found if (m := read_message(shot.lane, shot.payload)) is not None]


def test_who_is_beside_the_link_has_an_attacker_and_who_is_in_the_middle_a_policy() -> None:
    assert {a.name for a in ATTACKS if scenario(a.name).per_s} == set(ATTACKERS)
    assert all(scenario(a.name).policy for a in ATTACKS if a.name not in ATTACKERS)
    assert len({a.name for a in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("name", ATTACKERS)
def test_the_same_seed_shoots_the_same(name: str) -> None:
    first = shots(name, 200)
    assert len(first) > 100
    assert first == shots(name, 200)
    assert first != shots(name, 200, seed=2)


@pytest.mark.parametrize("name", [a.name for a in ATTACKS if scenario(a.name).blind])
def test_without_knowledge_no_shot_hits_a_living_spi(name: str) -> None:
    blind, knowing = (b"".join(s.payload for s in shots(name, 500, k)) for k in (None, KNOWLEDGE))
    assert len(blind) > 10_000
    spis = (LIVING.spi_i, LIVING.spi_r, *LIVING.to_bob, *LIVING.to_alice)
    assert not any(spi in blind for spi in spis)
    assert any(spi in knowing for spi in spis)


def test_knowledge_survives_its_way_into_the_process() -> None:
    assert Knowledge.from_record(KNOWLEDGE.to_record()) == KNOWLEDGE


def test_a_forged_hint_is_about_what_its_victim_sends_with() -> None:
    seen = [(s.way, look(s.payload, s.lane)) for s in shots("forge-invalid-spi", 300)]
    about = {(way, what.about) for way, what in seen if isinstance(what, IkeSeen)}
    assert about == {(Way.TO_ALICE, LIVING.to_bob[0].hex()), (Way.TO_BOB, LIVING.to_alice[0].hex())}


def test_denials_look_like_the_peers_and_try_all_message_ids() -> None:
    found = shots("forge-invalid-ike-spi", 4000)
    denials = [(s.way, m) for s, m in zip(found, messages(found), strict=True) if m.is_response]
    assert {m.message_id for way, m in denials if way is Way.TO_ALICE} == set(range(64))
    assert all(m.from_initiator is (way is Way.TO_BOB) for way, m in denials)
    assert {(m.spi_i, m.spi_r) for _, m in denials} == {(LIVING.spi_i, LIVING.spi_r)}


def test_guessed_tokens_are_one_to_four_and_valid_in_form() -> None:
    counts: Counter[int] = Counter()
    for message in messages(shots("forge-token", 1000)):
        tokens = message.notifies(NotifyType.QCD_TOKEN)
        counts[len(tokens)] += 1
        assert all(16 <= len(t.data) <= 128 for t in tokens)
    assert all(counts[n] > 100 for n in (1, 2, 3, 4))
    assert set(counts) <= {0, 1, 2, 3, 4}


def test_guessed_denials_are_well_formed() -> None:
    checks = [c for m in messages(shots("forge-check-spi", 400)) if (c := decode(m)) is not None]
    assert len(checks) > 300
    assert {c.verb for c in checks} == {Verb.NACK}
    assert {c.subject.protocol for c in checks} == {1, 3}


def test_an_old_token_is_shown_as_it_was_and_for_the_sa_of_today() -> None:
    pairs = set()
    for message in messages(shots("replay-token", 300)):
        tokens = [n.data for n in message.notifies(NotifyType.QCD_TOKEN)]
        assert set(tokens) <= {TOKEN}
        if tokens:
            pairs.add((message.spi_i, message.spi_r))
    assert pairs == {(DEAD.spi_i, DEAD.spi_r), (LIVING.spi_i, LIVING.spi_r)}


def test_whole_exchanges_are_replayed_both_ways_and_from_elsewhere() -> None:
    found = shots("replay-exchange", 400)
    assert {s.payload for s in found} == {p.payload for p in TAPE}
    for passed in TAPE:
        ways = {(s.way, s.source is None) for s in found if s.payload == passed.payload}
        other = Way.TO_ALICE if passed.way is Way.TO_BOB else Way.TO_BOB
        assert {(passed.way, True), (other, True), (passed.way, False)} <= ways


def test_an_enumerator_asks_from_everywhere_for_everything() -> None:
    found = shots("enumerate", 2000)
    seen = [(s, look(s.payload, s.lane)) for s in found]
    ike = [s for s, what in seen if isinstance(what, IkeSeen)]
    pairs = {(w.spi_i, w.spi_r, w.initiator) for _, w in seen if isinstance(w, IkeSeen)}
    esp = {w.spi for _, w in seen if isinstance(w, EspSeen)}
    i, r = LIVING.spi_i.hex(), LIVING.spi_r.hex()
    for pair in ((i, r), (r, i)):
        assert {(*pair, True), (*pair, False)} <= pairs
    assert (DEAD.spi_i.hex(), DEAD.spi_r.hex(), True) in pairs
    assert any((a == i) != (b == r) for a, b, _ in pairs)
    assert {s.source is None for s in found} == {True, False}
    assert esp > {LIVING.to_bob[0].hex(), DEAD.to_bob[0].hex()}
    # None is too small to be answered: else it would not be a question.
    assert min(len(s.payload) for s in ike) >= 57


def test_tokens_that_an_enumerator_gets_he_shows_for_the_living() -> None:
    attacker = ATTACKERS["enumerate"](Dice(1))
    attacker.learn(KNOWLEDGE)
    answer = ike_datagram(invalid_ike_spi(DEAD, False, 9, (TOKEN,)), Lane.NAT_T)
    attacker.heard(0, Way.TO_BOB, Lane.NAT_T, answer)
    found = [shot for _ in range(300) if (shot := attacker.shot())]
    shown = [m for m in messages(found) if m.notifies(NotifyType.QCD_TOKEN)]
    assert shown
    assert {(m.spi_i, m.spi_r) for m in shown} == {(LIVING.spi_i, LIVING.spi_r)}
    assert attacker.notes["tokens heard"] == 1


def test_a_cookie_is_returned_from_another_address_that_is_asked_for_one() -> None:
    attacker = ATTACKERS["cookie-replay"](Dice(1))
    attacker.learn(KNOWLEDGE)

    def demand(source: int, spi_i: bytes) -> None:
        cookie = Notify(NotifyType.COOKIE, b"cookie of " + bytes([48 + source]))
        message = Message(spi_i, bytes(8), ExchangeType.IKE_SA_INIT, 0, False, True, (cookie,))
        attacker.heard(source, Way.TO_ALICE, Lane.IKE, encode_message(message))

    demand(3, b"first--\0")
    assert not returned(attacker)  # nobody knows yet whether address 4 needs a cookie
    demand(4, b"second-\0")
    demand(3, b"third--\0")
    assert {(s.source, m.spi_i, s.what) for s, m in returned(attacker)} == {
        (4, b"third--\0", "cookie from elsewhere"),
        (3, b"third--\0", "own cookie"),
    }
    chosen = SecurityAssociation((Proposal(1, 1, b"", (Transform(4, 31),)),))
    accepted = Message(b"third--\0", b"bob-spi!", ExchangeType.IKE_SA_INIT, 0, False, True, (chosen,))
    for source in (4, 3):
        attacker.heard(source, Way.TO_ALICE, Lane.IKE, encode_message(accepted))
    assert attacker.notes["cookies accepted from elsewhere"] == 1
    assert attacker.notes["cookies accepted from where they belong"] == 1


def returned(attacker: Attacker) -> list[tuple[Shot, Message]]:
    found = [shot for _ in range(100) if (shot := attacker.shot())]
    read = [(s, m) for s in found if (m := read_message(s.lane, s.payload)) is not None]
    return [(s, m) for s, m in read if m.exchange == ExchangeType.IKE_SA_INIT and m.notify(NotifyType.COOKIE)]


def test_cookies_of_check_spi_are_turned_and_moved_to_other_sas() -> None:
    checks = [c for m in messages(shots("cookie-replay", 400)) if (c := decode(m)) is not None]
    assert {c.cookie for c in checks} == {b"cookie"}
    assert {(c.verb, c.subject.spi) for c in checks} == {
        (Verb.ACK, DEAD.spi_i + DEAD.spi_r),
        (Verb.NACK, DEAD.spi_i + DEAD.spi_r),
        (Verb.NACK, LIVING.spi_i + LIVING.spi_r),
        (Verb.NACK, LIVING.to_bob[0]),
    }


def test_a_fresh_ticket_is_shown_before_anything_else() -> None:
    found = shots("steal-ticket", 60)
    urgent = found[:6]
    assert all(s.source is None and s.way is Way.TO_BOB for s in urgent)
    assert len({m.spi_i for m in messages(urgent)}) == 6
    shown = [n.data for m in messages(found) for n in m.notifies(NotifyType.TICKET_OPAQUE)]
    assert set(shown) == {TICKET}
    assert {s.source is None for s in found[6:]} == {True, False}


@pytest.mark.parametrize(
    ("tape", "count"), [("", 0), ("tokens", 1), ("everything", 5), ("checks", 2), ("tickets", 1)]
)
def test_a_tape_has_what_its_attack_is_about(tape: str, count: int) -> None:
    found = recorded(tape, TAPE)
    assert len(found) == count
    assert recorded(tape, (*found, *recorded(tape, ()))) == found


def test_an_answer_is_known_by_its_question() -> None:
    ask = protected_request(LIVING.spi_i, LIVING.spi_r, True, 77, bytes(40), Lane.NAT_T)
    told = ike_datagram(invalid_ike_spi(LIVING, False, 77), Lane.NAT_T)
    other = ike_datagram(invalid_ike_spi(LIVING, False, 78), Lane.NAT_T)
    assert question_key(ask, Lane.NAT_T) == question_key(told, Lane.NAT_T) != question_key(other, Lane.NAT_T)
    packet = esp_packet(LIVING.to_bob[0], 1, bytes(40))
    about = ike_datagram(invalid_spi(LIVING.to_bob[0]), Lane.NAT_T)
    assert question_key(packet, Lane.NAT_T) == question_key(about, Lane.NAT_T)
    begun = ike_datagram(INIT, Lane.IKE)
    answered = Message(INIT.spi_i, b"bob-spi!", ExchangeType.IKE_SA_INIT, 0, False, True, (Nonce(NONCE),))
    assert question_key(begun, Lane.IKE) == question_key(ike_datagram(answered, Lane.IKE), Lane.IKE)


def test_patching_the_spis_changes_nothing_else() -> None:
    payload = ike_datagram(invalid_ike_spi(DEAD, False, 4, (TOKEN,)), Lane.NAT_T)
    assert with_spis(payload, Lane.NAT_T, LIVING) == ike_datagram(
        invalid_ike_spi(LIVING, False, 4, (TOKEN,)), Lane.NAT_T
    )
