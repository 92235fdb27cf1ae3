"""A real etcd-server on loopback, of the lab's own, and the roads by which members reach it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import signal
import socket
import time

from deadpeer.lab.options import START_TIMEOUT_S, LabError
from deadpeer.lab.process import Process, launch
from deadpeer.lab.scenarios.plan import Layout

PACKAGE = "etcd-server"
PROGRAM = "etcd"


def require_etcd() -> str:
    """The path of etcd. Raises LabError (usage) that names the package."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise LabError(
            f"--scenario cluster needs the program {PROGRAM}: apt-get install {PACKAGE} (Debian, Ubuntu)",
            usage=True,
        )
    return found


class Etcd:
    """One etcd by itself. Its data is in the run's directory; stopping it does not touch them."""

    def __init__(self, layout: Layout, program: str) -> None:
        self._program = program
        self._data = layout.path("etcd")
        self.port, self._peer_port = free_port(), free_port()
        self._process: Process | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it answers. Raises LabError."""
        peer = f"http://127.0.0.1:{self._peer_port}"
        # fmt: off
        words = [
            self._program, "--name", "lab", "--data-dir", self._data,
            "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"lab={peer}", "--heartbeat-interval", "50", "--election-timeout", "500",
        ]
        # fmt: on
        # Its log is lines of JSON from 3.5 on, and has no use here but as last words.
        self._process = await launch("etcd", words, env={"ETCD_UNSUPPORTED_ARCH": "arm64"})
        end = time.monotonic() + START_TIMEOUT_S
        while not await asyncio.to_thread(self._answers):
            if time.monotonic() > end or not self._process.running:
                raise LabError(f"etcd does not answer{self._process.last_words()}")
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """SIGKILL: it is gone at once, as in a crash."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            await self._process.stop(number=signal.SIGTERM)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/health")
            return bool(json.load(connection.getresponse()).get("health") == "true")
        except (OSError, ValueError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Road:
    """TCP from one member to etcd, that can be cut: then nothing passes and nobody is told, and what was sent
    meanwhile arrives when it is mended, late."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._travelling: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Listen on a port that was free; where, as a URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Let nothing pass from now on."""
        self._open.clear()

    def mend(self) -> None:
        """Let everything pass again."""
        self._open.set()

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._travelling):
            task.cancel()
        await asyncio.gather(*self._travelling, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._travelling.add(task)
            task.add_done_callback(self._travelling.discard)
        there: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            back, there = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(self._pass(reader, there), self._pass(back, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, there):
                if each is not None:
                    each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while octets := await reader.read(65_536):
            await self._open.wait()
            writer.write(octets)
            await writer.drain()
        # One direction's end is the connection's: HTTP needs no half-open ones.
        with contextlib.suppress(OSError):
            writer.close()


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
