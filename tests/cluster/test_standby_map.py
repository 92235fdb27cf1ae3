"""The SPI map that the active one of two shows the other: what it saves, and what must not come of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.two import KEY, QCD, Site

from deadpeer.cluster import standby_map
from deadpeer.cluster.membership import PersistEpoch
from deadpeer.cluster.standby import Standby, ToPartner
from deadpeer.cluster.standby_map import (
    MAX_CHANGED,
    MAX_DATAGRAMS,
    MAX_OCTETS,
    SharedMap,
    ShownLedger,
    ShownMap,
)
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.spi_records import TABLE, decode_record, encode_record
from deadpeer.crypto import SeededEntropy
from deadpeer.store import MemoryLedger

S = 1_000_000_000
QUIET = CrashOptions(announce=False)
keys = st.integers(1, 40).map(lambda n: n.to_bytes(4, "big"))
shown_records = st.binary(min_size=1, max_size=59)


def asked(site: Site) -> int:
    """How often the client asked whether its peer lives, because of a hint."""
    return site.client.endpoint.counters["sent: invalid-spi"]


# --- stories ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spi_map", "requests"), [(True, 0), (False, 1)])
def test_the_first_packet_is_answered_with_the_token(spi_map: bool, requests: int) -> None:
    """
      0: SA up          ──────▶  1: the child's SPI, and the IKE SA that it is of
      0 gives the address to 1

      ESP, old SA       ──────▶  1: N(INVALID_SPI), N(QCD_TOKEN)
      new SA            ◀─────▶  1

    Without the map the client has to ask in the old IKE SA first, which takes a round trip more.
    """
    site = Site(*QCD, options=CrashOptions(spi_map=spi_map, announce=False)).up()
    site.traffic(0.5)
    site.move(1)
    site.run(0.5)
    moved_ns = site.now_ns
    assert site.traffic(0.5) >= 10
    [verdict_ns] = [at for at, e in site.client.events if e.kind == "verdict"]
    assert asked(site) == requests
    assert (verdict_ns - moved_ns) // (S // 100) == (4 if requests else 2), "each way takes a hundredth"
    assert site.violations == []


def test_an_idle_client_is_not_told_unasked() -> None:
    """
    0 dies; 1 gains the address, and can't know that the network leads there what was for 0

    ESP, old SA                   ──────▶  1
    N(INVALID_SPI), N(QCD_TOKEN)  ◀──────  1
    """
    site = Site(*QCD).up()
    site.die()
    site.run(1.0)
    site.ones[1].address(True)
    site.run(20.0)
    assert site.tokens == 0
    assert site.traffic(0.2) >= 4
    assert site.verdicts() == ["qcd-token"] and asked(site) == 0
    assert site.violations == []


def test_a_life_that_ends_at_once_does_not_take_the_map_with_it() -> None:
    """
    0 dies; 1 gains the address, loses it for a moment, and has it again

    ESP, old SA                   ──────▶  1
    N(INVALID_SPI), N(QCD_TOKEN)  ◀──────  1
    """
    site = Site(*QCD).up()
    site.die()
    site.run(1.0)
    for held in (True, False, True):
        site.ones[1].address(held)
        site.run(0.05)
    assert site.traffic(1.0) >= 40
    assert site.verdicts() == ["qcd-token"] and asked(site) == 0


@pytest.mark.parametrize("apart_s", [20.0, 0.15])
def test_clients_of_one_that_serves_are_not_told_unasked(apart_s: float) -> None:
    """
    1 gains the address and can't hear 0, which serves on: the network leads there

    For as long as they are apart, or until the next question, 1 takes 0 for dead.
    """
    site = Site(*QCD).up()
    site.traffic(0.5)
    site.apart = True
    site.run(1.0)
    site.ones[1].address(True)
    site.run(apart_s)
    site.apart = False
    site.run(20.0)
    assert site.violations == [] and site.verdicts() == []


def test_while_both_hold_the_address_nobody_is_told_what_the_map_says() -> None:
    """
    1 gains the address; 0 lives, and believes that the address is its own

    ESP, living SA of 0   ──────▶  1: silence
    N(INVALID_SPI), N(QCD_TOKEN)  ◀──────  1: as soon as 0 gives the address up, and not before
    """
    site = Site(*QCD).up()
    site.traffic(0.5)
    site.ones[1].address(True)
    site.delivers_to = 1
    site.traffic(10.0)
    assert site.tokens == 0 and site.verdicts() == []
    site.ones[0].address(False)
    site.traffic(8.0)
    assert site.verdicts() == ["qcd-token"]
    assert site.violations == []


def test_there_and_back_with_the_map() -> None:
    """Who gave the address up is shown the other's children, and speaks for them when it comes back."""
    site = Site(*QCD, options=QUIET).up()
    for to in (1, 0, 1):
        site.move(to)
        assert site.traffic(1.0) >= 40
        site.run(0.3)
    assert site.verdicts() == ["qcd-token"] * 3
    assert asked(site) == 0
    assert site.violations == []


@pytest.mark.parametrize("false", ["damaged", "nobody's", "too many"])
def test_records_that_are_of_no_use_cost_the_round_trip_that_they_would_have_saved(false: str) -> None:
    """
    0 shows 1 nonsense, or more than 1 keeps; then 0 gives the address to 1

    ESP, old SA       ──────▶  1: N(INVALID_SPI)
    liveness request  ──────▶  1: the token
    """
    site = Site(*QCD, options=replace(QUIET, spi_map_size=2)).up()
    process = site.process(1)
    [(key, data)] = process.map.theirs().items()
    record = decode_record(data)
    assert record is not None
    shown = {
        "damaged": data[:-1],
        "nobody's": encode_record(replace(record, spi_r=bytes(8))),
        "too many": data,
    }
    liar = SharedMap()
    liar.begin(0, 99)
    liar.note(key, shown[false])
    for other in (b"some", b"more") if false == "too many" else ():
        liar.note(other, data)
    for body in liar.bodies(0):
        process.map.take(site.now_ns, body)
    site.move(1)
    assert site.traffic(1.0) >= 40
    counters = site.ones[1].node.endpoint.counters if site.ones[1].node is not None else {}
    names = ("spi_map.dropped.damaged", "spi_map.dropped.not_the_partners", "spi_map.dropped.evicted")
    assert [bool(counters.get(name)) for name in names] == [name == false for name in shown]
    assert site.verdicts() == ["qcd-token"] and asked(site) == 1
    assert site.violations == []


# --- what is shown ---------------------------------------------------------------------------------


def carry(ours: SharedMap, theirs: SharedMap, now_ns: int, lost: bool = False) -> None:
    for body in ours.bodies(now_ns):
        assert len(body) < MAX_OCTETS + 64
        if not lost:
            theirs.take(now_ns, body)


@given(st.lists(st.tuples(keys, st.none() | shown_records, st.booleans()), max_size=60))
def test_whatever_got_lost_the_partner_has_all_after_some_rounds(
    changes: list[tuple[bytes, bytes | None, bool]],
) -> None:
    ours, theirs = SharedMap(), SharedMap()
    ours.begin(0, 1)
    living: dict[bytes, bytes] = {}
    now_ns = 0
    for key, record, lost in changes:
        ours.note(key, record)
        if record is None:
            living.pop(key, None)
        else:
            living[key] = record
        now_ns += S // 10
        carry(ours, theirs, now_ns, lost)
    for _ in range(60):
        now_ns += S
        carry(ours, theirs, now_ns)
    assert theirs.theirs() == living


def test_what_has_gone_is_forgotten_even_where_the_news_of_it_got_lost() -> None:
    ours, theirs = SharedMap(), SharedMap()
    ours.begin(0, 1)
    for key in (b"aaaa", b"bbbb"):
        ours.note(key, b"record")
    carry(ours, theirs, 0)
    ours.note(b"aaaa", None)
    carry(ours, theirs, S, lost=True)
    assert set(theirs.theirs()) == {b"aaaa", b"bbbb"}
    for second in range(2, 12):
        carry(ours, theirs, second * S)
    assert set(theirs.theirs()) == {b"bbbb"}


def test_changes_are_shown_together_and_what_does_not_fit_comes_next() -> None:
    ours, theirs = SharedMap(), SharedMap()
    ours.begin(0, 1)
    count = 4 * MAX_DATAGRAMS * MAX_OCTETS // 64
    for number in range(count):
        ours.note(number.to_bytes(4, "big"), bytes([1]) * 59)
    at_once = ours.bodies(0)
    assert len(at_once) == MAX_DATAGRAMS
    assert ours.bodies(S // 100) == [], "a question that is played back"
    for tick in range(8):
        for body in at_once if tick == 0 else ours.bodies(tick * S // 10):
            theirs.take(0, body)
    assert len(theirs.theirs()) == count
    assert ours.bodies(9 * S // 10) == []


def test_all_of_a_large_map_is_shown_again() -> None:
    """More than is shown again at a time: the round takes longer, and leaves nothing out."""
    ours, theirs = SharedMap(), SharedMap()
    ours.begin(0, 1)
    count, tick = 11 * standby_map.MAX_REFRESHED, 0
    for number in range(count):
        ours.note(number.to_bytes(4, "big"), b"x" * 35)
    while ours.bodies(tick * S // 10):
        tick += 1
    for second in range(tick, tick + 14):
        carry(ours, theirs, second * S)
    assert len(theirs.theirs()) == count


@pytest.mark.parametrize("epoch", [8, 6, 1 << 63])
def test_another_life_of_the_partner_makes_the_last_one_s_records_void(epoch: int) -> None:
    """Also one with a lower epoch: of a partner whose disk was set back."""
    first, second, theirs = SharedMap(), SharedMap(), SharedMap()
    first.begin(0, 7)
    first.note(b"aaaa", b"old")
    carry(first, theirs, 0)
    second.begin(0, epoch)
    second.note(b"bbbb", b"new")
    theirs.take(0, second.bodies(0)[0][:-1])
    assert theirs.theirs() == {b"aaaa": b"old"}, "what is malformed voids nothing"
    second.begin(0, epoch)
    second.note(b"bbbb", b"new")
    carry(second, theirs, 0)
    assert theirs.theirs() == {b"bbbb": b"new"}


def test_it_is_handed_over_with_its_age() -> None:
    ours, theirs = SharedMap(), SharedMap()
    ours.begin(0, 1)
    ours.note(b"aaaa", b"record")
    carry(ours, theirs, 5 * S)
    assert theirs.hand_over(7 * S) == ShownMap({b"aaaa": b"record"}, 2.0)
    assert theirs.hand_over(9 * S) == ShownMap({b"aaaa": b"record"}, 4.0), "that life may have ended at once"


def test_news_for_a_partner_that_does_not_ask_are_bounded() -> None:
    ours, theirs = SharedMap(), SharedMap()
    ours.begin(0, 1)
    ours.note(b"last", b"record")
    for number in range(3 * MAX_CHANGED):
        key = number.to_bytes(4, "big")
        ours.note(key, b"record")
        ours.note(key, None)
    assert ours.counters["map changes left to the rounds"] >= 2 * MAX_CHANGED
    for tick in range(200):
        carry(ours, theirs, tick * S // 10)
    assert theirs.theirs() == {b"last": b"record"}


def test_what_is_over_is_not_shown() -> None:
    ours = SharedMap()
    ours.note(b"aaaa", b"before any life")
    assert ours.bodies(0) == []
    ours.begin(0, 1)
    ours.note(b"aaaa", None)
    assert ours.bodies(0) == [], "of a life before, whose records are not in this map"
    ours.note(b"aaaa", b"record")
    ours.over()
    assert ours.bodies(S) == [] and ours.sizes()["map of ours"] == 0


def test_a_map_that_has_shrunk_is_shown_as_soon_as_any_other() -> None:
    """Of a round's keys most have gone. Who has lost what it had must not wait for all of them."""
    ours, again = SharedMap(), SharedMap()
    ours.begin(0, 1)
    for number in range(10_000):
        ours.note(number.to_bytes(4, "big"), b"record")
    for tick in range(20):
        ours.bodies(tick * S)
    for number in range(10, 10_000):
        ours.note(number.to_bytes(4, "big"), None)
    while len(ours.bodies(tick * S)) > 2:
        tick += 1
    for second in range(tick, tick + 25):
        carry(ours, again, second * S)
    assert len(again.theirs()) == 10


def test_no_more_is_kept_than_there_is_room_for() -> None:
    ours, theirs = SharedMap(), SharedMap(size=3)
    ours.begin(0, 1)
    for number in range(5):
        ours.note(number.to_bytes(4, "big"), b"record")
    theirs.take(0, ours.bodies(0)[0])
    assert len(theirs.theirs()) == 3 and theirs.counters["map full"] == 2


@given(st.binary(max_size=80))
def test_nonsense_is_counted_and_nothing_else(body: bytes) -> None:
    shared = SharedMap()
    shared.take(0, body)
    assert all(len(key) == 4 and record for key, record in shared.theirs().items())
    assert shared.counters["map malformed"] <= 1


def test_one_table_of_the_ledger_is_shown() -> None:
    shown: list[tuple[bytes, bytes | None]] = []
    below = MemoryLedger()
    ledger = ShownLedger(below, TABLE, lambda key, record: shown.append((key, record)))
    ledger.write("tickets", b"none of its business", b"1", durable=True)
    ledger.write(TABLE, b"aaaa", b"record", durable=False)
    ledger.write(TABLE, b"bbbb", None, durable=False)
    assert shown == [(b"aaaa", b"record"), (b"bbbb", None)]
    assert list(ledger.items(TABLE)) == list(below.items(TABLE)) == [(b"aaaa", b"record")]
    assert list(ledger.items("tickets")) == [(b"none of its business", b"1")]


# --- who may show ----------------------------------------------------------------------------------


def active(number: int, key: bytes = KEY) -> Standby:
    """One that holds the address, and has one child to show."""
    made = Standby(number, 0, [key], SeededEntropy(bytes([number])))
    made.address(S, True)
    while (output := made.poll()) is not None:
        if isinstance(output, PersistEpoch):
            made.persisted(S)
    made.map.note(b"aaaa", b"record")
    return made


def said(one: Standby) -> list[ToPartner]:
    found = []
    while (output := one.poll()) is not None:
        if isinstance(output, ToPartner):
            found.append(output)
    return found


def stands_by() -> tuple[Standby, bytes]:
    """One that does not hold the address, and its question."""
    made = Standby(1, 0, [KEY], SeededEntropy(b"asks"))
    made.expire(S)
    [asked] = said(made)
    assert asked.asks
    return made, asked.octets


def answers(one: Standby, question: bytes) -> list[bytes]:
    """What it says to a question: the answer, and what it shows."""
    one.receive(S, question)
    return [each.octets for each in said(one) if not each.asks]


def test_only_the_partner_is_believed_and_only_what_it_says_now() -> None:
    """
    1: question, nonce  ──────▶  0
    1  ◀──────  answer, nonce; map, nonce
    """
    other, question = stands_by()
    answer, shown = answers(active(0), question)
    other.receive(S, shown)
    assert other.map.theirs() == {} and other.map.counters["map not awaited"] == 1, "before the answer"
    other.receive(S, answer)
    for position in (0, 2, 3, 25, len(shown) - 1):
        other.receive(S, shown[:position] + bytes([shown[position] ^ 1]) + shown[position + 1 :])
    other.receive(S, b"\1\3")
    assert other.map.theirs() == {} and other.counters == {"forged": 5, "malformed": 1}
    other.receive(S, shown)
    assert other.map.theirs() == {b"aaaa": b"record"}
    other.receive(2 * S, shown)
    assert other.map.counters["map not awaited"] == 2, "too late"
    again, its_question = stands_by()
    for octets in answers(active(0), its_question):
        again.receive(S, octets)
    again.receive(2 * S, shown)
    again.expire(2 * S)
    [question] = [each.octets for each in said(again)]
    later = active(0)
    later.map.note(b"aaaa", None)
    for octets in answers(later, question)[:1]:
        again.receive(2 * S, octets)
    again.receive(2 * S, shown)
    assert again.map.counters["map not awaited"] == 2, "an old one, played back"


def test_a_partner_with_other_keys_or_the_same_number_is_not_believed() -> None:
    other, _ = stands_by()
    stranger = Standby(1, 0, [bytes(32)], SeededEntropy(b"asks"))
    stranger.expire(S)
    [asked] = said(stranger)
    for false in answers(active(0, bytes(32)), asked.octets):
        other.receive(S, false)
    assert other.map.theirs() == {} and other.counters["forged"] == 2


def test_who_is_active_itself_is_shown_nothing() -> None:
    one, (_, question) = active(1), stands_by()
    for octets in answers(active(0), question):
        one.receive(S, octets)
    assert one.map.theirs() == {} and one.map.counters["map not awaited"] == 1


def test_who_does_not_ask_is_shown_nothing() -> None:
    """What is not read would fill the partner's socket, where an answer would find no room then."""
    one = active(0)
    for tick in range(100):
        one.expire(S + tick * S // 10)
    assert all(each.asks for each in said(one))
