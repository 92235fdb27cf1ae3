"""The store is out of everybody's reach for a while: nobody is in a hurry, and nobody is written off."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.cluster.test_membership import ended, up
from tests.support.cluster import Member, S, World

from deadpeer.cluster.steps import ttl_of
from deadpeer.cluster.store import Asked, Failed, KeepAlive, Range, Replied, Watch, WatchLost


class Refusing(World):
    """While the store is away it refuses at once, as a host does on which nobody listens."""

    asked: Counter[str]

    def send(self, member: Member, asked: Asked) -> None:
        self.__dict__.setdefault("asked", Counter())[type(asked.request).__name__] += 1
        if self.store_up:
            super().send(member, asked)
            return
        process = member.process
        refused = WatchLost("refused") if isinstance(asked.request, Watch) else None
        reply = refused or Replied(asked.number, Failed("refused"))
        self.at(S // 1000, lambda: self._to(member, process, reply))


@pytest.mark.parametrize("seed", range(5))
def test_a_store_that_refuses_is_asked_about_twice_a_second(seed: int) -> None:
    world = up(Refusing(seed, members=3))
    world.store_up = False
    world.lose_watches()
    world.run(1.0)
    before = Counter(world.asked)
    world.run(60.0)
    asked = world.asked - before
    assert not any(m.serves for m in world.members)
    assert asked[Range.__name__] + asked[KeepAlive.__name__] <= 3 * 60 * 2 * 2
    world.store_up = True
    world.run(2.0)
    assert all(m.serves for m in world.members)
    assert [m.lives for m in world.members] == [[1]] * 3
    assert world.violations == []


@pytest.mark.parametrize("seed", range(20))
def test_members_that_come_back_together_do_not_write_each_other_off(seed: int) -> None:
    """Their leases ran out while none of them could reach the store."""
    world = up(World(seed, members=4))
    for member in world.members:
        member.cut_off = True
    world.run(60.0)
    assert not any(key.startswith("/deadpeer/test/lease/") for key in world.store.items)
    for member in world.members:
        world.at(int(world.dice.uniform(0, 2.0) * S), lambda m=member: heal(world, m))  # type: ignore[misc]
    world.run(5.0)
    assert all(m.serves for m in world.members)
    world.run(20.0)
    assert [m.lives for m in world.members] == [[1]] * 4
    assert world.violations == []


def test_one_that_does_not_come_back_is_written_off_a_lease_later() -> None:
    world = up(World(3, members=3))
    for member in world.members:
        member.cut_off = True
    world.run(30.0)
    world.members[2].crash()
    world.heal()
    world.run(5.0)
    assert ended(world, 2) == (1, 0)
    world.run(4.0)
    assert ended(world, 2) == (1, 1)
    assert world.violations == []


def test_most_of_a_lease_is_left_when_the_store_goes() -> None:
    world = up(World(4, members=3, ttl_s=ttl_of(90)), 150.0)
    for _ in range(5):
        world.run(world.dice.uniform(0, 90))
        world.store_up = False
        world.run(60.0)
        assert all(m.serves for m in world.members)
        world.run(6.0)
        assert all(m.serves for m in world.members), "with room"
        world.store_up = True
        world.run(5.0)
    assert world.violations == []


def heal(world: World, member: Member) -> None:
    """It reaches the store again."""
    member.cut_off = member.watching = False
    world._to(member, member.process, WatchLost("healed"))
