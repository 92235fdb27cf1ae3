"""NAT between us and strongSwan: real, forced, and forgetful."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.nat import PUBLIC, Nat, natted
from tests.interop.harness.pair import Pair, linked
from tests.interop.harness.traffic import Count
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

pytestmark = pytest.mark.interop


@pytest.fixture(params=SIDES)
def behind(request: pytest.FixtureRequest) -> Side:
    side: Side = request.param
    return side


@pytest.fixture
def tunnel(behind: Side) -> Tunnel:
    """The side in front of the NAT takes whoever comes, as it must."""
    return Tunnel(
        "natted",
        1,
        esp="aes128gcm16-x25519",
        via={other(behind): "%any"},
        settings={behind: {"dpd_delay": "1s"}},
    )


@pytest.fixture
def natted_pair(start_pair: StartPair, behind: Side, tunnel: Tunnel) -> Iterator[tuple[Pair, Nat]]:
    with natted([tunnel], behind) as (spaces, nat):
        yield start_pair([tunnel], spaces=spaces), nat


def test_tunnel_lives_behind_a_nat(natted_pair: tuple[Pair, Nat], behind: Side, tunnel: Tunnel) -> None:
    pair, _ = natted_pair
    marks = pair.marks()
    pair.up(tunnel, by=behind)
    pair.log_has("b", r"(remote|local) host is behind NAT", marks["b"])
    pair.carries(tunnel, by="a")
    pair.carries(tunnel, by="b")
    # Both ways of rekeying, also from the side that could not have begun the tunnel.
    with pair.pinging(tunnel) as pings:
        for by in SIDES:
            pair.rekey_child(tunnel, by)
            pair.rekey_ike(tunnel, by)
        pinged = pings.finish()
    assert pinged == Count(pinged.sent, pinged.sent)
    assert pinged.sent > 0
    pair.down(tunnel, by=other(behind))


def test_nat_that_forgets_its_mappings(natted_pair: tuple[Pair, Nat], behind: Side, tunnel: Tunnel) -> None:
    """The side in front sends to where the last protected packet came from (RFC 7296 section 2.23).

    charon's userspace ESP learns that from IKE only, so it takes the liveness check of the side behind.
    """
    pair, nat = natted_pair
    pair.up(tunnel, by=behind)
    pair.carries(tunnel, by=behind)
    nat.forget()
    pair.wait(lambda: pair.answers(tunnel, by=behind), "answers find the new port")
    pair.carries(tunnel, by=behind)
    pair.carries(tunnel, by=other(behind))
    pair.down(tunnel, by=other(behind))


@pytest.mark.parametrize("forcing", SIDES)
def test_encapsulation_forced_by_one_side(start_pair: StartPair, forcing: Side) -> None:
    tunnel = Tunnel("forced", 1, settings={forcing: {"encap": True}})
    with linked([tunnel]) as spaces:
        pair = start_pair([tunnel], spaces=spaces)
        for by in SIDES:
            marks = pair.marks()
            pair.up(tunnel, by=by)
            pair.log_has("b", r"behind NAT|faking NAT", marks["b"])
            pair.log_has("b", r"\[4500\] to [0-9.]+\[4500\]", marks["b"])
            pair.carries(tunnel, by=by)
            pair.down(tunnel, by=by)


def test_public_address_is_what_the_open_side_sees(start_pair: StartPair) -> None:
    tunnel = Tunnel("seen", 1, via={"b": "%any"})
    with natted([tunnel], "a") as (spaces, _):
        pair = start_pair([tunnel], spaces=spaces)
        mark = pair.marks()["b"]
        pair.up(tunnel, by="a")
        match = pair.log_has("b", rf"received packet: from {PUBLIC}\[(\d+)\] to 10\.9\.2\.1\[4500\]", mark)
        assert int(match[1]) >= 20000
