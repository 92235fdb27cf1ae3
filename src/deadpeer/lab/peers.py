"""The two makes of gateway that the lab starts and kills: ours, and an unmodified strongSwan."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Protocol

from deadpeer.gateway.client import ControlError, call
from deadpeer.lab import strongswan
from deadpeer.lab.gateway_config import (
    CHILD,
    CONNECTION,
    ESP_PROPOSAL,
    IKE_PROPOSAL,
    identity,
    write_gateway,
    write_secret,
)
from deadpeer.lab.options import START_TIMEOUT_S, LabError, LabOptions, Lost, Side
from deadpeer.lab.process import Process, Record, launch, run
from deadpeer.lab.recording import Recording
from deadpeer.lab.sites import INNER, Site


class Peer(Protocol):
    """A gateway of either make."""

    @property
    def pid(self) -> int: ...

    async def start(self) -> int:
        """Start it; the moment from which it can answer, monotonic ns. Raises LabError."""
        ...

    async def kill(self) -> int:
        """SIGKILL, and wait for its end; the moment it was sent, monotonic ns."""
        ...

    async def stop(self) -> None:
        """End it politely, then not so."""
        ...


class GatewayPeer:
    """`deadpeer gateway`, in its place. Its state directory outlives it: that is what QCD needs."""

    def __init__(self, site: Site, side: Side, options: LabOptions, recording: Recording) -> None:
        self._site = site
        self._side = side
        self._recording = recording
        self.files = write_gateway(site, side, options)
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> int:
        self._process = await launch(
            f"{self._side}'s gateway",
            [
                *self._site.prefix(self._side),
                *(sys.executable, "-m", "deadpeer", "gateway", str(self.files.config)),
                *("--log-format", "json"),
            ],
            self._take,
        )
        ready = await self._process.expect("ready", START_TIMEOUT_S)
        return int(ready["mono_ns"])

    async def kill(self) -> int:
        process = self._running()
        at_ns = time.monotonic_ns()
        process.kill()
        await process.wait()
        return at_ns

    async def lose(self, lost: Lost) -> None:
        """Have it lose SAs on purpose. Raises LabError if it did not."""
        names = {} if lost == "all" else {"connection": CONNECTION}
        names |= {"child": CHILD} if lost == "child" else {}
        try:
            answer = await asyncio.to_thread(call, self.files.control, "lose", names, 5.0)
        except ControlError as error:
            raise LabError(str(error)) from None
        if not answer["ok"]:
            raise LabError(f"{self._side}'s gateway lost nothing: {answer.get('text')}")

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    def epitaph(self) -> str:
        """If it ended without being told to: that, and its last words. Else nothing."""
        if self._process is None or self._process.running:
            return ""
        return f"; {self._side}'s gateway has ended{self._process.last_words()}"

    def _running(self) -> Process:
        if self._process is None:
            raise LabError(f"{self._side}'s gateway was not started")
        return self._process

    def _take(self, record: Record) -> None:
        self._recording.take_event(self._side, record)


class CharonPeer:
    """An unmodified strongSwan in Bob's namespace, its connections loaded again after each start."""

    def __init__(self, site: Site, side: Side, recording: Recording) -> None:
        self._site = site
        self._side = side
        self._recording = recording
        self._charon = strongswan.Charon(site.directory / "charon", site.namespaces[side])
        self._follower = strongswan.LogFollower(self._charon.log, self._line)
        self._following: asyncio.Task[None] | None = None
        self._first = True

    @property
    def pid(self) -> int:
        return self._charon.pid

    async def start(self) -> int:
        if self._first:
            self._first = False
            name = self._site.namespaces[self._side]
            await run(["ip", "-n", name, "addr", "add", f"{INNER[self._side]}/32", "dev", "lo"])
        await self._charon.start()
        await self._charon.load(self._conf())
        at_ns = time.monotonic_ns()
        self._recording.take_event(self._side, {"event": "ready", "mono_ns": at_ns})
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
        return at_ns

    async def kill(self) -> int:
        return await self._charon.kill()

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
        await self._charon.stop()

    def _conf(self) -> str:
        other: Side = "alice" if self._side == "bob" else "bob"
        outer = self._site.outer[self._side]
        return strongswan.responder_conf(
            local=outer.host,
            remote=outer.relay,
            local_id=identity(self._side),
            remote_id=identity(other),
            local_ts=f"{INNER[self._side]}/32",
            remote_ts=f"{INNER[other]}/32",
            secret=write_secret(self._site).read_text().strip(),
            ike=IKE_PROPOSAL,
            esp=ESP_PROPOSAL,
        )

    def _line(self, line: str) -> None:
        # charon's log has no event names; this one line says what our gateways call child_up.
        if "CHILD_SA" in line and "established" in line:
            record = {"event": "child_up", "mono_ns": time.monotonic_ns(), "child": CHILD}
            self._recording.take_event(self._side, record)

    async def _follow(self) -> None:
        while True:
            self._follower.poll()
            await asyncio.sleep(0.02)
