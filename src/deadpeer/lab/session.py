"""A running lab: relay, inner hosts, both gateways. Whoever holds a `Session` can kill and start sides."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from deadpeer.lab import netns, strongswan
from deadpeer.lab.inner import HostTraffic, PingTraffic, Traffic
from deadpeer.lab.options import START_TIMEOUT_S, LabError, LabOptions, Lost, Side
from deadpeer.lab.peers import CharonPeer, GatewayPeer, Peer
from deadpeer.lab.process import Process, launch
from deadpeer.lab.recording import Observer, Recording
from deadpeer.lab.relay import RelayConfig
from deadpeer.lab.sites import SIDES, Site, lab_directory, loopback_site
from deadpeer.lab.waiting import Changes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """What an attack needs of the relay: see `RelayConfig`."""

    tap: bool = False
    inject: bool = False
    attack: dict[str, Any] = field(default_factory=dict)


class Session:
    """Everything that runs for one run of the lab. Made by `open_session`."""

    def __init__(self, site: Site, options: LabOptions, observer: Observer, stage: Stage) -> None:
        self.site = site
        self.options = options
        self._stage = stage
        self._relay: Process | None = None
        self.recording = Recording(observer, self._wake)
        self._changes = Changes()
        self.traffic: Traffic = (
            PingTraffic(site, self.recording, options.patience_s)
            if site.kind == "netns"
            else HostTraffic(site, self.recording)
        )
        self.peers: dict[Side, Peer] = {side: self._peer(side) for side in SIDES}

    async def start(self, stack: AsyncExitStack) -> None:
        """Start relay, hosts, Bob, Alice; each is ended by `stack`, the last one started first."""
        options = self.options
        if self.site.kind == "netns":
            for side in SIDES:
                if not isinstance(self.peers[side], CharonPeer):
                    await netns.add_tun(self.site, side)
        stage = self._stage
        config = RelayConfig(
            options.rtt_ms,
            options.loss,
            options.seed,
            self.site.lanes(),
            options.capture,
            stage.tap,
            self.inject_path if stage.inject else "",
            stage.attack,
        )
        relay = self._relay = await launch(
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

    @property
    def relay(self) -> Process:
        """The relay's process. Raises LabError before `start`."""
        if self._relay is None:
            raise LabError("the relay was not started")
        return self._relay

    @property
    def inject_path(self) -> str:
        """Where a forger beside the link hands in his datagrams."""
        return str(self.site.directory / "forged.sock")

    async def kill(self, side: Side) -> int:
        """SIGKILL to one side's gateway; when, monotonic ns."""
        return await self.peers[side].kill()

    async def restart(self, side: Side) -> int:
        """Start a killed side again; when it could answer, monotonic ns."""
        return await self.peers[side].start()

    async def lose(self, side: Side, lost: Lost) -> int:
        """Have a living gateway lose SAs by a fault on purpose; when it was told to, monotonic ns.

        Raises LabError if it did not.
        """
        peer = self.peers[side]
        if not isinstance(peer, GatewayPeer):
            raise LabError(f"{side} is no deadpeer, and can't lose SAs on purpose")
        at_ns = time.monotonic_ns()
        await peer.lose(lost)
        return at_ns

    async def wait_for(self, what: str, look: Callable[[], T | None], timeout_s: float) -> T:
        """Wait until `look` finds something, looking again whenever something happened.

        Raises LabError, naming `what`, after `timeout_s`.
        """
        return await self._changes.wait_for(what, look, timeout_s)

    async def changed(self) -> None:
        """Wait until something happened."""
        await self._changes.next()

    def _wake(self) -> None:
        self._changes.note()

    def _peer(self, side: Side) -> Peer:
        if side == "bob" and self.options.peer == "strongswan":
            return CharonPeer(self.site, side, self.recording)
        return GatewayPeer(self.site, side, self.options, self.recording)


@asynccontextmanager
async def open_session(
    options: LabOptions, observer: Observer, stage: Stage | None = None
) -> AsyncIterator[Session]:
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
        session = Session(site, options, observer, stage or Stage())
        await session.start(stack)
        yield session


def require(options: LabOptions) -> None:
    """Raise LabError (usage) if the options make no sense, or need what is not there."""
    options.check()
    if options.netns or options.peer == "strongswan":
        netns.require_root("unshare")
    if options.peer == "strongswan":
        strongswan.require_strongswan()
