"""The process: hardening, the service manager, the files of the key log."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import stat
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from deadpeer.ike.io import KeyLog

from .errors import StartError

_PR_SET_DUMPABLE = 4


_FRAMES = 6


def harden() -> None:
    """No core dumps, no reading of our memory by others of the same user, no file that others can read, no
    exception's text on standard error.
    """
    os.umask(0o077)
    sys.excepthook = lambda kind, _, trace: _confess(kind, trace)
    threading.excepthook = lambda args: _confess(args.exc_type, args.exc_traceback)
    sys.unraisablehook = lambda args: _confess(args.exc_type, args.exc_traceback)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, AttributeError, MemoryError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def places(trace: TracebackType | None) -> tuple[str, ...]:
    """Where an exception came from, innermost last, without its text, which might quote a secret."""
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    return tuple(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


def _confess(kind: type[BaseException], trace: TracebackType | None) -> None:
    """What Python would print with the exception's text and lines of source: one line, by place."""
    with suppress(OSError, ValueError, AttributeError):
        where = ", ".join(places(trace)) or "an unknown place"
        sys.stderr.write(f"deadpeer gateway: internal error ({kind.__name__} at {where}); please report it\n")


def notify_service_manager(state: str) -> None:
    """Tell systemd, if it started us (sd_notify: "READY=1", "STOPPING=1")."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address)
        sock.send(state.encode())


class KeyLogFiles:
    """Appends to Wireshark's tables in a directory that nobody else can read."""

    def __init__(self, directory: Path) -> None:
        """Raises StartError unless the directory is ours and of mode 0700 (it is created if missing)."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            status = directory.stat()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StartError(
                f"--keylog: {directory} can't be used: {reason}; name another directory"
            ) from None
        if status.st_uid != os.geteuid():
            raise StartError(f"--keylog: {directory} belongs to user {status.st_uid}; name one of your own")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise StartError(
                f"--keylog: {directory} is open to others (mode {mode:04o}); run: chmod 700 {directory}"
            )

    def write(self, line: KeyLog) -> None:
        """Append one line to its table. Raises OSError."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(self._directory / line.table, flags, 0o600)
        with open(handle, "w") as file:
            file.write(line.line.rstrip("\n") + "\n")
