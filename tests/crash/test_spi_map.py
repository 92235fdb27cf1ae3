"""The persistent SPI map: a crash found in half a round trip, end to end under virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.pair import Pair, Side

from deadpeer.crash import boot
from deadpeer.crash.options import CrashOptions, QcdOptions, TokenMethod
from deadpeer.crash.spi_records import HEAD_KEY, HEAD_TABLE, TABLE, SpiRecord, decode_record
from deadpeer.ike.io import ExtensionCommand, Rekey, Terminate
from deadpeer.plane.model import UnknownSpi
from deadpeer.store import MemoryLedger, MemoryStore
from deadpeer.values import Address
from deadpeer.wire import Message, NotifyType, decode_message

SILENT = CrashOptions(announce=False)


def traffic(pair: Pair, seconds: float, every_s: float = 0.010) -> None:
    """Alice's host sends an echo request every `every_s`."""
    for seq in range(int(seconds / every_s)):
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


def seconds_to(pair: Pair, kind: str, since_ns: int) -> float:
    """From `since_ns` to Alice's next event of that kind."""
    return next(at - since_ns for at, e in pair.alice.events if e.kind == kind and at >= since_ns) / 1e9


def records(side: Side) -> dict[int, SpiRecord]:
    """What the side's ledger holds."""
    found = {int.from_bytes(key, "big"): decode_record(data) for key, data in side.ledger.items(TABLE)}
    return {spi: record for spi, record in found.items() if record is not None}


def shown(pair: Pair, since: int = 0) -> list[Message]:
    """The unprotected INVALID_SPI messages of Bob, from this place of the trace on."""
    found = []
    for sent in pair.trace[since:]:
        if sent.sender == "bob" and sent.reason in ("invalid spi", "announcement"):
            message = decode_message(sent.datagram.payload.removeprefix(bytes(4)))
            if message.protected is None:
                found.append(message)
    return found


def tokens(messages: list[Message]) -> int:
    """How many tokens there are in them."""
    return sum(len(message.notifies(NotifyType.QCD_TOKEN)) for message in messages)


def reboot_bob(pair: Pair, down_s: float = 1.0) -> int:
    """Bob crashes under traffic and comes back; returns when."""
    pair.crash("bob")
    traffic(pair, down_s)
    pair.boot("bob")
    return pair.mono_ns


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


def ask(pair: Pair, spi: int, octets: int, source: Address | None = None) -> None:
    """An ESP packet of this SPI comes to Bob."""
    remote = source or Address(pair.alice.host, 4500)
    pair.feed("bob", UnknownSpi(spi, octets, Address(pair.bob.host, 4500), remote))


def crashed_before(method: TokenMethod = "spi") -> tuple[Pair, int]:
    """Bob is back, and nobody has found out yet."""
    pair = Pair.with_psk(options=SILENT, both={"extensions": (QcdOptions(method=method),)})
    pair.up()
    [spi] = records(pair.bob)
    pair.crash("bob")
    pair.boot("bob")
    return pair, spi


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
