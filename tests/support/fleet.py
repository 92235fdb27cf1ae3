"""A cluster of whole gateways behind a balancer, and clients with tunnels to it, in virtual time.

Each member is a real endpoint behind a real gate, with a real membership over the simulated store. What any
member says in the clear is held against what all others have: that is the invariant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from tests.support.cluster import CLUSTER, CLUSTER_KEY, Member, World
from tests.support.pair import ESP_PROPOSAL, connection, host_selector

from deadpeer.assembly import build_endpoint
from deadpeer.cluster.fence import Gate
from deadpeer.cluster.forward import Forwarded, Forwarder
from deadpeer.cluster.membership import (
    LifeBegins,
    LifeOver,
    Membership,
    Output,
    SecretsChanged,
    ViewChanged,
)
from deadpeer.cluster.ownership import Cluster
from deadpeer.cluster.router import owner_of
from deadpeer.cluster.secrets import ClusterSecrets, Sealer
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.shared import ClusterLife
from deadpeer.crash.sir_wire import CHECK_SPI, Verb
from deadpeer.crypto import Identity, SeededEntropy
from deadpeer.ike.connection import ChildConfig, Connection, EndpointConfig, Lifetime
from deadpeer.ike.endpoint import Endpoint
from deadpeer.ike.io import (
    CommandDone,
    Event,
    ExtensionCommand,
    Initiate,
    Input,
    Persist,
    Plane,
    Record,
    Timeout,
    Transmit,
)
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.memory import MemoryHost
from deadpeer.plane.packets import echo_request
from deadpeer.store import MemoryLedger, MemoryStore
from deadpeer.values import Datagram, Now
from deadpeer.wire import (
    NON_ESP_MARKER,
    Notify,
    NotifyType,
    TrafficSelector,
    UdpKind,
    WireError,
    classify,
    decode_message,
)

VIP = "192.0.2.2"
INNER = "10.10.2.1"
S = 1_000_000_000
PORTS = (500, 4500)


@dataclass
class Node:
    """An endpoint and its data plane, whatever it is part of."""

    endpoint: Endpoint
    engine: EspEngine
    behind: MemoryHost
    store: MemoryStore
    ledger: MemoryLedger
    events: list[tuple[int, Event]] = field(default_factory=list)
    done: dict[int, CommandDone] = field(default_factory=dict)

    def take(self, now: Now, datagram: Datagram) -> None:
        """A datagram arrives."""
        if datagram.local.port == 4500 and classify(datagram.payload, True) is UdpKind.ESP:
            self.engine.inbound(now.mono_ns, datagram.payload, datagram.local, datagram.remote)
        else:
            self.endpoint.handle(now, datagram)

    def due(self, now: Now) -> None:
        """Do what is due."""
        if (due := self.engine.deadline()) is not None and due.at_ns <= now.mono_ns:
            self.engine.expire(now.mono_ns)
        if (due := self.endpoint.deadline()) is not None and due.at_ns <= now.mono_ns:
            self.endpoint.handle(now, Timeout())

    def deadline_ns(self) -> int | None:
        """When something is due, by the core's clock."""
        due = [d.at_ns for d in (self.endpoint.deadline(), self.engine.deadline()) if d is not None]
        return min(due, default=None)

    def drain(self, now: Now, send: Callable[[Datagram], None]) -> None:
        """Obey all outputs."""
        busy = True
        while busy:
            busy = False
            while (output := self.endpoint.poll()) is not None:
                busy = True
                match output:
                    case Transmit():
                        send(output.datagram)
                    case Plane():
                        self.engine.apply(now.mono_ns, output.op)
                    case Event():
                        self.events.append((now.mono_ns, output))
                    case CommandDone():
                        self.done[output.tag] = output
                    case Persist():
                        self.store.put(output.name, output.data)
                    case Record():
                        self.ledger.write(output.table, output.key, output.value, durable=output.durable)
                    case _:
                        pass
            while (datagram := self.engine.poll_datagram()) is not None:
                busy = True
                send(datagram)
            while (packet := self.engine.poll_packet()) is not None:
                busy = True
                self.behind.write(packet)
            while (report := self.engine.poll_report()) is not None:
                busy = True
                self.endpoint.handle(now, report)
            while (packet := self.behind.read()) is not None:
                busy = True
                self.engine.outbound(now.mono_ns, packet)


@dataclass
class Gateway(Member):
    """A member that serves."""

    node: Node | None = None
    gate: Gate | None = None
    life: ClusterLife | None = None
    forwarder: Forwarder | None = None
    forwards: bool = True
    store: MemoryStore = field(default_factory=MemoryStore)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    waiting: list[Datagram] = field(default_factory=list)
    """What its socket holds while it is frozen."""

    @property
    def fleet(self) -> Fleet:
        assert isinstance(self.world, Fleet)
        return self.world

    def crash(self) -> None:
        super().crash()
        self.node = self.gate = self.life = None
        self.waiting.clear()

    def thaw(self) -> None:
        """The socket's queue first: that is what a process that goes on would serve."""
        self.frozen = False
        waiting, self.waiting = self.waiting, []
        for datagram in waiting:
            self.arrive(datagram)
        super().thaw()
        self.work(None)

    def arrive(self, datagram: Datagram) -> None:
        """From the balancer."""
        if self.frozen:
            self.waiting.append(datagram)
            return
        now = self.now()
        if now is None or self.node is None or self.life is None:
            return
        if self.forwards and self.forwarder is not None and self.process is not None:
            assert isinstance(self.life.ownership, Cluster)
            owner = owner_of(datagram, self.life.ownership, self.node.endpoint, 4500)
            if owner is not None:
                octets = self.forwarder.wrap(now.mono_ns, owner, self.process.view, datagram)
                if isinstance(octets, bytes):
                    self.fleet.pass_on(self, owner, octets)
                return
        self.node.take(now, datagram)
        self.finish(now)

    def arrive_forwarded(self, octets: bytes) -> None:
        """From another member."""
        now = self.now()
        if self.frozen or now is None or self.node is None or self.forwarder is None or self.process is None:
            return
        found = self.forwarder.unwrap(octets, self.process.view)
        if isinstance(found, Forwarded):
            self.node.take(now, found.datagram)
            self.finish(now)

    def work(self, item: Input | None) -> None:
        """A command, or what is due."""
        now = self.now()
        if self.frozen or now is None or self.node is None:
            return
        if item is not None:
            self.node.endpoint.handle(now, item)
        self.node.due(now)
        self.finish(now)

    def now(self) -> Now | None:
        """The core's time, if the gate is open."""
        return None if self.gate is None else self.gate.enter(self.clock_ns(), self.world.unix_s)

    def finish(self, now: Now) -> None:
        """Obey, and arm the next timer."""
        node, gate = self.node, self.gate
        if node is None or gate is None:
            return
        node.drain(now, self._send)
        self._acknowledge(node)
        if (due := node.deadline_ns()) is not None:
            left_ns = max(0, gate.outside_ns(due) - self.clock_ns())

            def fire() -> None:
                if self.node is node:
                    self.work(None)

            self.world.at(int(left_ns / (1 + self.drift)) + 1000, fire)

    def obey(self, process: Membership, output: Output) -> None:
        super().obey(process, output)
        match output:
            case LifeBegins(epoch=epoch, secrets=secrets):
                self._begin(process, epoch, secrets)
            case LifeOver():
                self.node = self.gate = self.life = None
            case ViewChanged():
                self.work(ExtensionCommand("cluster", "view", 0, output))
            case _:
                pass
        if self.node is not None:
            self.work(None)

    def adopt(self, process: Membership, secrets: ClusterSecrets) -> None:
        self.work(ExtensionCommand("cluster", "secrets", secrets.version, SecretsChanged(secrets)))

    def _acknowledge(self, node: Node) -> None:
        for version in [tag for tag, done in node.done.items() if done.ok and tag]:
            del node.done[version]
            if self.process is not None:
                self.process.acknowledge(self.clock_ns(), self.world.unix_s, version)
                self.step(None)

    def _begin(self, process: Membership, epoch: int, secrets: ClusterSecrets) -> None:
        entropy = SeededEntropy(self.world.dice.getrandbits(64))
        sealer = Sealer(CLUSTER_KEY, CLUSTER)
        self.life = ClusterLife(self.number, epoch, secrets, sealer, entropy, process.view)
        self.forwarder = Forwarder(sealer.derive("forward"), self.number, epoch, PORTS, entropy)
        self.gate = Gate(process.fence)
        now = self.gate.enter(self.clock_ns(), self.world.unix_s) or Now(self.clock_ns(), self.world.unix_s)
        endpoint = build_endpoint(
            now,
            EndpointConfig(local_hosts=(VIP,)),
            [self.fleet.served()],
            entropy,
            self.store,
            self.fleet.options,
            ledger=self.ledger,
            machine_id=self.machine.encode(),
            life=self.life,
        )
        self.node = Node(endpoint, EspEngine(entropy), MemoryHost(echo=True), self.store, self.ledger)
        self.finish(now)

    def _send(self, datagram: Datagram) -> None:
        self.fleet.said(self, datagram)
        self.fleet.deliver(datagram)


@dataclass
class Client:
    """A peer of the cluster with a tunnel to it."""

    fleet: Fleet
    number: int
    node: Node

    @property
    def host(self) -> str:
        return f"198.51.100.{self.number + 1}"

    @property
    def inner(self) -> str:
        return f"10.1.0.{self.number + 1}"

    def now(self) -> Now:
        return Now(self.fleet.now_ns + 5000 * S, self.fleet.unix_s)

    def work(self, item: Input | None = None) -> None:
        """A command, or what is due."""
        now = self.now()
        if item is not None:
            self.node.endpoint.handle(now, item)
        self.node.due(now)
        self.node.drain(now, self.fleet.to_cluster)
        if (due := self.node.deadline_ns()) is not None:
            self.fleet.at(max(0, due - now.mono_ns) + 1000, self.work)

    def arrive(self, datagram: Datagram) -> None:
        now = self.now()
        self.node.take(now, datagram)
        self.work()

    def send(self, seq: int = 0) -> None:
        """Its host sends an echo request to the one behind the cluster."""
        self.node.behind.send(echo_request(self.inner, INNER, 7, seq, b"deadpeer"))
        self.work()

    @property
    def heard(self) -> int:
        return len(self.node.behind.received)

    def verdicts(self) -> list[object]:
        return [e.fields["proof"] for _, e in self.node.events if e.kind == "verdict"]


class Fleet(World):
    """Members, a balancer, clients."""

    def __init__(
        self,
        seed: int,
        members: int = 3,
        clients: int = 3,
        ttl_s: int = 5,
        extensions: Sequence[object] = (),
    ) -> None:
        self.options = CrashOptions()
        self.extensions = tuple(extensions)
        self.latency_s = 0.010
        self.ttl_s = ttl_s
        self.forwards = True
        self.revealed: list[tuple[bytes, bytes]] = []
        self.told = 0
        self.captured: list[Datagram] = []
        """Protected requests of clients, as somebody on the path sees them."""
        super().__init__(seed, members, ttl_s)
        self.gateways = [m for m in self.members if isinstance(m, Gateway)]
        self.table: dict[str, int] = {}
        """Where the balancer sends each client's packets."""
        self.clients = [self._client(number) for number in range(clients)]

    def make_member(self, number: int, ttl_s: int) -> Member:
        return Gateway(self, number, f"machine-{number}", ttl_s=ttl_s)

    # --- configuration ---------------------------------------------------------------------------

    def served(self) -> Connection:
        """The members' connection: any peer that knows the key."""
        clients = TrafficSelector(0, 0, 65535, ip_address("10.1.0.0"), ip_address("10.1.255.255"))
        child = _child(local=(host_selector(INNER),), remote=(clients,))
        made = connection("net", (VIP, VIP), "gw.example", "any.example", (child,))
        remote = replace(made.remote, identity=Identity.parse("%any"))
        return replace(made, remote_addrs=(), remote=remote, extensions=self.extensions, dpd_delay_s=0)

    def _client(self, number: int) -> Client:
        host, inner = f"198.51.100.{number + 1}", f"10.1.0.{number + 1}"
        child = _child(local=(host_selector(inner),), remote=(host_selector(INNER),))
        made = connection("home", (host, VIP), f"c{number}.example", "gw.example", (child,))
        store, ledger = MemoryStore(), MemoryLedger()
        entropy = SeededEntropy(self.dice.getrandbits(64))
        endpoint = build_endpoint(
            Now(self.now_ns + 5000 * S, self.unix_s),
            EndpointConfig(local_hosts=(host,)),
            [replace(made, extensions=self.extensions)],
            entropy,
            store,
            self.options,
            ledger=ledger,
        )
        node = Node(endpoint, EspEngine(entropy), MemoryHost(), store, ledger)
        self.table[host] = number % len(self.members)
        return Client(self, number, node)

    # --- stories ---------------------------------------------------------------------------------

    def up(self) -> Fleet:
        """All members serve, all clients have a tunnel."""
        for member in self.members:
            member.boot()
        self.run(max(8.0, 1.3 * self.ttl_s))
        for client in self.clients:
            client.work(Initiate("home", None, 1))
        self.run(1.0)
        assert all(client.node.done[1].ok for client in self.clients)
        return self

    def traffic(self, seconds: float, every_s: float = 0.05) -> None:
        """Every client's host sends an echo request so often."""
        for seq in range(int(seconds / every_s)):
            for client in self.clients:
                client.send(seq)
            self.run(every_s)

    def flows(self) -> list[bool]:
        """For each client, whether an echo comes back."""
        before = [client.heard for client in self.clients]
        self.traffic(1.0, 0.2)
        return [client.heard > old for client, old in zip(self.clients, before, strict=True)]

    def rebalance(self, host: str, member: int) -> None:
        """The balancer sends this client's packets elsewhere."""
        self.table[host] = member

    def evacuate(self) -> None:
        """The balancer takes out the members that do not serve."""
        serving = [g.number for g in self.gateways if g.serves]
        for host, member in self.table.items():
            if serving and member not in serving:
                self.table[host] = serving[hash(host) % len(serving)]

    # --- the network -----------------------------------------------------------------------------

    def to_cluster(self, datagram: Datagram) -> None:
        """From a client, through the balancer."""
        self._capture(datagram)
        arrived = Datagram(datagram.payload, datagram.remote, datagram.local)
        target = self.gateways[self.table[datagram.local.host]]
        self.at(int(self.latency_s * S), lambda: target.arrive(arrived))

    def inject(self, member: int, datagram: Datagram) -> None:
        """Somebody's datagram reaches a member directly: `local` is what it says its sender is."""
        self.gateways[member].arrive(Datagram(datagram.payload, datagram.remote, datagram.local))

    def deliver(self, datagram: Datagram) -> None:
        """From a member, straight to the client."""
        arrived = Datagram(datagram.payload, datagram.remote, datagram.local)
        client = next((c for c in self.clients if c.host == datagram.remote.host), None)
        if client is not None:
            self.at(int(self.latency_s * S), lambda: client.arrive(arrived))

    def pass_on(self, sender: Gateway, to: int, octets: bytes) -> None:
        """From member to member."""
        target = self.gateways[to]
        self.at(S // 1000, lambda: target.arrive_forwarded(octets))

    def _capture(self, datagram: Datagram) -> None:
        payload = datagram.payload
        if payload[:4] == NON_ESP_MARKER and len(self.captured) < 400:
            self.captured.append(datagram)

    # --- the invariant ---------------------------------------------------------------------------

    def said(self, speaker: Gateway, datagram: Datagram) -> None:
        """What a member says in the clear, held against what all members have at this moment."""
        shared = datagram.local.port == 4500
        if classify(datagram.payload, shared) is not UdpKind.IKE:
            return
        try:
            message = decode_message(datagram.payload[4:] if shared else datagram.payload)
        except WireError:
            return
        if message.protected is not None:
            return
        tokens = message.notifies(NotifyType.QCD_TOKEN)
        denials = [n for n in message.all(Notify) if n.type == CHECK_SPI and n.data == bytes([Verb.NACK])]
        if not tokens and not denials:
            return
        self.told += 1
        if tokens:
            self.revealed.append((message.spi_i, message.spi_r))
        self._hold_against(speaker, message.spi_i, message.spi_r, "token" if tokens else "NACK")

    def check(self) -> None:
        super().check()
        for spi_i, spi_r in self.revealed:
            self._hold_against(None, spi_i, spi_r, "token, told before,")

    def _hold_against(self, speaker: Gateway | None, spi_i: bytes, spi_r: bytes, what: str) -> None:
        for gateway in self.gateways:
            if gateway.node is None or not gateway.serves or spi_i == bytes(8):
                continue
            if gateway.node.endpoint.find(spi_i, spi_r) is not None:
                by = "" if speaker is None else f" by {speaker.number}"
                self.violations.append(
                    f"{self.now_ns / S:.3f} s: {what} for a living SA of {gateway.number}{by}"
                )


def _child(local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> ChildConfig:
    return ChildConfig(
        name="net",
        local_ts=local,
        remote_ts=remote,
        esp_proposals=(ESP_PROPOSAL,),
        lifetime=Lifetime(rekey_s=0, life_s=0, jitter_s=0),
        dpd_action="restart",
    )
