"""How far a long series is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Tracker(Protocol):
    """Is told what is done. `left_s` is what remains by estimate, seconds."""

    def begin(self, title: str) -> None: ...

    def done(self, title: str, outcome: str, *, ok: bool) -> None: ...

    def __enter__(self) -> Tracker: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Estimate:
    """What is left, in seconds: the planned times of what is to come, corrected by how the past went.

    `planned` are the seconds of each task, by title and in order; `clock` gives seconds. What runs beside
    the others is in nobody's way: it has no seconds.
    """

    def __init__(
        self, planned: Sequence[tuple[str, float]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open = list(planned)
        self._clock = clock
        self._begun = clock()
        self._done = 0.0
        self.count = 0
        self.total = len(self._open)

    def finish(self, title: str) -> None:
        """A task of that title is over; one that was not planned counts for nothing."""
        for index, (name, seconds) in enumerate(self._open):
            if name == title:
                del self._open[index]
                self._done += seconds
                self.count += 1
                return

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._begun

    @property
    def left_s(self) -> float:
        ahead = sum(seconds for _, seconds in self._open)
        return ahead * (self.elapsed_s / self._done if self._done else 1.0)


def clock_text(seconds: float) -> str:
    """Minutes and seconds, for people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class PlainTracker:
    """A line for each thing done."""

    def __init__(self, estimate: Estimate, out: TextIO) -> None:
        self._estimate = estimate
        self._out = out

    def __enter__(self) -> PlainTracker:
        estimate = self._estimate
        self._line(f"{estimate.total} to do, about {clock_text(estimate.left_s)} in all")
        return self

    def __exit__(self, *exc: object) -> None: ...

    def begin(self, title: str) -> None:
        """A line comes when it is done."""

    def done(self, title: str, outcome: str, *, ok: bool) -> None:
        estimate = self._estimate
        estimate.finish(title)
        self._line(
            f"[{estimate.count}/{estimate.total}] {clock_text(estimate.elapsed_s)}, "
            f"about {clock_text(estimate.left_s)} left: {title}: {'' if ok else 'FAILED: '}{outcome}"
        )

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class LiveTracker:
    """A bar that says what runs now, how many are left and about how long they take."""

    def __init__(self, estimate: Estimate, console: Console) -> None:
        self._estimate = estimate
        self._progress = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("starting", total=estimate.total, left=self._left())

    def __enter__(self) -> LiveTracker:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def begin(self, title: str) -> None:
        self._progress.update(self._task, description=title, left=self._left())

    def done(self, title: str, outcome: str, *, ok: bool) -> None:
        self._estimate.finish(title)
        self._progress.update(self._task, completed=self._estimate.count, left=self._left())
        style, word = ("", "") if ok else ("bold red", "FAILED: ")
        self._progress.console.print(f"{title}: {word}{outcome}", style=style, markup=False, highlight=False)

    def _left(self) -> str:
        return f"about {clock_text(self._estimate.left_s)} left"


def tracker(estimate: Estimate, out: TextIO) -> Tracker:
    """The one that fits where `out` goes."""
    console = Console(file=out)
    return LiveTracker(estimate, console) if console.is_terminal else PlainTracker(estimate, out)
