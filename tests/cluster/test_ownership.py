"""Whose an SPI is, and what may be said of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.cluster.ownership import AddressHeld, Cluster, Ruling, Single, Standing, rule
from deadpeer.cluster.records import MemberRecord, View
from deadpeer.cluster.spi import EspCodec, SpiCodec, SpiRing

CODEC = SpiCodec(bytes(range(32)))
STANDINGS = st.sampled_from(Standing)


@given(STANDINGS, STANDINGS, st.booleans())
def test_nothing_is_said_where_another_member_may_have_the_sa(
    own: Standing, other: Standing, alone: bool
) -> None:
    ruling = rule(own, other, alone=alone)
    if Standing.LIVING in (own, other):
        assert ruling is Ruling.SILENCE
    if own is Standing.UNKNOWN:
        assert ruling in (Ruling.SILENCE, Ruling.GARBAGE)
        assert (ruling is Ruling.GARBAGE) <= alone


@pytest.mark.parametrize(
    ("own", "ruling"),
    [
        (Standing.PRESENT, Ruling.RECENT),
        (Standing.PAST, Ruling.RETURNING),
        (Standing.ENDED, Ruling.RETURNING),
    ],
)
def test_a_life_that_has_ended_comes_first(own: Standing, ruling: Ruling) -> None:
    for alone in (True, False):
        assert rule(own, Standing.UNKNOWN, alone=alone) is ruling


@given(st.integers(1, 1 << 22), st.integers(0, 300), st.integers(0, 255), st.integers(0, (1 << 20) - 1))
def test_one_member_by_itself(epoch: int, before: int, member: int, random_bits: int) -> None:
    single = Single(CODEC, epoch, 3)
    then = max(0, epoch - before)
    standing = single.of_ike(CODEC.encode(then, member, random_bits))
    if member != 3:
        assert standing is Standing.LIVING
    else:
        assert standing is (Standing.PRESENT if then == epoch else Standing.PAST)


def test_a_life_that_has_not_come_yet_is_not_a_past_one() -> None:
    single = Single(CODEC, 5)
    assert single.of_ike(CODEC.encode(6, 0, 1)) is Standing.UNKNOWN
    assert single.of_ike(bytes(range(8))) is Standing.UNKNOWN
    assert single.of_esp(0xC0FFEE00) is Standing.UNKNOWN
    assert single.alone


def test_how_many_lives_of_others_have_ended() -> None:
    """Our own earlier lives are no news: the boot that ended them is."""
    ring, esp = SpiRing([bytes(32)]), EspCodec(bytes(32))
    view = View(1, {0: MemberRecord(9, 8), 1: MemberRecord(4, 4), 2: MemberRecord(7, 5)})
    cluster = Cluster(ring, esp, 9, 0, view)
    assert cluster.ended_lives == 9
    cluster.view = View(2, {**view.members, 2: MemberRecord(7, 7)})
    assert cluster.ended_lives == 11
    held = AddressHeld(ring, esp, 9, 0)
    assert held.ended_lives == 0
    held.partner_lives = False
    assert held.ended_lives == 1
    held.partner_lives = True  # a doubt, which an old word of its may have been the reason for, is no news
    assert held.ended_lives == 1
    assert Single(CODEC, 9).ended_lives == 0
