"""Child processes of the lab under asyncio: lines of JSON come back, none is ever left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deadpeer.lab.child import die_with_parent
from deadpeer.lab.options import LabError

Record = dict[str, Any]
KEPT_LINES = 400
LINE_LIMIT = 1 << 20


class Process:
    """A running child in a process group of its own. Made by `launch`."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        on_record: Callable[[Record], None],
        on_text: Callable[[str], None],
    ) -> None:
        self.name = name
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._process = process
        self._on_record = on_record
        self._on_text = on_text
        self._waiters: list[tuple[str, asyncio.Future[Record]]] = []
        self._reader = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        if self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(line.encode() + b"\n")

    async def expect(self, event: str, timeout_s: float) -> Record:
        """The next record whose `event` is this one. Raises LabError if it does not come in time."""
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._waiters.append((event, future))
        if self._reader.done():
            self._give_up()
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise LabError(
                f"{self.name} did not say {event!r} within {timeout_s:g} s{self.last_words()}"
            ) from None

    def last_words(self) -> str:
        """The last lines that were no JSON, for an error's text."""
        lines = [line for line in self.lines if line.strip()]
        return f"; its last words: {' | '.join(lines[-3:])}" if lines else ""

    def kill(self) -> None:
        """SIGKILL to this process and to nothing else. Nothing happens if it is gone."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end and for its last line; the exit status."""
        status = await self._process.wait()
        await self._reader
        return status

    async def stop(self, timeout_s: float = 3.0, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, then SIGKILL after `timeout_s`. Safe to call at any time, also twice."""
        self._signal(number)
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        # A grandchild that holds the pipe must not hold us.
        await asyncio.wait([self._reader], timeout=1.0)
        self._reader.cancel()

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _read(self) -> None:
        stream = self._process.stdout
        try:
            while stream is not None and (line := await _line(stream)):
                self._take(line)
        finally:
            self._give_up()

    def _give_up(self) -> None:
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(LabError(f"{self.name} ended unexpectedly{self.last_words()}"))
        self._waiters.clear()

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\n")
        try:
            record = json.loads(text)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            self.lines.append(text)
            self._on_text(text)
            return
        self._on_record(record)
        reached = [future for event, future in self._waiters if event == record.get("event")]
        self._waiters = [(e, f) for e, f in self._waiters if f not in reached and not f.done()]
        for future in reached:
            if not future.done():
                future.set_result(record)


async def launch(
    name: str,
    argv: Sequence[str],
    on_record: Callable[[Record], None] = lambda _record: None,
    on_text: Callable[[str], None] = lambda _text: None,
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start a child: `on_record` gets each line of its output that is a JSON object, `on_text` the others.

    The last of those others are kept for the report of a failure. The kernel kills the child if we die.
    Raises LabError if the program can't be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_LIMIT,
            env=None if env is None else {**os.environ, **env},
            preexec_fn=die_with_parent,
            process_group=0,
        )
    except OSError as error:
        raise LabError(f"{name}: can't start {argv[0]}: {error.strerror}") from error
    return Process(name, process, on_record, on_text)


async def _line(stream: asyncio.StreamReader) -> bytes:
    while True:
        try:
            return await stream.readline()
        except ValueError:
            continue  # a line longer than the limit: skipped


async def run(argv: Sequence[str], *, timeout_s: float = 30.0, stdin: str = "") -> str:
    """Run a short command; its stdout. Raises LabError with the command's complaint if it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=die_with_parent,
            process_group=0,
        )
    except OSError as error:
        raise LabError(f"can't start {argv[0]}: {error.strerror}") from error
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise LabError(f"{' '.join(argv[:4])} did not end within {timeout_s:g} s") from None
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode != 0:
        complaint = (err or out).decode(errors="replace").strip().replace("\n", " | ")
        raise LabError(f"{' '.join(argv)}: {complaint or f'exit status {process.returncode}'}")
    return out.decode(errors="replace")
