"""What a member says while it waits for its number, and that it waits no longer. Virtual time."""

from __future__ import annotations

import pytest
from tests.support.cluster import Member, World


def doubts(member: Member) -> list[tuple[str, float]]:
    return [(t.why, t.numbers["wait_s"]) for t in member.troubles if t.kind == "member_number_in_doubt"]


@pytest.mark.parametrize("ttl_s", [2, 5, 90])
def test_a_first_start_says_once_why_it_waits_and_for_how_long(ttl_s: int) -> None:
    world = World(1, members=2, ttl_s=ttl_s)
    for member in world.members:
        member.boot()
    world.run(1.2 * ttl_s - 0.1)
    assert [member.lives for member in world.members] == [[], []]
    world.run(1.0)
    assert [member.lives for member in world.members] == [[1], [1]]
    for member in world.members:
        [(why, wait_s)] = doubts(member)
        assert wait_s == pytest.approx(1.2 * ttl_s)
        assert f"no record of a member {member.number}" in why and f"waiting {wait_s:g} s" in why


def test_who_takes_a_number_over_says_whose_it_was_and_who_comes_back_says_nothing() -> None:
    world = World(2, members=2)
    for member in world.members:
        member.boot()
    world.run(8.0)
    first = world.members[1]
    first.crash()
    world.run(7.0)
    world.members[1] = other = Member(world, 1, "another machine")
    other.boot()
    world.run(7.0)
    [(why, wait_s)] = doubts(other)
    assert (wait_s, other.lives) == (6.0, [2])
    assert "not ours by disk" in why
    world.members[0].crash()
    world.members[0].boot()
    world.run(1.0)
    assert world.members[0].lives == [1, 2]
    assert len(doubts(world.members[0])) == 1
