"""What one of two that share an address makes of the SPI map that the other has shown: which records it takes
in, for which it makes room, and when it tells their peers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pytest
from tests.crash.fakes import FakeCore, at

from deadpeer.cluster.ownership import AddressHeld
from deadpeer.cluster.spi import EpochSpis, EspCodec, SpiRing
from deadpeer.cluster.standby_map import ShownMap
from deadpeer.crash import spi_map
from deadpeer.crash.announce import Announcer
from deadpeer.crash.boot import BootState, Generation
from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.spi_map import SpiMap
from deadpeer.crash.spi_records import (
    HEAD_KEY,
    HEAD_TABLE,
    TABLE,
    Header,
    SpiRecord,
    decode_record,
    encode_header,
    encode_record,
    record_key,
)
from deadpeer.crash.tokens import MakerRole
from deadpeer.crypto import SeededEntropy
from deadpeer.ike.extension import SaEstablished
from deadpeer.store import MemoryLedger
from deadpeer.values import Address, Now

KEY = bytes(range(32))
VIP = Address("198.51.100.2", 4500)
RING, ESP = SpiRing([KEY]), EspCodec(KEY)
GENERATIONS = (Generation(1, bytes(32)),)
Child = tuple[int, int]
"""Our inbound ESP SPI, and which peer it is of."""


@dataclass
class Peer:
    """As much of its new SA as the map looks at."""

    number: int

    @property
    def remote(self) -> Address:
        return address(self.number)


def address(number: int) -> Address:
    return Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 4500)


def record(spis: EpochSpis, number: int) -> bytes:
    spi_i, spi_r = (number + 1).to_bytes(8, "big"), spis.ike_spi()
    return encode_record(SpiRecord(MakerRole.RESPONDER, "spi", spi_i, spi_r, 1, b"pp", address(number), VIP))


class Two:
    """Number 1 in its life 9. `own` is on its disk, of life 8; `theirs` number 0 has shown, of its life 5."""

    def __init__(
        self,
        own: Iterable[Child] = (),
        theirs: Iterable[Child] = (),
        options: CrashOptions | None = None,
        *,
        age_s: float = 0.0,
        generation: int = 1,
    ) -> None:
        options, entropy, ledger = options or CrashOptions(), SeededEntropy(1), MemoryLedger()
        mine, their = EpochSpis(RING, 8, 1, entropy, ESP), EpochSpis(RING, 5, 0, entropy, ESP)
        last, state = BootState(8, KEY, GENERATIONS), BootState(9, KEY, GENERATIONS)
        for spi, number in own:
            ledger.write(TABLE, record_key(spi), record(mine, number), durable=False)
        ledger.write(HEAD_TABLE, HEAD_KEY, encode_header(Header(8), last, b""), durable=True)
        shown = {}
        for spi, number in theirs:
            made = decode_record(record(their, number))
            assert made is not None
            shown[record_key(spi)] = encode_record(replace(made, generation=generation))
        self.ownership = AddressHeld(RING, ESP, 9, 1)
        self.core = FakeCore()
        maker = TokenMaker(state, entropy, options)
        self.map = SpiMap(
            at(0), state, RING, self.ownership, maker, ledger, options,
            local_hosts=(VIP.host,), partners=ShownMap(shown, age_s),
        )  # fmt: skip
        self.announcer = Announcer(self.map, maker, entropy, options)
        for each in (maker, self.map, self.announcer):
            each.attach(at(0), self.core)

    def gone(self) -> Two:
        """All is taken in, and the partner is gone."""
        while (due := self.map.deadline()) is not None and due.reason == "the partner's SPI map":
            self.map.expire(Now(due.at_ns, 1.7e9))
        self.ownership.partner_lives = False
        return self

    def announced(self, seconds: float) -> int:
        """How many announcements have been sent by then."""
        while (due := self.announcer.deadline()) is not None and due.at_ns <= at(seconds).mono_ns:
            self.announcer.expire(Now(due.at_ns, 1.7e9))
        return self.core.counts["announced"]

    def comes_back(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A peer sets up a new SA."""
        monkeypatch.setattr(spi_map.spi_records, "peer_tag", lambda _sa: b"pp")
        self.map.observe(at(1), SaEstablished(Peer(number)))  # type: ignore[arg-type]

    def known(self, spis: Sequence[int]) -> list[bool]:
        """Of which children it could speak."""
        return [self.map.dead(spi) is not None for spi in spis]


def children(first: int, count: int) -> list[Child]:
    return [(first + number, number) for number in range(count)]


def test_what_it_can_speak_of_is_taken_in_and_nothing_is_said_while_the_partner_may_live() -> None:
    two = Two(children(0x1000, 3), children(0x2000, 100))
    spis = [0x1000, 0x2000, 0x2063]
    assert two.known(spis) == [True, False, False]
    assert two.core.counts["spi_map.not_ended"] == 2
    two.gone()
    assert two.known(spis) == [True, True, True]
    assert two.map.counters() == {"spi_map.living": 0, "spi_map.ended": 103}
    two.ownership.partner_lives = True
    assert two.known(spis) == [True, False, False]


def test_it_is_looked_up_before_it_is_taken_in() -> None:
    two = Two([], children(0x2000, 1000))
    two.ownership.partner_lives = False
    assert two.known([0x2000, 0x23E7, 0x23E8]) == [True, True, False]


def test_records_that_are_not_of_the_partner_are_not_taken_in() -> None:
    spis = EpochSpis(RING, 9, 1, SeededEntropy(2), ESP)
    two = Two()
    made = SpiMap(
        at(0), BootState(9, KEY, GENERATIONS), RING, two.ownership, two.map._maker, MemoryLedger(),
        CrashOptions(), partners=ShownMap({b"ours": record(spis, 1), b"none": b"x"}, 0.0),
    )  # fmt: skip
    made.attach(at(0), two.core)
    made.expire(at(0))
    assert made.counters()["spi_map.ended"] == 0
    assert two.core.counts["spi_map.dropped.not_the_partners"] == 1
    assert two.core.counts["spi_map.dropped.damaged"] == 1


def test_one_spi_in_both_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a renewal of keys an SPI of ours and one of the partner's may be the same by chance."""
    two = Two([(0x5000, 7)], [(0x5000, 7)]).gone()
    assert two.core.counts["spi_map.dropped.twice"] == 1
    two.map.told(0x5000)
    for _ in range(2):
        two.comes_back(7, monkeypatch)
    assert two.map.counters()["spi_map.ended"] == 0


def test_the_partner_s_have_room_as_they_are_newer() -> None:
    """1 served ten peers, then 0 served the same ten, and 1 is back."""
    two = Two(children(0x1000, 10), children(0x2000, 15), CrashOptions(spi_map_size=10)).gone()
    assert two.known(range(0x2000, 0x200F)).count(True) == 10
    assert two.known(range(0x1000, 0x100A)) == [False] * 10
    assert two.core.counts["spi_map.dropped.evicted"] == 15, "ten of ours, and five of the partner's"


@pytest.mark.parametrize(("age_s", "known_s"), [(0.0, 60.0), (45.0, 15.0), (60.0, 0.0)])
def test_they_are_kept_for_as_long_as_ours_since_they_were_shown(age_s: float, known_s: float) -> None:
    two = Two([], [(0x2000, 1)], CrashOptions(spi_map_keep_s=60.0), age_s=age_s).gone()
    for second in range(100):
        expected = second < known_s
        assert two.known([0x2000]) == [expected], second
        if (due := two.map.deadline()) is not None and due.at_ns <= at(second + 1).mono_ns:
            two.map.expire(at(second + 1))


def test_a_peer_that_is_back_before_its_records_are_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have had two SAs: both are known. Nobody waits for it, so it has no budget of its own."""
    two = Two([], [(0x2000, 7), (0x2001, 7), (0x2002, 8)])
    two.comes_back(7, monkeypatch)
    two.gone()
    assert two.known([0x2000, 0x2001, 0x2002]) == [True] * 3
    records = [two.map.dead(spi) for spi in (0x2000, 0x2002)]
    assert [r is not None and two.map.has_pair(r.spi_i, r.spi_r) for r in records] == [False, True]


def test_the_partner_s_numbers_of_secrets_mean_nothing_here() -> None:
    """
    0 runs with the keys [new, old], so that the new one is number 2; 1 was restarted with [new]: number 1.
    """
    two = Two([], [(0x2000, 7)], generation=2).gone()
    record = two.map.dead(0x2000)
    assert record is not None and record.generation == 1
    assert len(two.map.tokens(record, "10.0.0.7", 2)) == 1


def test_ours_are_told_unasked_and_the_partner_s_are_not() -> None:
    assert Two([(0x1000, 1)], [(0x2000, 2)]).announced(60) == 5
    assert Two([], [(0x2000, 2)]).gone().announced(60) == 0
