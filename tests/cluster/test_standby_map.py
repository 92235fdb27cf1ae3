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
from deadpeer.cluster.standby_map import MAX_DATAGRAMS, MAX_OCTETS, SharedMap, ShownLedger
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


def test_an_idle_client_is_told_unasked() -> None:
    """
    0 dies; 1 gains the address

    N(INVALID_SPI), N(QCD_TOKEN)  ◀──────  1, once it knows that 0 is gone
    """
    site = Site(*QCD).up()
    site.die()
    site.run(1.0)
    assert site.verdicts() == []
    site.ones[1].address(True)
    site.run(1.0)
    assert site.verdicts() == ["qcd-token"]
    assert site.traffic(0.2) >= 8
    assert site.violations == []


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
    assert site.ones[1].process is not None and site.ones[1].process.map.theirs()
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
    process = site.ones[1].process
    assert process is not None
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
    for other in (b"some", b"more") if false == "too many" else ():
        liar.note(other, data)
    liar.note(key, shown[false])
    carry(liar, process.map, 0)
    site.move(1)
    assert site.traffic(1.0) >= 40
    counters = site.ones[1].node.endpoint.counters if site.ones[1].node is not None else {}
    names = ("spi_map.dropped.damaged", "spi_map.not_ended", "spi_map.dropped.evicted")
    assert [bool(counters.get(name)) for name in names] == [name == false for name in shown]
    assert site.verdicts() == ["qcd-token"] and asked(site) == 1
    assert site.violations == []


# --- what is shown ---------------------------------------------------------------------------------


def carry(ours: SharedMap, theirs: SharedMap, now_ns: int, lost: bool = False) -> None:
    for body in ours.bodies(now_ns):
        assert len(body) < MAX_OCTETS + 64
        if not lost:
            theirs.take(body)


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
            theirs.take(body)
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


def test_a_new_life_of_the_partner_makes_the_last_one_s_records_void_and_late_words_do_not_come_in() -> None:
    first, second, theirs = SharedMap(), SharedMap(), SharedMap()
    first.begin(0, 1)
    first.note(b"aaaa", b"old")
    [old] = first.bodies(0)
    second.begin(0, 2)
    second.note(b"bbbb", b"new")
    theirs.take(old)
    carry(second, theirs, 0)
    theirs.take(old)
    assert theirs.theirs() == {b"bbbb": b"new"}
    assert theirs.counters["map of an older life"] == 1


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


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby_map, "MAX_RECORDS", 3)
    ours, theirs = SharedMap(), SharedMap()
    ours.begin(0, 1)
    for number in range(5):
        ours.note(number.to_bytes(4, "big"), b"record")
    theirs.take(ours.bodies(0)[0])
    assert len(theirs.theirs()) == 3 and theirs.counters["map full"] == 2


@given(st.binary(max_size=80))
def test_nonsense_is_counted_and_nothing_else(body: bytes) -> None:
    shared = SharedMap()
    shared.take(body)
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


def question(number: int, key: bytes = KEY) -> bytes:
    """Of one that stands by."""
    asks = Standby(number, 0, [key], SeededEntropy(b"asks"))
    asks.expire(S)
    [asked] = said(asks)
    assert asked.asks
    return asked.octets


def shows(number: int, key: bytes = KEY) -> bytes:
    """What an active one shows to the other."""
    one = active(number, key)
    one.receive(S, question(1 - number, key))
    _, shown = said(one)
    return shown.octets


def test_only_the_partner_is_believed() -> None:
    other = Standby(1, 0, [KEY], SeededEntropy(b"other"))
    shown = shows(0)
    for position in (0, 2, 3, 20, len(shown) - 1):
        other.receive(S, shown[:position] + bytes([shown[position] ^ 1]) + shown[position + 1 :])
    for false in (shows(0, bytes(32)), shows(1), shown[:10], b"\1\3"):
        other.receive(S, false)
    assert other.map.theirs() == {} and other.counters["forged"] == 9
    other.receive(S, shown)
    assert other.map.theirs() == {b"aaaa": b"record"}


def test_who_is_active_itself_is_shown_nothing() -> None:
    one = active(1)
    one.receive(S, shows(0))
    assert one.map.theirs() == {} and one.map.counters["map not awaited"] == 1


def test_who_does_not_ask_is_shown_nothing() -> None:
    """What is not read would fill the partner's socket, where an answer would find no room then."""
    one = active(0)
    for tick in range(100):
        one.expire(S + tick * S // 10)
    assert all(each.asks for each in said(one))
