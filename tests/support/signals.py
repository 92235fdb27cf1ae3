"""Signals whose effect a test waits for."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_PATIENCE_S = 60.0


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until each thread of the process stands still: the kernel stops them in its time."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + _PATIENCE_S
    while not all(_state(task) == "T" for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < end, f"process {pid} does not stop"
        time.sleep(0.005)


def thaw(pid: int) -> None:
    """SIGCONT."""
    os.kill(pid, signal.SIGCONT)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"  # a thread that has ended meanwhile
