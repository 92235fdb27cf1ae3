"""What goes through a tunnel with strongSwan, what survives a rekeying, and more than one child."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.pair import Pair
from tests.interop.harness.peers import SaView
from tests.interop.harness.traffic import Count, ping, tcp_transfer
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

pytestmark = pytest.mark.interop

TEN_MB = 10_000_000

GCM = Tunnel("gcm", 1, "aes256gcm16-prfsha384-x25519", "aes256gcm16-x25519")
CBC = Tunnel("cbc", 2, "aes256-sha256-ecp256", "aes256-sha256-ecp256")
V6 = Tunnel("v6", 3, esp="chacha20poly1305", outer=6, inner=6)
TWO = Tunnel("two", 4, esp="aes128gcm16-ecp256", children=("c", "d"))


@pytest.fixture(scope="module")
def pair(start_shared_pair: StartPair) -> Pair:
    return start_shared_pair([GCM, CBC, V6, TWO])


@pytest.mark.parametrize("tunnel", [GCM, CBC, V6], ids=lambda tunnel: tunnel.name)
def test_ten_megabytes_of_tcp_arrive_whole_in_each_direction(pair: Pair, tunnel: Tunnel) -> None:
    pair.up(tunnel, by="a")
    for sender in SIDES:
        receiver = other(sender)
        before = pair.child(tunnel, receiver)
        tcp_transfer(
            pair.spaces[sender],
            pair.spaces[receiver],
            tunnel.inner_address(sender),
            tunnel.inner_address(receiver),
            TEN_MB,
            timeout_s=60,
        )
        after = pair.child(tunnel, receiver)
        assert after.octets_in - before.octets_in >= TEN_MB
        sent = pair.child(tunnel, sender)
        assert sent.octets_out >= TEN_MB
    pair.down(tunnel, by="b")


@pytest.mark.parametrize("tunnel", [GCM, CBC, V6], ids=lambda tunnel: tunnel.name)
def test_packets_of_every_size_pass(pair: Pair, tunnel: Tunnel) -> None:
    """Inner packets above the MTU of the tunnel are cut by the kernel in front of it."""
    pair.up(tunnel, by="a")
    for by in SIDES:
        ends = tunnel.inner_address(by), tunnel.inner_address(other(by))
        for octets in (0, 1, 13, 14, 15, 16, 1351, 1352, 1372, 1400, 4000, 20000):
            assert ping(pair.spaces[by], *ends, count=2, octets=octets) == Count(2, 2), octets
    pair.down(tunnel, by="b")


@pytest.mark.parametrize("tunnel", [GCM, CBC], ids=lambda tunnel: tunnel.name)
def test_rekeying_by_either_side_loses_no_packet(pair: Pair, tunnel: Tunnel) -> None:
    pair.up(tunnel, by="b")
    with pair.pinging(tunnel, count=250) as forward, pair.pinging(tunnel, count=250, by="b") as backward:
        for by in SIDES:
            pair.rekey_child(tunnel, by)
        for by in SIDES:
            pair.rekey_ike(tunnel, by)
        for by in SIDES:
            pair.rekey_child(tunnel, by)
        assert forward.finish() == Count(250, 250)
        assert backward.finish() == Count(250, 250)
    pair.carries(tunnel)
    pair.down(tunnel, by="a")


def test_rekeying_by_both_sides_at_once_ends_with_one_sa_and_loses_no_packet(pair: Pair) -> None:
    """What they send is held until both have asked. Pings that come meanwhile are answered late.

    a                              b
    |-- CREATE_CHILD_SA --->  <----|   both held
    |------------------------------|   let go: they collide

    charon may still wait for the answer to a DELETE, and ask later; and it does not name each collision.
    """
    tunnel = GCM
    pair.up(tunnel, by="a")
    with ThreadPoolExecutor(2) as pool, pair.pinging(tunnel, count=400) as pings:
        for child in ("c", None):
            mark, met = pair.peers["b"].mark(), 0
            while met < 4 or "collision" not in pair.peers["b"].log_since(mark):
                met += _both_rekey(pair, pool, tunnel, child)
        assert pings.finish() == Count(400, 400)
    pair.carries(tunnel)
    pair.down(tunnel, by="a")


def _both_rekey(pair: Pair, pool: ThreadPoolExecutor, tunnel: Tunnel, child: str | None) -> bool:
    """Whether both had asked when the first of the two requests arrived."""
    old, marks = _ids(pair.sa(tunnel, "a")), pair.marks()

    def both_have_asked() -> bool:
        ours, theirs = (pair.peers[side].log_since(marks[side]) for side in SIDES)
        return '"event":"retransmit"' in ours and "generating CREATE_CHILD_SA request" in theirs

    with pair.holding():
        commands = [pool.submit(peer.rekey, tunnel, child) for peer in pair.peers.values()]
        met = _soon(both_have_asked)
    for command in commands:
        command.result()
    pair.wait_agreed(tunnel, also=partial(_differs, old))
    return met


def _soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes about within a second: held longer, a tunnel would be taken for dead."""
    end = time.monotonic() + 1.0
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _differs(old: tuple[object, ...], sa: SaView) -> bool:
    return _ids(sa) != old


def _ids(sa: SaView) -> tuple[object, ...]:
    return sa.spi_i, sa.spi_r, *[(child.spi_in, child.spi_out) for child in sa.children]


@pytest.mark.parametrize("by", SIDES)
def test_second_child_in_the_same_ike_sa(pair: Pair, by: Side) -> None:
    first = pair.up(TWO, by="a", child="c")
    both = pair.up(TWO, by=by, child="d")
    assert (both.spi_i, both.spi_r) == (first.spi_i, first.spi_r)
    assert {child.name for child in both.children} == {"two-c", "two-d"}
    pair.carries(TWO, "c")
    pair.carries(TWO, "d")
    pair.rekey_child(TWO, by, "d")
    pair.rekey_ike(TWO, by)
    pair.carries(TWO, "d")
    pair.carries(TWO, "c")
    pair.down_child(TWO, by, "d")
    pair.carries(TWO, "c")
    pair.down(TWO, by=other(by))
