"""Two gateways without I/O under a virtual clock: deliver, hold, drop, crash, boot.

pair = Pair.with_psk()
pair.up()                       # alice initiates, bob answers, one child
pair.ping()                     # an echo makes the round trip through the tunnel
pair.crash("bob"); pair.run(1.0); pair.boot("bob")
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from deadpeer.assembly import build_endpoint
from deadpeer.crash.options import CrashOptions
from deadpeer.crypto import Identity, SeededEntropy, parse_proposal
from deadpeer.ike.connection import (
    ChildConfig,
    Connection,
    EndpointConfig,
    Lifetime,
    LocalAuth,
    RemoteAuth,
)
from deadpeer.ike.endpoint import Endpoint
from deadpeer.ike.io import (
    CommandDone,
    Event,
    Initiate,
    Input,
    KeyLog,
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
from deadpeer.values import Address, Datagram, Now
from deadpeer.wire import Protocol, TrafficSelector, UdpKind, classify

IKE_PROPOSAL = parse_proposal("aes256gcm16-prfsha256-x25519-ecp256", Protocol.IKE)
ESP_PROPOSAL = parse_proposal("aes256gcm16", Protocol.ESP)
FOREVER = Lifetime(rekey_s=0, life_s=0, jitter_s=0)
START_NS = 1_000_000_000_000
START_UNIX_S = 1_790_000_000.0


def host_selector(host: str) -> TrafficSelector:
    """Everything from or to one address."""
    address = ip_address(host)
    return TrafficSelector(0, 0, 65535, address, address)


def child_config(name: str = "net", **changes: object) -> ChildConfig:
    """Alice's child: 10.10.1.1 behind her, 10.10.2.1 behind Bob."""
    base = ChildConfig(
        name=name,
        local_ts=(host_selector("10.10.1.1"),),
        remote_ts=(host_selector("10.10.2.1"),),
        esp_proposals=(ESP_PROPOSAL,),
        lifetime=FOREVER,
        dpd_action="restart",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def mirrored(child: ChildConfig) -> ChildConfig:
    """The same child, seen from the other side."""
    return replace(child, local_ts=child.remote_ts, remote_ts=child.local_ts)


@dataclass(frozen=True)
class Sent:
    """One datagram on the wire: when, by whom, why, and what became of it."""

    at_ns: int
    sender: str
    reason: str
    datagram: Datagram
    fate: str


@dataclass
class Side:
    """One gateway: what survives a crash (store, connections, host), and what does not."""

    name: str
    host: str
    connections: list[Connection]
    config: EndpointConfig
    store: MemoryStore = field(default_factory=MemoryStore)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    machine_id: bytes = b"a machine of its own"
    behind: MemoryHost = field(default_factory=lambda: MemoryHost(echo=True))
    options: CrashOptions = field(default_factory=CrashOptions)
    endpoint: Endpoint | None = None
    engine: EspEngine | None = None
    boots: int = 0
    events: list[tuple[int, Event]] = field(default_factory=list)
    done: dict[int, CommandDone] = field(default_factory=dict)
    keylog: list[KeyLog] = field(default_factory=list)

    def kinds(self) -> list[str]:
        """The kinds of the events so far."""
        return [event.kind for _, event in self.events]

    def last(self, kind: str) -> Event:
        """The last event of a kind."""
        return next(event for _, event in reversed(self.events) if event.kind == kind)

    @property
    def ike(self) -> Endpoint:
        """The endpoint, which must be up."""
        assert self.endpoint is not None, f"{self.name} is down"
        return self.endpoint


Rule = Callable[[Sent], bool]


class Nat:
    """A middlebox in front of `inside`: rewrites its source address and port, and back again.

    A mapping is made by what goes out and lives until `forget`; what comes to no mapping is dropped.
    """

    def __init__(self, inside: str, outside: str, first_port: int = 40_000) -> None:
        self.inside, self.outside = inside, outside
        self._next_port = first_port
        self._ports: dict[Address, Address] = {}

    def forget(self) -> None:
        """All mappings expire: what is sent next gets another port."""
        self._ports.clear()

    def translate(self, datagram: Datagram) -> Datagram | None:
        """The datagram as it leaves the middlebox, None if it does not."""
        if datagram.local.host == self.inside:
            if datagram.local not in self._ports:
                self._ports[datagram.local] = Address(self.outside, self._next_port)
                self._next_port += 1
            return Datagram(datagram.payload, self._ports[datagram.local], datagram.remote)
        if datagram.remote.host == self.outside:
            inner = next((i for i, o in self._ports.items() if o == datagram.remote), None)
            return None if inner is None else Datagram(datagram.payload, datagram.local, inner)
        return None if datagram.remote.host == self.inside else datagram


class Pair:
    """Alice and Bob, and a link of `latency_s` seconds each way."""

    def __init__(
        self,
        alice: Sequence[Connection],
        bob: Sequence[Connection],
        *,
        latency_s: float = 0.010,
        seed: int = 1,
        alice_config: EndpointConfig | None = None,
        bob_config: EndpointConfig | None = None,
        hosts: tuple[str, str] = ("192.0.2.1", "192.0.2.2"),
        options: CrashOptions | None = None,
    ) -> None:
        self.latency_s = latency_s
        self.seed = seed
        self.mono_ns = START_NS
        self.trace: list[Sent] = []
        self.held: list[Sent] = []
        self.drop_rule: Rule = lambda sent: False
        self.hold_rule: Rule = lambda sent: False
        self.delays_rule: Callable[[Sent], Sequence[float]] | None = None
        """How long each copy of a datagram is under way, seconds: () is lost, two are a duplicate."""
        self.nat: Nat | None = None
        """A middlebox in front of Alice."""
        self._flying: list[tuple[int, int, Datagram]] = []
        self._serial = 0
        base = EndpointConfig()
        crash_options = options or CrashOptions()
        self.alice = Side(
            "alice", hosts[0], list(alice), replace(alice_config or base, local_hosts=(hosts[0],)),
            options=crash_options,
        )  # fmt: skip
        self.bob = Side(
            "bob", hosts[1], list(bob), replace(bob_config or base, local_hosts=(hosts[1],)),
            options=crash_options,
        )  # fmt: skip
        self.boot("alice")
        self.boot("bob")

    @classmethod
    def with_psk(
        cls,
        *,
        children: Sequence[ChildConfig] | None = None,
        alice: dict[str, object] | None = None,
        bob: dict[str, object] | None = None,
        both: dict[str, object] | None = None,
        hosts: tuple[str, str] = ("192.0.2.1", "192.0.2.2"),
        **options: object,
    ) -> Pair:
        """Two sides with a shared key; `alice`, `bob` and `both` change fields of their connections."""
        kids = tuple(children or (child_config(),))
        hers = connection("home", hosts, "alice", "bob", kids)
        his = connection("home", hosts[::-1], "bob", "alice", tuple(mirrored(c) for c in kids))
        hers = replace(hers, **{**(both or {}), **(alice or {})})  # type: ignore[arg-type]
        his = replace(his, **{**(both or {}), **(bob or {})})  # type: ignore[arg-type]
        return cls([hers], [his], hosts=hosts, **options)  # type: ignore[arg-type]

    # --- time ------------------------------------------------------------------------------------

    @property
    def now(self) -> Now:
        """This moment."""
        return Now(self.mono_ns, START_UNIX_S + (self.mono_ns - START_NS) / 1e9)

    def run(self, seconds: float) -> None:
        """Let the time pass, with all that is due in it."""
        end = self.mono_ns + int(seconds * 1e9)
        while (at := self._next()) is not None and at <= end:
            self.mono_ns = max(at, self.mono_ns)
            self._step()
        self.mono_ns = end

    def settle(self, limit_s: float = 5.0) -> None:
        """Let the time pass until nothing is under way any more; timers further off don't count."""
        end = self.mono_ns + int(limit_s * 1e9)
        while self._flying and self._flying[0][0] <= end:
            self.mono_ns = max(self._flying[0][0], self.mono_ns)
            self._step()

    # --- the two sides ---------------------------------------------------------------------------

    def side(self, name: str) -> Side:
        """Alice or Bob."""
        return self.alice if name == "alice" else self.bob

    def crash(self, name: str) -> None:
        """Everything in memory is gone."""
        side = self.side(name)
        side.endpoint = side.engine = None

    def boot(self, name: str) -> None:
        """Start the gateway anew, with what its store kept."""
        side = self.side(name)
        side.boots += 1
        entropy = SeededEntropy(f"{self.seed} {name} {side.boots}".encode())
        side.engine = EspEngine(entropy)
        side.endpoint = build_endpoint(
            self.now, side.config, side.connections, entropy, side.store, side.options,
            ledger=side.ledger, machine_id=side.machine_id,
        )  # fmt: skip
        self._drain(side)

    def feed(self, name: str, item: Input) -> None:
        """Hand an input to a side, and carry out what follows at once."""
        side = self.side(name)
        if side.endpoint is not None:
            side.endpoint.handle(self.now, item)
            self._drain(side)

    def up(self, name: str = "alice", child: str | None = None) -> None:
        """Initiate, and wait until it is done."""
        tag = len(self.side(name).done) + 1
        self.feed(name, Initiate("home", child, tag))
        self.settle()
        done = self.side(name).done[tag]
        assert done.ok, done.text

    def ping(self, name: str = "alice", source: str = "10.10.1.1", target: str = "10.10.2.1") -> bool:
        """Whether an echo makes the round trip, within a second of virtual time."""
        before = len(self.side(name).behind.received)
        self.send(name, source, target)
        self.run(1.0)
        return len(self.side(name).behind.received) > before

    def send(self, name: str, source: str = "10.10.1.1", target: str = "10.10.2.1", seq: int = 0) -> None:
        """A host behind `name` sends one echo request."""
        side = self.side(name)
        side.behind.send(echo_request(source, target, 7, seq, b"deadpeer"))
        self._drain(side)

    # --- the wire --------------------------------------------------------------------------------

    def inject(self, datagram: Datagram) -> None:
        """Somebody else's datagram arrives: `local` is its sender's address, `remote` its target's."""
        self._arrive(Datagram(datagram.payload, datagram.local, datagram.remote))

    def hold(self, *reasons: str, sender: str | None = None) -> None:
        """Hold what is sent for one of these reasons from now on (for any reason, if none is named)."""
        self.hold_rule = lambda sent: (
            (not reasons or sent.reason in reasons)
            and sender
            in (
                None,
                sent.sender,
            )
        )

    def lose(self, reason: str, times: int = 1, sender: str | None = None) -> None:
        """The next `times` datagrams that are sent for this reason are lost."""
        left = [times]

        def rule(sent: Sent) -> bool:
            if sent.reason != reason or sender not in (None, sent.sender) or not left[0]:
                return False
            left[0] -= 1
            return True

        self.drop_rule = rule

    def release(self, *reasons: str) -> None:
        """Let held datagrams (those sent for these reasons, or all) go, in their order, from now on."""
        self.hold_rule = self.hold_rule if reasons else lambda sent: False
        going = [s for s in self.held if not reasons or s.reason in reasons]
        self.held = [s for s in self.held if s not in going]
        for sent in going:
            self._fly(sent.datagram)

    def deliver(self, index: int = 0) -> Sent:
        """One held datagram arrives this instant, the others stay held."""
        sent = self.held.pop(index)
        self._arrive(sent.datagram)
        return sent

    def reasons(self, sender: str | None = None) -> list[str]:
        """Why each datagram was sent, in order."""
        return [s.reason for s in self.trace if sender in (None, s.sender)]

    def ike_sas(self) -> tuple[int, int]:
        """How many IKE SAs Alice and Bob have."""
        return self.alice.ike.sizes()["ike_sas"], self.bob.ike.sizes()["ike_sas"]

    def ike_children(self) -> tuple[int, int]:
        """How many child SAs Alice and Bob have."""
        return self.alice.ike.sizes()["child_sas"], self.bob.ike.sizes()["child_sas"]

    # --- helpers ---------------------------------------------------------------------------------

    def _next(self) -> int | None:
        times = [self._flying[0][0]] if self._flying else []
        for side in (self.alice, self.bob):
            if side.endpoint is not None and side.engine is not None:
                times += [d.at_ns for d in (side.endpoint.deadline(), side.engine.deadline()) if d]
        return min(times, default=None)

    def _step(self) -> None:
        while self._flying and self._flying[0][0] <= self.mono_ns:
            self._arrive(heapq.heappop(self._flying)[2])
        for side in (self.alice, self.bob):
            if side.endpoint is None or side.engine is None:
                continue
            if (due := side.engine.deadline()) is not None and due.at_ns <= self.mono_ns:
                side.engine.expire(self.mono_ns)
            if (due := side.endpoint.deadline()) is not None and due.at_ns <= self.mono_ns:
                side.endpoint.handle(self.now, Timeout())
            self._drain(side)

    def _arrive(self, datagram: Datagram) -> None:
        """`datagram` as its sender made it: from `local` to `remote`."""
        if self.nat is not None:
            translated = self.nat.translate(datagram)
            if translated is None:
                return
            datagram = translated
        side = next((s for s in (self.alice, self.bob) if s.host == datagram.remote.host), None)
        if side is None or side.endpoint is None or side.engine is None:
            return
        arrived = Datagram(datagram.payload, datagram.remote, datagram.local)
        natt = arrived.local.port == side.config.port_nat_t
        if natt and classify(arrived.payload, True) is UdpKind.ESP:
            side.engine.inbound(self.mono_ns, arrived.payload, arrived.local, arrived.remote)
        else:
            side.endpoint.handle(self.now, arrived)
        self._drain(side)

    def _drain(self, side: Side) -> None:
        busy = True
        while busy and side.endpoint is not None and side.engine is not None:
            busy = False
            while (output := side.endpoint.poll()) is not None:
                busy = True
                if isinstance(output, Transmit):
                    self._send(side, output.datagram, output.reason)
                elif isinstance(output, Plane):
                    side.engine.apply(self.mono_ns, output.op)
                elif isinstance(output, Event):
                    side.events.append((self.mono_ns, output))
                elif isinstance(output, CommandDone):
                    side.done[output.tag] = output
                elif isinstance(output, Persist):
                    side.store.put(output.name, output.data)
                elif isinstance(output, Record):
                    side.ledger.write(output.table, output.key, output.value, durable=output.durable)
                else:
                    side.keylog.append(output)
            while (datagram := side.engine.poll_datagram()) is not None:
                busy = True
                self._send(side, datagram, "ESP")
            while (packet := side.engine.poll_packet()) is not None:
                busy = True
                side.behind.write(packet)
            while (report := side.engine.poll_report()) is not None:
                busy = True
                side.endpoint.handle(self.now, report)
            while (packet := side.behind.read()) is not None:
                busy = True
                side.engine.outbound(self.mono_ns, packet)

    def _send(self, side: Side, datagram: Datagram, reason: str) -> None:
        sent = Sent(self.mono_ns, side.name, reason, datagram, "delivered")
        if self.drop_rule(sent):
            self.trace.append(replace(sent, fate="dropped"))
        elif self.hold_rule(sent):
            self.held.append(sent)
            self.trace.append(replace(sent, fate="held"))
        else:
            delays = [self.latency_s] if self.delays_rule is None else self.delays_rule(sent)
            self.trace.append(sent if delays else replace(sent, fate="lost"))
            for delay in delays:
                self._fly(datagram, delay)

    def _fly(self, datagram: Datagram, delay_s: float | None = None) -> None:
        self._serial += 1
        at = self.mono_ns + int((self.latency_s if delay_s is None else delay_s) * 1e9)
        heapq.heappush(self._flying, (at, self._serial, datagram))


def connection(
    name: str,
    hosts: tuple[str, str],
    local: str,
    remote: str,
    children: tuple[ChildConfig, ...],
) -> Connection:
    """A connection with a shared key between two named gateways; `hosts` is (ours, the peer's)."""
    return Connection(
        name=name,
        local_addrs=(ip_network(hosts[0]),),
        remote_addrs=(ip_network(hosts[1]),),
        remote_port=500,
        remote_port_nat_t=4500,
        proposals=(IKE_PROPOSAL,),
        local=LocalAuth("psk", Identity.parse(local), b"correct horse battery staple"),
        remote=RemoteAuth("psk", Identity.parse(remote), b"correct horse battery staple"),
        children=children,
        lifetime=FOREVER,
    )
