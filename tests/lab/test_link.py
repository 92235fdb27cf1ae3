"""The relay's decisions in virtual time: delay, loss, order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.lab.link import Delivery, Link, Passing, PlainPolicy, chance
from deadpeer.lab.trace import Lane, Way

MS = 1_000_000


def passing(at_ns: int, payload: bytes = b"x", way: Way = Way.TO_BOB) -> Passing:
    return Passing(way, Lane.NAT_T, payload, at_ns)


def test_half_of_the_round_trip_time_in_each_direction() -> None:
    link = Link(PlainPolicy(rtt_ms=20, loss=0, seed=1))
    assert link.offer(passing(0, b"question"))
    assert link.next_ns == 10 * MS
    assert link.due(10 * MS - 1) == []
    ((delivery, cause),) = link.due(10 * MS)
    assert delivery == Delivery(10 * MS, Way.TO_BOB, Lane.NAT_T, b"question")
    assert cause.arrived_ns == 0
    link.offer(passing(10 * MS, b"answer", Way.TO_ALICE))
    assert link.next_ns == 20 * MS
    link.due(20 * MS)
    assert link.next_ns is None


@given(st.lists(st.integers(0, 100 * MS), max_size=50), st.floats(0, 200))
def test_nothing_is_early_and_order_is_kept(arrivals: list[int], rtt_ms: float) -> None:
    link = Link(PlainPolicy(rtt_ms, loss=0, seed=1))
    for number, at in enumerate(sorted(arrivals)):
        link.offer(passing(at, b"%d" % number))
    out = []
    while (due := link.next_ns) is not None:
        out += [(int(d.payload), d.at_ns - p.arrived_ns) for d, p in link.due(due)]
    assert [number for number, _ in out] == list(range(len(arrivals)))
    assert all(delay == round(rtt_ms * MS / 2) for _, delay in out)


def fates(seed: int, loss: float, way: Way, count: int) -> list[bool]:
    policy = PlainPolicy(20, loss, seed)
    return [bool(policy.decide(passing(0, way=way))) for _ in range(count)]


def test_the_seed_decides_what_is_lost_in_each_direction() -> None:
    assert fates(1, 0.3, Way.TO_BOB, 200) == fates(1, 0.3, Way.TO_BOB, 200)
    assert fates(1, 0.3, Way.TO_BOB, 200) != fates(2, 0.3, Way.TO_BOB, 200)
    assert fates(1, 0.3, Way.TO_BOB, 200) != fates(1, 0.3, Way.TO_ALICE, 200)


def test_traffic_of_one_direction_does_not_move_the_losses_of_the_other() -> None:
    policy = PlainPolicy(20, 0.3, 7)
    mixed = []
    for number in range(100):
        mixed.append(bool(policy.decide(passing(0, way=Way.TO_BOB))))
        for _ in range(number % 3):
            policy.decide(passing(0, way=Way.TO_ALICE))
    assert mixed == fates(7, 0.3, Way.TO_BOB, 100)


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.5])
def test_the_share_that_is_lost(loss: float) -> None:
    lost = fates(3, loss, Way.TO_BOB, 10_000).count(False) / 10_000
    assert lost == pytest.approx(loss, abs=0.02)
    assert loss or lost == 0


@given(st.integers(0, 2**31), st.integers(0, 10**6))
def test_chance_is_a_probability(seed: int, number: int) -> None:
    assert 0 <= chance(seed, "x", number) < 1


def test_a_policy_may_copy_forge_and_turn_round() -> None:
    class Mirror:
        def decide(self, p: Passing) -> tuple[Delivery, ...]:
            back = Delivery(p.arrived_ns + 5, Way.TO_ALICE, p.lane, b"forged")
            return (Delivery(p.arrived_ns + 9, p.way, p.lane, p.payload), back)

    link = Link(Mirror())
    link.offer(passing(100))
    assert [(d.payload, d.way) for d, _ in link.due(1000)] == [(b"forged", Way.TO_ALICE), (b"x", Way.TO_BOB)]
