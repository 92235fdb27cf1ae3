"""What a run looks like while it happens: packets that make the trip, both gateways' state, the ladder.

`LiveView` redraws a terminal, `PlainView` writes lines; both draw the same `Picture`.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import groupby
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from deadpeer.lab.ladder import Step, Tone, ladder, render
from deadpeer.lab.options import LIVENESS_S, LabOptions, Side
from deadpeer.lab.process import Record
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.result import LOST_WORDS, RunResult, summary
from deadpeer.lab.runs import Run
from deadpeer.lab.trace import Sighting

ARRIVED, LOST = "\N{MIDDLE DOT}", "\N{MULTIPLICATION SIGN}"
STRIP_WIDTH = 100
STRIP_ROWS = 4
LADDER_ROWS = 24
KEPT = 5000
STYLES: dict[Tone, str] = {"plain": "", "good": "green", "bad": "bold red"}

PHASES = {
    "building": "Alice and Bob build a tunnel",
    "flowing": "the tunnel stands, packets flow",
    "killed": "Bob's gateway is killed (SIGKILL): Alice does not know",
    "lost": "Bob loses SAs by a fault on purpose; his process lives and says nothing",
    "started": "Bob's gateway is started again: it has lost every SA",
    "ready": "Bob can answer again; the clock starts",
    "recovered": "recovered",
    "done": "done",
}


class Strip:
    """One mark for each inner packet, in the order they were sent, once it is known what became of it."""

    def __init__(self, patience_s: float) -> None:
        self._patience_ns = round(patience_s * 1e9)
        self._open: deque[tuple[int, int]] = deque()
        self._known: set[int] = set()
        self._answered: set[int] = set()

    def take(self, record: Record) -> None:
        """A record of the traffic."""
        match record:
            case {"event": "sent", "seq": int(seq), "mono_ns": int(at)} if seq not in self._known:
                self._known.add(seq)
                self._open.append((seq, at))
            case {"event": "reply", "seq": int(seq)}:
                self._answered.add(seq)

    def settle(self, now_ns: int) -> str:
        """The marks of the packets whose fate is known by now and was not before."""
        marks = []
        while self._open:
            seq, at = self._open[0]
            if seq not in self._answered and now_ns - at < self._patience_ns:
                break
            marks.append(ARRIVED if seq in self._answered else LOST)
            self._open.popleft()
        return "".join(marks)


class Picture:
    """What is known at a moment, enough to draw it. An observer that only remembers."""

    def __init__(self, options: LabOptions) -> None:
        self.options = options
        self.marks = ""
        self.states: dict[Side, str] = {"alice": "booting", "bob": "booting"}
        self.phases: dict[str, int] = {}
        self._strip = Strip(options.patience_s)
        self._events: deque[SideEvent] = deque(maxlen=KEPT)
        self._sightings: deque[Sighting] = deque(maxlen=KEPT)

    def phase(self, name: str, at_ns: int) -> None:
        self.phases[name] = at_ns
        match name:
            case "killed":
                self.states["bob"] = "killed"
            case "lost":
                self.states["bob"] = "forgetful"
            case "started":
                self.states["bob"] = "booting"
            case "ready":
                self.states["bob"] = "up"

    def event(self, event: SideEvent) -> None:
        self._events.append(event)
        if event.kind == "ready":
            self.states[event.side] = "up"
        elif event.side == "alice" and (state := _ALICE_STATES.get(event.kind)):
            self.states["alice"] = state

    def sighting(self, sighting: Sighting) -> None:
        self._sightings.append(sighting)

    def traffic(self, record: Record) -> None:
        self._strip.take(record)

    def settle(self, now_ns: int) -> str:
        """The new marks; they are in `marks` from now on."""
        new = self._strip.settle(now_ns)
        self.marks += new
        return new

    def steps(self, now_ns: int) -> list[Step]:
        """The ladder so far; empty before the crash."""
        killed = self.phases.get("killed", self.phases.get("lost"))
        if killed is None:
            return []
        steps = ladder(
            list(self._events),
            list(self._sightings),
            killed_ns=killed,
            started_ns=self.phases.get("started", now_ns),
            ready_ns=self.phases.get("lost", self.phases.get("ready", now_ns)),
            end_ns=self.phases.get("recovered", now_ns),
            lost=None if self.options.lost is None else LOST_WORDS[self.options.lost],
        )
        reached = {"started again": "started", "can answer again": "ready"}
        return [s for s in steps if s.what not in reached or reached[s.what] in self.phases]


class PlainView(Picture):
    """Lines of text, for a file or a pipe: phases, strips of packets, then the ladder and the summary."""

    def __init__(self, options: LabOptions, out: TextIO) -> None:
        super().__init__(options)
        self._out = out
        self._begin_ns = time.monotonic_ns()
        self._pending = ""

    def __enter__(self) -> PlainView:
        self._line(headline(self.options))
        return self

    def __exit__(self, *exc: object) -> None:
        self._flush_strip(0)

    def phase(self, name: str, at_ns: int) -> None:
        super().phase(name, at_ns)
        self._flush_strip(0)
        if name != "done":
            self._line(f"{(at_ns - self._begin_ns) / 1e9:8.3f} s  {PHASES.get(name, name)}")

    def traffic(self, record: Record) -> None:
        super().traffic(record)
        self._flush_strip(STRIP_WIDTH)

    def show(self, run: Run) -> None:
        """The ladder and the summary of a finished run."""
        self._line("")
        for text, _ in render(run.steps, run.origin_ns):
            self._line(text)
        self._line("")
        self._line(summary(run.result))

    def _flush_strip(self, at_least: int) -> None:
        self._pending += self.settle(time.monotonic_ns())
        if self._pending and len(self._pending) >= at_least:
            self._line(f"{'':12}{self._pending}")
            self._pending = ""

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class LiveView(Picture):
    """Redraws the terminal ten times a second; leaves ladder and summary behind."""

    def __init__(self, options: LabOptions, console: Console) -> None:
        super().__init__(options)
        self._console = console
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=10, transient=True, screen=False
        )

    def __enter__(self) -> LiveView:
        self._console.print(Text(headline(self.options), style="bold"))
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()
        if self.marks:
            self._console.print(self._strip_text(self.marks))

    def show(self, run: Run) -> None:
        """The ladder and the summary of a finished run."""
        self._console.print()
        self._console.print(_ladder_text(list(run.steps), run.origin_ns))
        self._console.print()
        self._console.print(Text(summary(run.result), style="bold green" if run.result.ok else "bold red"))

    def _draw(self) -> Group:
        now_ns = time.monotonic_ns()
        self.settle(now_ns)
        parts: list[Any] = [self._state_text(), self._strip_text(self.marks[-STRIP_ROWS * STRIP_WIDTH :])]
        steps = self.steps(now_ns)
        if steps:
            origin = self.phases.get("ready", steps[0].at_ns)
            parts += [Text(), _ladder_text(steps[-LADDER_ROWS:], origin)]
        return Group(*parts)

    def _state_text(self) -> Text:
        text = Text()
        for side in ("alice", "bob"):
            state = self.states[side]
            text.append(f"{side.capitalize()}: ")
            text.append(f"{state:<12}", style=_STATE_STYLES.get(state, ""))
        last = list(self.phases)[-1] if self.phases else "building"
        return text.append(PHASES.get(last, last), style="dim")

    def _strip_text(self, marks: str) -> Text:
        text = Text(overflow="fold")
        for start in range(0, len(marks), STRIP_WIDTH):
            for mark, same in groupby(marks[start : start + STRIP_WIDTH]):
                text.append("".join(same), style="green" if mark == ARRIVED else "bold red")
            text.append("\n")
        return text


def headline(options: LabOptions) -> str:
    """What is about to happen, in one line; says plainly what the lab sets otherwise than a default."""
    parts = [
        f"deadpeer lab: method {options.method}",
        f"round trip {options.rtt_ms:g} ms",
        f"loss {options.loss:.0%}" if options.loss else "no loss",
        *([f"Bob loses {LOST_WORDS[options.lost]}"] if options.lost else []),
        f"Bob is {'an unmodified strongSwan' if options.peer == 'strongswan' else 'deadpeer'}",
        f"seed {options.seed}",
    ]
    if options.method == "liveness":
        parts.append(f"LAB SETTING: dpd_timeout and dpd_floor {LIVENESS_S:g} s (default 60 s)")
    return ", ".join(parts)


def failure_line(result: RunResult) -> str:
    """One line for stderr about a run that is not ok."""
    return f"deadpeer lab: {result.failure} (seed {result.options.seed})"


def _ladder_text(steps: list[Step], origin_ns: int) -> Text:
    text = Text(no_wrap=True, overflow="crop")
    for line, tone in render(steps, origin_ns):
        text.append(line + "\n", style=STYLES[tone])
    return text


_ALICE_STATES = {
    "hint": "suspicious",
    "probe": "suspicious",
    "verdict": "knows",
    "recovering": "recovering",
    "child_up": "up",
}
_STATE_STYLES = {
    "up": "green",
    "killed": "bold red",
    "forgetful": "bold red",
    "booting": "yellow",
    "suspicious": "yellow",
    "knows": "cyan",
    "recovering": "cyan",
}
