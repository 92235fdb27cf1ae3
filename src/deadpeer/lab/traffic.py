"""The inner traffic of a run: what was sent, what came back, and the real ping's output read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from deadpeer.lab.process import Record

MS = 1_000_000


@dataclass(slots=True)
class TrafficLog:
    """Echo requests and replies by sequence number, monotonic nanoseconds.

    `strays` counts packets that reached Alice's host and answered no request of hers. `no_room`: requests
    that, or whose replies, a busy gateway's socket did not take.
    """

    sent: dict[int, int] = field(default_factory=dict)
    replies: dict[int, int] = field(default_factory=dict)
    strays: int = 0
    no_room: set[int] = field(default_factory=set)

    def take(self, record: Record) -> None:
        """Enter a record of the hosts process, or of `PingReader`."""
        match record:
            case {"event": "sent", "seq": int(seq), "mono_ns": int(at)}:
                self.sent[seq] = at
            case {"event": "reply", "seq": int(seq), "mono_ns": int(at)}:
                self.replies.setdefault(seq, at)
            case {"event": "no room", "seq": int(seq)}:
                self.no_room.add(seq)
            case {"event": "strange"}:
                self.strays += 1

    def first_reply_after(self, at_ns: int) -> int | None:
        """When the first reply came that came after `at_ns`."""
        return min((at for _, at in self._replies_after(at_ns)), default=None)

    def first_round_trip_after(self, at_ns: int) -> int | None:
        """When the first reply came whose request, too, left after `at_ns`."""
        answered = (at for seq, at in self._replies_after(at_ns) if self.sent.get(seq, 0) > at_ns)
        return min(answered, default=None)

    def forget_unanswered(self, from_ns: int) -> None:
        """Leave out the requests from a moment on that have no reply: nobody waited for it."""
        for seq in [seq for seq, at in self.sent.items() if at >= from_ns and seq not in self.replies]:
            del self.sent[seq]

    def _replies_after(self, at_ns: int) -> Iterator[tuple[int, int]]:
        # They are entered as they come, so the late ones are at the end: a long log is not searched through.
        return takewhile(lambda item: item[1] > at_ns, reversed(self.replies.items()))

    def round_trips_ns(self) -> list[int]:
        """The round trip times of the answered requests, in the order they were sent."""
        return [self.replies[seq] - at for seq, at in self.sent.items() if seq in self.replies]

    def lost(self) -> list[int]:
        """When the requests left that were never answered."""
        return [at for seq, at in self.sent.items() if seq not in self.replies]


class PingReader:
    """Turns lines of `ping -D -O -n` into records like those of the hosts process.

    ping stamps with the real-time clock; `offset_ns` is what to add to get the monotonic one. When an
    answered request left follows from its round trip time; for the others the interval is laid between.
    """

    def __init__(self, offset_ns: int, interval_ms: float, emit: Callable[[Record], None]) -> None:
        self._offset_ns = offset_ns
        self._interval_ns = round(interval_ms * MS)
        self._emit = emit
        self._last: tuple[int, int] | None = None

    def line(self, text: str) -> None:
        """Take one line of output; lines that are neither a reply nor a missing one are skipped."""
        if match := _REPLY.match(text):
            at_ns = self._mono(match["time"])
            seq = self._whole(int(match["seq"]))
            sent_ns = at_ns - round(float(match["rtt"]) * MS)
            self._sent_until(seq, sent_ns)
            self._emit({"event": "sent", "seq": seq, "mono_ns": sent_ns})
            self._emit({"event": "reply", "seq": seq, "mono_ns": at_ns})
        elif match := _MISSING.match(text):
            # Said when the next request leaves.
            seq = self._whole(int(match["seq"]))
            at_ns = self._mono(match["time"]) - self._interval_ns
            self._sent_until(seq, at_ns)
            self._emit({"event": "sent", "seq": seq, "mono_ns": at_ns})

    def _sent_until(self, seq: int, at_ns: int) -> None:
        if self._last is None:
            self._last = (seq - 1, at_ns - self._interval_ns)
        last_seq, last_ns = self._last
        if seq <= last_seq:
            return
        for number in range(last_seq + 1, seq):
            share = (number - last_seq) / (seq - last_seq)
            self._emit(
                {"event": "sent", "seq": number, "mono_ns": last_ns + round((at_ns - last_ns) * share)}
            )
        self._last = (seq, at_ns)

    def _mono(self, stamp: str) -> int:
        seconds, _, micros = stamp.partition(".")
        return int(seconds) * 1_000_000_000 + int(micros.ljust(9, "0")[:9]) + self._offset_ns

    def _whole(self, seq: int) -> int:
        """The sequence number without its wrap at 65,536."""
        if self._last is None:
            return seq
        near = self._last[0]
        return near + ((seq - near + 0x8000) & 0xFFFF) - 0x8000


_REPLY = re.compile(
    r"\[(?P<time>\d+\.\d+)\] \d+ bytes from .*icmp_seq=(?P<seq>\d+) .*time=(?P<rtt>[\d.]+) ms"
)
_MISSING = re.compile(r"\[(?P<time>\d+\.\d+)\] no answer yet for icmp_seq=(?P<seq>\d+)")
