"""SAs that are replaced when their time is up, by either side's clock, and what follows a deletion."""

from __future__ import annotations

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.traffic import Count
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("by", [*SIDES, None], ids=["a", "b", "both"])
def test_rekeyed_by_the_clock_without_losing_a_packet(start_pair: StartPair, by: Side | None) -> None:
    """With the same time on both sides their rekeyings meet now and then."""
    clocks = SIDES if by is None else (by,)
    tunnel = Tunnel(
        "timed",
        1,
        esp="aes128gcm16-x25519",
        settings={side: {"rekey_time": "3s", "over_time": "9s", "rand_time": "0s"} for side in clocks},
        child_settings={side: {"rekey_time": "1s", "life_time": "9s", "rand_time": "0s"} for side in clocks},
    )
    pair = start_pair([tunnel])
    before = pair.up(tunnel, by="a")
    mark = pair.marks()["b"]
    with pair.pinging(tunnel, 450) as forward, pair.pinging(tunnel, 450, by="b") as backward:
        assert forward.finish() == Count(450, 450)
        assert backward.finish() == Count(450, 450)
    pair.wait_agreed(tunnel, 5.0)
    text = pair.peers["b"].log_since(mark)
    assert text.count("outbound CHILD_SA timed-c") >= 4
    assert pair.sa(tunnel, "a").spi_i != before.spi_i


AT_THE_SWITCH = 2
"""Packets that may be lost when a peer's new IKE SA replaces its old one."""


def test_strongswan_reauthenticates_make_before_break(start_pair: StartPair) -> None:
    """A whole new IKE SA with a child for the same selectors, then the old one is deleted.

    As its responder we send on the new child at once, and a packet that is faster than strongSwan's handling
    of our IKE_AUTH response finds no child there (docs/architecture.md, debts).
    """
    tunnel = Tunnel("again", 1, settings={"b": {"reauth_time": "2s", "over_time": "9s", "rand_time": "0s"}})
    pair = start_pair([tunnel], charon={"make_before_break": "yes"})
    before = pair.up(tunnel, by="b")
    mark = pair.marks()["b"]
    with pair.pinging(tunnel, 350) as forward, pair.pinging(tunnel, 350, by="b") as backward:
        for pinged in (forward.finish(), backward.finish()):
            assert pinged.sent == 350
            assert pinged.received >= 350 - AT_THE_SWITCH
    pair.log_has("b", r"reauthenticating IKE_SA again", mark)
    pair.wait_agreed(tunnel, 5.0)
    assert pair.sa(tunnel, "a").spi_i != before.spi_i


# strongSwan's userspace ESP has no traps.
@pytest.mark.parametrize(("deleting", "action"), [("a", "start"), ("b", "start"), ("b", "trap")])
def test_close_action_brings_a_deleted_child_back(start_pair: StartPair, deleting: Side, action: str) -> None:
    closing = other(deleting)
    tunnel = Tunnel("back", 1, children=("c", "d"), child_settings={closing: {"close_action": action}})
    pair = start_pair([tunnel])
    pair.up(tunnel, by="a", child="c")
    before = pair.up(tunnel, by="a", child="d")
    old = {child.spi_in for child in before.children}
    pair.peers[deleting].down(tunnel, "c")
    if action == "trap":
        pair.wait(lambda: pair.ping(tunnel, count=1, by=closing).received == 1, "traffic brings it back")
    pair.wait_agreed(tunnel, 5.0, lambda sa: len(sa.children) == 2 and {c.spi_in for c in sa.children} != old)
    pair.carries(tunnel, "c")
    pair.carries(tunnel, "d")
