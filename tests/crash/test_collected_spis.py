"""Somebody has collected IKE SPIs of Bob's earlier lives, and asks about them all when Bob is back.

Mallory                                       Bob (back after a crash)
  HDR(SPIs of a life before), SK{...}   ──▶
                                        ◀──   N(INVALID_IKE_SPI), N(QCD_TOKEN)    until RETURNING is empty
Alice
  HDR(her SA's), SK{...}                ──▶
                                        ◀──   N(INVALID_IKE_SPI), N(QCD_TOKEN)    the map awaits her
"""

from __future__ import annotations

from tests.crash.fakes import protected_request
from tests.crash.spi_maps import SILENT, crashed_before, records
from tests.support.pair import Pair, child_config

from deadpeer.cluster.spi import EpochSpis, SpiCodec
from deadpeer.crash import boot
from deadpeer.crash.options import CrashOptions
from deadpeer.crypto import SeededEntropy
from deadpeer.values import Address, Datagram

MANY = int(CrashOptions().total_burst * CrashOptions().boot_factor)


def ask_about(pair: Pair, spi_i: bytes, spi_r: bytes, source: Address) -> bool:
    """Whether Bob answers a request with these SPIs."""
    trace = len(pair.trace)
    request = protected_request(spi_i, spi_r, from_initiator=True)
    pair.feed("bob", Datagram(request, Address(pair.bob.host, 500), source))
    return any(sent.reason == "invalid ike spi" for sent in pair.trace[trace:])


def storm(pair: Pair) -> int:
    """Mallory asks about pairs of the life before, from as many addresses; how many are answered."""
    state = pair.bob.store.get("boot")
    assert state is not None
    life = boot.decode(state)
    collected = EpochSpis(SpiCodec(life.spi_key), life.epoch - 1, 0, SeededEntropy(66))
    return sum(
        ask_about(pair, n.to_bytes(8, "big"), collected.ike_spi(), Address(f"10.{n >> 8}.{n & 255}.1", 500))
        for n in range(1, MANY + 500)
    )


def pair_of(pair: Pair, spi: int) -> tuple[bytes, bytes]:
    record = records(pair.bob)[spi]
    return record.spi_i, record.spi_r


def test_who_collected_spis_uses_up_nothing_of_the_peers_in_the_map() -> None:
    pair, spi = crashed_before()
    alices = pair_of(pair, spi)
    assert storm(pair) == MANY
    assert pair.bob.ike.counters["orphan.limited.returning"] == 499
    assert ask_about(pair, *alices, Address(pair.alice.host, 500))
    # What is hers is limited, too, and only hers: per SPI.
    answered = [ask_about(pair, *alices, Address(f"10.99.{n}.1", 500)) for n in range(100)]
    assert sum(answered) == 3
    assert pair.bob.ike.counters["orphan.limited.mapped-ike"] == 97


def test_the_flag_and_the_order_of_the_spis_matter() -> None:
    """Another pair than the map's, with one SPI of it, is one that may have been collected."""
    pair, spi = crashed_before()
    spi_i, spi_r = pair_of(pair, spi)
    storm(pair)
    assert not ask_about(pair, b"anything", spi_r, Address(pair.alice.host, 500))
    assert ask_about(pair, spi_i, spi_r, Address(pair.alice.host, 500))


def test_a_peer_that_is_back_leaves_nothing_to_draw_on() -> None:
    pair, spi = crashed_before()
    alices = pair_of(pair, spi)
    pair.crash("alice")
    pair.boot("alice")
    pair.up()
    assert records(pair.bob)[spi].spi_i == alices[0], "nothing was told, so the record stays"
    assert ask_about(pair, *alices, Address("10.1.1.1", 500))
    assert pair.bob.ike.sizes()["limiter.mapped-ike.sources"] == 0
    assert pair.bob.ike.sizes()["limiter.returning.sources"] == 1


def test_about_one_pair_there_are_no_more_answers_than_before() -> None:
    """Its peer comes back in between, so that it is another class that answers: four in all."""
    pair, spi = crashed_before()
    alices = pair_of(pair, spi)
    first = sum(ask_about(pair, *alices, Address(f"10.1.{n}.1", 500)) for n in range(10))
    pair.crash("alice")
    pair.boot("alice")
    pair.up()
    then = sum(ask_about(pair, *alices, Address(f"10.2.{n}.1", 500)) for n in range(10))
    assert (first, then) == (4, 0)


def test_without_a_map_all_are_one() -> None:
    pair = Pair.with_psk(options=CrashOptions(spi_map=False))
    pair.up()
    [sa] = pair.bob.ike.views()
    pair.crash("bob")
    pair.boot("bob")
    assert ask_about(pair, sa.spi_i, sa.spi_r, Address(pair.alice.host, 500))
    assert pair.bob.ike.sizes()["limiter.returning.sources"] == 1


def test_a_pair_goes_with_the_last_of_its_records() -> None:
    """The map drops a record when it has been kept long enough."""
    pair = Pair.with_psk(options=SILENT, children=(child_config(), child_config("dmz")))
    pair.up()
    pair.up(child="dmz")
    mine = records(pair.bob)
    assert len(mine) == 2
    [alices] = {pair_of(pair, spi) for spi in mine}
    for side in ("alice", "bob"):
        pair.crash(side)
    pair.boot("bob")
    pair.run(SILENT.spi_map_keep_s - 10)
    assert ask_about(pair, *alices, Address("10.1.1.1", 500))
    assert pair.bob.ike.sizes()["limiter.mapped-ike.sources"] == 1
    pair.run(11)
    assert records(pair.bob) == {}
    assert ask_about(pair, *alices, Address("10.1.1.1", 500))
    assert pair.bob.ike.sizes()["limiter.returning.sources"] == 1
