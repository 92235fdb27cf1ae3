"""Everything that runs for one run with a swarm: etcd, members, what lies between, the swarm's processes."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from deadpeer.cluster.steps import DOUBT_TTLS, ttl_of
from deadpeer.gateway.client import ControlError, call
from deadpeer.lab.options import START_TIMEOUT_S, LabError
from deadpeer.lab.process import Process, Record, launch
from deadpeer.lab.scenarios.etcd import Etcd, require_etcd
from deadpeer.lab.scenarios.field import Daemon, Say
from deadpeer.lab.scenarios.plan import Layout
from deadpeer.lab.scenarios.truth import Pair, Said, Truth
from deadpeer.lab.sites import lab_directory
from deadpeer.lab.swarm import files
from deadpeer.lab.swarm.middle import MiddleConfig
from deadpeer.lab.swarm.plan import SwarmPlace, SwarmPlan, find_place
from deadpeer.lab.swarm.process import ProcessConfig

PROGRESS_S = 2.0
"""So often it is said how far things are."""
LOOK_S = 0.1
"""So often it is looked whether all are there: moments bear their time, and looking costs some."""
STALL_S = 30.0
"""Nothing new for so long: it will not come any more."""


class Moments:
    """When each client last was "up", "back", had a "verdict"; and what it went by."""

    def __init__(self) -> None:
        self._at_ns: dict[tuple[str, int], list[int]] = {}
        self.proofs: dict[int, list[tuple[int, str]]] = {}
        self.pairs: set[Pair] = set()
        """All IKE SAs that clients have had, as they see it."""
        self.reasons: Counter[str] = Counter()
        """Why clients could not connect."""

    def take(self, record: Record) -> None:
        """A line of a swarm's process."""
        for event, client, at_ns, more in record.get("moments", ()):
            self._at_ns.setdefault((event, client), []).append(at_ns)
            match event:
                case "up":
                    self.pairs.add(tuple(more["pair"]))
                case "failed":
                    self.reasons[str(more["reason"])] += 1
                case "verdict":
                    self.proofs.setdefault(client, []).append((at_ns, str(more["proof"])))

    def first(self, event: str, client: int, after_ns: int) -> int | None:
        """When this happened to the client first, from a moment on."""
        return next((at for at in self._at_ns.get((event, client), ()) if at >= after_ns), None)

    def all_of(self, event: str, clients: Collection[int], after_ns: int) -> dict[int, int]:
        """When this happened first since a moment, for those of the clients to whom it did."""
        found = {client: self.first(event, client, after_ns) for client in clients}
        return {client: at for client, at in found.items() if at is not None}


class SwarmField:
    """A swarm and its gateways. Made by `open_swarm`."""

    def __init__(self, plan: SwarmPlan, place: SwarmPlace, program: str, say: Say) -> None:
        self.plan, self.place, self.say = plan, place, say
        self.truth = Truth(plan.members)
        self.moments = Moments()
        self.members: list[Daemon] = []
        self.etcd = Etcd(_layout(place), program)
        self._swarm: dict[int, Process] = {}
        self._middle: Process | None = None

    async def start(self, stack: AsyncExitStack) -> None:
        """Start all of it; each is ended by `stack`. Returns when the gateways serve; nobody is connected."""
        place, plan = self.place, self.plan
        files.write_keys(place)
        endpoint = ""
        if not plan.standby:
            stack.push_async_callback(self.etcd.stop)
            await self.etcd.start()
            endpoint = self.etcd.endpoint
        if not plan.direct:
            self._middle = await self._launch(
                stack, "middle", MiddleConfig(place).to_json(), self._of_middle, "what lies between"
            )
        for number in range(plan.members):
            config = files.write_member(place, plan, number, endpoint)
            member = Daemon(f"member {number}", config, self._of_member(number))
            self.members.append(member)
            stack.push_async_callback(member.stop)
            await member.start()
        # A number that the store does not know is taken only when no older lease of it can last any more.
        doubt_s = DOUBT_TTLS * ttl_of(plan.lease_s)
        patience_s = START_TIMEOUT_S + 2 * doubt_s
        began_s = time.monotonic()
        file = files.write_client(place, plan)
        await asyncio.gather(
            *(member.ready(patience_s) for member in self.members),
            *(self._start_swarm(stack, number, file) for number in range(plan.processes)),
        )
        if plan.standby:
            await self.activate(0)
            await self.steer(1, away=True)
            self.say("two gateways run; number 0 is active, number 1 stands by")
        else:
            self.say(f"{plan.members} members serve; one that dies is written off within {plan.lease_s} s")
            # Whoever has just come to know the store does not yet believe that a lease has run out.
            known_s = began_s + 1.0 + doubt_s
            if not plan.direct:
                await asyncio.sleep(max(0.0, known_s - time.monotonic()))
        self.say(f"{plan.clients} clients wait in {plan.processes} processes, each with sockets of its own")

    # --- what can be done ------------------------------------------------------------------------

    def connect(self, clients: Sequence[int]) -> int:
        """Have these clients connect, all at once; when, monotonic ns."""
        at_ns = time.monotonic_ns()
        for number, process in self._swarm.items():
            mine = [client for client in clients if client % self.plan.processes == number]
            process.tell(json.dumps({"do": "connect", "clients": mine}))
        return at_ns

    def traffic(self, *, flows: bool) -> None:
        """Have the clients' hosts send, or rest."""
        for process in self._swarm.values():
            process.tell(json.dumps({"do": "send" if flows else "rest"}))

    async def activate(self, member: int) -> int:
        """Tell one of two that it is active now; when. Raises LabError if it is not then."""
        at_ns = time.monotonic_ns()
        await self.ask(member, "activate")
        return at_ns

    async def steer(self, member: int, *, away: bool) -> None:
        """Have the balancer take a member out, or put it back."""
        await self._ask_middle(f"{'out' if away else 'in'} {member}", "serving")

    async def homes(self) -> list[int]:
        """The member to which each client is led."""
        return [int(home) for home in (await self._ask_middle("homes", "homes"))["homes"]]

    # --- what can be seen ------------------------------------------------------------------------

    async def hear(self) -> None:
        """Have `truth` know all that members have denied in the clear. Raises LabError if some was lost."""
        if (await self._ask_middle("heard", "heard"))["lost"]:
            raise LabError("not all that the members said could be told: nobody could judge it")

    async def all_are(
        self, event: str, clients: Collection[int], after_ns: int, doing: str
    ) -> dict[int, int]:
        """Wait until this happened to all these clients since a moment; when. Says how far it is.

        Where nothing more comes for a while, those to whom it did not happen are left out.
        """
        found: dict[int, int] = {}
        missing = set(clients)
        changed_s = said_s = time.monotonic()
        while True:
            more = self.moments.all_of(event, missing, after_ns)
            found |= more
            missing -= more.keys()
            now_s = time.monotonic()
            if more:
                changed_s = now_s
            if not missing or now_s - changed_s > STALL_S:
                return found
            if now_s - said_s >= PROGRESS_S:
                said_s = now_s
                self.say(f"{doing}: {len(found)} of {len(clients)}")
            if any(not process.running for process in self._swarm.values()):
                raise LabError("a process of the swarm ended unexpectedly")
            await asyncio.sleep(LOOK_S)

    async def tally(self, from_ns: int, until_ns: int) -> tuple[dict[int, int], dict[int, int]]:
        """({client: packets sent}, {client: packets lost}) of what left in a span of time."""
        sent: dict[int, int] = {}
        lost: dict[int, int] = {}
        for process in self._swarm.values():
            waiting = asyncio.ensure_future(process.expect("tally", START_TIMEOUT_S))
            await asyncio.sleep(0)
            process.tell(json.dumps({"do": "tally", "from_ns": from_ns, "until_ns": until_ns}))
            record = await waiting
            sent |= {int(client): count for client, count in record["sent"].items()}
            lost |= {int(client): count for client, count in record["lost"].items()}
        return sent, lost

    async def ask(self, member: int, command: str) -> Record:
        """Give a member's control socket a command; the answer. Raises LabError."""
        try:
            path = Path(self.place.path(f"m{member}.ctl"))
            answer = await asyncio.to_thread(call, path, command, {}, START_TIMEOUT_S)
        except ControlError as error:
            raise LabError(str(error)) from None
        if not answer["ok"]:
            raise LabError(f"member {member}, {command}: {answer.get('text')}")
        return dict(answer)

    async def ike_sas(self, member: int) -> int:
        """How many IKE SAs a member holds."""
        counters = (await self.ask(member, "counters"))["data"]["counters"]
        return int(counters["tables"]["ike_sas"])

    # --- helpers ---------------------------------------------------------------------------------

    def _of_member(self, number: int) -> Callable[[Record], None]:
        def take(record: Record) -> None:
            if not self.plan.direct:
                self.truth.event(number, record)

        return take

    def _of_middle(self, record: Record) -> None:
        if record.get("event") == "said":
            pair = (str(record["spi_i"]), str(record["spi_r"]))
            self.truth.say(Said(pair, int(record["mono_ns"]), int(record["member"])))

    async def _ask_middle(self, command: str, event: str) -> Record:
        if self._middle is None:
            raise LabError("there is no balancer in this run")
        waiting = asyncio.ensure_future(self._middle.expect(event, START_TIMEOUT_S))
        await asyncio.sleep(0)
        self._middle.tell(command)
        return await waiting

    async def _start_swarm(self, stack: AsyncExitStack, number: int, file: Path) -> None:
        remotes = self.place.members if self.plan.direct else (self.place.address,)
        config = ProcessConfig(
            number, self.plan.processes, str(file), self.place, remotes, self.plan.interval_s
        )
        name = f"process {number} of the swarm"
        process = await self._launch(stack, "process", config.to_json(), self.moments.take, name)
        self._swarm[number] = process

    async def _launch(
        self, stack: AsyncExitStack, module: str, config: str, take: Callable[[Record], None], name: str
    ) -> Process:
        words = [sys.executable, "-m", f"deadpeer.lab.swarm.{module}", config]
        process = await launch(name, words, take)
        stack.push_async_callback(process.stop)
        await process.expect("ready", START_TIMEOUT_S + self.plan.clients / 50)
        return process


def _layout(place: SwarmPlace) -> Layout:
    """What the lab's etcd wants to know of a place."""
    return Layout(place.directory, place.port, place.address, place.members, (), "", place.own)


@asynccontextmanager
async def open_swarm(plan: SwarmPlan, say: Say) -> AsyncIterator[SwarmField]:
    """A swarm and its gateways, nobody connected yet. Cleaned up in any case. Raises LabError."""
    plan.check()
    program = "" if plan.standby else require_etcd()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(lab_directory())
        field = SwarmField(plan, find_place(directory, plan), program, say)
        await field.start(stack)
        yield field
