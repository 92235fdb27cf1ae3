"""NAT: detection, port 4500, a middlebox that changes its mind, keepalives (RFC 7296 section 2.23)."""

from __future__ import annotations

import pytest
from tests.support.invariants import check_no_leaks
from tests.support.pair import Nat, Pair

from deadpeer.ike.connection import EndpointConfig
from deadpeer.ike.io import Rekey
from deadpeer.ike.nat import behind_nat, detection_notifies
from deadpeer.values import Address, Datagram
from deadpeer.wire import KEEPALIVE, ExchangeType, Message

HOME, OUTSIDE = "192.0.2.1", "203.0.113.1"


def natted(**options: object) -> Pair:
    """Alice is behind a middlebox; Bob takes a peer from anywhere."""
    pair = Pair.with_psk(bob={"remote_addrs": ()}, **options)  # type: ignore[arg-type]
    pair.nat = Nat(HOME, OUTSIDE)
    return pair


def test_without_a_nat_and_without_encap_everything_stays_on_port_500() -> None:
    pair = Pair.with_psk(both={"encap": False})
    pair.up()
    assert {s.datagram.local.port for s in pair.trace} == {500}
    pair.run(100.0)
    assert "NAT keepalive" not in pair.reasons()


def test_with_encap_the_initiator_moves_and_nobody_takes_itself_to_be_behind_a_nat() -> None:
    pair = Pair.with_psk(both={"encap": True})
    pair.up()
    assert {s.datagram.local.port for s in pair.trace[2:]} == {4500}
    pair.run(100.0)
    assert "NAT keepalive" not in pair.reasons()
    assert pair.ping()


@pytest.mark.parametrize("encap", [False, True])
def test_behind_a_nat_the_initiator_moves_to_port_4500(encap: bool) -> None:
    """
    Alice            middlebox                Bob
      :500   ──────▶  :40000     ──────────▶  :500    IKE_SA_INIT
      :4500  ──────▶  :40001     ──────────▶  :4500   IKE_AUTH, ESP
    """
    pair = natted(both={"encap": encap})
    pair.up()
    assert {s.datagram.local.port for s in pair.trace[2:]} == {4500}
    (sa,) = pair.bob.ike.views()
    assert sa.remote == Address(OUTSIDE, 40_001)
    assert pair.ping()
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")


def test_keepalives_are_sent_only_from_behind_the_nat() -> None:
    pair = natted(alice_config=EndpointConfig(nat_keepalive_s=10.0), both={"dpd_delay_s": 0.0})
    pair.up()
    pair.run(35.0)
    keepalives = [s for s in pair.trace if s.reason == "NAT keepalive"]
    assert [s.sender for s in keepalives] == ["alice"] * 3
    assert {s.datagram.payload for s in keepalives} == {KEEPALIVE}
    assert pair.bob.ike.counters["dropped: keepalive"] == 3
    pair.feed("alice", Rekey("home"))
    pair.run(21.0)
    sas = list(pair.alice.ike.views())
    assert len(sas) == 1
    assert [s.reason for s in pair.trace].count("NAT keepalive") == 5, "one timer, in the new SA"


def test_bob_follows_a_new_mapping_by_a_request_of_alice() -> None:
    """
    Alice            middlebox                Bob
                      (forgets :40001)
      :4500  ──────▶  :40002     ──────────▶  :4500   INFORMATIONAL   Bob moves
      :4500  ◀──────  :40002     ◀──────────  :4500
    """
    pair = natted(alice={"dpd_delay_s": 5.0})
    pair.up()
    assert pair.nat is not None
    pair.nat.forget()
    pair.run(6.0)
    (sa,) = pair.bob.ike.views()
    assert sa.remote == Address(OUTSIDE, 40_002)
    assert pair.bob.last("address_changed").fields["old"] == f"{OUTSIDE}:40001"
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")
    assert pair.bob.ike.with_peer(Address(OUTSIDE, 40_002)) == [sa]
    assert pair.bob.ike.with_peer(Address(OUTSIDE, 40_001)) == []


def test_bob_follows_a_new_mapping_by_esp() -> None:
    pair = natted(both={"dpd_delay_s": 0.0})
    pair.up()
    assert pair.nat is not None
    pair.nat.forget()
    pair.ping()  # its reply may still go to the old mapping
    assert pair.ping()
    (sa,) = pair.bob.ike.views()
    assert sa.remote == Address(OUTSIDE, 40_002)
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")


def test_a_replay_from_elsewhere_moves_nobody() -> None:
    """Only what is fresh and authenticated moves an SA: a copy of an old packet does not."""
    pair = natted(both={"dpd_delay_s": 0.0})
    pair.up()
    pair.ping()
    (sa,) = pair.bob.ike.views()
    before = sa.remote
    pair.nat = None
    for sent in [s for s in pair.trace if s.sender == "alice" and s.datagram.local.port == 4500]:
        pair.inject(Datagram(sent.datagram.payload, Address("198.51.100.66", 666), sent.datagram.remote))
    assert sa.remote == before


def test_who_is_behind_the_nat_does_not_follow() -> None:
    """Section 2.23: it would let anybody on the path lead the tunnel away."""
    pair = natted(both={"dpd_delay_s": 0.0})
    pair.up()
    pair.hold(sender="bob")
    pair.feed("bob", Rekey("home", "net"))
    (request,) = pair.held
    pair.held.clear()
    pair.hold_rule = lambda sent: False
    pair.nat, nat = None, pair.nat
    home = Address(HOME, 4500)
    pair.inject(Datagram(request.datagram.payload, Address("198.51.100.66", 666), home))
    pair.nat = nat
    (sa,) = pair.alice.ike.views()
    assert sa.remote == Address("192.0.2.2", 4500)
    pair.run(10.0)
    assert pair.ping()


@pytest.mark.parametrize(
    ("seen_local", "seen_remote", "expected"),
    [
        (Address("192.0.2.2", 500), Address("192.0.2.1", 500), (False, False)),
        (Address("10.0.0.2", 500), Address("192.0.2.1", 500), (True, False)),
        (Address("192.0.2.2", 500), Address("203.0.113.1", 500), (False, True)),
        (Address("192.0.2.2", 500), Address("192.0.2.1", 40_000), (False, True)),
        (Address("10.0.0.2", 500), Address("203.0.113.1", 40_000), (True, True)),
    ],
)
def test_the_hashes_tell_who_is_behind_a_nat(
    seen_local: Address, seen_remote: Address, expected: tuple[bool, bool]
) -> None:
    alice, bob = Address("192.0.2.1", 500), Address("192.0.2.2", 500)
    notifies = detection_notifies(b"i" * 8, bytes(8), alice, bob, None)
    message = Message(b"i" * 8, bytes(8), ExchangeType.IKE_SA_INIT, 0, True, False, notifies)
    assert behind_nat(message, seen_local, seen_remote) == expected


def test_no_notifies_say_nothing_and_forced_ones_say_nat() -> None:
    alice, bob = Address("2001:db8::1", 500), Address("2001:db8::2", 500)
    empty = Message(b"i" * 8, bytes(8), ExchangeType.IKE_SA_INIT, 0, True, False, ())
    assert behind_nat(empty, bob, alice) is None
    forced = detection_notifies(b"i" * 8, bytes(8), alice, bob, b"f" * 20)
    message = Message(b"i" * 8, bytes(8), ExchangeType.IKE_SA_INIT, 0, True, False, forced)
    assert behind_nat(message, bob, alice) == (False, True)


def test_nothing_is_left_over_of_a_move() -> None:
    pair = natted(both={"dpd_delay_s": 5.0})
    pair.up()
    assert pair.nat is not None
    for _ in range(5):
        pair.nat.forget()
        pair.run(12.0)
    assert pair.ike_sas() == (1, 1)
    check_no_leaks(pair.alice)
    check_no_leaks(pair.bob)
