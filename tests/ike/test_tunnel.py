"""A tunnel from nothing to traffic, and its ordinary end."""

from __future__ import annotations

from tests.support.pair import Pair

from deadpeer.ike.io import Rekey, Terminate


def test_a_tunnel_carries_traffic_after_two_round_trips() -> None:
    """
    Alice                              Bob
      IKE_SA_INIT         ──────────▶
                          ◀──────────  IKE_SA_INIT
      IKE_AUTH            ──────────▶
                          ◀──────────  IKE_AUTH
      ESP (echo request)  ──────────▶
                          ◀──────────  ESP (echo reply)
    """
    pair = Pair.with_psk()
    began = pair.mono_ns
    pair.up()
    assert (pair.mono_ns - began) / 1e9 == 4 * pair.latency_s
    assert pair.ping()
    assert pair.reasons()[:4] == [
        "IKE_SA_INIT request",
        "IKE_SA_INIT response",
        "IKE_AUTH request",
        "IKE_AUTH response",
    ]
    assert pair.reasons().count("ESP") == 2


def test_rekeying_a_child_keeps_traffic() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.feed("alice", Rekey("home", "net", 9))
    pair.run(10)
    assert pair.alice.done[9].ok
    assert pair.ping()
    assert pair.ike_children() == (1, 1)


def test_rekeying_the_ike_sa_keeps_the_child() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.feed("bob", Rekey("home", None, 9))
    pair.run(10)
    assert pair.bob.done[9].ok
    assert pair.ping()
    assert pair.ike_sas() == (1, 1)


def test_down_removes_both_sides() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.feed("alice", Terminate("home", None, 9))
    pair.run(10)
    assert pair.alice.done[9].ok
    assert pair.ike_sas() == (0, 0)
    assert not pair.ping()
