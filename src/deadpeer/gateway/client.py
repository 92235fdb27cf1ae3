"""The other end of the control socket: what the commands of the CLI talk to."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

DEFAULT_CONTROL = Path("/run/deadpeer/control.sock")
ENVIRONMENT = "DEADPEER_CONTROL"


class ControlError(Exception):
    """The gateway can't be asked, or broke off. One line that says where and what to do."""


def call(
    path: Path, command: str, args: Mapping[str, Any] | None = None, timeout_s: float = 90.0
) -> Mapping[str, Any]:
    """One request and its answer: {"ok": bool, "text": str, "data": {...}}. Raises ControlError."""
    with _connected(path, timeout_s) as (sock, stream):
        _send(sock, command, args or {})
        return _receive(stream, path)


def watch(path: Path, timeout_s: float | None = None) -> Iterator[Mapping[str, Any]]:
    """The events from now on, until the gateway ends. Raises ControlError; `lost` events come as counts."""
    with _connected(path, timeout_s) as (sock, stream):
        _send(sock, "watch", {})
        _receive(stream, path)
        for line in stream:
            message = json.loads(line)
            if "lost" in message:
                yield {"event": "events_lost", "level": "notice", "count": message["lost"]}
            else:
                yield message["event"]


@contextmanager
def _connected(path: Path, timeout_s: float | None) -> Iterator[tuple[socket.socket, IO[bytes]]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise ControlError(
                f"{path}: no gateway answers here; start one (deadpeer gateway CONFIG), or name its socket"
                f" with --control or {ENVIRONMENT}"
            ) from None
        except PermissionError:
            raise ControlError(
                f"{path}: only the gateway's own user may open this; run as that user"
            ) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ControlError(f"{path}: {reason}; name the gateway's socket with --control") from None
        try:
            with sock.makefile("rb") as stream:
                yield sock, stream
        except TimeoutError:
            raise ControlError(
                f"{path}: no answer within {timeout_s:g} s; look at the gateway's log"
            ) from None
        except (OSError, ValueError):
            raise ControlError(f"{path}: the gateway broke off; look at its log") from None


def _send(sock: socket.socket, command: str, args: Mapping[str, Any]) -> None:
    sock.sendall(json.dumps({"id": 1, "cmd": command, "args": dict(args)}).encode() + b"\n")


def _receive(stream: IO[bytes], path: Path) -> Mapping[str, Any]:
    line = stream.readline()
    if not line:
        raise ControlError(f"{path}: the gateway broke off before it answered; look at its log")
    answer = json.loads(line)
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise ControlError(f"{path}: what answers here is no gateway; name its socket with --control")
    return answer
