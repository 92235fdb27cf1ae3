"""An unmodified strongSwan (Debian's charon) as a peer inside a network namespace: started, killed, asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from deadpeer.lab.charon_files import CHARON, PACKAGES, SWANCTL, CharonFiles, missing, sections
from deadpeer.lab.options import LabError
from deadpeer.lab.process import Process, launch, run

__all__ = ["CHARON", "SWANCTL", "Charon", "LogFollower", "require_strongswan", "responder_conf"]

START_TIMEOUT_S = 60.0


def require_strongswan() -> None:
    """Raise LabError (usage) if Debian's strongSwan is not installed."""
    lacking = missing()
    if lacking is not None:
        raise LabError(
            f"--peer strongswan needs {lacking}; all of it is in Debian's {PACKAGES}",
            usage=True,
        )


class Charon:
    """One charon. Its files and its vici socket are in `directory`, which outlives it.

    `namespace` is where it runs.
    """

    def __init__(self, directory: Path, namespace: str) -> None:
        self._files = CharonFiles(directory, namespace)
        self._process: Process | None = None
        self.log = self._files.log

    @property
    def uri(self) -> str:
        return self._files.uri

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Start it and wait until it answers on its socket. Raises LabError."""
        process = self._process = await launch("charon", self._files.prepare())
        end = time.monotonic() + START_TIMEOUT_S
        while not self._files.socket.exists():
            if not process.running or time.monotonic() > end:
                raise LabError(f"charon did not start{process.last_words()}")
            await asyncio.sleep(0.01)

    async def kill(self) -> int:
        """SIGKILL; the moment it was sent, monotonic ns."""
        process = self._running()
        at_ns = time.monotonic_ns()
        process.kill()
        await process.stop()
        return at_ns

    async def stop(self) -> None:
        """End it politely: it deletes its SAs."""
        if self._process is not None:
            await self._process.stop()

    async def load(self, swanctl_conf: str) -> None:
        """Replace its connections and secrets by those of a swanctl.conf's text. Raises LabError."""
        await run(self._files.write_connections(swanctl_conf))

    async def initiate(self, child: str) -> None:
        """Bring up a child SA. Raises LabError if that fails."""
        await run(self._files.swanctl("--initiate", "--child", child))

    async def list_sas(self) -> str:
        """What swanctl says about its SAs."""
        return await run(self._files.swanctl("--list-sas"))

    def log_text(self) -> str:
        """charon's log so far, of all its lives."""
        return self._files.log_text()

    def _running(self) -> Process:
        if self._process is None:
            raise LabError("charon was not started")
        return self._process


class LogFollower:
    """Calls `emit` with each line that charon adds to its log."""

    def __init__(self, path: Path, emit: Callable[[str], None]) -> None:
        self._path = path
        self._emit = emit
        self._offset = 0

    def poll(self) -> None:
        """Read what is new; complete lines only."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in data[:end].decode(errors="replace").splitlines():
            self._emit(line)


def responder_conf(
    *,
    local: str,
    remote: str,
    local_id: str,
    remote_id: str,
    local_ts: str,
    remote_ts: str,
    secret: str,
    ike: str,
    esp: str,
) -> str:
    """swanctl.conf of a connection by shared key that waits for its peer."""
    tree = {
        "connections": {
            "lab": {
                "version": 2,
                "local_addrs": local,
                "remote_addrs": remote,
                "proposals": ike,
                "encap": True,
                "local": {"auth": "psk", "id": local_id},
                "remote": {"auth": "psk", "id": remote_id},
                "children": {"inner": {"local_ts": local_ts, "remote_ts": remote_ts, "esp_proposals": esp}},
            }
        },
        "secrets": {"ike-lab": {"id-1": local_id, "id-2": remote_id, "secret": f'"{secret}"'}},
    }
    return "\n".join(sections(tree)) + "\n"
