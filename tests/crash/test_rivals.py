"""Both sides begin an IKE SA at the same time: one is left, and never the dead one of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.invariants import check_agreement, check_one_tunnel
from tests.support.pair import Pair, Sent, Side, child_config, host_selector

from deadpeer.crash.rivals import LOOK_S, LOOKS
from deadpeer.ike.io import Initiate, Rekey, Reload

NET = child_config()
OTHER = child_config("other", local_ts=NET.remote_ts, remote_ts=NET.local_ts)
BESIDE = child_config(
    "beside", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),)
)
PATHS = (("10.10.1.1", "10.10.2.1"), ("10.10.1.2", "10.10.2.2"))


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


def names(side: Side) -> set[str]:
    """The children that are up, in whichever SA."""
    return {child.name for sa in side.ike.views() if sa.established for child in sa.child_views}


def traffic(
    pair: Pair, seconds: float, every_s: float = 0.02, paths: Sequence[tuple[str, str]] = PATHS
) -> tuple[int, int]:
    """The hosts of both sides ping each other over the children; how many requests, how many answers."""
    before = len(pair.alice.behind.received) + len(pair.bob.behind.received)
    rounds = int(seconds / every_s)
    for seq in range(rounds):
        for here, there in paths:
            pair.send("alice", here, there, seq & 0xFFFF)
            pair.send("bob", there, here, seq & 0xFFFF)
        pair.run(every_s)
    pair.run(1.0)
    received = len(pair.alice.behind.received) + len(pair.bob.behind.received) - before
    # Each side hears the other's requests, too.
    sent = rounds * 2 * len(paths)
    return sent, received - sent


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


@pytest.mark.parametrize("seed", range(4))
def test_each_with_a_child_that_the_other_lacks_one_gets_both(seed: int) -> None:
    """
    Nothing that somebody asked for is lost for the sake of order, and none of the packets.

    ours: net  theirs: other
      SK{CREATE_CHILD_SA of net}   ──▶  in theirs
      SK{DELETE}                   ──▶  in ours
    """
    pair = Pair.with_psk(children=[NET, BESIDE], seed=seed)
    crossing(pair, "net", "beside")
    assert pair.ike_children() == (2, 2)
    sent, answered = traffic(pair, LOOKS * LOOK_S)
    assert answered == sent
    assert sorted(dismissed(pair)) == [0, 1]
    check_one_tunnel(pair, children=2)
    assert pair.alice.ike.sizes()["rivals.pairs"] == pair.bob.ike.sizes()["rivals.pairs"] == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("refusal", ["not ours any more", "not the peer's"])
def test_children_that_the_other_sa_can_not_get_keep_both(refusal: str, seed: int) -> None:
    """
    SK{CREATE_CHILD_SA of net}   ──▶
                                 ◀──   SK{N(TS_UNACCEPTABLE)}    and no more of it
    """
    pair = Pair.with_psk(children=[NET, BESIDE], seed=seed)
    crossing(pair, "net", "beside")
    for side in (pair.alice, pair.bob):
        if refusal == "not ours any more":
            pair.feed(side.name, Reload(tuple(replace(c, children=()) for c in side.connections)))
        for sa in side.ike.views():
            sa.connection = replace(sa.connection, children=())
    sent, answered = traffic(pair, 2 * LOOKS * LOOK_S, every_s=0.5)
    assert answered == sent
    assert pair.ike_sas() == pair.ike_children() == (2, 2)
    assert dismissed(pair) == [0, 0]
    carried = sum(side.ike.counters["rival.carried_over"] for side in (pair.alice, pair.bob))
    failed = [kind for side in (pair.alice, pair.bob) for kind in side.kinds() if kind == "child_failed"]
    assert (carried, len(failed)) == (1, 0 if refusal == "not ours any more" else 2), "each side says so once"
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


@settings(max_examples=60, deadline=None)
@given(
    rtt_s=st.sampled_from((0.010, 0.050, 0.100, 0.300)),
    apart_s=st.integers(0, 60).map(lambda steps: steps * 0.050),
    late=st.sampled_from(("alice", "bob")),
    asked=st.sampled_from((("net", "net"), ("net", "beside"), (None, "beside"), (None, None))),
    seed=st.integers(0, 99),
)
def test_however_far_apart_they_come_up_one_is_left_and_no_packet_lost(
    rtt_s: float, apart_s: float, late: str, asked: tuple[str | None, str | None], seed: int
) -> None:
    """
    Alice                                      Bob
      IKE_SA_INIT     ─────────────────────▶          one
      ...             ◀─────────────────────
                      ◀────────── IKE_SA_INIT         the other's does not get through until `apart_s`
      (both up; one is left, with all children; both hosts send all the time)
    """
    pair = Pair.with_psk(children=[NET, BESIDE], seed=seed, latency_s=rtt_s / 2)
    began_ns = pair.mono_ns

    def delays(sent: Sent) -> list[float]:
        left_s = apart_s - (sent.at_ns - began_ns) / 1e9
        first = sent.sender == late and sent.reason in ("IKE_SA_INIT request", "retransmission")
        return [rtt_s / 2 + (max(0.0, left_s) if first else 0.0)]

    pair.delays_rule = delays
    for side, child in zip(("alice", "bob"), asked, strict=True):
        pair.feed(side, Initiate("home", child))
    wanted = {"net"} if asked == ("net", "net") else {"net", "beside"}
    while not all(wanted <= names(side) for side in (pair.alice, pair.bob)):
        pair.run(0.010)
        assert pair.mono_ns - began_ns < 10e9
    sent, answered = traffic(pair, apart_s + 8.0, 0.050, PATHS[: len(wanted)])
    assert answered == sent
    # A first message that came late has left a half-open SA, for so long.
    pair.run(40.0)
    assert sum(dismissed(pair)) <= 1
    check_one_tunnel(pair, children=len(wanted))
