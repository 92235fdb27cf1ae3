"""Where the argument of docs/cluster.md has a hole that is known: each test fails until it is closed.

Strict: who closes one is told so, and moves the test to where it belongs.
"""

from __future__ import annotations

import pytest
from tests.cluster.test_membership import ended, up
from tests.support.cluster import Member, World


def gap(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)


def replaced(world: World) -> tuple[Member, Member]:
    """Member 1 lives and is cut off; another machine, with an empty disk, takes its number."""
    first = world.members[1]
    first.cut_off = True
    world.members[1] = clone = type(first)(world, 1, "another machine")
    world.members.append(first)
    return first, clone


@gap("where a restored store has no record of a number at all, nobody waits before taking it")
def test_another_machine_takes_a_number_that_a_lost_store_does_not_know() -> None:
    """Both serve as member 1 in epoch 1: the second one takes the first one's SPIs for its own, and lost."""
    world = up(World(31))
    first, clone = replaced(world)
    world.store.restore((1, {}))
    clone.boot()
    world.run(2.0)
    assert not (first.serves and clone.serves), (first.lives, clone.lives)


@gap("where a backup says that a number's last life is over, nobody waits before taking it")
def test_another_machine_takes_a_number_whose_present_life_a_restored_store_has_forgotten() -> None:
    """The backup is from between two lives of member 1: registered 1, ended 1. It lives in epoch 2 now."""
    world = up(World(32))
    world.members[1].crash()
    world.run(8.0)
    backup = world.store.backup()
    world.members[1].boot()
    world.run(1.0)
    first, clone = replaced(world)
    assert first.lives == [1, 2]
    world.store.restore(backup)
    clone.boot()
    world.run(2.0)
    assert not (first.serves and clone.serves), (first.lives, clone.lives)


@gap(
    "a restored store has forgotten that a life was over, and its member, who does not know, goes on with it"
)
def test_a_life_that_was_over_before_the_store_was_restored() -> None:
    """
    Member 1 is cut off and written off: from now on anybody may buy the tokens of its SAs.
    etcd is restored from a backup of before. Member 1 comes back, fenced all the while:

      registered 1, ended 0  ──▶  goes on in epoch 1, with SAs whose tokens have been told
    """
    world = up(World(34))
    backup = world.store.backup()
    one = world.members[1]
    one.cut_off = True
    world.run(10.0)
    assert ended(world, 1) == (1, 1)
    world.store.restore(backup)
    world.run(1.0)
    world.heal()
    world.run(10.0)
    assert one.serves
    assert one.lives == [1, 2]
