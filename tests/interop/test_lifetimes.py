"""SAs that are replaced when their time is up, by either side's clock, and what follows a deletion."""

from __future__ import annotations

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.traffic import INTERVAL_S, Count
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
    with pair.pinging(tunnel) as forward, pair.pinging(tunnel, by="b") as backward:
        pair.log_has("b", r"(?s)(outbound CHILD_SA timed-c.*){4}", mark)
        pair.wait_agreed(tunnel, also=lambda sa: sa.spi_i != before.spi_i)
        for pinged in (forward.finish(), backward.finish()):
            assert pinged == Count(pinged.sent, pinged.sent)
            assert pinged.sent > 0


AT_THE_SWITCH_S = 1.0
"""So long packets may be lost when a peer's new IKE SA replaces its old one: usually it is one or none, and
on a busy machine those of the time until strongSwan has handled a message."""


def test_strongswan_reauthenticates_make_before_break(start_pair: StartPair) -> None:
    """A whole new IKE SA with a child for the same selectors, then the old one is deleted.

    As its responder we send on the new child at once, and a packet that is faster than strongSwan's handling
    of our IKE_AUTH response finds no child there (docs/architecture.md, debts).
    """
    tunnel = Tunnel("again", 1, settings={"b": {"reauth_time": "2s", "over_time": "9s", "rand_time": "0s"}})
    pair = start_pair([tunnel], charon={"make_before_break": "yes"})
    before = pair.up(tunnel, by="b")
    mark = pair.marks()["b"]
    with pair.pinging(tunnel) as forward, pair.pinging(tunnel, by="b") as backward:
        pair.log_has("b", r"reauthenticating IKE_SA again", mark)
        pair.wait_agreed(tunnel, also=lambda sa: sa.spi_i != before.spi_i)
        done = forward.finish(), backward.finish()
    switches = pair.peers["b"].log_since(mark).count("reauthenticating IKE_SA again")
    for pinged in done:
        assert pinged.sent > 0
        assert pinged.sent - pinged.received <= switches * AT_THE_SWITCH_S / INTERVAL_S


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
        pair.wait(lambda: pair.answers(tunnel, by=closing), "traffic brings it back")
    pair.wait_agreed(tunnel, also=lambda sa: len(sa.children) == 2 and {c.spi_in for c in sa.children} != old)
    pair.carries(tunnel, "c")
    pair.carries(tunnel, "d")
