"""What the plane tells the core: silence, life, movement, unknown SPIs."""

from dataclasses import replace

from tests.plane.pair import ALICE, BOB, POLICY, Pair, ping, pong, reports

from deadpeer.plane.drops import Drop
from deadpeer.plane.engine import UNKNOWN_SPI_REPORTS
from deadpeer.plane.model import Expiring, Heard, MoveChild, PeerMoved, Silence, UnknownSpi, WatchSilence
from deadpeer.values import NS_PER_S, Address, Deadline


def watched(after_s: float = 1.5) -> tuple[Pair, int]:
    """A pair with a child whose silence Alice watches."""
    pair = Pair()
    child = pair.install()
    pair.a.apply(pair.now_ns, WatchSilence(POLICY, int(after_s * NS_PER_S)))
    return pair, child


def test_silence_is_reported_when_nothing_comes_back() -> None:
    """
    Alice                         Bob
      | ESP --------------> 0 s    | dead
      | ESP --------------> 0.5 s  |
      | Silence             1.5 s
      | ESP --------------> 1.6 s
      | Silence             3.0 s
    """
    pair, child = watched()
    start = pair.now_ns
    pair.send(ping(1))
    assert pair.a.deadline() == Deadline(start + 1_500_000_000, "silence")
    pair.sleep(0.5)
    pair.send(ping(2))
    pair.sleep(0.999)
    assert reports(pair.a) == []
    pair.sleep(0.001)
    assert reports(pair.a) == [Silence(child, start)]
    assert pair.a.deadline() is None, "nothing went out since"
    pair.sleep(0.1)
    pair.send(ping(3))
    assert pair.a.deadline() == Deadline(start + 3_000_000_000, "silence")
    pair.sleep(1.4)
    assert reports(pair.a) == [Silence(child, start)]


def test_under_load_a_silence_is_reported_each_threshold() -> None:
    pair, child = watched(0.5)
    start = pair.now_ns
    for n in range(300):
        pair.send(ping(n))
        pair.sleep(0.01)
    assert reports(pair.a) == [Silence(child, start)] * 6


def test_an_answer_ends_the_silence_and_is_heard_at_once() -> None:
    """
    Alice                         Bob
      | ESP ------------x          |
      |<--------------------- ESP  | Heard
      | ESP ------------x          |
      | Silence                    |
      |<--------------------- ESP  | Heard, within the same second
    """
    pair, child = watched(0.3)
    pair.send(ping(1))
    pair.sleep(0.2)
    pair.arrive(*pair.send_back(pong(1)))
    assert reports(pair.a) == [Heard(child, pair.now_ns)]
    assert pair.a.deadline() is None
    pair.sleep(0.2)
    pair.send(ping(2))
    since = pair.now_ns
    pair.sleep(0.3)
    assert reports(pair.a) == [Silence(child, since)]
    pair.arrive(*pair.send_back(pong(2)))
    assert reports(pair.a) == [Heard(child, pair.now_ns)]
    pair.arrive(*pair.send_back(pong(3)))
    assert reports(pair.a) == []


def test_a_packet_after_a_pause_has_time_to_be_answered() -> None:
    pair, child = watched()
    start = pair.now_ns
    pair.send(ping(1))
    pair.sleep(60)
    assert reports(pair.a) == [Silence(child, start)]
    pair.send(ping(2))
    assert pair.a.deadline() == Deadline(pair.now_ns + 1_500_000_000, "silence")


def test_without_outbound_traffic_there_is_no_silence() -> None:
    pair, _ = watched()
    pair.sleep(100)
    pair.arrive(*pair.send_back(pong(1)))
    pair.sleep(100)
    assert reports(pair.a, Silence) == []
    assert pair.a.deadline() is None


def test_forged_and_replayed_packets_do_not_end_a_silence() -> None:
    pair, child = watched()
    home = pair.send_back(pong(1))
    pair.arrive(*home)
    reports(pair.a)
    start = pair.now_ns
    pair.send(ping(1))
    pair.arrive(*home, replace(home[0], payload=home[0].payload[:-1] + b"x"))
    pair.sleep(1.5)
    assert reports(pair.a) == [Silence(child, start)]


def test_a_new_child_begins_with_a_clean_slate() -> None:
    pair, old = watched()
    pair.send(ping(1))
    pair.sleep(1.4)
    new = pair.install()
    pair.send(ping(2))
    start = pair.now_ns
    pair.sleep(1.4)
    assert reports(pair.a) == []
    pair.remove(pair.a, old)
    pair.sleep(0.1)
    assert reports(pair.a) == [Silence(new, start)]


def test_what_comes_in_on_the_old_child_breaks_the_silence_of_the_policy() -> None:
    pair, _ = watched()
    home = pair.send_back(pong(1))
    pair.install()
    pair.send(ping(1))
    pair.sleep(1)
    pair.arrive(*home)
    pair.sleep(10)
    assert reports(pair.a, Silence) == []


def test_no_silence_after_the_child_is_gone() -> None:
    pair, child = watched()
    pair.send(ping(1))
    pair.remove(pair.a, child)
    assert pair.a.deadline() is None
    pair.sleep(10)
    assert reports(pair.a) == []


def test_the_threshold_survives_the_loss_of_the_child_and_can_be_changed() -> None:
    pair, child = watched()
    pair.remove(pair.a, child)
    new = pair.install()
    start = pair.now_ns
    pair.send(ping(1))
    pair.a.apply(pair.now_ns, WatchSilence(POLICY, NS_PER_S // 4))
    pair.sleep(0.25)
    assert reports(pair.a) == [Silence(new, start)]
    pair.a.apply(pair.now_ns, WatchSilence(POLICY, 0))
    pair.send(ping(2))
    assert pair.a.deadline() is None


def test_a_threshold_may_be_set_before_the_child() -> None:
    pair = Pair()
    pair.a.apply(pair.now_ns, WatchSilence(POLICY, NS_PER_S))
    child = pair.install()
    start = pair.now_ns
    pair.send(ping(1))
    pair.sleep(1)
    assert reports(pair.a) == [Silence(child, start)]


def test_heard_at_most_once_a_second_for_each_child() -> None:
    pair = Pair()
    first, second = pair.install(), pair.install()
    for n in range(25):
        pair.arrive(*pair.send_back(pong(n)))
        pair.sleep(0.1)
    assert [report.child for report in reports(pair.a) if isinstance(report, Heard)] == [second] * 3
    pair.remove(pair.b, second)
    pair.arrive(*pair.send_back(pong(1)))
    assert reports(pair.a) == [Heard(first, pair.now_ns)]


def test_only_a_valid_and_newest_packet_moves_the_peer() -> None:
    """
    Alice, behind a NAT that rebinds          Bob
      | ESP(1) from :4500 ------------------->|
      | ESP(2) from :61000 ------------------>| PeerMoved, once
      | ESP(2) replayed by Mallory ---------->|
      | ESP(4) damaged by Mallory ----------->|
      | late ESP(1) carried by Mallory ------>| valid, but not the newest
    """
    pair = Pair()
    child = pair.install()
    rebound, mallory = Address(ALICE.host, 61000), Address("203.0.113.66", 4500)
    wire = pair.send(*[ping(n) for n in range(6)])
    pair.arrive(wire[0])
    assert reports(pair.b, PeerMoved) == []
    pair.b.inbound(pair.now_ns, wire[2].payload, BOB, rebound)
    assert reports(pair.b, PeerMoved) == [PeerMoved(child, rebound)]
    pair.b.inbound(pair.now_ns, wire[3].payload, BOB, rebound)
    assert reports(pair.b, PeerMoved) == []
    for payload in (wire[3].payload, wire[4].payload[:-1] + b"x", wire[1].payload):
        pair.b.inbound(pair.now_ns, payload, BOB, mallory)
    assert reports(pair.b, PeerMoved) == []
    assert pair.send_back(pong(1))[0].remote == ALICE, "the plane waits for the core's decision"
    pair.sleep(1)
    pair.b.inbound(pair.now_ns, wire[4].payload, BOB, rebound)
    assert reports(pair.b, PeerMoved) == [PeerMoved(child, rebound)], "the core did not act: said again"
    pair.b.apply(pair.now_ns, MoveChild(child, BOB, rebound))
    pair.b.inbound(pair.now_ns, wire[5].payload, BOB, rebound)
    assert reports(pair.b, PeerMoved) == []
    assert pair.send_back(pong(2))[0].remote == rebound


def test_unknown_spis_are_reported_and_bounded() -> None:
    pair = Pair()
    payload = bytes.fromhex("deadbeef00000001") + bytes(40)
    pair.b.inbound(pair.now_ns, payload, BOB, ALICE)
    assert reports(pair.b) == [UnknownSpi(0xDEADBEEF, 48, BOB, ALICE)]
    for _ in range(UNKNOWN_SPI_REPORTS + 50):
        pair.b.inbound(pair.now_ns, payload, BOB, ALICE)
    assert pair.b.drops == {Drop.UNKNOWN_SPI: 1 + UNKNOWN_SPI_REPORTS, Drop.UNKNOWN_SPI_UNREPORTED: 50}
    assert len(reports(pair.b)) == UNKNOWN_SPI_REPORTS
    pair.b.inbound(pair.now_ns, payload, BOB, ALICE)
    assert len(reports(pair.b)) == 1


def test_a_flood_of_unknown_spis_hides_no_other_report() -> None:
    pair = Pair()
    child = pair.install()
    wire = pair.send(ping(1))
    for n in range(1000):
        pair.b.inbound(pair.now_ns, (0xDEAD0000 + n).to_bytes(4) + bytes(40), BOB, ALICE)
    pair.arrive(*wire)
    assert reports(pair.b, Heard) == [Heard(child, pair.now_ns)]


def test_what_is_no_esp_packet_is_not_an_unknown_spi() -> None:
    pair = Pair()
    for payload in (b"", b"\xff", bytes(7), bytes(60), b"\0\0\0\xff" + bytes(40)):
        pair.b.inbound(pair.now_ns, payload, BOB, ALICE)
    assert pair.b.drops == {Drop.ESP_MALFORMED: 5}
    assert reports(pair.b) == []


def test_a_lingering_child_asks_for_no_rekey() -> None:
    pair = Pair()
    child = pair.install(soft_packets=2)
    wire = pair.send(ping(1), ping(2))
    pair.remove(pair.b, child, 5.0)
    assert pair.arrive(*wire) == [ping(1), ping(2)]
    assert reports(pair.b, Expiring) == []


def test_traffic_that_goes_back_and_forth_does_not_pile_up_timers() -> None:
    pair, child = watched(60)
    for n in range(200):
        pair.sleep(0.01)
        last = pair.now_ns
        pair.send(ping(n))
        if n < 199:
            pair.arrive(*pair.send_back(pong(n)))
    assert len(pair.a._timers) == 1, "nobody asked for the deadline in between"
    assert pair.a.deadline() == Deadline(last + 60 * NS_PER_S, "silence")
    reports(pair.a)
    pair.sleep(60)
    assert reports(pair.a) == [Silence(child, last)]
