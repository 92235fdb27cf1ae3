"""The control socket: lines of JSON over a UNIX stream socket that only its owner can open.

A request is {"id": any, "cmd": name, "args": {...}}; its answer {"id", "ok", "text", "data"}. After
"watch" is answered, each event follows as a line {"event": {...}}, and {"lost": n} where a slow reader
missed some.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError

MAX_LINE = 64 * 1024
MAX_CLIENTS = 64
MAX_BEHIND = 1000
"""Events that may wait for one watcher."""
KEY = "gateway.control"


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a request; `text` is one line for a person, `data` for a program."""

    ok: bool
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


Handler = Callable[[str, Mapping[str, Any]], Awaitable[Reply]]


class ControlServer:
    """Listens on `path` (mode 0600) and hands requests to `handler`."""

    def __init__(self, path: Path, handler: Handler, file: Path | str = "") -> None:
        self._path = path
        self._file = file
        self._handler = handler
        self._clients: set[asyncio.Task[None]] = set()
        self._watchers: set[asyncio.Queue[str]] = set()
        self._lost: dict[asyncio.Queue[str], int] = {}
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Open the socket. Raises ConfigError if the path can't be had, or another gateway answers there."""
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._remove_stale()
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_LINE)
            finally:
                os.umask(before)
            status = self._path.stat()
            self._inode = (status.st_dev, status.st_ino)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                self._file,
                KEY,
                f"{self._path} can't be opened: {reason}; name another path, or run as its owner",
            ) from None

    def publish(self, event: Mapping[str, Any]) -> None:
        """Hand an event to all watchers; one that is too far behind misses the oldest."""
        if not self._watchers:
            return
        line = json.dumps({"event": event}, separators=(",", ":"))
        for watcher in self._watchers:
            if watcher.full():
                watcher.get_nowait()
                self._lost[watcher] = self._lost.get(watcher, 0) + 1
            watcher.put_nowait(line)

    @property
    def watchers(self) -> int:
        """How many clients are watching."""
        return len(self._watchers)

    async def close(self) -> None:
        """Answer nobody any more, and remove the socket if it is still ours."""
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(0)
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with suppress(OSError):
            status = self._path.stat()
            if self._inode == (status.st_dev, status.st_ino):
                self._path.unlink()

    def _remove_stale(self) -> None:
        """A socket that nobody listens on is what a killed daemon left; nothing else is removed."""
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise ConfigError(self._file, KEY, f"{self._path} is there and is no socket; name another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except OSError as error:
                if error.errno != errno.ECONNREFUSED:
                    raise
                self._path.unlink(missing_ok=True)
                return
        raise ConfigError(
            self._file, KEY, f"another gateway answers at {self._path}; stop that one, or name another path"
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= MAX_CLIENTS:
            writer.close()
            return
        self._clients.add(task)
        try:
            while line := await _line(reader):
                await self._answer(line, reader, writer)
        except OSError:
            pass
        except asyncio.CancelledError:
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(line)
            command, args = request["cmd"], request.get("args", {})
            if not isinstance(command, str) or not isinstance(args, dict):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            await _write(writer, None, Reply(False, 'not a request: {"id": 1, "cmd": "sas", "args": {}}'))
            return
        identifier = request.get("id")
        if command == "watch":
            await self._watch(identifier, reader, writer)
        else:
            await _write(writer, identifier, await self._handler(command, args))

    async def _watch(
        self, identifier: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        watcher: asyncio.Queue[str] = asyncio.Queue(MAX_BEHIND)
        self._watchers.add(watcher)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await _write(writer, identifier, Reply(True, "watching"))
            while not gone.done():
                line = asyncio.ensure_future(watcher.get())
                await asyncio.wait((line, gone), return_when=asyncio.FIRST_COMPLETED)
                if not line.done():
                    line.cancel()
                    return
                if lost := self._lost.pop(watcher, 0):
                    writer.write(json.dumps({"lost": lost}).encode() + b"\n")
                writer.write(line.result().encode() + b"\n")
                await writer.drain()
        finally:
            gone.cancel()
            self._watchers.discard(watcher)
            self._lost.pop(watcher, None)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; nothing where it is longer than MAX_LINE, or the client has gone."""
    try:
        return await reader.readline()
    except (ValueError, OSError):
        return b""


async def _write(writer: asyncio.StreamWriter, identifier: Any, reply: Reply) -> None:
    answer = {"id": identifier, "ok": reply.ok, "text": reply.text, "data": reply.data}
    writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
    await writer.drain()
