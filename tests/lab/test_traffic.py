"""The traffic log, and the real ping's output read."""

from deadpeer.lab.process import Record
from deadpeer.lab.traffic import PingReader, TrafficLog

MS = 1_000_000

PING = """\
PING 10.10.2.1 (10.10.2.1) from 10.10.1.1 : 56(84) bytes of data.
[1000.000000] no answer yet for icmp_seq=1
[1000.010000] 64 bytes from 10.10.2.1: icmp_seq=1 ttl=64 time=20.0 ms
[1000.020000] 64 bytes from 10.10.2.1: icmp_seq=2 ttl=64 time=20.0 ms
[1000.040000] no answer yet for icmp_seq=4
[1000.060000] 64 bytes from 10.10.2.1: icmp_seq=7 ttl=64 time=10.0 ms
From 10.10.1.1 icmp_seq=8 Destination Host Unreachable
"""


def read(text: str, offset_ns: int = 0) -> TrafficLog:
    log = TrafficLog()
    reader = PingReader(offset_ns, 10, log.take)
    for line in text.splitlines():
        reader.line(line)
    return log


def at(ms: int) -> int:
    return 1000 * 1000 * MS + ms * MS


def test_replies_tell_when_their_requests_left() -> None:
    log = read(PING)
    assert log.replies == {1: at(10), 2: at(20), 7: at(60)}
    assert log.sent[1] == at(-10)
    assert log.sent[2] == at(0)
    assert log.sent[7] == at(50)
    assert log.round_trips_ns() == [20 * MS, 20 * MS, 10 * MS]


def test_requests_without_an_answer_lie_between() -> None:
    log = read(PING)
    assert list(log.sent) == [1, 2, 3, 4, 5, 6, 7]
    assert log.sent[4] == at(30)
    assert log.sent[2] < log.sent[3] < log.sent[4] < log.sent[5] < log.sent[6] < log.sent[7]
    assert len(log.lost()) == 4


def test_the_clock_is_turned_into_the_monotonic_one() -> None:
    assert read(PING, offset_ns=-at(0)).replies[7] == 60 * MS


def test_sequence_numbers_wrap() -> None:
    lines = [
        "[1000.000000] 64 bytes from x: icmp_seq=65535 ttl=64 time=1.0 ms",
        "[1000.010000] 64 bytes from x: icmp_seq=0 ttl=64 time=1.0 ms",
        "[1000.020000] 64 bytes from x: icmp_seq=1 ttl=64 time=1.0 ms",
    ]
    assert list(read("\n".join(lines)).replies) == [65535, 65536, 65537]


def test_first_reply_after_and_losses() -> None:
    log = TrafficLog()
    records: list[Record] = [
        {"event": "sent", "seq": 1, "mono_ns": 10},
        {"event": "sent", "seq": 2, "mono_ns": 20},
        {"event": "sent", "seq": 3, "mono_ns": 30},
        {"event": "reply", "seq": 1, "mono_ns": 40},
        {"event": "reply", "seq": 3, "mono_ns": 45},
        {"event": "strange", "mono_ns": 50},
        {"event": "ready", "mono_ns": 1},
    ]
    for record in records:
        log.take(record)
    assert log.first_reply_after(40) == 45
    assert log.first_reply_after(45) is None
    assert log.first_round_trip_after(10) == 45
    assert log.first_round_trip_after(30) is None
    assert log.lost() == [20]
    assert log.strays == 1


def test_who_stops_listening_does_not_count_what_was_under_way() -> None:
    log = read(PING)
    log.forget_unanswered(log.sent[4])
    assert list(log.sent) == [1, 2, 3, 7]
