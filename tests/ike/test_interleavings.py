"""Two exchanges at once, in every order of deliveries (RFC 7296 sections 2.8.1, 2.8.2, 2.25).

Each scenario lets both sides begin something at the same moment and holds all datagrams. Then every order
in which they can arrive is played, within a direction too. When all is quiet both sides must agree on what
there is, traffic must flow, and nothing may be left over: tables, timers, the data plane's children.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.explorer import interleavings
from tests.support.invariants import check_agreement, check_no_leaks, check_one_tunnel
from tests.support.pair import Pair, child_config, host_selector

from deadpeer.ike.io import Command, Initiate, Rekey, Terminate

MORE = child_config("more", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),))
NET = child_config(close_action="start")
"""The child comes back by itself if the peer closes it: a redundant one must not be taken for that."""

REKEY_CHILD = Rekey("home", "net", 9)
REKEY_IKE = Rekey("home", None, 9)
CREATE = Initiate("home", "more", 9)
DELETE_CHILD = Terminate("home", "net", 9)
DELETE_IKE = Terminate("home", None, 9)


def explore(alice: Command, bob: Command, seed: int, check: Callable[[Pair], None]) -> set[bool]:
    """Play every order; returns for which of them Alice was the initiator of the SA that stayed."""

    def begin() -> Pair:
        pair = Pair.with_psk(children=[NET, MORE], seed=seed)
        pair.up(child="net")
        pair.hold()
        pair.feed("alice", alice)
        pair.feed("bob", bob)
        return pair

    stayed = set()
    for pair, order in interleavings(begin):
        try:
            pair.hold_rule = lambda sent: False
            pair.run(100.0)  # retries after TEMPORARY_FAILURE, lingering halves, replaced IKE SAs
            assert 9 in pair.alice.done, "Alice's command was not answered"
            assert 9 in pair.bob.done, "Bob's command was not answered"
            check(pair)
            stayed |= {sa.initiator for sa in pair.alice.ike.views()}
        except BaseException as error:
            raise AssertionError(f"seed {seed}, order {order}: {error!r}") from error
    return stayed


def one_tunnel(pair: Pair) -> None:
    assert pair.alice.done[9].ok, pair.alice.done[9].text
    assert pair.bob.done[9].ok, pair.bob.done[9].text
    assert pair.alice.kinds().count("initiate") == 1
    assert "initiate" not in pair.bob.kinds()
    check_one_tunnel(pair)
    pair.run(10.0)


def two_children(pair: Pair) -> None:
    assert pair.alice.done[9].ok, pair.alice.done[9].text
    assert pair.bob.done[9].ok, pair.bob.done[9].text
    check_one_tunnel(pair, children=2)
    assert pair.ping("alice", "10.10.1.2", "10.10.2.2")


def agreement(pair: Pair) -> None:
    check_agreement(pair)
    check_no_leaks(pair.alice)
    check_no_leaks(pair.bob)


def no_child(pair: Pair) -> None:
    agreement(pair)
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (0, 0)


def nothing(pair: Pair) -> None:
    assert pair.ike_sas() == (0, 0)
    agreement(pair)


@pytest.mark.parametrize("seed", range(4))
def test_both_rekey_the_child(seed: int) -> None:
    """
    Alice                              Bob
      CREATE_CHILD_SA(rekey) ───><───  CREATE_CHILD_SA(rekey)
                             ◀──><──▶
      response               ───><───  response
                             ◀──><──▶
      Delete (of the old or  ───><───  Delete (of the old or
      the redundant child)   ◀──><──▶  the redundant child)
    """
    explore(REKEY_CHILD, REKEY_CHILD, seed, one_tunnel)


@pytest.mark.parametrize("seed", [0, 1])
def test_both_rekey_the_ike_sa(seed: int) -> None:
    """The same for the IKE SA: the children end up in the one new SA that stays."""
    explore(REKEY_IKE, REKEY_IKE, seed, one_tunnel)


def test_one_rekeys_the_ike_sa_the_other_the_child() -> None:
    """
    Alice                                    Bob
      CREATE_CHILD_SA(rekey IKE)   ───><───  CREATE_CHILD_SA(rekey child)
      N(TEMPORARY_FAILURE)         ◀──><──▶  N(TEMPORARY_FAILURE)
                                             and again later, at random so that they part
    """
    explore(REKEY_IKE, REKEY_CHILD, 1, one_tunnel)
    explore(REKEY_CHILD, REKEY_IKE, 2, one_tunnel)


def test_one_rekeys_the_ike_sa_the_other_asks_for_a_child() -> None:
    explore(REKEY_IKE, CREATE, 1, two_children)
    explore(CREATE, REKEY_IKE, 2, two_children)


def test_one_rekeys_a_child_the_other_asks_for_one() -> None:
    explore(REKEY_CHILD, CREATE, 1, two_children)


def test_one_rekeys_the_child_that_the_other_deletes() -> None:
    """Section 2.25.1: deleting wins if it is first; a rekeying of what is being deleted must wait.

    Here the child comes back (close_action start), or it was rekeyed first and its successor stays.
    """

    def check(pair: Pair) -> None:
        agreement(pair)
        assert pair.ike_sas() == (1, 1)
        assert pair.ike_children()[0] <= 1

    explore(REKEY_CHILD, DELETE_CHILD, 1, check)
    explore(DELETE_CHILD, REKEY_CHILD, 2, check)


def test_both_delete_the_child() -> None:
    """Section 2.25.1: each answers without a Delete payload, and nothing comes back."""
    explore(DELETE_CHILD, DELETE_CHILD, 1, no_child)


def test_one_rekeys_the_ike_sa_the_other_deletes_the_child() -> None:
    """Section 2.25.2: the deletion is answered as usual; close_action has Alice build it again."""

    def check(pair: Pair) -> None:
        agreement(pair)
        assert pair.ike_sas() == (1, 1)

    explore(REKEY_IKE, DELETE_CHILD, 1, check)
    explore(DELETE_CHILD, REKEY_IKE, 2, check)


def test_one_rekeys_the_ike_sa_that_the_other_deletes() -> None:
    """Section 2.25.2: who deletes refuses the rekeying; who rekeys forgets it and answers."""

    def check(pair: Pair) -> None:
        agreement(pair)
        # Who was told that the tunnel is closed builds it again (close_action start), in any case once.
        assert pair.ike_sas()[0] <= 1

    explore(REKEY_IKE, DELETE_IKE, 1, check)
    explore(DELETE_IKE, REKEY_IKE, 2, check)


def test_both_delete_the_ike_sa() -> None:
    explore(DELETE_IKE, DELETE_IKE, 1, nothing)


def test_both_ask_for_the_same_child() -> None:
    """
    Alice                          Bob
      CREATE_CHILD_SA    ───><───  CREATE_CHILD_SA
                         ◀──><──▶
      response           ───><───  response
      Delete (of the one with      the lowest nonce, by the side that asked for it)
    """
    for seed in range(3):
        explore(CREATE, CREATE, seed, two_children)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_child_is_not_doubled_though_only_one_side_sees_the_crossing(who: str) -> None:
    """What was answered before the other's request came is still compared with it. No packet is lost."""
    pair = Pair.with_psk(children=[NET, MORE])
    pair.up(child="net")
    for seq in range(200):
        if seq == 20:
            pair.hold("CREATE_CHILD_SA request", sender="alice" if who == "bob" else "bob")
            pair.feed("alice", CREATE)
            pair.feed("bob", CREATE)
        if seq == 40:
            pair.release()
        pair.send("alice", "10.10.1.2", "10.10.2.2", seq)
        pair.run(0.005)
    pair.run(10.0)
    assert sum(s.kinds().count("child_redundant") for s in (pair.alice, pair.bob)) == 1
    replies = [int.from_bytes(packet[26:28], "big") for packet in pair.alice.behind.received]
    assert sorted(seq for seq in replies if seq >= 30) == list(range(30, 200))
    two_children(pair)


def test_one_deletes_the_ike_sa_the_other_asks_for_a_child() -> None:
    def check(pair: Pair) -> None:
        agreement(pair)

    explore(DELETE_IKE, CREATE, 1, check)
    explore(CREATE, DELETE_IKE, 2, check)


def test_what_is_not_decided_yet_is_no_sa_for_anybody_and_its_end_leaves_the_old_one_whole() -> None:
    """
    Alice                                Bob
      CREATE_CHILD_SA(rekey)  ───><───   CREATE_CHILD_SA(rekey)
                              ◀──          Alice has made a new SA for Bob's request, and awaits his answer
                                           to hers; then the new one is closed
    """
    pair = Pair.with_psk(both={"dpd_delay_s": 0.0})
    pair.up()
    pair.hold()
    pair.feed("alice", REKEY_IKE)
    pair.feed("bob", REKEY_IKE)
    pair.deliver(1)
    old, rival = pair.alice.ike.views()
    assert old.established
    assert not rival.established
    assert pair.alice.ike.with_peer(rival.remote) == [old]
    rival.close(pair.now, "by hand")
    assert old.successor is None
    assert len(old.children) == 1
    pair._drain(pair.alice)
    pair.release()
    pair.run(1.0)
    assert pair.ping()
