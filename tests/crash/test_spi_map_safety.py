"""What the persistent SPI map must not do: speak for another machine, another life, or a living SA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.crash.spi_maps import SILENT, ask, crashed_before, records, shown, tokens, traffic
from tests.support.pair import Pair, Side

from deadpeer.crash import boot
from deadpeer.crash.options import QcdOptions
from deadpeer.crash.spi_records import HEAD_KEY, HEAD_TABLE
from deadpeer.ike.io import ExtensionCommand, Terminate
from deadpeer.store import MemoryStore
from deadpeer.values import Address

# --- what a map must not do --------------------------------------------------------------------------


def other_machine(bob: Side) -> None:
    bob.machine_id = b"another machine"


def new_boot_state(bob: Side) -> None:
    bob.store = MemoryStore()


def older_map(bob: Side) -> None:
    """As if a life lay between the map and this boot."""
    state = bob.store.get("boot")
    assert state is not None
    life = boot.decode(state)
    bob.store.put("boot", boot.encode(replace(life, epoch=life.epoch + 1)))


def older_boot_state(bob: Side) -> None:
    """As if the file of the boot state had been restored, and the map not."""
    state = bob.store.get("boot")
    assert state is not None
    life = boot.decode(state)
    bob.store.put("boot", boot.encode(replace(life, epoch=life.epoch - 1)))


def damaged_header(bob: Side) -> None:
    [(key, value)] = bob.ledger.items(HEAD_TABLE)
    bob.ledger.write(HEAD_TABLE, key, value[:-1] + bytes([value[-1] ^ 1]), durable=True)


def short_header(bob: Side) -> None:
    bob.ledger.write(HEAD_TABLE, HEAD_KEY, b"short", durable=True)


def later_version(bob: Side) -> None:
    [(key, value)] = bob.ledger.items(HEAD_TABLE)
    bob.ledger.write(HEAD_TABLE, key, b"\2" + value[1:], durable=True)


def no_header(bob: Side) -> None:
    bob.ledger.write(HEAD_TABLE, HEAD_KEY, None, durable=True)


@pytest.mark.parametrize(
    ("accident", "reason"),
    [
        (other_machine, "another machine"),
        (new_boot_state, "another boot state"),
        (older_map, "a copy, or a backup"),
        (older_boot_state, "a copy, or a backup"),
        (damaged_header, "damaged"),
        (short_header, "damaged"),
        (later_version, "version 2"),
        (no_header, "no header"),
    ],
)
def test_a_map_from_elsewhere_is_discarded_and_reveals_nothing(
    accident: Callable[[Side], None], reason: str
) -> None:
    """
    Alice                                        Bob, whose map is not what his last life has left
      ESP                        ──────────▶
                                 ◀──────────     N(INVALID_SPI), no token; nothing announced
      INFORMATIONAL              ──────────▶     as without a map
    """
    pair = Pair.with_psk(latency_s=0.050)
    pair.boot("bob")
    pair.up()
    traffic(pair, 0.1)
    pair.crash("bob")
    pair.run(0.5)
    accident(pair.bob)
    start = len(pair.trace)
    pair.boot("bob")
    traffic(pair, 0.2)
    event = pair.bob.last("spi_map_discarded")
    assert event.level == "warning"
    assert reason in str(event.fields["reason"])
    assert shown(pair, start)
    assert tokens(shown(pair, start)) == 0
    assert "announcing" not in pair.bob.kinds()
    assert pair.bob.ike.sizes()["spi_map.ended"] == 0


def test_a_discarded_map_is_not_there_for_the_life_after_either() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.crash("bob")
    pair.bob.machine_id = b"another machine"
    pair.boot("bob")
    assert records(pair.bob) == {}
    pair.crash("bob")
    pair.boot("bob")
    assert pair.bob.kinds().count("spi_map_discarded") == 1


def test_a_first_boot_warns_of_nothing() -> None:
    pair = Pair.with_psk()
    assert "spi_map_discarded" not in pair.bob.kinds() + pair.alice.kinds()


def test_a_record_of_another_address_of_ours_says_nothing() -> None:
    """The gateway was given another address (or is a copy elsewhere): what the map says is not for there."""
    pair = Pair.with_psk()
    pair.up()
    pair.crash("bob")
    [(spi, _)] = records(pair.bob).items()
    pair.bob.config = replace(pair.bob.config, local_hosts=("192.0.2.77",))
    pair.boot("bob")
    pair.run(1.0)
    ask(pair, spi, 100)
    assert tokens(shown(pair)) == 0
    assert len(shown(pair)) == 1


def test_a_peer_behind_a_nat_is_answered_where_it_is_now() -> None:
    pair, spi = crashed_before()
    ask(pair, spi, 100, Address("203.0.113.9", 31337))
    assert tokens(shown(pair)) == 1
    assert pair.trace[-1].datagram.remote == Address("203.0.113.9", 31337)


def test_a_token_bound_to_an_address_is_for_nobody_else() -> None:
    """Nor is a wrong one sent, which would keep Alice from asking."""
    pair, spi = crashed_before("spi-address")
    ask(pair, spi, 100, Address("203.0.113.9", 31337))
    assert len(shown(pair)) == 1
    assert tokens(shown(pair)) == 0
    ask(pair, spi, 100)
    assert tokens(shown(pair)) > 0


@pytest.mark.parametrize("octets", [36, 37, 44, 60, 100, 1500])
def test_an_answer_is_never_more_than_three_times_the_question(octets: int) -> None:
    pair, spi = crashed_before()
    for tag in (7, 8, 9):
        pair.feed("bob", ExtensionCommand("qcd", "rotate", tag))
    ask(pair, spi, octets)
    assert len(pair.trace[-1].datagram.payload) <= 3 * octets
    assert tokens(shown(pair)) == min(4, (3 * octets - 44) // 24)


def test_a_packet_too_small_for_esp_is_not_answered() -> None:
    pair, spi = crashed_before()
    ask(pair, spi, 35)
    assert shown(pair) == []


def test_mapped_spis_have_a_budget_of_their_own() -> None:
    """A flood of made-up SPIs uses up its own bucket; a peer's is answered all the same, and limited too."""
    pair, spi = crashed_before()
    for number in range(10_000):
        source = Address(f"10.1.{number >> 8}.{number & 255}", 4500)
        ask(pair, 0x1000 + number, 100, source)
    assert pair.bob.ike.counters["orphan.limited.esp"] > 0
    assert tokens(shown(pair)) == 0
    for _ in range(100):
        ask(pair, spi, 100)
    assert 1 <= sum(1 for message in shown(pair) if tokens([message])) <= 4
    assert pair.bob.ike.counters["orphan.limited.mapped"] >= 96


def test_a_child_deleted_politely_leaves_nothing() -> None:
    pair = Pair.with_psk(options=SILENT)
    pair.up()
    [spi] = records(pair.bob)
    pair.feed("alice", Terminate("home", "net", 9))
    pair.run(10)
    assert records(pair.bob) == records(pair.alice) == {}
    pair.crash("bob")
    pair.boot("bob")
    ask(pair, spi, 100)
    assert tokens(shown(pair)) == 0


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_an_sa_closed_politely_leaves_nothing(who: str) -> None:
    pair = Pair.with_psk(options=SILENT)
    pair.up()
    pair.feed(who, Terminate("home", None, 9))
    pair.run(10)
    assert records(pair.bob) == records(pair.alice) == {}


def test_of_a_living_sa_nothing_is_said_whatever_is_asked() -> None:
    pair = Pair.with_psk()
    pair.up()
    [(spi, _)] = records(pair.bob).items()
    ask(pair, spi, 1500)
    ask(pair, spi, 1500, Address("203.0.113.9", 31337))
    pair.run(30)
    assert tokens(shown(pair)) == 0


@pytest.mark.parametrize(("roles", "kept"), [("both", 1), ("maker", 1), ("taker", 0), ("off", 0)])
def test_only_sas_with_a_token_are_in_the_map(roles: str, kept: int) -> None:
    qcd = QcdOptions(roles=roles)  # type: ignore[arg-type]
    pair = Pair.with_psk(bob={"extensions": (qcd,)})
    pair.up()
    assert len(records(pair.bob)) == kept
