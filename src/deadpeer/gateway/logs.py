"""Events as lines: for a person, or as JSON. One line per event, never a key or a token."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from io import BytesIO, RawIOBase
from typing import Literal, get_args

from deadpeer.ike.io import Event, Field, Level
from deadpeer.values import NS_PER_S, Now

LogFormat = Literal["text", "json"]
LEVELS: tuple[Level, ...] = get_args(Level)
NEVER_CUT = frozenset(
    {
        "verdict",
        "recovering",
        "ike_sa_up",
        "ike_sa_down",
        "ike_sa_rekeyed",
        "child_up",
        "child_down",
        "child_rekeyed",
    }
)
"""Kinds that only an authenticated peer or a proof can cause: a thousand tunnels may come back at once."""
_PLAIN = re.compile(r"[\w.:/@%+,*()\[\]<>-]+", re.ASCII)
_COLOURS = {"debug": "\x1b[2m", "notice": "\x1b[1m", "warning": "\x1b[1;33m"}
_TOGETHER_S = 0.002
_AT_ONCE = 256
"""Lines that are written together: so long after the first of them, and so many."""
_FULL_S = 0.02
_BURST = 500
_PER_S = 50


def record(now: Now, event: Event) -> dict[str, object]:
    """The event as one flat JSON object: its fields, then time (unix s), mono_ns, level and event."""
    head = {"time": round(now.unix_s, 6), "mono_ns": now.mono_ns, "level": event.level, "event": event.kind}
    return head | {name: value for name, value in event.fields.items() if name not in head}


def json_line(now: Now, event: Event) -> str:
    """The event as one line of JSON."""
    return json.dumps(record(now, event), separators=(",", ":"))


def text_line(now: Now, event: Event, colour: bool = False) -> str:
    """The event as a line for a person; what a peer sent can't break the line or reach the terminal."""
    when = datetime.fromtimestamp(now.unix_s).astimezone().isoformat(" ", "milliseconds")[:23]
    fields = " ".join(f"{name}={_value(value)}" for name, value in event.fields.items())
    line = f"{when} {event.level:<7} {event.kind}" + (f" {fields}" if fields else "")
    start = _COLOURS.get(event.level, "") if colour else ""
    return f"{start}{line}\x1b[0m" if start else line


class EventLog:
    """Writes events at or above a level.

    A kind that floods is cut, and how many were left out is said, but for those that strangers can't cause.
    """

    def __init__(self, writer: LineWriter, level: Level, log_format: LogFormat, colour: bool = False) -> None:
        self.level: Level = level
        self._writer = writer
        self._json = log_format == "json"
        self._colour = colour
        self._buckets: dict[str, _Bucket] = {}

    def write(self, now: Now, event: Event) -> None:
        """Write the event, unless it is below the level or its kind came too often."""
        if LEVELS.index(event.level) < LEVELS.index(self.level):
            return
        if event.kind in NEVER_CUT:
            self._put(now, event)
            return
        bucket = self._buckets.setdefault(event.kind, _Bucket(now.mono_ns))
        if not bucket.take(now.mono_ns):
            return
        if bucket.left_out:
            fields: dict[str, Field] = {"of": event.kind, "count": bucket.left_out}
            bucket.left_out = 0
            self._put(now, Event("events_left_out", fields, "notice"))
        self._put(now, event)

    def _put(self, now: Now, event: Event) -> None:
        self._writer.put(json_line(now, event) if self._json else text_line(now, event, self._colour))


class LineWriter:
    """Writes lines from a thread of its own, so that a reader who stops reading can't stop the gateway.

    What comes within a moment is written together: a thread that wakes for each line takes the interpreter
    from the one that serves the sockets. `counters` has what did not get through: "log_lost" lines.
    """

    def __init__(self, out: RawIOBase | BytesIO, capacity: int = 10_000) -> None:
        self.counters: Counter[str] = Counter()
        self._out = out
        self._capacity = capacity
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self.thread = threading.Thread(target=self._run, name="log", daemon=True)
        self.thread.start()

    def put(self, line: str) -> None:
        """Queue a line; it is lost, and counted, if the reader is too far behind."""
        if self._queue.qsize() < self._capacity:
            self._queue.put(line)
        else:
            self.counters["log_lost"] += 1

    def close(self, wait_s: float = 1.0) -> None:
        """Write what is queued, waiting for the reader at most `wait_s` seconds."""
        self._ending.set()
        self._queue.put(None)
        self.thread.join(wait_s)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            self._ending.wait(_TOGETHER_S)
            lines, ends = [line], False
            while not (ends or self._queue.empty()) and len(lines) < _AT_ONCE:
                following = self._queue.get()
                if following is None:
                    ends = True
                else:
                    lines.append(following)
            self._write(lines)
            if ends:
                return

    def _write(self, lines: Sequence[str]) -> None:
        try:
            rest = memoryview("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
            while rest:
                if (written := self._out.write(rest)) is None:
                    # Whoever shares it with us has made it one that does not block.
                    time.sleep(_FULL_S)
                rest = rest[written or 0 :]
        except (OSError, ValueError):
            self.counters["log_lost"] += len(lines)


class _Bucket:
    """A token bucket for one kind of event."""

    def __init__(self, now_ns: int) -> None:
        self.left_out = 0
        self._tokens = float(_BURST)
        self._at_ns = now_ns

    def take(self, now_ns: int) -> bool:
        gained = (now_ns - self._at_ns) * _PER_S / NS_PER_S
        self._tokens = min(_BURST, self._tokens + max(0.0, gained))
        self._at_ns = now_ns
        if self._tokens < 1:
            self.left_out += 1
            return False
        self._tokens -= 1
        return True


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return json.dumps("; ".join(str(item) for item in value))
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
