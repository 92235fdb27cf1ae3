"""Two gateways without I/O on a virtual link, and what each of them costs: CPU, messages, octets.

Time is virtual and jumps from one event to the next; what is measured is the CPU that each side's endpoint
and data plane really use for it. Disks are in memory: their waiting is not part of this.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from deadpeer.assembly import build_endpoint
from deadpeer.crash.options import CrashOptions
from deadpeer.crypto import SystemEntropy
from deadpeer.gateway.runtime import Core
from deadpeer.ike.connection import Connection, EndpointConfig
from deadpeer.ike.io import CommandDone, Event, Initiate, Input, Persist, Plane, Record, Timeout, Transmit
from deadpeer.lab.costs.credentials import UNIX_S
from deadpeer.lab.costs.disk import CountedLedger, CountedStore
from deadpeer.lab.costs.meter import Meter, Tally, clock_ns
from deadpeer.lab.costs.model import Wire
from deadpeer.lab.options import LabError, Side
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.memory import MemoryHost
from deadpeer.plane.packets import echo_request
from deadpeer.values import NS_PER_S, Datagram, Now
from deadpeer.wire import UdpKind, classify

OUTER: dict[Side, str] = {"alice": "192.0.2.1", "bob": "192.0.2.2"}
SIDES: tuple[Side, Side] = ("alice", "bob")
RTT_MS = 100.0
"""As in the judged series; nothing waits for it in earnest."""
START_NS = 1_000 * NS_PER_S
ESP = "ESP"

_TICK_S = 60.0


@dataclass(slots=True)
class Gateway:
    """One side: what survives a crash (store, ledger, host), what does not, and what has been counted."""

    name: Side
    connections: Sequence[Connection]
    options: CrashOptions
    config: EndpointConfig
    store: CountedStore = field(default_factory=CountedStore)
    ledger: CountedLedger = field(default_factory=CountedLedger)
    behind: MemoryHost = field(default_factory=lambda: MemoryHost(echo=True))
    core: Core | None = None
    engine: EspEngine | None = None
    cpu_ns: int = 0
    tally: Tally = field(default_factory=Tally)
    sent: list[tuple[str, int]] = field(default_factory=list)
    """Why each datagram was sent, and its octets of UDP payload."""
    events: list[tuple[int, Event]] = field(default_factory=list)
    done: dict[int, CommandDone] = field(default_factory=dict)

    def reset(self) -> None:
        """Count from nothing."""
        self.cpu_ns, self.tally = 0, Tally()
        self.sent, self.events = [], []

    def wire(self) -> Wire:
        """The IKE messages that this side has sent since `reset`; ESP does not count."""
        ike = [octets for reason, octets in self.sent if reason != ESP]
        return Wire(len(ike), sum(ike))

    def stored(self) -> int:
        """Octets of the values and records on this side's disk."""
        return sum(self.store.octets().values()) + sum(self.ledger.octets().values())

    def event(self, kind: str) -> tuple[int, Event] | None:
        """The first event of this kind since `reset`, with its moment."""
        return next(((at, event) for at, event in self.events if event.kind == kind), None)


class Rig:
    """Alice, Bob, and the link. With a `meter` that runs, each side's primitives are told apart as well."""

    def __init__(
        self,
        connections: dict[Side, Sequence[Connection]],
        options: dict[Side, CrashOptions],
        *,
        meter: Meter | None = None,
        rtt_ms: float = RTT_MS,
    ) -> None:
        self.mono_ns = START_NS
        self._latency_ns = int(rtt_ms * 1e6 / 2)
        self._meter = meter
        self._flying: list[tuple[int, int, Datagram]] = []
        self._serial = 0
        self._outbox: list[Datagram] = []
        self._sides = {
            side: Gateway(
                side,
                connections[side],
                options[side],
                # Many SAs are set up one after the other, from one address.
                EndpointConfig(local_hosts=(OUTER[side],)),
            )
            for side in SIDES
        }
        for side in SIDES:
            self.boot(side)

    @property
    def alice(self) -> Gateway:
        return self._sides["alice"]

    @property
    def bob(self) -> Gateway:
        return self._sides["bob"]

    @property
    def now(self) -> Now:
        """The virtual moment."""
        return Now(self.mono_ns, UNIX_S + (self.mono_ns - START_NS) / NS_PER_S)

    def reset(self) -> None:
        """Both sides count from nothing."""
        self.alice.reset()
        self.bob.reset()

    def boot(self, side: Side) -> None:
        """Start a gateway, with what its store kept."""
        gateway = self._sides[side]
        gateway.engine = EspEngine(SystemEntropy())
        gateway.core = build_endpoint(
            self.now,
            gateway.config,
            gateway.connections,
            SystemEntropy(),
            gateway.store,
            gateway.options,
            ledger=gateway.ledger,
            machine_id=side.encode(),
        )
        self._turn(gateway, _nothing)

    def crash(self, side: Side) -> None:
        """Everything in the memory of a gateway is gone."""
        gateway = self._sides[side]
        gateway.core = gateway.engine = None
        gateway.done = {}

    def feed(self, side: Side, item: Input) -> None:
        """Hand an input to a gateway."""
        gateway = self._sides[side]
        core = gateway.core
        if core is not None:
            self._turn(gateway, partial(core.handle, self.now, item))

    def command(self, side: Side, make: Callable[[int], Input], limit_s: float = 5.0) -> None:
        """Give a command and wait until it is done. Raises LabError if it fails."""
        gateway = self._sides[side]
        tag = len(gateway.done) + 1
        self.feed(side, make(tag))
        self.run(limit_s, lambda: tag in gateway.done)
        self.settle()
        done = gateway.done.get(tag)
        if done is None or not done.ok:
            raise LabError(f"the command of {side} failed: {done.text if done else 'no end'}")

    def up(self, connection: str) -> None:
        """Alice builds the SAs of a connection. Raises LabError."""
        self.command("alice", lambda tag: Initiate(connection, None, tag))

    def send(self, source: str, target: str) -> None:
        """A host behind Alice sends one echo request."""
        self.alice.behind.send(echo_request(source, target, 7, 1, b"deadpeer"))
        self._turn(self.alice, _nothing)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let virtual time pass, for so long, or until something holds; whether it does."""
        end = self.mono_ns + int(seconds * NS_PER_S)
        while until is None or not until():
            at = self._next()
            if at is None or at > end:
                self.mono_ns = end
                return until is not None and until()
            self.mono_ns = max(at, self.mono_ns)
            self._step()
        return True

    def settle(self) -> None:
        """Until nothing is under way; timers don't count."""
        self.run(_TICK_S, lambda: not self._flying)

    # --- helpers -------------------------------------------------------------------------------------

    def _next(self) -> int | None:
        times = [self._flying[0][0]] if self._flying else []
        for gateway in self._sides.values():
            if gateway.core is not None and gateway.engine is not None:
                times += [d.at_ns for d in (gateway.core.deadline(), gateway.engine.deadline()) if d]
        return min(times, default=None)

    def _step(self) -> None:
        while self._flying and self._flying[0][0] <= self.mono_ns:
            self._arrive(heapq.heappop(self._flying)[2])
        for gateway in self._sides.values():
            core, engine = gateway.core, gateway.engine
            if core is None or engine is None:
                continue
            if (due := engine.deadline()) is not None and due.at_ns <= self.mono_ns:
                self._turn(gateway, partial(engine.expire, self.mono_ns))
            if (due := core.deadline()) is not None and due.at_ns <= self.mono_ns:
                self._turn(gateway, partial(core.handle, self.now, Timeout()))

    def _arrive(self, datagram: Datagram) -> None:
        gateway = next(g for g in self._sides.values() if OUTER[g.name] == datagram.remote.host)
        core, engine = gateway.core, gateway.engine
        if core is None or engine is None:
            return
        # A copy, as from a socket: neither side keeps the other's octets alive.
        arrived = Datagram(bytes(bytearray(datagram.payload)), datagram.remote, datagram.local)
        natt = arrived.local.port == gateway.config.port_nat_t
        if natt and classify(arrived.payload, True) is UdpKind.ESP:
            self._turn(
                gateway,
                lambda: engine.inbound(self.mono_ns, arrived.payload, arrived.local, arrived.remote),
            )
        else:
            self._turn(gateway, partial(core.handle, self.now, arrived))

    def _turn(self, gateway: Gateway, work: Callable[[], None]) -> None:
        """One mutation, then drain: the CPU that it takes is the gateway's."""
        meter = self._meter
        if meter is not None:
            meter.into = gateway.tally
        begun = clock_ns()
        work()
        self._drain(gateway)
        gateway.cpu_ns += clock_ns() - begun
        if meter is not None:
            meter.into = None
        for datagram in self._outbox:
            self._serial += 1
            heapq.heappush(self._flying, (self.mono_ns + self._latency_ns, self._serial, datagram))
        self._outbox.clear()

    def _drain(self, gateway: Gateway) -> None:
        core, engine = gateway.core, gateway.engine
        busy = core is not None and engine is not None
        while busy and core is not None and engine is not None:
            busy = False
            while (output := core.poll()) is not None:
                busy = True
                if isinstance(output, Transmit):
                    self._transmit(gateway, output.datagram, output.reason)
                elif isinstance(output, Plane):
                    engine.apply(self.mono_ns, output.op)
                elif isinstance(output, Event):
                    gateway.events.append((self.mono_ns, output))
                elif isinstance(output, CommandDone):
                    gateway.done[output.tag] = output
                elif isinstance(output, Persist):
                    gateway.store.put(output.name, output.data)
                elif isinstance(output, Record):
                    gateway.ledger.write(output.table, output.key, output.value, durable=output.durable)
            while (datagram := engine.poll_datagram()) is not None:
                busy = True
                self._transmit(gateway, datagram, ESP)
            while (packet := engine.poll_packet()) is not None:
                busy = True
                gateway.behind.write(packet)
            while (report := engine.poll_report()) is not None:
                busy = True
                core.handle(self.now, report)
            while (packet := gateway.behind.read()) is not None:
                busy = True
                engine.outbound(self.mono_ns, packet)

    def _transmit(self, gateway: Gateway, datagram: Datagram, reason: str) -> None:
        gateway.sent.append((reason, len(datagram.payload)))
        self._outbox.append(datagram)


def reasons(gateway: Gateway) -> Counter[str]:
    """Why this side has sent what it has sent since `reset`."""
    return Counter(reason for reason, _ in gateway.sent)


def _nothing() -> None:
    """A turn in which nothing but the draining happens."""
