"""A running cluster: etcd, members, balancer, clients, their hosts, attackers. All of it real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from deadpeer.cluster.steps import DOUBT_TTLS, ttl_of
from deadpeer.gateway.client import ControlError, call
from deadpeer.lab.options import START_TIMEOUT_S, LabError
from deadpeer.lab.process import Process, Record, launch
from deadpeer.lab.scenarios import config_files
from deadpeer.lab.scenarios.balancer import BalancerConfig
from deadpeer.lab.scenarios.buyers import Buyers
from deadpeer.lab.scenarios.byways import Byways
from deadpeer.lab.scenarios.crowd import CrowdConfig
from deadpeer.lab.scenarios.etcd import Etcd, Road, require_etcd
from deadpeer.lab.scenarios.plan import SERVER_INNER, ClusterPlan, Layout, layout
from deadpeer.lab.scenarios.truth import Pair, Said, Truth
from deadpeer.lab.sites import lab_directory
from deadpeer.lab.trace import IkeSeen
from deadpeer.lab.traffic import TrafficLog
from deadpeer.lab.waiting import Changes

T = TypeVar("T")
Say = Callable[[str], None]

TUNNELS_S = 60.0
"""All clients must have traffic within this time."""
DRAIN_S = 40.0
"""So long a member may take to send its clients away."""
DENIALS = frozenset({"QCD_TOKEN", "CHECK_SPI NACK"})
"""What must never be said of a living SA."""


class Daemon:
    """A gateway process, member or client, that can be started, killed, frozen, and started again."""

    def __init__(self, name: str, config: Path, take: Callable[[Record], None]) -> None:
        self.name = name
        self.events: list[Record] = []
        self._config = config
        self._take = take
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it. Raises LabError if the program can't be started."""
        words = [sys.executable, "-m", "deadpeer", "gateway", str(self._config), "--log-format", "json"]
        self._process = await launch(self.name, words, self._record)

    async def ready(self, patience_s: float = START_TIMEOUT_S) -> None:
        """Wait until it can answer. Raises LabError if that takes longer than its patience, seconds."""
        await self._running().expect("ready", patience_s)

    async def kill(self) -> int:
        """SIGKILL; when, monotonic ns."""
        at_ns = time.monotonic_ns()
        self._running().kill()
        await self._running().wait()
        return at_ns

    def signal(self, number: signal.Signals) -> int:
        """Send it a signal; when, monotonic ns."""
        at_ns = time.monotonic_ns()
        os.kill(self._running().pid, number)
        return at_ns

    async def terminate(self) -> int:
        """SIGTERM, and wait until it has ended by itself; when that was, monotonic ns."""
        self.signal(signal.SIGTERM)
        await self._running().wait()
        return time.monotonic_ns()

    async def stop(self) -> None:
        """End it, frozen or not."""
        if self._process is not None and self._process.running:
            self._process.kill()
            await self._process.wait()

    def first(self, kind: str, after_ns: int) -> int | None:
        """When its first event of a kind from a moment on was, monotonic ns."""
        return next(
            (e["mono_ns"] for e in self.events if e["event"] == kind and e["mono_ns"] >= after_ns), None
        )

    def last(self, kind: str) -> Record | None:
        """Its last event of a kind."""
        return next((e for e in reversed(self.events) if e["event"] == kind), None)

    def _record(self, record: Record) -> None:
        if isinstance(record.get("event"), str) and isinstance(record.get("mono_ns"), int):
            self.events.append(record)
            self._take(record)

    def _running(self) -> Process:
        if self._process is None:
            raise LabError(f"{self.name} was not started")
        return self._process


class Field:
    """Everything that runs for one run of the cluster. Made by `open_field`."""

    def __init__(self, plan: ClusterPlan, place: Layout, program: str, say: Say) -> None:
        self.plan, self.place, self.say = plan, place, say
        self.truth = Truth(plan.members)
        self.traffic = [TrafficLog() for _ in range(plan.clients)]
        self.etcd = Etcd(place, program)
        self.roads = [Road(self.etcd.port) for _ in place.members]
        self.byways = Byways(place)
        self.members: list[Daemon] = []
        self.clients: list[Daemon] = []
        self._changes = Changes()
        self._balancer: Process | None = None
        self._crowd: Process | None = None
        self.buyers = Buyers(place, place.path("inject"), plan.seed, self._targets, self._heard)

    async def start(self, stack: AsyncExitStack) -> None:
        """Start all of it; each is ended by `stack`. Returns when every client's traffic flows."""
        place, plan = self.place, self.plan
        config_files.write_keys(place)
        endpoints = [""] * plan.members if plan.standby else await self._start_etcd(stack)
        for number, endpoint in enumerate(endpoints):
            config = config_files.write_member(place, plan, number, endpoint)
            self.members.append(Daemon(f"member {number}", config, self._of_member(number)))
        for client in place.clients:
            config = config_files.write_client(place, plan, client)
            self.clients.append(Daemon(f"client {client.number}", config, self._wake))
        await self._start_balancer(stack)
        await self._start_crowd(stack)
        for member in self.members:
            stack.push_async_callback(member.stop)
            await member.start()
        doubt_s = 0.0 if plan.standby else DOUBT_TTLS * ttl_of(plan.lease_s)
        known = time.monotonic() + 1.0 + doubt_s
        if not plan.standby:
            self.say(
                f"{plan.members} members join; this etcd has never heard of them, so that each waits"
                f" {doubt_s:g} s: an older lease of its number may still last"
            )
        patience_s = START_TIMEOUT_S + 2 * doubt_s
        await asyncio.gather(*(member.ready(patience_s) for member in self.members))
        if plan.standby:
            await self.activate(0)
            await self.steer(1, away=True)
            self.say("two gateways run; number 0 is active, number 1 stands by")
        else:
            alone = "" if plan.forward else "; they hand no packets to each other"
            self.say(
                f"{plan.members} members serve; one that dies is written off within {plan.lease_s} s{alone}"
            )
        for daemon in self.clients:
            stack.push_async_callback(daemon.stop)
            await daemon.start()
        if self._crowd is not None:
            self._crowd.tell("start")
        began_ns = time.monotonic_ns()
        await self.wait_for("traffic of every client", lambda: self.back(began_ns), TUNNELS_S)
        self.say(f"{plan.clients} clients have tunnels through the balancer, and packets flow")
        stack.push_async_callback(self.buyers.stop)
        self.buyers.start()
        # Whoever has just come to know the store does not yet believe that a lease has run out.
        await asyncio.sleep(max(0.5, known - time.monotonic() + 0.5))

    # --- what can be done ------------------------------------------------------------------------

    async def activate(self, member: int) -> int:
        """Tell one of two that it is active now; when, monotonic ns. Raises LabError if it is not then."""
        return await self._command(member, "activate")

    async def stand_by(self, member: int) -> int:
        """Tell one of two that it is not active any more; when. Raises LabError if it did not listen."""
        return await self._command(member, "standby")

    async def drain(self, member: int) -> None:
        """Have a member send its clients to where they found it, the balancer's address, and wait until they
        have gone. Raises LabError."""
        await self._command(member, "drain", {"to": self.place.address}, DRAIN_S)

    async def skew(self, member: int, rate: float) -> int:
        """Let the clock of a member's lease count `rate` seconds in a second; since when, monotonic ns."""
        return await self._command(member, "clock", {"rate": rate})

    async def steer(self, member: int, *, away: bool) -> None:
        """Have the balancer take a member out, or put it back."""
        await self._ask(f"{'out' if away else 'in'} {member}", "serving")

    async def spoken(self) -> list[tuple[int, str, int]]:
        """(member, SPI, when last) of what members have sent to clients under protection."""
        record = await self._ask("spoken", "spoken")
        return [(member, spi, last) for member, _, spi, _, last in record["spoken"]]

    async def wait_for(self, what: str, look: Callable[[], T | None], timeout_s: float) -> T:
        """Wait until `look` finds something. Raises LabError, naming `what`, after `timeout_s`."""
        return await self._changes.wait_for(what, look, timeout_s)

    # --- what can be seen ------------------------------------------------------------------------

    def back(self, after_ns: int, clients: list[int] | None = None) -> dict[int, int] | None:
        """When each of these clients (all if None) had its first round trip that began after a moment."""
        wanted = range(self.plan.clients) if clients is None else clients
        found = {c: self.traffic[c].first_round_trip_after(after_ns) for c in wanted}
        whole = {client: at_ns for client, at_ns in found.items() if at_ns is not None}
        return whole if len(whole) == len(found) else None

    def served_by(self, member: int) -> list[int]:
        """The clients whose present IKE SA is at this member."""
        now_ns = time.monotonic_ns()
        pairs = self.truth.holdings(member, now_ns)
        return [client for client, pair in self._pairs().items() if pair in pairs]

    def had(self) -> set[Pair]:
        """All IKE SAs that clients have had, as they see it."""
        up = (e for client in self.clients for e in client.events if e["event"] == "ike_sa_up")
        return {(str(e["spi_i"]), str(e["spi_r"])) for e in up}

    # --- helpers ---------------------------------------------------------------------------------

    async def _start_etcd(self, stack: AsyncExitStack) -> list[str]:
        """Where each member finds etcd."""
        stack.push_async_callback(self.etcd.stop)
        await self.etcd.start()
        endpoints = []
        for road in self.roads:
            stack.push_async_callback(road.stop)
            endpoints.append(await road.start())
        stack.callback(self.byways.stop)
        self.byways.start()
        return endpoints

    async def _command(
        self, member: int, command: str, args: Mapping[str, object] | None = None, patience_s: float = 5.0
    ) -> int:
        """Give a member's control socket a command; when, monotonic ns. Raises LabError if it is refused."""
        at_ns, path = time.monotonic_ns(), Path(self.place.path(f"m{member}.ctl"))
        try:
            answer = await asyncio.to_thread(call, path, command, args, patience_s)
        except ControlError as error:
            raise LabError(str(error)) from None
        if not answer["ok"]:
            raise LabError(f"member {member}, {command}: {answer.get('text')}")
        return at_ns

    async def _ask(self, command: str, event: str) -> Record:
        """Give the balancer a command; the record that answers it."""
        balancer = self._balancer
        if balancer is None:
            raise LabError("the balancer was not started")
        waiting = asyncio.ensure_future(balancer.expect(event, 5.0))
        await asyncio.sleep(0)
        balancer.tell(command)
        return await waiting

    def _pairs(self) -> dict[int, Pair]:
        """The present IKE SA of each client, as the client sees it."""
        found = {}
        for number, daemon in enumerate(self.clients):
            if (record := daemon.last("ike_sa_up")) is not None:
                found[number] = (str(record["spi_i"]), str(record["spi_r"]))
        return found

    def _targets(self) -> list[tuple[Pair, int, tuple[str, ...]]]:
        """What the attackers know: the SPIs of each client's SAs."""
        found: list[tuple[Pair, int, tuple[str, ...]]] = []
        for client, pair in self._pairs().items():
            child = self.clients[client].last("child_up")
            found.append((pair, client, () if child is None else (str(child["spi_out"]),)))
        return found

    def _heard(self, seen: IkeSeen) -> None:
        """The attackers heard something at their own address."""
        if DENIALS & set(seen.notifies):
            self.truth.say(Said((seen.spi_i, seen.spi_r), time.monotonic_ns()))

    def _of_member(self, number: int) -> Callable[[Record], None]:
        def take(record: Record) -> None:
            self.truth.event(number, record)
            self._wake(record)

        return take

    def _of_balancer(self, record: Record) -> None:
        if record.get("event") == "said" and DENIALS & set(record["notifies"]):
            pair = (str(record["spi_i"]), str(record["spi_r"]))
            self.truth.say(Said(pair, int(record["mono_ns"]), int(record["member"])))

    def _of_crowd(self, record: Record) -> None:
        if "client" in record:
            self.traffic[record["client"]].take(record)
            self._wake(record)

    def _wake(self, _record: Record) -> None:
        self._changes.note()

    async def _start_balancer(self, stack: AsyncExitStack) -> None:
        place = self.place
        config = BalancerConfig(
            place.address,
            (place.port, place.port_nat_t),
            place.members,
            tuple((client.host, client.inside) for client in place.clients),
            place.path("inject"),
            not self.plan.forward,
        )
        self._balancer = await self._launch(stack, "balancer", config.to_json(), self._of_balancer)

    async def _start_crowd(self, stack: AsyncExitStack) -> None:
        place = self.place
        config = CrowdConfig(
            tuple(
                (place.path(f"c{c.number}-host"), place.path(f"c{c.number}-gw"), c.inner)
                for c in place.clients
            ),
            tuple((place.path(f"m{n}-host"), place.path(f"m{n}-gw")) for n in range(self.plan.members)),
            SERVER_INNER,
            self.plan.interval_ms,
        )
        self._crowd = await self._launch(stack, "crowd", config.to_json(), self._of_crowd)

    async def _launch(
        self, stack: AsyncExitStack, module: str, config: str, take: Callable[[Record], None]
    ) -> Process:
        words = [sys.executable, "-m", f"deadpeer.lab.scenarios.{module}", config]
        process = await launch(f"the {module}", words, take)
        stack.push_async_callback(process.stop)
        await process.expect("ready", START_TIMEOUT_S)
        return process


@asynccontextmanager
async def open_field(plan: ClusterPlan, say: Say) -> AsyncIterator[Field]:
    """A cluster that is up, its clients' packets flowing. Cleaned up in any case. Raises LabError."""
    plan.check()
    program = "" if plan.standby else require_etcd()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(lab_directory())
        field = Field(plan, layout(directory, plan), program, say)
        await field.start(stack)
        yield field
