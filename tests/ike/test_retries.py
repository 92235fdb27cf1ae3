"""A request that the peer refused for the moment is tried again and its command answered, come what may."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.invariants import check_agreement
from tests.support.pair import ESP_PROPOSAL, Pair, child_config, host_selector, mirrored

from deadpeer.crash.options import Method, PolicyOptions, QcdOptions, SirOptions
from deadpeer.crypto import ProposalTemplate, parse_proposal
from deadpeer.ike.connection import ChildConfig, Lifetime
from deadpeer.ike.io import Initiate, Rekey, Terminate
from deadpeer.wire import Protocol


def busy_pair() -> Pair:
    """Two children may be; one is up."""
    other = {"local_ts": (host_selector("10.11.1.1"),), "remote_ts": (host_selector("10.11.2.1"),)}
    return Pair.with_psk(children=[child_config("net"), child_config("more", **other)])


def test_ike_rekey_that_waits_is_answered_when_the_peer_rekeys_meanwhile() -> None:
    """
    Alice                                Bob
      rekey IKE SA   ───────╮ ╭───────  rekey child
                     ◀──────┼─╯
                            ╰───────▶
                     ◀────────────────  TEMPORARY_FAILURE
      (waits)        ◀────────────────  rekey IKE SA, delete the old one
    """
    pair = busy_pair()
    pair.up(child="net")
    pair.feed("bob", Rekey("home", "net", 5))
    pair.feed("bob", Rekey("home", None, 6))
    pair.feed("alice", Rekey("home", None, 7))
    pair.run(30.0)
    assert pair.alice.done[7].ok
    assert pair.bob.done[6].ok
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (1, 1)
    assert pair.ping()


@pytest.mark.parametrize("what", ["new child", "rekey"])
def test_child_that_waits_is_made_in_the_ike_sa_that_came_meanwhile(what: str) -> None:
    """
    Alice                                Bob
      create child   ───────╮ ╭───────  rekey IKE SA
                     ◀──────┼─╯
                            ╰───────▶
                     ◀────────────────  TEMPORARY_FAILURE
                                        (the old IKE SA goes)
      create child   ────────────────▶  in the new one
    """
    pair = busy_pair()
    pair.up(child="net")
    old = spis(pair)
    pair.feed("bob", Rekey("home", None, 6))
    command = Initiate("home", "more", 7) if what == "new child" else Rekey("home", "net", 7)
    pair.feed("alice", command)
    pair.run(30.0)
    assert pair.bob.done[6].ok
    assert pair.alice.done[7].ok, pair.alice.done[7].text
    assert pair.ike_sas() == (1, 1)
    new = spis(pair)
    if what == "new child":
        assert len(new) == 2
        assert set(new) > set(old)
    else:
        assert len(new) == 1
        assert new != old
    assert pair.ping()


def test_every_command_is_answered_when_the_peer_deletes_meanwhile() -> None:
    pair = busy_pair()
    pair.up(child="net")
    pair.feed("bob", Rekey("home", "net", 5))
    pair.feed("bob", Terminate("home", None, 6))
    pair.feed("alice", Rekey("home", None, 7))
    pair.feed("alice", Rekey("home", "net", 8))
    pair.feed("alice", Initiate("home", "more", 9))
    pair.run(60.0)
    assert {7, 8, 9} <= set(pair.alice.done)
    assert {5, 6} <= set(pair.bob.done)


def test_child_whose_rekeying_failed_is_rekeyed_later_in_the_ike_sa_of_that_time() -> None:
    """Bob refuses the rekeying at first; meanwhile the IKE SA is replaced; later he does not."""
    lifetime = Lifetime(rekey_s=100.0, life_s=1000.0, jitter_s=0.0)
    pair = Pair.with_psk(
        children=[child_config(lifetime=lifetime)], bob={"children": (his_child(ESP_PROPOSAL),)}
    )
    pair.up()
    (before,) = pair.alice.ike.snapshot(pair.now)
    first = spis(pair)
    sa = pair.bob.ike.find(bytes.fromhex(str(before["spi_i"])), bytes.fromhex(str(before["spi_r"])))
    assert sa is not None
    (child,) = sa.children.values()
    willing = child.config
    child.config = his_child(parse_proposal("aes128-sha512", Protocol.ESP))
    pair.run(105.0)
    assert "child_failed" in pair.alice.kinds()
    assert spis(pair) == first
    child.config = willing
    pair.feed("bob", Rekey("home", None, 6))
    pair.run(200.0)
    assert pair.bob.done[6].ok
    assert pair.ping()
    assert spis(pair) != first


@pytest.mark.parametrize("held_s", [3.0, 7.0])
def test_a_new_ike_sa_that_the_peer_deleted_before_we_knew_it_is_found_dead_soon(held_s: float) -> None:
    """
    Alice                                Bob
      rekey IKE SA   ────────────────▶
                            ╭─────────   response (late)
                     ◀──────┼─────────   DELETE of the new one: unknown SPIs, dropped
                            ╰─────────▶
      empty request  ────────────────▶   is it there?
    """
    quiet = {"extensions": (QcdOptions("off"), SirOptions("off"), PolicyOptions((Method.LIVENESS,)))}
    pair = Pair.with_psk(both={**quiet, "dpd_delay_s": 1000.0, "dpd_timeout_s": 4.0, "dpd_floor_s": 5.0})
    pair.up()
    pair.hold("CREATE_CHILD_SA response", "response again", sender="bob")
    pair.feed("alice", Rekey("home", None, 5))
    pair.run(0.2)
    pair.feed("bob", Terminate("home", None, 6))
    pair.run(held_s)
    pair.hold_rule = lambda sent: False
    pair.release()
    pair.run(20.0)
    assert pair.bob.done[6].ok
    check_agreement(pair)
    assert "rekeyed late" in pair.reasons("alice") or held_s < 5.0


def his_child(proposal: ProposalTemplate) -> ChildConfig:
    """Bob's side of the child, with one proposal and without lifetimes of his own."""
    return replace(mirrored(child_config()), esp_proposals=(proposal,))


def spis(pair: Pair) -> list[object]:
    """The SPIs of Alice's children in use."""
    (sa,) = pair.alice.ike.snapshot(pair.now)
    children = sa["children"]
    assert isinstance(children, list)
    return [child["spi_in"] for child in children if child["state"] == "installed"]
