"""A running lab: relay, inner hosts, both gateways. Whoever holds a `Session` can kill and start sides."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeVar

from deadpeer.lab import netns, strongswan
from deadpeer.lab.gateway_config import (
    CHILD,
    ESP_PROPOSAL,
    IKE_PROPOSAL,
    identity,
    write_gateway,
    write_secret,
)
from deadpeer.lab.hosts import HostsConfig
from deadpeer.lab.options import PACKET_INTERVAL_MS, LabError, LabOptions, Side
from deadpeer.lab.process import Process, Record, launch, run
from deadpeer.lab.recording import Observer, Recording
from deadpeer.lab.relay import RelayConfig
from deadpeer.lab.sites import INNER, SIDES, Site, lab_directory, loopback_site
from deadpeer.lab.traffic import PingReader

START_TIMEOUT_S = 20.0
T = TypeVar("T")


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


class Session:
    """Everything that runs for one run of the lab. Made by `open_session`."""

    def __init__(self, site: Site, options: LabOptions, observer: Observer) -> None:
        self.site = site
        self.options = options
        self.recording = Recording(observer, self._wake)
        self._changed = asyncio.Event()
        self.traffic: Traffic = (
            PingTraffic(site, self.recording) if site.kind == "netns" else HostTraffic(site, self.recording)
        )
        self.peers: dict[Side, Peer] = {side: self._peer(side) for side in SIDES}

    async def start(self, stack: AsyncExitStack) -> None:
        """Start relay, hosts, Bob, Alice; each is ended by `stack`, the last one started first."""
        options = self.options
        if self.site.kind == "netns":
            for side in SIDES:
                if not isinstance(self.peers[side], CharonPeer):
                    await netns.add_tun(self.site, side)
        config = RelayConfig(options.rtt_ms, options.loss, options.seed, self.site.lanes(), options.capture)
        relay = await launch(
            "relay",
            [*self.site.prefix("relay"), sys.executable, "-m", "deadpeer.lab.relay", config.to_json()],
            self.recording.take_relay,
        )
        stack.push_async_callback(relay.stop)
        await relay.expect("ready", START_TIMEOUT_S)
        stack.push_async_callback(self.traffic.stop)
        await self.traffic.start()
        for side in ("bob", "alice"):
            stack.push_async_callback(self.peers[side].stop)
            await self.peers[side].start()

    async def kill(self, side: Side) -> int:
        """SIGKILL to one side's gateway; when, monotonic ns."""
        return await self.peers[side].kill()

    async def restart(self, side: Side) -> int:
        """Start a killed side again; when it could answer, monotonic ns."""
        return await self.peers[side].start()

    async def wait_for(self, what: str, look: Callable[[], T | None], timeout_s: float) -> T:
        """Wait until `look` finds something, looking again whenever something happened.

        Raises LabError, naming `what`, after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (found := look()) is None:
            self._changed.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError(f"{what} did not happen within {timeout_s:g} s")
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                continue
        return found

    def _wake(self) -> None:
        self._changed.set()

    def _peer(self, side: Side) -> Peer:
        if side == "bob" and self.options.peer == "strongswan":
            return CharonPeer(self.site, side, self.recording)
        return GatewayPeer(self.site, side, self.options, self.recording)


@asynccontextmanager
async def open_session(options: LabOptions, observer: Observer) -> AsyncIterator[Session]:
    """A session that is up: the gateways run, the tunnel may still be building. Cleaned up in any case.

    Raises LabError.
    """
    require(options)
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(lab_directory())
        if options.netns or options.peer == "strongswan":
            site = await stack.enter_async_context(netns.netns_site(directory))
        else:
            site = loopback_site(directory)
        session = Session(site, options, observer)
        await session.start(stack)
        yield session


def require(options: LabOptions) -> None:
    """Raise LabError (usage) if the options make no sense, or need what is not there."""
    options.check()
    if options.netns or options.peer == "strongswan":
        netns.require_root("unshare")
    if options.peer == "strongswan":
        strongswan.require_strongswan()


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

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

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
    """The real ping in Alice's namespace; Bob's kernel answers."""

    def __init__(self, site: Site, recording: Recording) -> None:
        self._site = site
        self._recording = recording
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
        # ping can't stop sending and go on listening.
        if self._process is not None:
            await self._process.stop(number=signal.SIGINT)

    async def stop(self) -> None:
        await self.pause()
