"""A cluster of whole gateways behind a balancer, and clients with tunnels to it, in virtual time.

Each member is a real endpoint behind a real gate, with a real membership over the simulated store; it does
what the real gateway's glue does (`deadpeer.gateway.cluster`). What any member says in the clear is held
against what all others have, by `tests.support.witness`: that is the invariant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from zlib import crc32

from tests.support.clients import INNER, Client
from tests.support.cluster import CLUSTER, CLUSTER_KEY, Alarm, Member, World, mortal
from tests.support.node import CrashLedger, Node
from tests.support.pair import ESP_PROPOSAL, connection, host_selector
from tests.support.simstore import S
from tests.support.witness import Witness

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
from deadpeer.cluster.router import trace
from deadpeer.cluster.secrets import ClusterSecrets, Sealer
from deadpeer.cluster.store import Input as Heard
from deadpeer.cluster.unanswered import Unanswered, changed, keep_s
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.shared import ClusterLife
from deadpeer.crypto import Identity, SeededEntropy
from deadpeer.ike.connection import ChildConfig, CloseAction, Connection, EndpointConfig, Lifetime
from deadpeer.ike.endpoint import Endpoint
from deadpeer.ike.io import ExtensionCommand, Initiate, Input
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.memory import MemoryHost
from deadpeer.store import MemoryStore
from deadpeer.values import Datagram, Now
from deadpeer.wire import TrafficSelector

VIP = "192.0.2.2"
PORTS = (500, 4500)


@dataclass
class Gateway(Member):
    """A member that serves."""

    node: Node | None = None
    gate: Gate | None = None
    life: ClusterLife | None = None
    forwarder: Forwarder | None = None
    forwards: bool = True
    store: MemoryStore = field(default_factory=MemoryStore)
    ledger: CrashLedger = field(default_factory=CrashLedger)
    waiting: list[Datagram] = field(default_factory=list)
    """What its socket holds while it is frozen."""
    owed: ClusterSecrets | None = None
    """To be used as soon as the fence is open."""
    stumbles: bool = False
    """It is stopped at its next datagram, between the look at its fence and the sending."""
    late: list[Datagram] = field(default_factory=list)
    """What it was about to send when it was stopped."""
    dozing: bool = False
    """Something may be due, and the fence was closed."""
    defers: bool = True
    """It takes questions up again that it could not answer when they came."""
    sent: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.node_alarm = Alarm(self.world)
        self.unanswered = Unanswered(keep_s(self.ttl_s))
        self.again_alarm = Alarm(self.world)

    @property
    def fleet(self) -> Fleet:
        assert isinstance(self.world, Fleet)
        return self.world

    @property
    def table(self) -> Endpoint | None:
        """Its SAs."""
        return None if self.node is None else self.node.endpoint

    @property
    def was_over_ns(self) -> int | None:
        """When the store last said that no life of this number goes on, true time."""
        return self.world.over_ns.get(self.number)

    def crash(self) -> None:
        super().crash()
        self._end()
        self.ledger.crash(self.world.dice)
        self.waiting.clear()

    @mortal
    def thaw(self) -> None:
        """What was about to be sent, then the socket's queue: that is what a process that goes on does."""
        self.frozen = self.asleep = False
        if self.late:
            self._emit(self.late.pop(0), late=True)
        waiting, self.waiting = self.waiting, []
        for datagram in waiting:
            self.arrive(datagram)
        super().thaw()
        self.work(None)

    @mortal
    def step(self, item: Heard | None) -> None:
        super().step(item)
        if self.dozing or self.late or self.owed is not None:
            self.work(None)
        self.wake()

    @mortal
    def arrive(self, datagram: Datagram) -> None:
        """From the balancer."""
        if self.frozen:
            if not self.asleep:
                self.waiting.append(datagram)
            return
        now = self.now()
        if now is None or self.node is None or self.life is None:
            return
        assert isinstance(self.life.ownership, Cluster)
        foreign = trace(datagram, self.life.ownership, self.node.endpoint, 4500)
        if foreign is not None and self.defers:
            self.unanswered.remember(self.clock_ns(), datagram, foreign)
        if foreign is not None and foreign.leased and self.forwards:
            assert self.forwarder is not None and self.process is not None
            octets = self.forwarder.wrap(now.mono_ns, foreign.member, self.process.view, datagram)
            if isinstance(octets, bytes):
                self.fleet.pass_on(self, foreign.member, octets)
            return
        self.node.take(now, datagram)
        self.finish(now)

    @mortal
    def arrive_forwarded(self, octets: bytes) -> None:
        """From another member."""
        now = self.now()
        if self.frozen or now is None or self.node is None or self.forwarder is None or self.process is None:
            return
        found = self.forwarder.unwrap(octets, self.process.view)
        if isinstance(found, Forwarded):
            self.node.take(now, found.datagram)
            self.finish(now)

    @mortal
    def work(self, item: Input | None) -> None:
        """A command, or what is due."""
        now = self.now()
        if self.frozen or now is None or self.node is None:
            return
        late, self.late = self.late, []
        for datagram in late:
            self._emit(datagram, late=True)
        if (secrets := self.owed) is not None:
            self.owed = None
            change = ExtensionCommand("cluster", "secrets", secrets.version, SecretsChanged(secrets))
            self.node.endpoint.handle(now, change)
        if item is not None:
            self.node.endpoint.handle(now, item)
        self.dozing = False
        self.node.due(now)
        self.finish(now)
        self.wake()

    @mortal
    def again(self) -> None:
        """Questions that had to wait, as if they came now."""
        while not self.frozen and self.now() is not None and self.life is not None:
            question = self.unanswered.next(self.clock_ns(), self.life.ownership)
            if question is None:
                break
            before = self.sent
            self.arrive(question)
            if self.sent == before:
                self.unanswered.unheard(self.clock_ns())
        self.wake()

    def wake(self) -> None:
        """Soon, if something is known that was not known before; or when a pause is over."""
        now_ns, due_ns = self.clock_ns(), self.unanswered.deadline()
        if self.frozen or self.now() is None:
            return
        if self.unanswered.due(now_ns):
            self.again_alarm.set(1000, self.again)
        elif due_ns is not None:
            self.again_alarm.set(int((due_ns - now_ns) / (1 + self.drift)) + 1000, self.again)

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
        if self.gate is gate and (due := node.deadline_ns()) is not None:
            left_ns = max(0, gate.outside_ns(due) - self.clock_ns())
            self.node_alarm.set(int(left_ns / (1 + self.drift)) + 1000, self._timeout)

    def obey(self, process: Membership, output: Output) -> None:
        super().obey(process, output)
        match output:
            case LifeBegins(epoch=epoch, secrets=secrets):
                self._begin(process, epoch, secrets)
            case LifeOver():
                self._end()
            case ViewChanged(view=view):
                # Fenced or not: what is known of others may grow while the core stands still.
                if self.life is not None and isinstance(self.life.ownership, Cluster):
                    before, self.life.ownership.view = self.life.ownership.view, view
                    self.unanswered.look(changed(before, view))
                    self.wake()
            case _:
                pass

    def adopt(self, process: Membership, secrets: ClusterSecrets) -> None:
        self.owed = secrets

    def _timeout(self) -> None:
        self.dozing = True
        self.work(None)

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
        self.owed = None
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
        host = MemoryHost(echo=True)
        self.node = Node(endpoint, EspEngine(entropy), host, self.store, self.ledger, self.point)
        self.finish(now)

    def _end(self) -> None:
        self.node = self.gate = self.life = self.owed = None
        self.dozing = False
        self.late.clear()
        self.unanswered.forget()

    def _send(self, datagram: Datagram) -> None:
        self.point("before a datagram is sent")
        if self.stumbles:
            self.stumbles, self.frozen = False, True
        self.sent += 1
        if self.frozen:
            self.late.append(datagram)
        else:
            self._emit(datagram, late=False)

    def _emit(self, datagram: Datagram, *, late: bool) -> None:
        self.fleet.said(self, datagram, late=late)
        self.fleet.deliver(datagram)


class Fleet(World):
    """Members, a balancer, clients."""

    def __init__(
        self,
        seed: int,
        members: int = 3,
        clients: int = 3,
        ttl_s: int = 5,
        extensions: Sequence[object] = (),
        options: CrashOptions | None = None,
        close_action: CloseAction = "none",
    ) -> None:
        """`close_action`: what a client does when a member deletes its tunnel."""
        self.options = options or CrashOptions()
        self.extensions = tuple(extensions)
        self.close_action: CloseAction = close_action
        self.latency_s = 0.010
        self.loss = 0.0
        """The share of datagrams between clients and members that get lost."""
        self.ttl_s = ttl_s
        self.gateways: list[Gateway] = []
        self.walls: set[frozenset[int]] = set()
        """Pairs of members that can't reach each other."""
        self.ghosts: list[Gateway] = []
        """Machines whose number another one has taken, and that may run all the same."""
        self.listeners: list[Callable[[Datagram], None]] = []
        """Who sees what goes on between clients and members."""
        super().__init__(seed, members, ttl_s)
        self.witness = Witness(self.violations)
        self.gateways = [m for m in self.members if isinstance(m, Gateway)]
        self.table: dict[str, int] = {}
        """Where the balancer sends each client's packets."""
        self.clients = [self._client(number) for number in range(clients)]
        self._of_host = {client.host: client for client in self.clients}

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
        child = replace(child, close_action=self.close_action)
        made = connection("home", (host, VIP), f"c{number}.example", "gw.example", (child,))
        store, ledger = MemoryStore(), CrashLedger()
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
        assert [c.number for c in self.clients if 1 not in c.node.done or not c.node.done[1].ok] == []
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

    @property
    def everybody(self) -> list[Gateway]:
        """Whoever may serve."""
        return self.gateways + self.ghosts if self.ghosts else self.gateways

    def replace(self, number: int, machine: str) -> Gateway:
        """Another machine gets this member's number, and its packets; the one that had it is not stopped."""
        ghost = self.gateways[number]
        made = Gateway(self, number, machine, ghost.drift, self.ttl_s)
        made.watch_delay_s, made.forwards = ghost.watch_delay_s, ghost.forwards
        self.ghosts.append(ghost)
        self.gateways[number] = made
        return made

    def rebalance(self, host: str, member: int) -> None:
        """The balancer sends this client's packets elsewhere."""
        self.table[host] = member

    def evacuate(self) -> None:
        """The balancer takes out the members that do not serve."""
        serving = [g.number for g in self.gateways if g.serves]
        for host, member in self.table.items():
            if serving and member not in serving:
                self.table[host] = serving[crc32(host.encode()) % len(serving)]

    # --- the network -----------------------------------------------------------------------------

    def to_cluster(self, datagram: Datagram) -> None:
        """From a client, through the balancer."""
        self._overheard(datagram)
        arrived = Datagram(datagram.payload, datagram.remote, datagram.local)
        target = self.gateways[self.table[datagram.local.host]]
        if not self._lost():
            self.at(int(self.latency_s * S), lambda: target.arrive(arrived))

    def inject(self, member: int, datagram: Datagram) -> None:
        """Somebody's datagram reaches a member directly: `local` is what it says its sender is."""
        self.gateways[member].arrive(Datagram(datagram.payload, datagram.remote, datagram.local))

    def deliver(self, datagram: Datagram) -> None:
        """From a member, or who says that he is one, straight to the client."""
        self._overheard(datagram)
        arrived = Datagram(datagram.payload, datagram.remote, datagram.local)
        client = self._of_host.get(datagram.remote.host)
        if client is not None and not self._lost():
            self.at(int(self.latency_s * S), lambda: client.arrive(arrived))

    def pass_on(self, sender: Gateway, to: int, octets: bytes) -> None:
        """From member to member."""
        target = self.gateways[to]
        if frozenset((sender.number, to)) not in self.walls:
            self.at(S // 1000, lambda: target.arrive_forwarded(octets))

    def _overheard(self, datagram: Datagram) -> None:
        for listener in self.listeners:
            listener(datagram)

    def _lost(self) -> bool:
        return self.loss > 0 and self.dice.random() < self.loss

    # --- the invariant ---------------------------------------------------------------------------

    @property
    def told(self) -> int:
        """How many tokens and denials members have told strangers."""
        return self.witness.told

    def said(self, speaker: Gateway, datagram: Datagram, *, late: bool = False) -> None:
        """A datagram leaves a member."""
        self.witness.heard(self.now_ns, speaker, datagram, self.everybody, late=late)

    def run(self, seconds: float) -> None:
        super().run(seconds)
        self.witness.look_again(self.now_ns, self.everybody)


def _child(local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> ChildConfig:
    return ChildConfig(
        name="net",
        local_ts=local,
        remote_ts=remote,
        esp_proposals=(ESP_PROPOSAL,),
        lifetime=Lifetime(rekey_s=0, life_s=0, jitter_s=0),
        dpd_action="restart",
    )
