"""The pump between the world and the protocol core: sockets, data plane, timer, state, events.

One rule holds everywhere: one mutation, then drain. Each datagram, packet, report, command or timeout is
handed over; then all outputs are obeyed in their order (what is to be persisted is durable before anything
that follows is sent); then one timer is set for the earliest deadline.

The core's clock is asked before each step. While it gives no time (a member of a cluster that is fenced),
what arrives is dropped, nothing is sent, and no timer runs: all goes on afterwards as if nothing had been.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol, TypeVarTuple

from deadpeer.ike.io import (
    CommandDone,
    Event,
    ExtensionCommand,
    Field,
    Initiate,
    Input,
    KeyLog,
    Lose,
    Output,
    Persist,
    Plane,
    Record,
    Rekey,
    Reload,
    Shutdown,
    Terminate,
    Timeout,
    Transmit,
)
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.host import Host, PlaneError
from deadpeer.plane.model import UnknownSpi
from deadpeer.plane.unix import UnixHost
from deadpeer.store import Ledger, Store
from deadpeer.values import Datagram, Deadline, Now
from deadpeer.wire import UdpKind, classify

from .clocks import CoreClock, PlainClock, clock
from .process import KeyLogFiles, places
from .routes import RouteKeeper
from .sockets import DRAIN, UdpSocket, UdpSockets

_FLUSH_S = 0.001
_TURN_NS = 20_000_000
"""A source of events has its turn for so long: when hundreds of peers set up SAs at once, each costs
milliseconds; a lease that is not renewed in between, or an address that is not looked for, is lost."""
_BEGUN_FIRST = 8
"""So many datagrams of SAs that have begun come before each one with which an SA may begin."""
_AFTER_ERROR_S = 0.1
_FENCED = "this member is fenced, as its lease may have run out; try again when it has one"
_OVER = "this member's life is over; try again in the next one"
Args = TypeVarTuple("Args")

TaggedCommand = Callable[[int], Initiate | Terminate | Rekey | Lose | ExtensionCommand]


class Core(Protocol):
    """What the runtime needs of an `ike.endpoint.Endpoint`."""

    @property
    def counters(self) -> Counter[str]: ...
    def sizes(self) -> dict[str, int]: ...
    @property
    def quiet(self) -> bool: ...
    def handle(self, now: Now, item: Input) -> None: ...
    def poll(self) -> Output | None: ...
    def deadline(self) -> Deadline | None: ...
    def snapshot(self, now: Now) -> list[dict[str, object]]: ...


class Runtime:
    """Runs an endpoint and a data plane on an asyncio loop.

    `report` gets every event. `attach` gives it the endpoint, whose first outputs it obeys, and starts
    reading. Nothing that arrives from outside ends it: an exception is reported, counted, and forgotten.
    """

    def __init__(
        self,
        *,
        sockets: UdpSockets,
        port_nat_t: int,
        engine: EspEngine,
        host: Host,
        routes: RouteKeeper | None,
        store: Store,
        ledger: Ledger,
        keylog: KeyLogFiles | None,
        report: Callable[[Now, Event], None],
        core_clock: CoreClock | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.down = asyncio.Event()
        """Set when the endpoint has said goodbye to all peers after `shutdown`."""
        self.router: Callable[[Now, Datagram], bool] | None = None
        """Asked about each datagram first; True: it is another member's, and has been dealt with."""
        self.noted: Callable[[Datagram], object] | None = None
        """Told of each datagram that goes to the core: IKE messages, and ESP of no child here."""
        self._esp: Datagram | None = None
        self._clock: CoreClock = core_clock if core_clock is not None else PlainClock()
        self._always_open = core_clock is None
        self._last = clock()
        self._listening = False
        self._held: list[Input] = []
        self._sockets = sockets
        self._port_nat_t = port_nat_t
        nat_t = {sock.local.host: sock for sock in sockets if sock.local.port == port_nat_t}
        # By the socket on which SAs are begun: where those behind a NAT go on.
        self._begun = {
            sock: nat_t[sock.local.host]
            for sock in sockets
            if sock.local.port != port_nat_t and sock.local.host in nat_t
        }
        self._engine = engine
        self._host = host
        self._routes = routes
        self._store = store
        self._ledger = ledger
        self._owing = False
        self._ledger_fails = False
        self._keylog = keylog
        self._report = report
        self._core: Core | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._core_due: Deadline | None = None
        self._core_moved = True  # its deadline, perhaps: nothing moves it but what is handed over
        self._flush: asyncio.TimerHandle | None = None
        self._unwritten: dict[str, bytes] = {}
        self._seen_errors: set[tuple[str, ...]] = set()
        self._tags: dict[int, asyncio.Future[CommandDone]] = {}
        self._last_tag = 0
        self._not_before_s = 0.0
        self._transmitted = 0

    def attach(self, core: Core, engine: EspEngine | None = None) -> None:
        """Obey what the new endpoint says, and listen from now on. `engine`: its new data plane, if given."""
        self._core, self._core_moved = core, True
        if engine is not None:
            self._engine = engine
        self._settle()
        self.listen()

    def detach(self, engine: EspEngine) -> None:
        """The endpoint's life is over: forget it and its data plane, and drop what arrives until the next."""
        self._core, self._core_moved, self._engine = None, True, engine
        self._held.clear()
        for event in self._routes.forget() if self._routes is not None else ():
            self._report(clock(), event)
        tags, self._tags = self._tags, {}
        for tag, future in tags.items():
            if not future.done():
                future.set_result(CommandDone(tag, ok=False, text=_OVER))
        self._settle()

    def listen(self) -> None:
        """Read from now on, whether or not there is an endpoint: what nobody may serve must not wait."""
        if self._listening:
            return
        self._listening = True
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._on_socket, sock)
        if self._host.fileno() >= 0:
            self._loop.add_reader(self._host.fileno(), self._on_host)

    @property
    def serves(self) -> bool:
        """Whether there is an endpoint, and its clock runs."""
        return self._core is not None and self._time() is not None

    async def command(self, make: TaggedCommand) -> CommandDone:
        """Give the endpoint a command that `make` builds around a tag; return its outcome."""
        if self._core is None:
            return CommandDone(0, ok=False, text="the gateway is still starting; try again")
        if self._time() is None:
            return CommandDone(0, ok=False, text=_FENCED)
        self._last_tag += 1
        tag = self._last_tag
        future: asyncio.Future[CommandDone] = self._loop.create_future()
        self._tags[tag] = future
        try:
            self._command(make(tag))
            return await future
        finally:
            self._tags.pop(tag, None)

    def reload(self, command: Reload) -> None:
        """Use other connections from now on."""
        self._command(command)

    def shutdown(self) -> None:
        """Delete every SA politely; `down` is set when that is done."""
        self._command(Shutdown())

    def resume(self) -> None:
        """The clock runs again: do what had to wait."""
        held, self._held = self._held, []
        for item in held:
            self._command(item)
        self._settle()

    def take(self, datagram: Datagram) -> None:
        """A datagram that another member received for us."""
        self._arrive(datagram, None)
        self._settle()

    def again(self, take: Callable[[], Datagram | None], unheard: Callable[[], None]) -> None:
        """For a turn, datagrams that had to wait, as if they came now; `unheard`: nothing was sent for it."""
        end_ns = time.monotonic_ns() + _TURN_NS
        while self.serves and time.monotonic_ns() < end_ns and (datagram := take()) is not None:
            before = self._transmitted
            self._arrive(datagram, self.router)
            if self._transmitted == before:
                unheard()
        self._settle()

    def now(self) -> Now:
        """The core's present moment; while its clock stands still, when that began."""
        self._time()
        return self._last

    def sas(self, now: Now) -> list[dict[str, Any]]:
        """The endpoint's SAs, each child with what it has carried."""
        snapshot: list[dict[str, Any]] = self._core.snapshot(now) if self._core is not None else []
        for sa in snapshot:
            for child in sa["children"]:
                carried = self._engine.counters(child["number"])
                if carried is not None:
                    child["traffic"] = asdict(carried)
        return snapshot

    def all_counters(self) -> dict[str, dict[str, int]]:
        """Every count there is, by where it was counted."""
        return {
            "endpoint": _sorted(self._core.counters if self._core is not None else {}),
            "tables": _sorted(self._core.sizes() if self._core is not None else {}),
            "esp_dropped": _sorted(self._engine.drops),
            "gateway": _sorted(self.counters | self._host_counters()),
            "udp": _sorted(self._sockets.counters()),
        }

    def _host_counters(self) -> Counter[str]:
        waited = self._host.dropped if isinstance(self._host, UnixHost) else 0
        return Counter({"host_waited_in_vain": waited} if waited else {})

    def stop(self) -> None:
        """Stop reading and cancel the timer. What was opened is closed by who opened it."""
        self._listening = False
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
        if self._host.fileno() >= 0:
            self._loop.remove_reader(self._host.fileno())
        for timer in (self._timer, self._flush):
            if timer is not None:
                timer.cancel()

    # Inputs

    def _on_socket(self, sock: UdpSocket) -> None:
        end_ns = time.monotonic_ns() + _TURN_NS
        begun = self._begun.get(sock)
        for datagram in sock.receive():
            self._arrive(datagram, self.router)
            # When hundreds begin at once, who has begun goes on first: else all of them wait half-open.
            for other in begun.receive(_BEGUN_FIRST) if begun is not None else ():
                self._arrive(other, self.router)
            if time.monotonic_ns() >= end_ns:
                break
        self._settle()

    def _arrive(self, datagram: Datagram, router: Callable[[Now, Datagram], bool] | None) -> None:
        now = self._time()
        if now is None or self._core is None:
            self.counters["datagrams_fenced" if now is None else "datagrams_between_lives"] += 1
        else:
            self._guard("datagram", self._receive, now, datagram, router)

    def _receive(self, now: Now, datagram: Datagram, router: Callable[[Now, Datagram], bool] | None) -> None:
        if router is not None and router(now, datagram):
            return
        if datagram.local.port == self._port_nat_t:
            kind = classify(datagram.payload, port_4500=True)
            if kind is UdpKind.ESP:
                self._esp = datagram
                self._engine.inbound(now.mono_ns, datagram.payload, datagram.local, datagram.remote)
                self._drain()
                return
            if kind is UdpKind.KEEPALIVE:
                self.counters["nat_keepalive_received"] += 1
                return
        if self.noted is not None:
            self.noted(datagram)
        self._feed(now, datagram)

    def _on_host(self) -> None:
        end_ns = time.monotonic_ns() + _TURN_NS
        try:
            for _ in range(DRAIN):
                packet = self._host.read() if time.monotonic_ns() < end_ns else None
                if packet is None:
                    break
                self.counters["host_received"] += 1
                now = self._time()
                if now is None or self._core is None:
                    self.counters["packets_fenced" if now is None else "packets_between_lives"] += 1
                    continue
                self._guard("packet", self._engine.outbound, now.mono_ns, packet)
                self._drain()
        except PlaneError as error:
            # There will never be a packet again: without this the loop would spin.
            self._loop.remove_reader(self._host.fileno())
            self._report(clock(), Event("host_lost", {"reason": str(error)}, "warning"))
        self._settle()

    def _on_timer(self) -> None:
        self._timer = None
        if (now := self._time()) is not None:
            self._guard("timer", self._engine.expire, now.mono_ns)
            self._drain()
        if (now := self._time()) is not None:
            self._feed(now, Timeout())
            self._settle()

    def _command(self, item: Input) -> None:
        """What does not come from outside waits while the clock stands still."""
        if (now := self._time()) is None:
            self._held.append(item)
            return
        self._feed(now, item)
        self._settle()

    def _feed(self, now: Now, item: Input) -> None:
        core = self._core
        if core is not None:
            self._core_moved = True
            self._guard(type(item).__name__.lower(), core.handle, now, item)
        self._drain()

    def _open(self) -> bool:
        return self._always_open or self._time() is not None

    def _time(self) -> Now | None:
        now = self._clock.enter()
        if now is not None:
            self._last = now
        return now

    # Outputs

    def _drain(self) -> None:
        """Obey all outputs in their order, until endpoint and data plane are both quiet."""
        while self._drain_core() | self._drain_engine():
            pass
        if self._owing and self._open():
            self._owing = False

    def _drain_core(self) -> bool:
        core, some = self._core, False
        # Here and below: the clock is asked before each of them, for a process may be stopped among many and
        # go on with the next; and not where there is none, which for most packets is most of the asking.
        while core is not None and not core.quiet and (now := self._time()) is not None:
            some = True
            if (output := core.poll()) is not None:
                self._guard("output", self._obey, now, output)
        return some

    def _drain_engine(self) -> bool:
        engine, some = self._engine, False
        while engine.sends and self._open() and (datagram := engine.poll_datagram()) is not None:
            self._sockets.send(datagram)
        while engine.delivers and self._open() and (packet := engine.poll_packet()) is not None:
            self.counters["host_sent" if self._host.write(packet) else "host_refused"] += 1
        while engine.reports and (now := self._time()) is not None and (report := engine.poll_report()):
            some = True
            core = self._core
            if self.noted is not None and isinstance(report, UnknownSpi) and self._esp is not None:
                self.noted(self._esp)
            if core is not None:
                self._core_moved = True
                self._guard("report", core.handle, now, report)
        return some

    def _obey(self, now: Now, output: Output) -> None:
        match output:
            case Transmit():
                self._transmit(output)
            case Plane():
                self._engine.apply(now.mono_ns, output.op)
                for event in self._routes.apply(output.op) if self._routes is not None else ():
                    self._report(clock(), event)
            case Persist():
                self._unwritten[output.name] = output.data
                self._write()
            case Record():
                self._enter(output)
            case Event():
                self._report(clock(), output)
                if output.kind == "shutdown_done":
                    self.down.set()
            case CommandDone():
                future = self._tags.pop(output.tag, None)
                if future is not None and not future.done():
                    future.set_result(output)
            case KeyLog():
                if self._keylog is not None:
                    self._keylog.write(output)

    def _transmit(self, output: Transmit) -> None:
        if self._owing or (self._unwritten and not (self._write() and self._open())):
            # It may rest on what could not be made durable, or was not before the clock stood still: lost
            # now, retransmitted later.
            self.counters["transmit_held_by_state"] += 1
            return
        self._transmitted += self._sockets.send(output.datagram)

    def _write(self) -> bool:
        for name in list(self._unwritten):
            try:
                self._store.put(name, self._unwritten[name])
            except OSError as error:
                self.counters["state_write_failed"] += 1
                fields = {"name": name, "reason": error.strerror or str(error)}
                self._report(clock(), Event("state_write_failed", fields, "warning"))
                return False
            del self._unwritten[name]
        return True

    def _enter(self, record: Record) -> None:
        """A record for the ledger. What is said in this turn may rest on a promise that can't be kept, and is
        not sent; but a ledger that stays full costs what its tables are for, not the gateway.
        """
        try:
            self._ledger.write(record.table, record.key, record.value, durable=record.durable)
            self._ledger_fails = False
        except OSError as error:
            self._owing |= record.durable
            self.counters["ledger_write_failed"] += 1
            if not self._ledger_fails:
                self._ledger_fails = True
                fields: dict[str, Field] = {"table": record.table, "reason": error.strerror or str(error)}
                self._report(clock(), Event("ledger_write_failed", fields, "warning"))

    # Time

    def _settle(self) -> None:
        """After any input: everything obeyed, the timer set for what comes first."""
        self._drain()
        for event in self._routes.settle() if self._routes is not None else ():
            self._report(clock(), event)
        if isinstance(self._host, UnixHost) and self._host.waiting and self._flush is None:
            self._flush = self._loop.call_later(_FLUSH_S, self._on_flush)
        if self._core_moved:
            self._core_due, self._core_moved = None if self._core is None else self._core.deadline(), False
        due = min((d.at_ns for d in (self._engine.deadline(), self._core_due) if d is not None), default=None)
        # With each packet deadlines move on. A timer that is early costs one look; moving it, each time one.
        if due is None or (self._timer is not None and self._timer_ns <= due) or self._time() is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        # A deadline that an error left in the past must not make the loop spin.
        at_s = max(self._clock.loop_s(due), self._not_before_s)
        self._timer, self._timer_ns = self._loop.call_at(at_s, self._on_timer), due

    def _on_flush(self) -> None:
        self._flush = None
        if isinstance(self._host, UnixHost):
            self._host.flush()
        self._settle()

    def _guard(self, what: str, work: Callable[[*Args], None], *args: *Args) -> None:
        """Do the work. An exception is a mistake of ours: reported once for each place, without its text,
        which might quote what a peer or a file holds.
        """
        try:
            work(*args)
        except Exception as error:
            self.counters[f"exception_{what}"] += 1
            self._not_before_s = self._loop.time() + _AFTER_ERROR_S
            where = places(error.__traceback__)
            key = (type(error).__name__, *where)
            if key in self._seen_errors or len(self._seen_errors) >= 1000:
                return
            self._seen_errors.add(key)
            fields: dict[str, Field] = {"during": what, "error": type(error).__name__, "at": list(where)}
            self._report(clock(), Event("internal_error", fields, "warning"))


def _sorted(counters: Mapping[str, int]) -> dict[str, int]:
    return {str(name): counters[name] for name in sorted(counters)}
