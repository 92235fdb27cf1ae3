"""Copies of one gateway that run, their balancer and their clients. All of it real processes."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from deadpeer.lab.attacks.replays import read_message
from deadpeer.lab.copies.place import (
    CopiesPlan,
    copy_state,
    relay_config,
    thief_host,
    write_client,
    write_gateway,
)
from deadpeer.lab.copies.result import pair_of
from deadpeer.lab.copies.thief import Thief, is_query
from deadpeer.lab.options import START_TIMEOUT_S, LabError
from deadpeer.lab.process import Process, Record, launch
from deadpeer.lab.scenarios.balancer import BalancerConfig
from deadpeer.lab.scenarios.buyers import Buyers
from deadpeer.lab.scenarios.config_files import write_keys
from deadpeer.lab.scenarios.crowd import CrowdConfig
from deadpeer.lab.scenarios.field import Daemon, Say
from deadpeer.lab.scenarios.plan import SERVER_INNER, Layout, layout
from deadpeer.lab.scenarios.truth import Pair, Said, Truth
from deadpeer.lab.sites import lab_directory
from deadpeer.lab.trace import IkeSeen, Lane, Way
from deadpeer.lab.traffic import TrafficLog
from deadpeer.lab.waiting import Changes

T = TypeVar("T")
TUNNELS_S = 60.0
"""All clients must have traffic within this time."""
CALM_S = 0.5
PATIENCE_S = 0.5
"""An inner packet without an answer after this time is lost."""


class Copies:
    """Everything that runs for one run. Made by `open_copies`."""

    def __init__(self, plan: CopiesPlan, place: Layout, say: Say) -> None:
        self.plan, self.place, self.say = plan, place, say
        self.truth = Truth(plan.gateways)
        self.traffic = [TrafficLog() for _ in range(plan.clients)]
        self.gateways: list[Daemon] = []
        self.clients: list[Daemon] = []
        self.queries: list[tuple[int, Lane, bytes]] = []
        """SIR's questions that somebody on the path has seen: the client, the lane, the datagram."""
        self._word = "QCD_TOKEN" if plan.method == "qcd" else "CHECK_SPI NACK"
        self._changes = Changes()
        self._balancer: Process | None = None
        self._forger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._forger.setblocking(False)
        self.thief = Thief(place, thief_host(place), plan.seed, self._forge)

    async def start(self, stack: AsyncExitStack) -> None:
        """Start all of it; each is ended by `stack`. Returns when every client's traffic flows."""
        plan, place = self.plan, self.place
        stack.callback(self._forger.close)
        stack.callback(self.thief.close)
        write_keys(place)
        for number in range(plan.gateways):
            take = self._of_gateway(number)
            self.gateways.append(Daemon(f"gateway {number}", write_gateway(place, number), take))
        for client in place.clients:
            take = self._wake
            self.clients.append(Daemon(f"client {client.number}", write_client(place, plan, client), take))
        await self._make_copies(stack)
        await self._start_between(stack)
        for group in (self.gateways, self.clients):
            for daemon in group:
                stack.push_async_callback(daemon.stop)
                await daemon.start()
            await asyncio.gather(*(daemon.ready() for daemon in group))
        began_ns = time.monotonic_ns()
        await self.wait_for("traffic of every client", lambda: self.back(began_ns), TUNNELS_S)
        self.say(f"{plan.gateways} copies of one gateway, {plan.clients} clients, and packets flow")
        await asyncio.sleep(CALM_S)

    # --- what can be done ------------------------------------------------------------------------

    async def ask(self, seconds: float) -> int:
        """Have strangers ask every gateway about every living SA, for so long; how often they did."""
        place = self.place
        buyers = Buyers(place, place.path("inject"), self.plan.seed, self._targets, self._heard)
        buyers.start()
        try:
            await asyncio.sleep(seconds)
        finally:
            await buyers.stop()
        return sum(buyers.asked.values())

    async def steer(self, number: int, *, away: bool) -> None:
        """Have the balancer lead to a gateway no more, or again."""
        if self._balancer is None:
            raise LabError("the balancer was not started")
        waiting = asyncio.ensure_future(self._balancer.expect("serving", 5.0))
        await asyncio.sleep(0)
        self._balancer.tell(f"{'out' if away else 'in'} {number}")
        await waiting

    async def wait_for(self, what: str, look: Callable[[], T | None], timeout_s: float) -> T:
        """Wait until `look` finds something. Raises LabError, naming `what`, after `timeout_s`."""
        return await self._changes.wait_for(what, look, timeout_s)

    async def until(self, look: Callable[[], T | None], timeout_s: float) -> T | None:
        """Wait until `look` finds something; None if it does not in that time."""
        return await self._changes.until(look, timeout_s)

    # --- what can be seen ------------------------------------------------------------------------

    def back(self, after_ns: int, clients: list[int] | None = None) -> dict[int, int] | None:
        """When each of these clients (all if None) had its first round trip that began after a moment."""
        wanted = range(self.plan.clients) if clients is None else clients
        found = {c: self.traffic[c].first_round_trip_after(after_ns) for c in wanted}
        whole = {client: at_ns for client, at_ns in found.items() if at_ns is not None}
        return whole if len(whole) == len(found) else None

    def sa_of(self, client: int) -> tuple[Pair, str] | None:
        """The SPIs of the IKE SA that a client sends with now, and the ESP SPI."""
        child = self.clients[client].last("child_up")
        if child is None:
            return None
        pair = pair_of(self.clients[client].events, int(child["sa"]), time.monotonic_ns())
        return None if pair is None else (pair, str(child["spi_out"]))

    def query_of(self, client: int) -> tuple[Lane, bytes] | None:
        """The first question of SIR's that somebody on the path has seen a client ask, of `queries`."""
        return next(((lane, octets) for number, lane, octets in self.queries if number == client), None)

    def owner(self, client: int) -> int | None:
        """The gateway that has the SA of a client."""
        found = self.sa_of(client)
        return None if found is None else self.truth.owner(found[0], time.monotonic_ns())

    # --- helpers ---------------------------------------------------------------------------------

    async def _make_copies(self, stack: AsyncExitStack) -> None:
        """Begin one gateway's first life, so that it has secrets; end it, and copy what it has."""
        first = self.gateways[0]
        stack.push_async_callback(first.stop)
        await first.start()
        await first.ready()
        self.truth.stopped(0, await first.kill(), dead=True)
        copy_state(self.place)

    async def _start_between(self, stack: AsyncExitStack) -> None:
        """Balancer, links and hosts."""
        place, plan = self.place, self.plan
        ports = (place.port, place.port_nat_t)
        clients = tuple((client.host, client.inside) for client in place.clients)
        balancer = BalancerConfig(place.address, ports, place.members, clients, place.path("inject"), True)
        self._balancer = await self._launch(
            stack, "scenarios.balancer", balancer.to_json(), self._of_balancer
        )
        for client in place.clients:
            config = relay_config(place, plan, client)
            await self._launch(stack, "relay", config.to_json(), self._of_relay(client.number))
        crowd = CrowdConfig(
            tuple(
                (place.path(f"c{c.number}-host"), place.path(f"c{c.number}-gw"), c.inner)
                for c in place.clients
            ),
            tuple((place.path(f"m{n}-host"), place.path(f"m{n}-gw")) for n in range(plan.gateways)),
            SERVER_INNER,
            plan.interval_ms,
        )
        hosts = await self._launch(stack, "scenarios.crowd", crowd.to_json(), self._of_crowd)
        hosts.tell("start")

    async def _launch(
        self, stack: AsyncExitStack, module: str, config: str, take: Callable[[Record], None]
    ) -> Process:
        words = [sys.executable, "-m", f"deadpeer.lab.{module}", config]
        process = await launch(module.rpartition(".")[2], words, take)
        stack.push_async_callback(process.stop)
        await process.expect("ready", START_TIMEOUT_S)
        return process

    def _forge(self, client: int, octets: bytes) -> None:
        self._forger.sendto(octets, self.place.path(f"forge-{client}"))

    def _targets(self) -> list[tuple[Pair, int, tuple[str, ...]]]:
        """What the attackers know: the SPIs of each client's SAs."""
        found = [(client, self.sa_of(client)) for client in range(self.plan.clients)]
        return [(sa[0], client, (sa[1],)) for client, sa in found if sa is not None]

    def _heard(self, seen: IkeSeen) -> None:
        """The attackers heard something at their own address."""
        if self._word in seen.notifies:
            self.truth.say(Said((seen.spi_i, seen.spi_r), time.monotonic_ns()))

    def _of_gateway(self, number: int) -> Callable[[Record], None]:
        def take(record: Record) -> None:
            # A gateway by itself serves from the moment it is ready until it is gone.
            serves = record | {"event": "active"} if record["event"] == "ready" else record
            self.truth.event(number, serves)
            self._wake(record)

        return take

    def _of_balancer(self, record: Record) -> None:
        if record.get("event") == "said" and self._word in record["notifies"]:
            pair = (str(record["spi_i"]), str(record["spi_r"]))
            self.truth.say(Said(pair, int(record["mono_ns"]), int(record["member"])))

    def _of_relay(self, client: int) -> Callable[[Record], None]:
        def take(record: Record) -> None:
            if "tapped" not in record or record["way"] != Way.TO_BOB:
                return
            lane, octets = Lane(record["lane"]), bytes.fromhex(record["tapped"])
            message = read_message(lane, octets)
            if message is not None and is_query(message):
                self.queries.append((client, lane, octets))
                self._wake(record)

        return take

    def _of_crowd(self, record: Record) -> None:
        if "client" in record:
            self.traffic[record["client"]].take(record)
            self._wake(record)

    def _wake(self, _record: Record) -> None:
        self._changes.note()


@asynccontextmanager
async def open_copies(plan: CopiesPlan, say: Say) -> AsyncIterator[Copies]:
    """Copies that are up, their clients' packets flowing. Cleaned up in any case. Raises LabError."""
    plan.check()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(lab_directory())
        copies = Copies(plan, layout(directory, plan.cluster), say)
        await copies.start(stack)
        yield copies
