"""Packets through a tunnel: every suite, tampering, replay, selectors, rekeys, the end of the numbers."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plane.pair import ALICE, BOB, GCM, SUITES, Pair, foreign_seal, make_suite, ping, pong, reports, ts

from deadpeer.crypto import EspSuite
from deadpeer.plane.drops import Drop
from deadpeer.plane.model import Acquire, Expired, Expiring, Heard, MoveChild, PeerMoved
from deadpeer.plane.packets import echo_request
from deadpeer.values import Address

SPACE = 1 << 32
SHORT_OPTIONS = bytes.fromhex("6000000000080040") + bytes(32) + bytes([43, 9]) + bytes(6)
"""An IPv6 packet whose hop-by-hop options claim to be longer than the packet."""


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
@pytest.mark.parametrize("version", [4, 6])
def test_each_suite_carries_packets_both_ways(suite: EspSuite, version: int) -> None:
    """
    Alice                         Bob
      | ESP(1), ESP(2) ... ------->|
      |<------- ESP(1), ESP(2) ... |
    """
    pair = Pair()
    child = pair.install(suite)
    sent = [ping(n, size=n, version=version) for n in range(64)]
    assert pair.arrive(*pair.send(*sent)) == sent
    back = [pong(n) for n in range(5)]
    assert pair.arrive(*pair.send_back(*back)) == back
    counters = pair.b.counters(child)
    assert counters is not None
    assert (counters.packets_in, counters.octets_in) == (64, sum(map(len, sent)))
    assert (counters.packets_out, counters.octets_out) == (5, sum(map(len, back)))
    assert counters.last_in_ns == counters.last_out_ns == pair.now_ns
    assert not pair.a.drops and not pair.b.drops


def test_datagrams_bear_the_addresses_of_the_child() -> None:
    pair = Pair()
    child = pair.install()
    (first,) = pair.send(ping(1))
    assert (first.local, first.remote) == (ALICE, BOB)
    elsewhere, moved = Address("198.51.100.7", 61000), Address("192.0.2.77", 4500)
    pair.a.apply(pair.now_ns, MoveChild(child, moved, elsewhere))
    (second,) = pair.send(ping(2))
    assert (second.local, second.remote) == (moved, elsewhere)


def test_replayed_and_late_packets_are_dropped() -> None:
    """
    Alice                         Bob
      | ESP(1) ------------------->|
      | ESP(1) again ------------->| replayed
      | ESP(2) held up --.         |
      | ESP(3..66) ------|-------->|
      |                  '-------->| too old: the window is 64
    """
    pair = Pair()
    pair.install()
    wire = pair.send(*[ping(n) for n in range(1, 67)])
    assert pair.arrive(wire[0]) == [ping(1)]
    assert pair.arrive(wire[0]) == []
    assert pair.b.drops == {Drop.REPLAYED: 1}
    assert len(pair.arrive(*wire[2:])) == 64
    assert pair.arrive(wire[1]) == []
    assert pair.b.drops == {Drop.REPLAYED: 1, Drop.TOO_OLD: 1}


@given(st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_any_order_within_the_window_arrives_once(rng: random.Random) -> None:
    pair = Pair()
    pair.install(make_suite("chacha20poly1305", esn=True))
    wire = pair.send(*[ping(n) for n in range(60)]) * 2
    rng.shuffle(wire)
    assert sorted(pair.arrive(*wire)) == sorted(ping(n) for n in range(60))
    assert pair.b.drops == {Drop.REPLAYED: 60}


@pytest.mark.parametrize("suite", [GCM, make_suite("aes128-sha256", esn=True)], ids=lambda suite: suite.name)
def test_a_tampered_packet_changes_nothing(suite: EspSuite) -> None:
    """
    Alice                Mallory  Bob
      | ESP(1) ------------x       |
      |          ESP(1)* --------->| bad ICV, or unknown SPI; the window does not move
      | ESP(1) ------------------->| arrives
    """
    pair = Pair()
    child = pair.install(suite)
    (datagram,) = pair.send(ping(1))
    for at in range(len(datagram.payload)):
        octets = bytearray(datagram.payload)
        octets[at] ^= 0x80
        assert pair.arrive(replace(datagram, payload=bytes(octets))) == []
    assert set(pair.b.drops) <= {Drop.BAD_ICV, Drop.UNKNOWN_SPI, Drop.TOO_OLD}
    assert sum(pair.b.drops.values()) == len(datagram.payload)
    assert reports(pair.b, Heard, PeerMoved) == []
    counters = pair.b.counters(child)
    assert counters is not None and counters.last_in_ns is None
    assert pair.arrive(datagram) == [ping(1)]


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_garbage_is_counted_and_never_raises(octets: bytes) -> None:
    pair = Pair()
    pair.install()
    (datagram,) = pair.send(ping(1))
    for payload in (octets, datagram.payload[:8] + octets):
        pair.arrive(replace(datagram, payload=payload))
        pair.b.outbound(pair.now_ns, payload)
    assert sum(pair.b.drops.values()) == 4


def test_what_lies_outside_the_selectors_is_dropped_on_both_sides() -> None:
    """
    Alice                         Bob
      | to 10.9.0.1: no policy     |
      | (believes in wider TS)     |
      | ESP(from 10.9.0.1) ------->| verified, but not within TSi
    """
    pair = Pair()
    alice, bob = pair.ops()
    pair.a.apply(0, replace(alice, local_ts=(ts("10.0.0.0/8"),)))
    pair.b.apply(0, bob)
    assert pair.send(echo_request("10.1.0.1", "10.9.0.1", 1, 1)) == []
    assert pair.a.drops == {Drop.NO_POLICY: 1}
    wire = pair.send(echo_request("10.9.0.1", "10.2.0.1", 1, 1), ping(2))
    assert pair.arrive(*wire) == [ping(2)]
    assert pair.b.drops == {Drop.INBOUND_SELECTORS: 1}
    counters = pair.b.counters(bob.child)
    assert counters is not None and counters.packets_in == 1


@pytest.mark.parametrize(
    ("plaintext", "reason"),
    [
        (b"no matter what" + bytes([200, 59]), Drop.DUMMY),
        (ping(1) + b"\2\1\2\4", Drop.BAD_PADDING),
        (b"\x09\x04", Drop.BAD_TRAILER),
        (ping(1) + b"\0\6", Drop.BAD_NEXT_HEADER),
        (ping(1) + b"\0\x29", Drop.INNER_MALFORMED),
        (
            SHORT_OPTIONS + b"\0\x29",
            Drop.INNER_MALFORMED,
        ),
    ],
)
def test_what_verifies_proves_the_peer_even_where_the_packet_is_dropped(
    plaintext: bytes, reason: Drop
) -> None:
    pair = Pair()
    _, bob = pair.ops(outbound_now=False)
    pair.b.apply(pair.now_ns, bob)
    pair.b.inbound(pair.now_ns, foreign_seal(bob, 1, plaintext), BOB, ALICE)
    assert pair.b.poll_packet() is None
    assert pair.b.drops == {reason: 1}
    assert reports(pair.b) == [Heard(bob.child, pair.now_ns)]
    assert len(pair.send_back(pong(1))) == 1, "the valid packet activated the deferred outbound half"


def test_padding_for_traffic_flow_confidentiality_is_cut_off() -> None:
    pair = Pair()
    _, bob = pair.ops()
    pair.b.apply(pair.now_ns, bob)
    pair.b.inbound(pair.now_ns, foreign_seal(bob, 1, ping(1) + bytes(900) + b"\0\4"), BOB, ALICE)
    assert pair.b.poll_packet() == ping(1)


def test_extended_numbers_cross_the_boundary_of_32_bits() -> None:
    """
    Alice                                   Bob
      | ESP(2^32-20) ... ESP(2^32+19) ------->| in any order within the window
    """
    for suite in (make_suite("aes256gcm16", esn=True), make_suite("aes256-sha512", esn=True)):
        pair = Pair(first_sequence=SPACE - 20)
        pair.install(suite)
        wire = pair.send(*[ping(n) for n in range(40)])
        assert [int.from_bytes(d.payload[4:8]) for d in wire[19:22]] == [SPACE - 1, 0, 1]
        late = wire[15:25]
        assert pair.arrive(*wire[:15], *wire[25:], *reversed(late)) == [
            ping(n) for n in (*range(15), *range(25, 40), *range(24, 14, -1))
        ]
        assert not pair.b.drops
        assert reports(pair.a, Expiring, Expired) == []
        assert pair.arrive(*wire) == []
        assert pair.b.drops == {Drop.REPLAYED: 40}


def test_numbers_without_esn_are_used_up_and_never_wrap() -> None:
    """
    Alice                                   Bob
      | ESP(2^32-2) ------------------------->|      Expiring(sequence)
      | ESP(2^32-1) ------------------------->|      Expired
      | nothing more
    """
    pair = Pair(first_sequence=SPACE - 2)
    child = pair.install()
    assert pair.arrive(*pair.send(ping(1))) == [ping(1)]
    assert reports(pair.a, Expiring, Expired) == [Expiring(child, "sequence")]
    assert pair.arrive(*pair.send(ping(2), ping(3))) == [ping(2)]
    assert reports(pair.a, Expiring, Expired) == [Expired(child)]
    assert pair.send(ping(4)) == []
    assert pair.a.drops == {Drop.SEQUENCE_EXHAUSTED: 2}
    assert pair.arrive(*pair.send_back(pong(1))) == [pong(1)], "the other direction goes on"


def test_extended_numbers_are_used_up_too() -> None:
    pair = Pair(first_sequence=SPACE * SPACE - 1)
    child = pair.install(make_suite("aes128gcm16", esn=True))
    assert pair.arrive(*pair.send(ping(1), ping(2))) == [ping(1)]
    assert reports(pair.a, Expired) == [Expired(child)]


def test_numbers_at_three_quarters_ask_for_a_rekey_once() -> None:
    pair = Pair(first_sequence=SPACE // 4 * 3 - 1)
    child = pair.install()
    pair.send(ping(1))
    assert reports(pair.a, Expiring) == []
    pair.send(ping(2), ping(3), ping(4))
    assert reports(pair.a, Expiring) == [Expiring(child, "sequence")]


def test_when_the_numbers_are_used_up_packets_wait_for_the_trap() -> None:
    pair = Pair(first_sequence=SPACE - 1)
    pair.trap()
    pair.install()
    first = pair.send(ping(1), ping(2))
    assert pair.arrive(*first) == [ping(1)]
    assert [report.policy for report in reports(pair.a, Acquire) if isinstance(report, Acquire)] == [7]
    alice, bob = pair.ops(make_suite("aes256gcm16", esn=True))
    pair.b.apply(pair.now_ns, bob)
    pair.a.apply(pair.now_ns, alice)
    assert pair.arrive(*pair.send()) == [ping(2)]


def test_soft_limits_of_either_direction_are_reported_once() -> None:
    pair = Pair()
    child = pair.install(soft_packets=3, soft_octets=4 * len(ping(1)))
    wire = pair.send(ping(1), ping(2))
    assert reports(pair.a, Expiring) == []
    wire += pair.send(ping(3))
    assert reports(pair.a, Expiring) == [Expiring(child, "packets")]
    wire += pair.send(ping(4), ping(5))
    assert reports(pair.a, Expiring) == [Expiring(child, "octets")]
    pair.arrive(*wire)
    assert reports(pair.b, Expiring) == [Expiring(child, "packets"), Expiring(child, "octets")]


def test_what_the_host_sends_and_is_no_packet_is_dropped() -> None:
    pair = Pair()
    pair.install()
    assert pair.send(b"", b"\x45", ping(1)[:-1], b"\xff" * 60) == []
    assert pair.a.drops == {Drop.OUTBOUND_MALFORMED: 4}


def test_a_child_is_not_installed_over_another() -> None:
    pair = Pair()
    alice, _ = pair.ops()
    pair.a.apply(0, alice)
    with pytest.raises(ValueError, match="installed already"):
        pair.a.apply(0, alice)
    with pytest.raises(ValueError, match="installed already"):
        pair.a.apply(0, replace(alice, child=99))
    with pytest.raises(ValueError, match="wrong length"):
        pair.a.apply(0, replace(pair.ops()[0], suite=make_suite("aes128gcm16")))
    assert pair.a.counters(99) is None
    assert len(pair.send(ping(1))) == 1


def test_secrets_do_not_show() -> None:
    alice, _ = Pair().ops()
    assert "inbound" not in repr(alice) and "outbound=" not in repr(alice)
