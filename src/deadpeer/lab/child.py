"""What the lab's own child processes share: being ended, exact timers, lines of JSON that never block."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time

LINE_BUFFER = 1 << 20
"""Octets of trace that may wait for the reader."""


def stop_signal() -> int:
    """A descriptor that becomes readable when SIGTERM or SIGINT comes; they have no other effect."""
    reader, writer = os.pipe()
    for fd in (reader, writer):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    return reader


def exact_timers() -> None:
    """Ask the kernel not to round our timeouts up (Linux adds 50 microseconds by default)."""
    _LIBC.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. For `preexec_fn`."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class LineWriter:
    """Lines to a descriptor that must never block: what the reader does not take is dropped and counted."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.lost = 0
        self._octets = bytearray()
        os.set_blocking(fd, False)

    @property
    def waiting(self) -> bool:
        return bool(self._octets)

    def put(self, line: str) -> None:
        data = line.encode() + b"\n"
        if len(self._octets) + len(data) > LINE_BUFFER:
            self.lost += 1
        else:
            self._octets += data

    def flush(self) -> None:
        """Write as much as goes without waiting."""
        while self._octets:
            try:
                written = os.write(self.fd, self._octets)
            except BlockingIOError:
                return
            except OSError:
                self._octets.clear()  # the reader is gone; forwarding goes on until we are told to stop
                return
            del self._octets[:written]

    def drain(self, seconds: float) -> None:
        """Flush, waiting for the reader up to `seconds`."""
        end = time.monotonic() + seconds
        self.flush()
        while self._octets and time.monotonic() < end:
            select.select([], [self.fd], [], end - time.monotonic())
            self.flush()


class Bucket:
    """A token bucket that holds one second's worth."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._level = float(per_s)
        self._at_ns = 0

    def take(self, now_ns: int) -> bool:
        passed_s = max(0, now_ns - self._at_ns) / 1e9
        self._level = min(float(self._per_s), self._level + passed_s * self._per_s)
        self._at_ns = max(self._at_ns, now_ns)
        if self._level < 1:
            return False
        self._level -= 1
        return True


_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
