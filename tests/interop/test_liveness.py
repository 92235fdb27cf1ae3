"""Liveness asked by either side; a peer that is dead, and one that came back without its SAs."""

from __future__ import annotations

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.pair import Pair
from tests.interop.harness.traffic import BRIEF_S
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

pytestmark = pytest.mark.interop

# charon gives a silent peer up after 0.5 s, six times; we after the floor, lowered here. A busy machine must
# not look like a silent peer.
_IMPATIENT_CHARON = {"retransmit_timeout": "0.5", "retransmit_tries": "5", "retransmit_base": "1"}
_IMPATIENT_US = {"dpd_delay": "1s", "dpd_timeout": "3s", "dpd_floor": "3s", "silence": "500ms"}


def _asking(by: Side) -> Tunnel:
    quiet = {"dpd_delay": "0s"} | ({"silence": "0s"} if by == "b" else {})
    return Tunnel("asked", 1, settings={by: {"dpd_delay": "1s"}, other(by): quiet})


@pytest.mark.parametrize("by", SIDES)
def test_idle_peer_is_asked_and_answers(start_pair: StartPair, by: Side) -> None:
    tunnel = _asking(by)
    pair = start_pair([tunnel])
    before = pair.up(tunnel, by="a")
    mark = pair.marks()["b"]
    asked, answered = ("parsed", "generating") if by == "a" else ("generating", "parsed")
    pair.log_has("b", rf"{asked} INFORMATIONAL request \d+ \[ \]", mark)
    pair.log_has("b", rf"{answered} INFORMATIONAL response \d+ \[ \]", mark)
    assert pair.agreed(tunnel) == before
    pair.carries(tunnel)


@pytest.mark.parametrize("survivor", SIDES)
def test_silent_peer_is_given_up(start_pair: StartPair, survivor: Side) -> None:
    """The peer is stopped, not killed: it is as silent as one behind a broken line, for ever."""
    tunnel = Tunnel("silent", 1, settings={"a": _IMPATIENT_US, "b": {"dpd_delay": "1s"}})
    pair = start_pair([tunnel], charon=_IMPATIENT_CHARON)
    pair.up(tunnel, by="b")
    pair.carries(tunnel)
    marks = pair.marks()
    pair.peers[other(survivor)].freeze()
    try:
        pair.wait(lambda: not pair.sas(tunnel, survivor), "the silent peer is given up")
    finally:
        pair.peers[other(survivor)].thaw()
    if survivor == "a":
        pair.log_has("a", r'"event": ?"verdict"', marks["a"])
    else:
        pair.log_has("b", r"giving up after 5 retransmits", marks["b"])


_PATIENT_US = {"dpd_delay": "1s", "silence": "300ms", "dpd_timeout": "30s", "dpd_floor": "30s"}


@pytest.mark.parametrize("methods", [["liveness"], ["reconnect", "liveness"]])
def test_short_silence_ends_nothing(start_pair: StartPair, methods: list[str]) -> None:
    """A flap shorter than the floor: traffic goes out, no answers come, and the tunnel is whole afterwards.

    By liveness alone the SA is the same; reconnect has begun a new one beside it, and one of the two stays.
    """
    tunnel = Tunnel("flap", 1, settings={"a": {**_PATIENT_US, "crash_methods": methods}})
    pair = start_pair([tunnel])
    before = pair.up(tunnel, by="a")
    mark = pair.marks()["b"]
    pair.peers["b"].freeze()
    try:
        assert pair.ping(tunnel, count=200, linger_s=BRIEF_S).received == 0
    finally:
        pair.peers["b"].thaw()
    pair.log_has("b", r"parsed INFORMATIONAL request \d+ \[ \]", mark)
    pair.wait(lambda: pair.answers(tunnel), "traffic flows again")
    pair.wait_agreed(tunnel)
    after = pair.sa(tunnel, "a")
    if methods == ["liveness"]:
        assert (after.spi_i, after.children[0].spi_in) == (before.spi_i, before.children[0].spi_in)
    pair.carries(tunnel)


@pytest.mark.parametrize("reaction", ["restart", "trap"])
def test_strongswan_that_was_killed_is_recovered(start_pair: StartPair, reaction: str) -> None:
    """charon says nothing about unknown SPIs, so that silence is all the evidence there is."""
    tunnel = Tunnel(
        "crash",
        1,
        settings={"a": _IMPATIENT_US},
        child_settings={"a": {"dpd_action": reaction, "start_action": "trap"}},
    )
    pair = start_pair([tunnel])
    before = pair.up(tunnel, by="a")
    pair.carries(tunnel)
    marks = pair.marks()
    with pair.pinging(tunnel):
        pair.peers["b"].kill()
        pair.peers["b"].start()
        pair.wait_agreed(tunnel)
        pair.log_has("a", r'"event": ?"verdict"', marks["a"])
    after = pair.sa(tunnel, "a")
    assert after.spi_i != before.spi_i
    pair.logged("child_up", tunnel, marks)
    pair.carries(tunnel)


@pytest.mark.parametrize("action", ["start", "trap"])
def test_we_come_back_after_a_crash_and_strongswan_follows(start_pair: StartPair, action: str) -> None:
    tunnel = Tunnel("back", 1, child_settings={"a": {"start_action": action}})
    pair = start_pair([tunnel], charon=_IMPATIENT_CHARON)
    if action == "start":
        pair.wait_agreed(tunnel)
    else:
        pair.wait(lambda: pair.answers(tunnel), "a packet brings the tunnel up")
    before = pair.sa(tunnel, "a")
    pair.carries(tunnel)
    pair.peers["a"].kill()
    pair.peers["a"].start()
    pair.wait(lambda: pair.answers(tunnel), "traffic flows again")
    after = pair.sa(tunnel, "a")
    assert after.spi_i != before.spi_i
    # strongSwan keeps the old SA beside the new one until its own liveness check; the new one carries.
    spi = after.children[0].spi_in

    def counted() -> list[int]:
        views = [child for sa in pair.sas(tunnel, "b") for child in sa.children if child.spi_out == spi]
        return [count for child in views for count in (child.packets_in, child.packets_out)]

    packets_in, packets_out = counted()
    assert pair.ping(tunnel, count=5).received == 5
    assert counted() == [packets_in + 5, packets_out + 5]


@pytest.mark.parametrize("reaction", ["clear", "restart"])
def test_strongswan_comes_back_by_itself(start_pair: StartPair, reaction: str) -> None:
    """Its INITIAL_CONTACT, in an authenticated IKE_AUTH of the same identity, ends the old SA at once."""
    tunnel = Tunnel("contact", 1, child_settings={"a": {"dpd_action": reaction}})
    pair = start_pair([tunnel])
    before = pair.up(tunnel, by="a")
    pair.carries(tunnel)
    marks = pair.marks()
    pair.peers["b"].kill()
    pair.peers["b"].start()
    pair.peers["b"].up(tunnel)
    pair.wait_agreed(tunnel)
    match = pair.log_has("a", r'"event": ?"verdict".*', marks["a"])
    assert "initial" in match[0].lower()
    assert pair.sa(tunnel, "a").spi_i != before.spi_i
    pair.carries(tunnel)


def test_idle_tunnel_of_a_strongswan_that_was_killed_is_recovered(start_pair: StartPair) -> None:
    """No traffic at all: the periodic check finds out."""
    tunnel = Tunnel("idle", 1, settings={"a": _IMPATIENT_US}, child_settings={"a": {"dpd_action": "restart"}})
    pair = start_pair([tunnel])
    before = pair.up(tunnel, by="a")
    pair.peers["b"].kill()
    pair.peers["b"].start()
    pair.wait_agreed(tunnel, also=lambda sa: sa.spi_i != before.spi_i)
    pair.carries(tunnel)


def test_packet_that_trapped_is_not_lost(start_pair: StartPair) -> None:
    """The packets that wait for the child go when it is up: the very first ping is answered."""
    tunnel = Tunnel("trap", 1, child_settings={"a": {"start_action": "trap"}})
    pair: Pair = start_pair([tunnel])
    assert not pair.sas(tunnel, "a")
    assert pair.ping(tunnel, count=10).received == 10
    pair.wait_agreed(tunnel)


def test_polite_stop_deletes_at_strongswan(start_pair: StartPair) -> None:
    tunnel = Tunnel("stop", 1)
    pair = start_pair([tunnel])
    pair.up(tunnel, by="b")
    mark = pair.marks()["b"]
    pair.peers["a"].stop()
    pair.log_has("b", r"received DELETE for IKE_SA stop", mark)
    pair.wait(lambda: not pair.sas(tunnel, "b"), "strongSwan has no SA left")
