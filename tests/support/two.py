"""Two gateways with one address, moved by somebody else, and a client: whole endpoints in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.support.fleet import INNER, VIP, Node, _child
from tests.support.pair import connection, host_selector

from deadpeer.assembly import build_endpoint
from deadpeer.cluster.fence import Gate
from deadpeer.cluster.membership import LifeBegins, LifeOver, PersistEpoch, Trouble
from deadpeer.cluster.ownership import AddressHeld
from deadpeer.cluster.router import trace
from deadpeer.cluster.secrets import Sealer
from deadpeer.cluster.standby import (
    BELIEVE_S,
    PartnerLives,
    Standby,
    ToPartner,
    shared_secrets,
)
from deadpeer.cluster.standby_map import ShownLedger
from deadpeer.cluster.unanswered import Unanswered, keep_s
from deadpeer.crash.options import CrashOptions, Method, PolicyOptions
from deadpeer.crash.shared import ClusterLife
from deadpeer.crash.spi_records import TABLE
from deadpeer.crypto import SeededEntropy
from deadpeer.ike.connection import EndpointConfig
from deadpeer.ike.io import ExtensionCommand, Initiate
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.memory import MemoryHost
from deadpeer.plane.packets import echo_request
from deadpeer.store import MemoryLedger, MemoryStore
from deadpeer.values import Datagram, Now
from deadpeer.wire import NotifyType, decode_message

S = 1_000_000_000
KEY = bytes(range(32))
ALICE = "198.51.100.1"
QCD = (PolicyOptions((Method.QCD, Method.LIVENESS)),)


@dataclass
class One:
    """One of the two."""

    site: Site
    number: int
    disk_epoch: int = 0
    process: Standby | None = None
    gate: Gate | None = None
    node: Node | None = None
    lives: list[int] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    has_address: bool = False
    stopped: bool = False
    ownership: AddressHeld | None = None
    waiting: list[Callable[[], None]] = field(default_factory=list)
    """What the partner said meanwhile, in the socket."""
    unanswered: Unanswered = field(default_factory=lambda: Unanswered(keep_s(BELIEVE_S)))

    def boot(self) -> None:
        entropy = SeededEntropy(f"{self.number} {self.disk_epoch}".encode())
        self.process = Standby(self.number, self.disk_epoch, [KEY], entropy)

    def crash(self) -> None:
        self.process = self.gate = self.node = self.ownership = None
        self.unanswered.forget()

    def address(self, held: bool) -> None:
        self.has_address = held
        if self.process is not None and not self.stopped:
            self.process.address(self.site.now_ns, held)
            self.finish()

    def finish(self) -> None:
        """Obey everything, arm the timers."""
        process = self.process
        if process is None:
            return
        while (output := process.poll()) is not None:
            match output:
                case PersistEpoch(epoch=epoch):
                    self.disk_epoch = epoch
                    process.persisted(self.site.now_ns)
                case LifeBegins(epoch=epoch):
                    self.lives.append(epoch)
                    self._begin(process, epoch)
                case LifeOver():
                    self.node = self.gate = self.ownership = None
                    self.unanswered.forget()
                case ToPartner(octets=octets, asks=asks):
                    self.site.to_partner(self, octets)
                    if asks:
                        process.asked(self.site.now_ns)
                case PartnerLives() if self.node is not None:
                    self.node.endpoint.handle(
                        Now(self.site.now_ns, 1e9), ExtensionCommand("cluster", "partner", 0, output)
                    )
                    self.unanswered.look({1 - self.number})
                    self.site.at(0, self._again)
                case Trouble(kind=kind):
                    self.troubles.append(kind)
        self._work()
        if (due := process.deadline()) is not None:
            self.site.at(due - self.site.now_ns, lambda: self._expire(process))

    def look(self) -> None:
        """It looks for the address twice a second."""
        if self.process is not None and not self.stopped:
            self.process.address(self.site.now_ns, self.has_address)
            self.finish()
        self.site.at(S // 2, self.look)

    def thaw(self) -> None:
        """It goes on: news of its address first, then whatever waits."""
        self.stopped = False
        self.address(self.has_address)
        waiting, self.waiting = self.waiting, []
        for arrive in waiting:
            arrive()

    def _expire(self, process: Standby) -> None:
        if self.process is process and not self.stopped:
            process.expire(self.site.now_ns)
            self.finish()

    def _begin(self, process: Standby, epoch: int) -> None:
        entropy = SeededEntropy(f"life {self.number} {epoch}".encode())
        life = ClusterLife(self.number, epoch, shared_secrets([KEY]), Sealer(KEY, "standby"), entropy)
        assert isinstance(life.ownership, AddressHeld)
        self.gate, self.ownership = Gate(process), life.ownership
        made = connection("net", (VIP, ALICE), "gw.example", "a.example", (self.site.child(served=True),))
        store = MemoryStore()
        endpoint = build_endpoint(
            Now(self.site.now_ns, 1e9), EndpointConfig(local_hosts=(VIP,)),
            [replace(made, extensions=self.site.extensions)], entropy, store, self.site.options, life=life,
            partners_map=process.map.hand_over(self.site.now_ns),
        )  # fmt: skip
        ledger = ShownLedger(MemoryLedger(), TABLE, process.map.note)
        self.node = Node(endpoint, EspEngine(entropy), MemoryHost(echo=True), store, ledger)

    def take(self, datagram: Datagram) -> None:
        node, now = self.node, None if self.stopped else self._now()
        if node is not None and now is not None and self.ownership is not None:
            foreign = trace(datagram, self.ownership, node.endpoint, 4500)
            if foreign is not None:
                self.unanswered.remember(self.site.now_ns, datagram, foreign)
            node.take(now, datagram)
            self._work()

    def _again(self) -> None:
        """As they came, now that more is known of the partner."""
        while self.ownership is not None and self.unanswered.due(self.site.now_ns):
            if (datagram := self.unanswered.next(self.site.now_ns, self.ownership)) is not None:
                self.take(datagram)

    def _now(self) -> Now | None:
        return None if self.gate is None else self.gate.enter(self.site.now_ns, 1e9)

    def _work(self) -> None:
        node, gate, now = self.node, self.gate, None if self.stopped else self._now()
        if node is None or gate is None or now is None:
            return
        node.due(now)
        node.drain(now, lambda datagram: self.site.from_gateway(self, datagram))
        if (due := node.deadline_ns()) is not None:
            self.site.at(gate.outside_ns(due) - self.site.now_ns, self._work)


class Site:
    """Both, the address between them, and a client."""

    def __init__(self, *extensions: object, options: CrashOptions | None = None) -> None:
        self.now_ns = S
        self.options = options or CrashOptions()
        self.extensions = extensions
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self.apart = False
        """The two can't hear each other."""
        self.delivers_to = 0
        self.tokens = 0
        self.violations: list[str] = []
        self.ones = [One(self, 0), One(self, 1)]
        store, entropy = MemoryStore(), SeededEntropy(b"client")
        made = connection("home", (ALICE, VIP), "a.example", "gw.example", (self.child(served=False),))
        endpoint = build_endpoint(
            Now(self.now_ns, 1e9), EndpointConfig(local_hosts=(ALICE,)),
            [replace(made, extensions=extensions)], entropy, store,
        )  # fmt: skip
        self.client = Node(endpoint, EspEngine(entropy), MemoryHost(), store, MemoryLedger())

    def child(self, *, served: bool):  # type: ignore[no-untyped-def]
        ours, theirs = (INNER, "10.1.0.1") if served else ("10.1.0.1", INNER)
        return _child(local=(host_selector(ours),), remote=(host_selector(theirs),))

    def up(self) -> Site:
        for one in self.ones:
            one.boot()
            one.look()
        self.ones[0].address(True)
        self.run(0.5)
        self._client(Initiate("home", None, 1))
        self.run(0.5)
        assert self.client.done[1].ok
        return self

    def process(self, number: int) -> Standby:
        """What runs at one of them."""
        process = self.ones[number].process
        assert process is not None
        return process

    def move(self, to: int) -> None:
        """The address goes from one to the other, and the network knows."""
        self.ones[1 - to].address(False)
        self.delivers_to = to
        self.ones[to].address(True)

    def die(self) -> None:
        """The active one dies, and the network leads to the other, who does not have the address yet."""
        self.ones[0].crash()
        self.ones[0].address(False)
        self.delivers_to = 1

    def at(self, delay_ns: int, work: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (self.now_ns + max(0, delay_ns) + 1000, self._serial, work))

    def run(self, seconds: float) -> None:
        end = self.now_ns + int(seconds * S)
        while self._events and self._events[0][0] <= end:
            self.now_ns, _, work = heapq.heappop(self._events)
            work()
        self.now_ns = end

    def traffic(self, seconds: float) -> int:
        """How many of the client's echoes came back."""
        before = len(self.client.behind.received)
        for seq in range(int(seconds / 0.02)):
            self.client.behind.send(echo_request("10.1.0.1", INNER, 7, seq, b"deadpeer"))
            self._client(None)
            self.run(0.02)
        return len(self.client.behind.received) - before

    def verdicts(self) -> list[object]:
        return [e.fields["proof"] for _, e in self.client.events if e.kind == "verdict"]

    def _client(self, item: Initiate | None) -> None:
        now = Now(self.now_ns, 1e9)
        if item is not None:
            self.client.endpoint.handle(now, item)
        self.client.due(now)
        self.client.drain(now, self._to_gateway)
        if (due := self.client.deadline_ns()) is not None:
            self.at(due - self.now_ns, lambda: self._client(None))

    def _to_gateway(self, datagram: Datagram) -> None:
        arrived = Datagram(datagram.payload, datagram.remote, datagram.local)
        self.at(S // 100, lambda: self.ones[self.delivers_to].take(arrived))

    def from_gateway(self, one: One, datagram: Datagram) -> None:
        self._watch(one, datagram)
        arrived = Datagram(datagram.payload, datagram.remote, datagram.local)

        def arrive() -> None:
            self.client.take(Now(self.now_ns, 1e9), arrived)
            self._client(None)

        self.at(S // 100, arrive)

    def to_partner(self, sender: One, octets: bytes) -> None:
        other = self.ones[1 - sender.number]

        def arrive() -> None:
            if other.process is None or self.apart:
                return
            if other.stopped:
                other.waiting.append(arrive)
                return
            other.process.receive(self.now_ns, octets)
            other.finish()

        self.at(S // 1000, arrive)

    def _watch(self, one: One, datagram: Datagram) -> None:
        if datagram.payload[:4] != bytes(4):
            return
        message = decode_message(datagram.payload[4:])
        if not message.notifies(NotifyType.QCD_TOKEN):
            return
        self.tokens += 1
        for other in self.ones:
            # A process that was stopped asks the kernel for its address before it serves anything.
            if not other.has_address or other.node is None:
                continue
            if other.node.endpoint.find(message.spi_i, message.spi_r) is not None:
                self.violations.append(f"{one.number} told a token of a living SA of {other.number}")
