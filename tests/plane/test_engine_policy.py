"""Which child carries a packet, and what happens to packets when there is none."""

from dataclasses import replace

from tests.plane.pair import ALICE, ALICE_TS, BOB, BOB_TS, POLICY, Pair, ping, pong, reports, ts

from deadpeer.plane.drops import Drop
from deadpeer.plane.engine import VACANT_POLICIES
from deadpeer.plane.model import (
    Acquire,
    ActivateOutbound,
    InstallTrap,
    MoveChild,
    RemoveChild,
    RemoveTrap,
    UnknownSpi,
    WatchSilence,
)
from deadpeer.plane.packets import echo_request
from deadpeer.values import Deadline


def spi_of(payload: bytes) -> int:
    return int.from_bytes(payload[:4])


def test_rekey_under_load_loses_nothing() -> None:
    """
    Alice (initiator)             Bob (responder)
      | ESP(old) ----------------->|  installs new, sends on old still
      | installs new, sends on it  |
      |<----------------- ESP(old) |
      | ESP(new) ----------------->|  sends on new now
      |<----------------- ESP(new) |
      | late ESP(old) ------------>|  both linger
    """
    pair = Pair()
    old = pair.install()
    alice, bob = pair.ops()
    sent, arrived, back, arrived_back = [], [], [], []

    def load(number: int) -> list[int]:
        """One packet each way; the SPIs used."""
        sent.append(ping(number))
        back.append(pong(number))
        out, home = pair.send(ping(number)), pair.send_back(pong(number))
        arrived.extend(pair.arrive(*out))
        arrived_back.extend(pair.arrive(*home))
        return [spi_of(out[0].payload), spi_of(home[0].payload)]

    old_spis = load(1)
    pair.b.apply(pair.now_ns, replace(bob, outbound_now=False))
    assert load(2) == old_spis
    late = pair.send(ping(100))
    pair.a.apply(pair.now_ns, alice)
    assert load(3) == [alice.spi_out, old_spis[1]], "Bob's packet left before Alice's reached him"
    assert load(4) == [alice.spi_out, bob.spi_out]
    pair.remove(pair.a, old, 5.0)
    pair.remove(pair.b, old, 5.0)
    assert load(5) == [alice.spi_out, bob.spi_out]
    assert pair.arrive(*late) == [ping(100)]
    pair.sleep(5)
    load(6)
    assert (arrived, arrived_back) == (sent, back)
    assert not pair.a.drops and not pair.b.drops
    assert pair.a.counters(old) is None and pair.b.counters(old) is None
    assert reports(pair.a, UnknownSpi, Acquire) == reports(pair.b, UnknownSpi, Acquire) == []


def test_a_lingering_child_ends_at_its_deadline() -> None:
    pair = Pair()
    child = pair.install()
    wire = pair.send(ping(1), ping(2), ping(3))
    pair.remove(pair.b, child, 2.0)
    assert pair.b.deadline() == Deadline(pair.now_ns + 2_000_000_000, "linger")
    assert pair.arrive(wire[0]) == [ping(1)]
    assert pair.send_back(pong(1)) == []
    assert pair.b.drops == {Drop.NO_ACTIVE_CHILD: 1}
    pair.now_ns += 2_000_000_000  # nobody called expire in time
    assert pair.arrive(wire[1]) == []
    assert pair.b.deadline() is None
    assert [type(report) for report in reports(pair.b, UnknownSpi)] == [UnknownSpi]
    assert pair.b.drops == {Drop.NO_ACTIVE_CHILD: 1, Drop.UNKNOWN_SPI: 1}


def test_deferred_outbound_waits_for_the_peer_or_for_the_word() -> None:
    """
    Alice                         Bob
      |                            | new child, outbound deferred; his packet waits
      | ESP ---------------------->| valid: activated, the packet goes
    """
    pair = Pair()
    alice, bob = pair.ops()
    pair.b.apply(pair.now_ns, replace(bob, outbound_now=False))
    assert pair.send_back(pong(1), pong(2)) == []
    assert reports(pair.b) == [], "a child is there already: nothing is to be acquired"
    pair.a.apply(pair.now_ns, alice)
    assert pair.arrive(*pair.send(ping(1))) == [ping(1)]
    assert pair.arrive(*pair.send_back()) == [pong(1), pong(2)]

    other = Pair()
    alice, bob = other.ops(outbound_now=False)
    other.b.apply(other.now_ns, bob)
    other.a.apply(other.now_ns, alice)
    assert other.send_back(pong(1)) == []
    other.b.apply(other.now_ns, ActivateOutbound(bob.child))
    assert other.arrive(*other.send_back()) == [pong(1)]


def test_a_packet_on_the_old_child_does_not_activate_the_new_one() -> None:
    pair = Pair()
    pair.install()
    _, bob = pair.ops(outbound_now=False)
    pair.b.apply(pair.now_ns, bob)
    pair.arrive(*pair.send(ping(1)))
    (home,) = pair.send_back(pong(1))
    assert spi_of(home.payload) != bob.spi_out


def test_a_trap_holds_packets_and_asks_then_they_go_in_order() -> None:
    """
    Alice                              Bob
      | packets 1 2 3 wait   Acquire    |
      | ... IKE ...                     |
      | ESP(1) ESP(2) ESP(3) ---------->|
      | ESP(4) ------------------------>|
    """
    pair = Pair()
    pair.trap()
    assert pair.send(ping(1), ping(2), ping(3)) == []
    assert reports(pair.a) == [Acquire(POLICY, "10.1.0.1 -> 10.2.0.1 proto 1")]
    alice, bob = pair.ops()
    pair.b.apply(pair.now_ns, bob)
    pair.a.apply(pair.now_ns, alice)
    wire = pair.send() + pair.send(ping(4))
    assert pair.arrive(*wire) == [ping(1), ping(2), ping(3), ping(4)]
    assert not pair.a.drops


def test_acquire_is_repeated_at_most_once_a_second_and_only_by_packets() -> None:
    pair = Pair()
    pair.trap()
    for tenth in range(25):
        pair.send(ping(tenth))
        pair.sleep(0.1)
    assert len(reports(pair.a, Acquire)) == 3
    pair.sleep(60)
    assert reports(pair.a, Acquire) == []


def test_the_next_loss_is_acquired_at_once() -> None:
    pair = Pair()
    pair.trap()
    pair.send(ping(1))
    child = pair.install()
    pair.remove(pair.a, child)
    pair.send(ping(2))
    assert len(reports(pair.a, Acquire)) == 2


def test_a_lost_child_leaves_packets_waiting_where_there_is_a_trap() -> None:
    """
    Alice                         Bob
      | ESP ---------------------->| crashed
      | the child goes, packets wait
      | new child: they arrive --->| back again
    """
    pair = Pair()
    child = pair.install()
    pair.send(ping(1))
    pair.trap()
    pair.remove(pair.a, child)
    assert pair.send(ping(2), ping(3)) == []
    assert len(reports(pair.a, Acquire)) == 1
    pair.install()
    assert pair.arrive(*pair.send()) == [ping(2), ping(3)]


def test_a_lost_child_without_a_trap_drops_with_a_reason() -> None:
    pair = Pair()
    child = pair.install()
    pair.remove(pair.a, child)
    assert pair.send(ping(1), echo_request("10.1.0.1", "10.9.0.1", 1, 1)) == []
    assert pair.a.drops == {Drop.NO_ACTIVE_CHILD: 1, Drop.NO_POLICY: 1}
    assert reports(pair.a) == []


def test_the_oldest_waiting_packet_makes_room() -> None:
    pair = Pair(hold_packets=3)
    pair.trap()
    pair.send(*[ping(n) for n in range(5)])
    assert pair.a.drops == {Drop.HOLD_OVERFLOW: 2}
    pair.install()
    assert pair.arrive(*pair.send()) == [ping(2), ping(3), ping(4)]


def test_octets_bound_the_queue_too() -> None:
    pair = Pair(hold_octets=2 * len(ping(0)))
    pair.trap()
    pair.send(ping(1), ping(2), ping(3))
    assert pair.a.drops == {Drop.HOLD_OVERFLOW: 1}
    pair.send(ping(4, size=1000))
    assert pair.a.drops == {Drop.HOLD_OVERFLOW: 2}, "too large for the queue: the others stay"
    pair.install()
    assert pair.arrive(*pair.send()) == [ping(2), ping(3)]


def test_a_removed_trap_drops_what_waits() -> None:
    pair = Pair()
    pair.trap()
    pair.send(ping(1), ping(2))
    pair.a.apply(pair.now_ns, RemoveTrap(POLICY))
    assert pair.a.drops == {Drop.POLICY_REMOVED: 2}
    pair.send(ping(3))
    assert pair.a.drops == {Drop.POLICY_REMOVED: 2, Drop.NO_POLICY: 1}


def test_a_removed_trap_leaves_living_children_alone() -> None:
    pair = Pair()
    pair.trap()
    child = pair.install()
    pair.a.apply(pair.now_ns, RemoveTrap(POLICY))
    assert pair.arrive(*pair.send(ping(1))) == [ping(1)]
    pair.remove(pair.a, child)
    pair.send(ping(2))
    assert pair.a.drops == {Drop.NO_ACTIVE_CHILD: 1}


def test_packets_of_a_deferred_child_that_goes_are_acquired_or_dropped() -> None:
    for trapped in (False, True):
        pair = Pair()
        alice, _ = pair.ops(outbound_now=False)
        pair.a.apply(pair.now_ns, alice)
        if trapped:
            pair.trap()
        pair.send(ping(1))
        assert reports(pair.a) == []
        pair.remove(pair.a, alice.child, 1.0)
        assert len(reports(pair.a, Acquire)) == trapped
        assert pair.a.drops == ({} if trapped else {Drop.NO_ACTIVE_CHILD: 1})


def test_a_narrowed_child_does_not_carry_what_it_must_not() -> None:
    """The trap is for 10.2.0.0/24, the child narrowed to 10.2.0.1: another Acquire would change nothing."""
    pair = Pair()
    pair.trap()
    pair.install(local_ts=(ts("0.0.0.0/0"),), remote_ts=(ts("10.1.0.1/32"), ts("10.2.0.1/32")))
    assert pair.arrive(*pair.send(ping(1), echo_request("10.1.0.1", "10.2.0.9", 1, 1))) == [ping(1)]
    assert pair.a.drops == {Drop.OUTSIDE_CHILD_SELECTORS: 1}
    assert reports(pair.a, Acquire) == []


def test_the_first_policy_that_can_take_a_packet_gets_it() -> None:
    """Order of installation, also after the first policy was vacant for a while; a trap counts as able."""
    pair = Pair()
    narrow, broad = pair.ops()[0], replace(pair.ops()[0], policy=8, remote_ts=(ts("10.2.0.0/16"),))
    pair.a.apply(pair.now_ns, narrow)
    pair.a.apply(pair.now_ns, broad)
    assert [spi_of(d.payload) for d in pair.send(ping(1))] == [narrow.spi_out]
    pair.remove(pair.a, narrow.child)
    assert [spi_of(d.payload) for d in pair.send(ping(2))] == [broad.spi_out]
    pair.trap()
    assert pair.send(ping(3)) == []
    assert [spi_of(d.payload) for d in pair.send(echo_request("10.1.0.1", "10.2.9.9", 1, 1))] == [
        broad.spi_out
    ]
    again = replace(pair.ops()[0], policy=POLICY)
    pair.a.apply(pair.now_ns, again)
    assert [spi_of(d.payload) for d in pair.send(ping(4))] == [again.spi_out] * 2


def test_a_broad_trap_does_not_catch_what_an_earlier_policy_carries() -> None:
    pair = Pair()
    child = pair.install()
    pair.a.apply(pair.now_ns, InstallTrap(9, (ts("0.0.0.0/0"),), (ts("0.0.0.0/0"),)))
    assert len(pair.send(ping(1))) == 1
    pair.send(echo_request("10.1.0.1", "203.0.113.1", 1, 1))
    pair.remove(pair.a, child)
    pair.send(ping(2))
    assert {report.policy for report in reports(pair.a, Acquire) if isinstance(report, Acquire)} == {9}


def test_of_active_children_the_one_installed_last_carries_the_traffic() -> None:
    pair = Pair()
    first, second = pair.install(), pair.install()
    out = pair.send(ping(1))
    assert spi_of(out[0].payload) == 0xB000 + second
    pair.remove(pair.a, second, 1.0)
    assert spi_of(pair.send(ping(2))[0].payload) == 0xB000 + first


def test_operations_on_what_is_gone_do_nothing() -> None:
    pair = Pair()
    for op in (
        ActivateOutbound(5),
        RemoveChild(5, 1.0),
        MoveChild(5, ALICE, BOB),
        RemoveTrap(5),
        WatchSilence(5, 1),
    ):
        pair.a.apply(0, op)
    assert pair.a.deadline() is None and pair.a.counters(5) is None


def test_vacant_policies_are_forgotten_after_a_while() -> None:
    pair = Pair()
    child = pair.install()
    pair.remove(pair.a, child)
    pair.send(ping(1))
    for number in range(1000, 1000 + VACANT_POLICIES):
        pair.a.apply(0, InstallTrap(number, ALICE_TS, BOB_TS))
        pair.a.apply(0, WatchSilence(number, 0))
        other = replace(pair.ops()[0], policy=number, remote_ts=(ts("10.77.0.0/16"),))
        pair.a.apply(0, RemoveTrap(number))
        pair.a.apply(0, other)
        pair.remove(pair.a, other.child)
    pair.send(ping(2))
    assert pair.a.drops == {Drop.NO_ACTIVE_CHILD: 1, Drop.NO_POLICY: 1}
