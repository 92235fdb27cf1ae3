"""The persistent SPI map: a crash found in half a round trip, end to end under virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.crash.spi_maps import (
    SILENT,
    ask,
    reboot_bob,
    records,
    seconds_to,
    shown,
    tokens,
    traffic,
)
from tests.support.pair import Pair

from deadpeer.crash.options import CrashOptions, QcdOptions, TokenMethod
from deadpeer.crash.spi_records import TABLE
from deadpeer.ike.io import ExtensionCommand, Rekey
from deadpeer.store import MemoryLedger
from deadpeer.wire import NotifyType

# --- how fast ----------------------------------------------------------------------------------------


def test_with_the_map_a_crash_is_found_in_half_a_round_trip() -> None:
    """
    Alice                                        Bob (crashed, one second later he is back)
      ESP                        ──────────▶
                                 ◀──────────     N(INVALID_SPI), N(QCD_TOKEN)          0.5 RTT: verdict
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶                                           2.5
      ESP                        ◀─────────▶                                           3.5: traffic
    """
    pair = Pair.with_psk(latency_s=0.050, options=SILENT)
    pair.up()
    traffic(pair, 0.5)
    back = reboot_bob(pair)
    received = len(pair.alice.behind.received)
    while len(pair.alice.behind.received) == received:
        traffic(pair, 0.010)
    recovered_s = (pair.mono_ns - back) / 1e9
    assert seconds_to(pair, "verdict", back) <= 0.8 * 0.100
    assert pair.alice.last("verdict").fields["proof"] == "qcd-token"
    assert recovered_s <= 3.8 * 0.100


@pytest.mark.parametrize("busy", [True, False])
def test_bob_announces_his_crash(busy: bool) -> None:
    """
    Alice (her tunnel idle)                      Bob (crashed, one second later he is back)
                                 ◀──────────     N(INVALID_SPI), N(QCD_TOKEN)          0.5 RTT: verdict
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶                                           2.5: child up
    """
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    pair.crash("bob")
    (traffic(pair, 1.0) if busy else pair.run(1.0))
    back = pair.mono_ns
    pair.boot("bob")
    (traffic(pair, 1.0) if busy else pair.run(1.0))
    assert seconds_to(pair, "verdict", back) <= 0.8 * 0.100
    assert seconds_to(pair, "child_up", back) <= 2.8 * 0.100
    assert pair.ping()


@pytest.mark.parametrize("child", ["", "alice", "bob"])
@pytest.mark.parametrize("ike", ["", "alice", "bob"])
@pytest.mark.parametrize("method", ["spi", "spi-address"])
def test_the_map_follows_rekeys(method: TokenMethod, child: str, ike: str) -> None:
    """
    Alice                                        Bob
      CREATE_CHILD_SA (IKE SA)   ◀─────────▶     the child's record names the new pair
      CREATE_CHILD_SA (child)    ◀─────────▶     a record for the new child, the old one's goes
                                                 crash, boot
      ESP                        ──────────▶
                                 ◀──────────     N(INVALID_SPI), N(QCD_TOKEN) of the new pair
    """
    qcd = {"extensions": (QcdOptions(method=method),)}
    pair = Pair.with_psk(latency_s=0.050, options=SILENT, both=qcd)
    pair.up()
    for tag, who, what in ((8, child, "net"), (9, ike, None), (10, child, "net")):
        if who:
            pair.feed(who, Rekey("home", what, tag))
            pair.run(10)
            assert pair.side(who).done[tag].ok
    assert len(records(pair.bob)) == len(records(pair.alice)) == 1
    traffic(pair, 0.5)
    back = reboot_bob(pair)
    traffic(pair, 0.5)
    assert seconds_to(pair, "verdict", back) <= 0.8 * 0.100
    assert pair.alice.last("verdict").fields["proof"] == "qcd-token"


def test_the_other_way_round() -> None:
    """Alice, the initiator, crashes; Bob finds out from the token of the initiator's role."""
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    pair.crash("alice")
    pair.run(1.0)
    back = pair.mono_ns
    pair.boot("alice")
    pair.run(0.2)
    [at] = [at for at, event in pair.bob.events if event.kind == "verdict"]
    assert (at - back) / 1e9 <= 0.8 * 0.100


def test_crash_after_crash_the_map_is_still_good() -> None:
    """Bob crashes three times while nothing reaches Alice; what he has from his first life still counts."""
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    pair.drop_rule = lambda sent: True
    for _ in range(3):
        pair.crash("bob")
        pair.run(0.1)
        pair.boot("bob")
        pair.run(0.1)
    pair.crash("bob")
    pair.drop_rule = lambda sent: False
    back = pair.mono_ns
    pair.boot("bob")
    pair.run(1.0)
    assert seconds_to(pair, "verdict", back) <= 0.8 * 0.100


def test_a_token_of_an_older_generation_is_sent_first() -> None:
    """Two rotations after the SA came up its token is of the oldest generation: two tokens fit an answer to
    the smallest packet, and the right one is the first; announced, it is the only one."""
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    for tag in (7, 8):
        pair.feed("bob", ExtensionCommand("qcd", "rotate", tag))
        assert pair.bob.done[tag].ok
    [(spi, record)] = records(pair.bob).items()
    assert record.generation == 1
    pair.crash("bob")
    pair.drop_rule = lambda sent: sent.sender == "bob"
    pair.boot("bob")
    pair.run(0.1)
    ask(pair, spi, 36)
    [announced, answer] = shown(pair)
    assert tokens([announced]) == 1
    assert tokens([answer]) == 2
    assert announced.notifies(NotifyType.QCD_TOKEN)[0] == answer.notifies(NotifyType.QCD_TOKEN)[0]
    pair.drop_rule = lambda sent: False
    pair.run(10)
    assert pair.alice.last("verdict").fields["proof"] == "qcd-token"


def test_a_renewed_token_is_noted_when_the_peer_has_it() -> None:
    """The fourth rotation would drop the SA's generation: the peer gets a new token, and the map says so."""
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    for tag in range(7, 11):
        pair.feed("bob", ExtensionCommand("qcd", "rotate", tag))
        pair.run(1.0)
        assert pair.bob.done[tag].ok
    [record] = records(pair.bob).values()
    assert record.generation == 4
    pair.crash("bob")
    back = pair.mono_ns
    pair.boot("bob")
    pair.run(1.0)
    assert seconds_to(pair, "verdict", back) <= 0.8 * 0.100


# --- how long, how many ------------------------------------------------------------------------------


def test_with_the_map_off_nothing_is_kept_and_what_was_there_goes() -> None:
    pair = Pair.with_psk()
    pair.up()
    assert len(records(pair.bob)) == 1
    pair.crash("bob")
    pair.bob.options = replace(pair.bob.options, spi_map=False)
    pair.boot("bob")
    assert records(pair.bob) == {}
    assert "spi_map_discarded" not in pair.bob.kinds()
    pair.up()
    assert records(pair.bob) == {}


def test_what_was_told_goes_when_the_peer_is_back() -> None:
    pair = Pair.with_psk()
    pair.up()
    [spi] = records(pair.bob)
    reboot_bob(pair)
    traffic(pair, 1.0)
    assert pair.ping()
    assert spi not in records(pair.bob)
    assert len(records(pair.bob)) == 1
    assert pair.bob.ike.counters["spi_map.dropped.recovered"] == 1
    assert pair.bob.ike.sizes()["spi_map.ended"] == 0


def test_an_ended_life_is_forgotten_after_a_day() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.crash("bob")
    pair.crash("alice")
    pair.boot("bob")
    pair.run(86_399)
    assert len(records(pair.bob)) == 1
    # Boots in between make nothing last longer.
    pair.crash("bob")
    pair.boot("bob")
    assert len(records(pair.bob)) == 1
    pair.run(2)
    assert records(pair.bob) == {}
    assert pair.bob.ike.counters["spi_map.dropped.outlived"] == 1
    assert pair.bob.ike.deadline() is None


def test_a_record_that_is_damaged_is_dropped_and_counted() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.crash("bob")
    [(key, value)] = pair.bob.ledger.items(TABLE)
    pair.bob.ledger.write(TABLE, b"\0\0\7\7", value[:-1], durable=True)
    pair.bob.ledger.write(TABLE, b"\0\0\7\x08", value[:1] + bytes(16) + value[17:], durable=True)
    pair.bob.ledger.write(TABLE, b"long key", value, durable=True)
    pair.boot("bob")
    assert [k for k, _ in pair.bob.ledger.items(TABLE)] == [key]
    assert pair.bob.ike.counters["spi_map.dropped.damaged"] == 3


def test_a_full_map_makes_room_for_the_living_and_then_takes_no_more() -> None:
    pair = Pair.with_psk(options=CrashOptions(announce=False, spi_map_size=1))
    pair.up()
    [dead] = records(pair.bob)
    pair.crash("bob")
    pair.boot("bob")
    pair.up("bob")
    assert pair.bob.ike.counters["spi_map.dropped.evicted"] == 1
    [living] = records(pair.bob)
    assert living != dead
    pair.feed("bob", Rekey("home", "net", 9))
    pair.run(30)
    assert pair.bob.ike.counters["spi_map.full"] >= 1
    assert len(records(pair.bob)) <= 1
    assert pair.bob.ike.sizes()["spi_map.living"] <= 1


def test_a_ledger_that_can_not_be_written_at_the_start_costs_the_map_only() -> None:
    class FullLedger(MemoryLedger):
        def write(self, table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
            if durable:
                raise OSError(28, "the ledger is full")
            super().write(table, key, value, durable=durable)

    pair = Pair.with_psk()
    pair.crash("bob")
    pair.bob.ledger = FullLedger()
    pair.boot("bob")
    assert "the ledger is full" in str(pair.bob.last("spi_map_discarded").fields["reason"])
    pair.up()
    assert pair.ping()
    assert records(pair.bob) == {}
