"""A member that died is written off within `lease` seconds, and one that is cut off is fenced before that,
for every lease that a configuration allows. Virtual time; the store looks for ended leases as etcd does.
"""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cluster.test_membership import ended, up
from tests.support.cluster import S, World

from deadpeer.cluster.fence import Fence, Margin
from deadpeer.cluster.membership import KEEPALIVES
from deadpeer.cluster.records import Keys
from deadpeer.cluster.steps import DOUBT_TTLS, LEAST_LEASE_S, LEAST_TTL_S, MemberConfig, ttl_of

LONGEST_S = 3600
LOOKS_S = 0.5
DRIFT = 0.005
"""Clocks run wrong by so much at most: two of them by no more than `Margin` allows for."""
FEW = settings(max_examples=25, deadline=None)
leases = st.one_of(
    st.integers(LEAST_LEASE_S, 12), st.integers(LEAST_LEASE_S, 120), st.integers(LEAST_LEASE_S, LONGEST_S)
)


class Watched(World):
    """Notes when a member's lease ended, and whether that member served at that moment."""

    def __init__(self, seed: int, members: int, ttl_s: int) -> None:
        self.gone_ns: dict[int, int] = {}
        super().__init__(seed, members, ttl_s)

    def changed(self) -> None:
        for member in self.members:
            if member.lives and Keys("test").lease(member.number) not in self.store.items:
                self.gone_ns.setdefault(member.number, self.now_ns)
                if member.serves:
                    self._violated(f"{member.number} serves, and its lease has ended")
        super().changed()


def world_of(lease_s: int, seed: int) -> tuple[Watched, random.Random]:
    """Two to four members that have known the store for long enough, with clocks that run a little wrong."""
    dice = random.Random(seed)
    world = Watched(seed, dice.randint(2, 4), ttl_of(lease_s))
    world.store.drift = dice.uniform(-DRIFT, DRIFT)
    for member in world.members:
        member.drift = dice.uniform(-DRIFT, DRIFT)
    up(world, 2 * DOUBT_TTLS * ttl_of(lease_s) + 8.0)
    assert all(member.serves for member in world.members)
    world.run(dice.uniform(0, ttl_of(lease_s)))
    return world, dice


def bounds_s(world: Watched, lease_s: int) -> tuple[float, float]:
    """Between which times after a death the write-off comes; `lease` counts in seconds of etcd's clock."""
    slow, ttl_s = 1 + world.store.drift, ttl_of(lease_s)
    # The member's own clock counts between keepalives.
    soonest_s = (ttl_s - ttl_s / KEEPALIVES / (1 - DRIFT)) * slow - world.slowest_s
    return soonest_s, lease_s * max(slow, 1.0)


def test_it_is_asked_for_a_second_less_and_never_for_less_than_etcd_grants() -> None:
    assert [ttl_of(lease_s) for lease_s in (LEAST_LEASE_S, 4, 5, 90, LONGEST_S)] == [2, 3, 4, 89, 3599]
    assert ttl_of(0) == LEAST_TTL_S
    assert MemberConfig("edge", 0, "machine").ttl_s == 4


@FEW
@given(leases, st.integers(0, 2**32))
def test_a_dead_member_is_written_off_within_the_lease(lease_s: int, seed: int) -> None:
    world, _ = world_of(lease_s, seed)
    soonest_s, latest_s = bounds_s(world, lease_s)
    world.members[1].crash()
    world.run(soonest_s)
    assert ended(world, 1) == (1, 0)
    world.run(latest_s - soonest_s)
    assert ended(world, 1) == (1, 1)
    for member in world.members:
        if member.process is not None:
            assert member.process.view.members[1].ended == 1
    assert world.violations == []


@FEW
@given(leases, st.integers(0, 2**32))
def test_one_that_is_cut_off_is_fenced_before_its_lease_ends(lease_s: int, seed: int) -> None:
    world, dice = world_of(lease_s, seed)
    soonest_s, latest_s = bounds_s(world, lease_s)
    member = world.members[0]
    if dice.random() < 0.5:
        member.cut_off = True
    else:
        member.deaf = True  # what it asks is carried out: the store counts from later than it knows
        latest_s += lease_s
    world.run(soonest_s / 2)
    member.cut_off = True
    world.run(latest_s)
    assert not member.serves
    assert ended(world, 0) == (1, 1)
    assert member.number in world.gone_ns
    assert world.violations == []


def test_the_distribution_that_the_document_gives() -> None:
    """With the default lease: from four fifths of what is granted to that and half a second."""
    took_s = []
    for seed in range(60):
        world = Watched(seed, 3, ttl_of(5))
        up(world)
        world.run(random.Random(seed).uniform(0, 5.0))
        died_ns = world.now_ns
        world.members[2].crash()
        while json.loads(world.store.items[Keys("test").member(2)].value)["ended"] == 0:
            world.run(0.01)
        took_s.append((world.now_ns - died_ns) / S)
    assert 4 * 4 / KEEPALIVES - world.slowest_s <= min(took_s) < 3.6
    assert 4.0 < max(took_s) <= 4 + LOOKS_S + 0.15


@given(leases, st.floats(-DRIFT, DRIFT), st.floats(-DRIFT, DRIFT), st.floats(0, 2.0))
def test_the_fence_leaves_a_margin_to_the_soonest_end(
    lease_s: int, ours: float, theirs: float, on_the_way_s: float
) -> None:
    """Whatever the lease: by true time it closes before etcd, which counts from when it has the keepalive."""
    fence, ttl_s = Fence(Margin()), ttl_of(lease_s)
    fence.renewed(0, ttl_s)
    assert fence.until_ns is not None
    closes_s = fence.until_ns / S / (1 + ours)
    assert closes_s < on_the_way_s + ttl_s / (1 + theirs)
    assert closes_s >= ttl_s / 2, "a keepalive that is lost fences nobody"


@pytest.mark.parametrize("lease_s", [LEAST_LEASE_S, 5, 90])
def test_members_that_live_are_never_written_off(lease_s: int) -> None:
    world = up(Watched(lease_s, 3, ttl_of(lease_s)), 2.0 * lease_s + 8.0)
    world.run(40 * lease_s)
    assert [member.lives for member in world.members] == [[1]] * 3
    assert world.gone_ns == {}
    assert world.violations == []
