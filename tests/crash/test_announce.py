"""Announcing after a boot: pace, order, rounds, and that nothing is ever said about what lives."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
from tests.crash.fakes import FakeChild, FakeCore, FakeSa, at, connection
from tests.support.pair import Pair

from deadpeer.cluster.ownership import Single
from deadpeer.cluster.spi import EpochSpis, SpiCodec
from deadpeer.crash import boot
from deadpeer.crash.announce import Announcer
from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.spi_map import SpiMap
from deadpeer.crash.spi_records import (
    HEAD_KEY,
    HEAD_TABLE,
    TABLE,
    Header,
    SpiRecord,
    encode_header,
    encode_record,
    record_key,
)
from deadpeer.crash.tokens import MakerRole, make_token
from deadpeer.crypto import SeededEntropy
from deadpeer.store import MemoryLedger, MemoryStore
from deadpeer.values import NS_PER_S, Address, Datagram, Now
from deadpeer.wire import Message, Notify, NotifyType, Protocol, encode_message

BOB = Address("198.51.100.2", 4500)


class Bob:
    """A gateway whose last life had `sas` SAs, each with a peer and `children` children of its own."""

    def __init__(self, sas: int, options: CrashOptions | None = None, children: int = 1) -> None:
        options = options or CrashOptions()
        store, ledger, entropy = MemoryStore(), MemoryLedger(), SeededEntropy(6290)
        last = boot.start(store, entropy)
        codec = SpiCodec(last.spi_key)
        spis = EpochSpis(codec, last.epoch, 0, entropy)
        for number in range(sas):
            record = SpiRecord(
                MakerRole.RESPONDER,
                "spi",
                (number + 1).to_bytes(8, "big"),
                spis.ike_spi(),
                last.current.number,
                b"pp",
                Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 4500),
                BOB,
            )
            for child in range(children):
                key = record_key(0x10000 + number * children + child)
                ledger.write(TABLE, key, encode_record(record), durable=False)
        ledger.write(HEAD_TABLE, HEAD_KEY, encode_header(Header(last.epoch), last, b""), durable=True)
        self.state = boot.start(store, entropy)
        self.core = FakeCore()
        self.maker = TokenMaker(self.state, entropy, options)
        ownership = Single(codec, self.state.epoch)
        self.map = SpiMap(at(0), self.state, codec, ownership, self.maker, ledger, options)
        self.announcer = Announcer(self.map, self.maker, entropy, options)
        for extension in (self.maker, self.map, self.announcer):
            extension.attach(at(0), self.core)  # type: ignore[arg-type]
        self.sent: list[tuple[float, Address, Message]] = []

    def record(self) -> SpiRecord:
        """The only one of the map."""
        [spi] = self.map.ended_of_ours()
        record = self.map.dead(spi)
        assert record is not None
        return record

    def run(self, seconds: float) -> None:
        """Until nothing is due, or so long."""
        while (due := self.announcer.deadline()) is not None and due.at_ns <= at(seconds).mono_ns:
            now = Now(due.at_ns, at(0).unix_s + (due.at_ns - at(0).mono_ns) / NS_PER_S)
            self.announcer.expire(now)
            for datagram, message in self.core.answers:
                self.sent.append(((due.at_ns - at(0).mono_ns) / NS_PER_S, datagram.remote, message))
            self.core.answers.clear()


def test_ten_thousand_peers_are_told_at_the_configured_pace() -> None:
    bob = Bob(10_000)
    bob.run(100.5)
    times = [when for when, _, _ in bob.sent]
    # The next round begins when this one is over, after a pause.
    assert len(times) == 10_000
    assert times[0] < 0.001
    assert 95 <= times[-1] <= 105
    windows = Counter(int(when) for when in times)
    assert max(windows.values()) <= 120
    assert len({peer for _, peer, _ in bob.sent}) == 10_000
    gaps = {round(later - sooner, 4) for sooner, later in pairwise(times)}
    assert len(gaps) > 50
    assert 0.005 <= min(gaps) <= max(gaps) <= 0.016


def test_the_order_can_not_be_foreseen() -> None:
    bob = Bob(1000)
    bob.run(20)
    peers = [peer for _, peer, _ in bob.sent[:1000]]
    assert peers != sorted(peers)
    assert sum(1 for place, peer in enumerate(peers) if peer == sorted(peers)[place]) < 20


def test_an_announcement_says_what_the_protocol_asks() -> None:
    bob = Bob(1)
    bob.run(0)
    [(_, peer, message)] = bob.sent
    assert peer == Address("10.0.0.0", 4500)
    assert message.from_initiator
    assert not message.is_response
    assert message.message_id == 0
    record = bob.record()
    assert (message.spi_i, message.spi_r) == (record.spi_i, record.spi_r)
    [spi] = message.notifies(NotifyType.INVALID_SPI)
    assert spi.data == record_key(0x10000)
    [token] = message.notifies(NotifyType.QCD_TOKEN)
    secret = bob.state.generations[0].secret
    assert token.data == make_token(secret, MakerRole.RESPONDER, record.spi_i, record.spi_r)


def test_an_sa_is_told_once_a_round_by_a_child_in_turn() -> None:
    bob = Bob(1, children=3)
    bob.run(1000)
    times = [when for when, _, _ in bob.sent]
    assert len(times) == 5
    named = [message.notifies(NotifyType.INVALID_SPI)[0].data for _, _, message in bob.sent]
    assert len(set(named)) == 3
    # Pauses of 2, 4, 8 and 16 s, each from half to one and a half times as long.
    pauses = [later - sooner for sooner, later in pairwise(times)]
    for pause, base in zip(pauses, (2, 4, 8, 16), strict=True):
        assert 0.5 * base <= pause <= 1.5 * base
    assert bob.announcer.deadline() is None
    assert bob.announcer.counters()["announce.waiting"] == 0


@pytest.mark.parametrize("side", ["initiator", "responder"])
def test_nothing_is_said_about_a_living_pair_whatever_the_map_says(side: str) -> None:
    bob = Bob(1)
    record = bob.record()
    spis = (record.spi_i, b"another!") if side == "initiator" else (b"another!", record.spi_r)
    bob.core.sas.append(FakeSa(1, connection(), False, *spis, BOB, record.remote))
    bob.run(1000)
    assert bob.sent == []
    assert bob.map.dead(0x10000) is None
    assert bob.core.counts["spi_map.alive"] > 0


def test_nothing_is_said_about_a_living_child_s_spi() -> None:
    bob = Bob(1)
    living = FakeSa(1, connection(), False, b"initiato", b"responde", BOB, Address("10.9.9.9", 4500))
    living.child_views = [FakeChild(spi_in=0x10000)]
    bob.core.sas.append(living)
    bob.run(1000)
    assert bob.sent == []


def test_every_other_round_tries_another_generation() -> None:
    """The crash may have come between the renewal of a peer's token and its note in the map."""
    bob = Bob(1, CrashOptions(announce_rounds=6))
    recorded = bob.maker.state.current.secret
    for number in range(2):
        bob.maker.state = bob.maker.state.rotated(bytes([number]) * 32)
    secrets = [recorded, bytes([1]) * 32, recorded, bytes([0]) * 32, recorded, bytes([1]) * 32]
    bob.run(1000)
    record = bob.record()
    spis = (record.spi_i, record.spi_r)
    tokens = [[n.data for n in message.notifies(NotifyType.QCD_TOKEN)] for _, _, message in bob.sent]
    assert tokens == [[make_token(secret, MakerRole.RESPONDER, *spis)] for secret in secrets]


def test_a_generation_that_is_gone_is_not_announced() -> None:
    bob = Bob(1)
    for number in range(4):
        bob.maker.state = bob.maker.state.rotated(bytes([number]) * 32)
    bob.run(1000)
    assert bob.sent == []
    assert bob.core.counts["announce.no_token"] > 0


@pytest.mark.parametrize("options", [CrashOptions(announce=False), CrashOptions(announce_rate=0)])
def test_announcing_can_be_turned_off(options: CrashOptions) -> None:
    bob = Bob(10, options)
    assert bob.announcer.deadline() is None
    assert bob.map.dead(0x10000) is not None


def test_memory_is_bounded() -> None:
    """Loading and announcing 10,000 SAs takes less than a kilooctet for each."""
    tracemalloc.start()
    try:
        bob = Bob(0)
        before = tracemalloc.get_traced_memory()[0]
        bob = Bob(10_000)
        bob.run(1.0)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # The ledger in memory is this test's, not the gateway's.
    assert used < 10_000 * 1024
    assert bob.map.counters()["spi_map.ended"] == 10_000


def test_a_peer_that_is_back_is_told_nothing_more() -> None:
    """
    Alice                                        Bob (back after a crash)
                                 ◀──────────     N(INVALID_SPI), N(QCD_TOKEN)
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶
                                                 ... and no more
    """
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    pair.crash("bob")
    pair.boot("bob")
    pair.run(300)
    assert pair.reasons("bob").count("announcement") == 1
    assert pair.ike_sas() == (1, 1)


def test_a_peer_that_is_not_reached_is_told_again() -> None:
    """
    Alice                                        Bob (back after a crash)
                              x  ◀──────────     N(INVALID_SPI), N(QCD_TOKEN)    lost
                              x  ◀──────────     the same, about 2 s later       lost
                                 ◀──────────     the same, about 4 s later
      verdict
    """
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    pair.crash("bob")
    pair.drop_rule = lambda sent: pair.reasons("bob").count("announcement") < 2
    pair.boot("bob")
    pair.run(30)
    assert pair.reasons("bob").count("announcement") == 3
    assert pair.alice.last("verdict").fields["proof"] == "qcd-token"
    assert pair.ping()


def test_where_bob_himself_builds_the_new_sa_he_stops_announcing() -> None:
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    pair.crash("bob")
    pair.drop_rule = lambda sent: sent.reason == "announcement"
    pair.boot("bob")
    pair.up("bob")
    pair.run(300)
    assert pair.reasons("bob").count("announcement") == 1


def test_a_forged_announcement_condemns_nothing() -> None:
    """Mallory knows the SPIs, and not the token: Alice keeps her SA and sends nothing."""
    bob = Bob(1)
    bob.run(0)
    [(_, _, announcement)] = bob.sent
    pair = Pair.with_psk()
    pair.up()
    [sa] = pair.alice.ike.views()
    spi = sa.child_views[0].spi_out.to_bytes(4, "big")
    forged = Message(
        sa.spi_i,
        sa.spi_r,
        announcement.exchange,
        0,
        True,
        False,
        (Notify(NotifyType.INVALID_SPI, spi), Notify(NotifyType.QCD_TOKEN, bytes(16), Protocol.IKE)),
    )
    before = len(pair.trace)
    pair.inject(Datagram(bytes(4) + encode_message(forged), Address(pair.bob.host, 4500), sa.local))
    pair.run(1.0)
    assert pair.ike_sas() == (1, 1)
    assert [sent for sent in pair.trace[before:] if sent.sender == "alice"] == []
    assert pair.alice.ike.counters["token_mismatch"] == 1
