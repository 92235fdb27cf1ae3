"""Where inner packets come from: the hosts process, or in namespaces the real ping."""

from __future__ import annotations

import signal
import sys
import time
from typing import Protocol

from deadpeer.lab.hosts import HostsConfig
from deadpeer.lab.options import PACKET_INTERVAL_MS, START_TIMEOUT_S
from deadpeer.lab.process import Process, launch
from deadpeer.lab.recording import Recording
from deadpeer.lab.sites import INNER, SIDES, Site
from deadpeer.lab.traffic import PingReader


class Traffic(Protocol):
    """Where inner packets come from."""

    async def start(self) -> None:
        """Have the hosts there; nothing flows yet."""
        ...

    async def flow(self) -> None:
        """Begin to send."""
        ...

    async def pause(self) -> None:
        """Send no more; answers to what is under way still count."""
        ...

    async def stop(self) -> None: ...


class HostTraffic:
    """The hosts process, an unprivileged stand-in for the networks behind both gateways."""

    def __init__(self, site: Site, recording: Recording) -> None:
        self._site = site
        self._recording = recording
        self._process: Process | None = None

    async def start(self) -> None:
        paths = {
            side: (self._site.socket_path(side, "host"), self._site.socket_path(side, "gw")) for side in SIDES
        }
        config = HostsConfig(
            (*paths["alice"], INNER["alice"]), (*paths["bob"], INNER["bob"]), PACKET_INTERVAL_MS, 0x6290
        )
        self._process = await launch(
            "the inner hosts",
            [sys.executable, "-m", "deadpeer.lab.hosts", config.to_json()],
            self._recording.take_traffic,
        )
        await self._process.expect("ready", START_TIMEOUT_S)

    async def flow(self) -> None:
        if self._process is not None:
            self._process.tell("start")

    async def pause(self) -> None:
        if self._process is not None:
            self._process.tell("stop")

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()


class PingTraffic:
    """The real ping in Alice's namespace; Bob's kernel answers.

    ping can't stop sending and go on listening, so what has had less than `patience_s` when it ends does
    not count.
    """

    def __init__(self, site: Site, recording: Recording, patience_s: float) -> None:
        self._site = site
        self._recording = recording
        self._patience_ns = round(patience_s * 1e9)
        self._process: Process | None = None

    async def start(self) -> None:
        """Nothing to prepare."""

    async def flow(self) -> None:
        offset_ns = time.monotonic_ns() - time.time_ns()
        reader = PingReader(offset_ns, PACKET_INTERVAL_MS, self._recording.take_traffic)
        interval = f"{PACKET_INTERVAL_MS / 1000:g}"
        self._process = await launch(
            "ping",
            [
                *self._site.prefix("alice"),
                *("ping", "-D", "-O", "-n", "-i", interval, "-I", INNER["alice"], INNER["bob"]),
            ],
            on_text=reader.line,
            env={"LC_ALL": "C"},
        )

    async def pause(self) -> None:
        if self._process is not None and self._process.running:
            ended_ns = time.monotonic_ns()
            await self._process.stop(number=signal.SIGINT)
            self._recording.traffic.forget_unanswered(ended_ns - self._patience_ns)

    async def stop(self) -> None:
        await self.pause()
