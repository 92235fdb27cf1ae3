"""Both sides begin an IKE SA at the same time: one is left, and never the dead one of two."""

from __future__ import annotations

import pytest
from tests.support.invariants import check_agreement, check_one_tunnel
from tests.support.pair import Pair, child_config

from deadpeer.crash.rivals import LOOK_S, LOOKS
from deadpeer.ike.io import Initiate, Rekey

NET = child_config()
OTHER = child_config("other", local_ts=NET.remote_ts, remote_ts=NET.local_ts)


def crossing(pair: Pair, alice: str = "net", bob: str = "net") -> None:
    """
    Alice                         Bob
      IKE_SA_INIT      ──╲  ╱──   IKE_SA_INIT
                       ◀─╱  ╲─▶
      IKE_AUTH         ──╲  ╱──   IKE_AUTH
                       ◀─╱  ╲─▶
    """
    pair.feed("alice", Initiate("home", alice))
    pair.feed("bob", Initiate("home", bob))
    pair.settle()
    assert pair.ike_sas() == (2, 2)


def dismissed(pair: Pair) -> list[int]:
    return [side.ike.counters["rival.dismissed"] for side in (pair.alice, pair.bob)]


@pytest.mark.parametrize("seed", range(6))
def test_of_two_crossing_sas_one_is_left(seed: int) -> None:
    """
    The side that began the one with the higher SPIi
      is the other alive?   SK{}          ──▶
                                          ◀──   SK{}
                            SK{DELETE}    ──▶
    """
    pair = Pair.with_psk(seed=seed)
    crossing(pair)
    # What is under way on the SA that goes, while it goes, may be lost; nothing else.
    answered = [pair.ping() for _ in range(10)]
    assert answered.count(False) <= 1
    assert sorted(dismissed(pair)) == [0, 1]
    check_one_tunnel(pair)


def test_an_sa_with_a_child_that_the_other_lacks_stays() -> None:
    """Nothing that somebody asked for is lost for the sake of order."""
    for seed in range(4):
        pair = Pair.with_psk(children=[NET, OTHER], seed=seed)
        crossing(pair, "net", "other")
        pair.run(2 * LOOKS * LOOK_S)
        assert pair.ike_sas() == (2, 2)
        assert dismissed(pair) == [0, 0]
        assert pair.alice.ike.sizes()["rivals.pairs"] == pair.bob.ike.sizes()["rivals.pairs"] == 0


def test_further_children_are_waited_for() -> None:
    pair = Pair.with_psk(children=[NET, OTHER])
    pair.feed("alice", Initiate("home"))
    pair.feed("bob", Initiate("home"))
    pair.run(20.0)
    assert sorted(dismissed(pair)) == [0, 1]
    check_one_tunnel(pair, children=2)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_given_up_for_an_sa_whose_peer_is_gone(seed: int) -> None:
    """
    Bob dies when both are up, and says nothing more: both SAs may be dead, and neither goes for the other.
    """
    pair = Pair.with_psk(seed=seed)
    crossing(pair)
    pair.crash("bob")
    pair.run(2 * LOOKS * LOOK_S)
    assert pair.alice.ike.counters["rival.dismissed"] == 0
    pair.boot("bob")
    pair.send("alice")
    pair.run(10.0)
    check_one_tunnel(pair)


def test_sas_that_came_up_apart_are_left_alone() -> None:
    """Somebody may want two: after `RIVALS_S` nobody asks why."""
    pair = Pair.with_psk(children=[NET, OTHER])
    pair.up("alice", "net")
    pair.run(11.0)
    pair.feed("bob", Initiate("home", "other"))
    pair.run(20.0)
    check_agreement(pair)
    assert dismissed(pair) == [0, 0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("more", ["alice", "bob"])
def test_the_one_with_fewer_children_goes_whoever_decides(seed: int, more: str) -> None:
    """Nobody has to do without `other`, and net is there once."""
    pair = Pair.with_psk(children=[NET, OTHER], seed=seed)
    pair.feed("alice", Initiate("home", None if more == "alice" else "net"))
    pair.feed("bob", Initiate("home", None if more == "bob" else "net"))
    pair.run(20.0)
    assert sorted(dismissed(pair)) == [0, 1]
    check_one_tunnel(pair, children=2)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_rekey_meanwhile_changes_nothing(seed: int, who: str) -> None:
    """Both new IKE SAs are rekeyed before it is looked at them; `who` rekeys, so that the roles change."""
    pair = Pair.with_psk(seed=seed)
    crossing(pair)
    pair.feed(who, Rekey("home"))
    pair.run(LOOK_S / 2)
    pair.run(20.0)
    assert sorted(dismissed(pair)) == [0, 1]
    check_one_tunnel(pair)
