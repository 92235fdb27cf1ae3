"""A core that records what extensions ask of it, SAs to look at, and an endpoint made of the two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from deadpeer.cluster.ownership import Single
from deadpeer.cluster.spi import EpochSpis, SpiCodec
from deadpeer.crash import boot
from deadpeer.crash.liveness import Liveness
from deadpeer.crash.lost_children import LostChildren
from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import CrashOptions, QcdOptions, Roles, TokenMethod
from deadpeer.crash.policy import Policy
from deadpeer.crash.strangers import Strangers
from deadpeer.crash.taker import TokenTaker
from deadpeer.crypto import DEFAULT_IKE_PROPOSALS, Identity, SeededEntropy
from deadpeer.ike.connection import Connection, Lifetime, LocalAuth, RemoteAuth
from deadpeer.ike.evidence import Verdict
from deadpeer.ike.extension import Extension, Orphan, OrphanEsp, OrphanRequest, Signal, Slot, UnprotectedNews
from deadpeer.ike.io import Event, ExtensionCommand, Field, Level
from deadpeer.plane.model import PlaneOp
from deadpeer.store import MemoryStore
from deadpeer.values import NS_PER_S, Address, Datagram, Now
from deadpeer.wire import (
    Encrypted,
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    PayloadType,
    decode_header,
    decode_message,
    encode_message,
)

ALICE = Address("192.0.2.1", 4500)
BOB = Address("198.51.100.2", 4500)
MALLORY = Address("203.0.113.66", 31337)


def at(seconds: float) -> Now:
    """The moment `seconds` after the tests' beginning of time."""
    return Now(1_000_000 * NS_PER_S + int(seconds * NS_PER_S), 1.7e9 + seconds)


def connection(
    name: str = "peer",
    *,
    roles: Roles = "both",
    method: TokenMethod = "spi",
    remote: str | None = None,
    silence_s: float = 1.5,
    dpd_floor_s: float = 60.0,
    dpd_delay_s: float = 30.0,
) -> Connection:
    """A connection to `remote` (an address or network; None is %any)."""
    return Connection(
        name=name,
        local_addrs=(),
        remote_addrs=() if remote is None else (ip_network(remote),),
        remote_port=500,
        remote_port_nat_t=4500,
        proposals=tuple(DEFAULT_IKE_PROPOSALS),
        local=LocalAuth("psk", Identity.parse("@a.example"), b"s" * 32),
        remote=RemoteAuth("psk", Identity.parse("@b.example"), b"s" * 32),
        children=(),
        lifetime=Lifetime(0, 0, 0),
        dpd_delay_s=dpd_delay_s,
        dpd_floor_s=dpd_floor_s,
        silence_s=silence_s,
        extensions=(QcdOptions(roles, method),),
    )


@dataclass(eq=False)
class FakeChild:
    number: int = 1
    name: str = "net"
    policy: int = 1
    spi_in: int = 0x1111_1111
    spi_out: int = 0x2222_2222


@dataclass(eq=False)
class FakeSa:
    """One side's view of an IKE SA; the tests move its fields."""

    number: int
    connection: Connection
    initiator: bool
    spi_i: bytes
    spi_r: bytes
    local: Address
    remote: Address
    established: bool = True
    last_heard_ns: int = 0
    rtt_s: float | None = 0.1
    rto_s: float = 0.2
    request_in_flight: bool = False
    child_views: list[FakeChild] = field(default_factory=lambda: [FakeChild()])
    children_due: tuple[str, ...] = ()


class FakeCore:
    """Records. `sas` is what lives."""

    def __init__(self) -> None:
        self.sas: list[FakeSa] = []
        self.probes: list[tuple[int, str]] = []
        self.informs: list[tuple[int, tuple[Notify, ...], str]] = []
        self.replaced: list[tuple[int, int]] = []
        self.condemned: list[tuple[int, Verdict]] = []
        self.answers: list[tuple[Datagram, Message]] = []
        self.ops: list[PlaneOp] = []
        self.events: list[Event] = []
        self.order: list[str] = []
        self.persisted: list[tuple[str, bytes]] = []
        self.records: list[tuple[str, bytes, bytes | None]] = []
        self.finished: list[tuple[int, bool, str]] = []
        self.counts: Counter[str] = Counter()

    def alive(self, spi: bytes) -> bool:
        return any(spi in (sa.spi_i, sa.spi_r) for sa in self.sas)

    def find(self, spi_i: bytes, spi_r: bytes) -> FakeSa | None:
        return next((sa for sa in self.sas if (sa.spi_i, sa.spi_r) == (spi_i, spi_r)), None)

    def find_by_outbound(self, spi_out: int, remote: Address) -> FakeSa | None:
        return next(
            (
                sa
                for sa in self.sas
                if sa.remote.host == remote.host and any(c.spi_out == spi_out for c in sa.child_views)
            ),
            None,
        )

    def record(self, table: str, key: bytes, value: bytes | None, *, durable: bool = False) -> None:
        self.records.append((table, key, value))

    def find_by_inbound(self, spi_in: int) -> FakeSa | None:
        return next((sa for sa in self.sas if any(c.spi_in == spi_in for c in sa.child_views)), None)

    def with_peer(self, remote: Address) -> Sequence[FakeSa]:
        return [sa for sa in self.sas if sa.remote == remote and sa.established]

    def views(self) -> Iterable[FakeSa]:
        return tuple(self.sas)

    def connection(self, name: str) -> Connection | None:
        return next((sa.connection for sa in self.sas if sa.connection.name == name), None)

    def probe(self, now: Now, sa: FakeSa, reason: str) -> None:
        self.probes.append((sa.number, reason))
        sa.request_in_flight = True

    def inform(self, now: Now, sa: FakeSa, notifies: Sequence[Notify], reason: str) -> None:
        self.informs.append((sa.number, tuple(notifies), reason))
        self.order.append("inform")

    def replace_child(self, now: Now, sa: FakeSa, spi_out: int, reason: str) -> bool:
        self.replaced.append((sa.number, spi_out))
        return True

    def condemn(self, now: Now, sa: FakeSa, verdict: Verdict) -> None:
        self.condemned.append((sa.number, verdict))
        self.sas.remove(sa)

    def answer(self, datagram: Datagram, message: Message, reason: str) -> int:
        self.answers.append((datagram, message))
        return len(encode_message(message))

    def plane(self, op: PlaneOp) -> None:
        self.ops.append(op)

    def event(self, kind: str, level: Level = "info", **fields: Field) -> None:
        self.events.append(Event(kind, fields, level))

    def persist(self, name: str, data: bytes) -> None:
        self.persisted.append((name, data))
        self.order.append("persist")

    def done(self, tag: int, ok: bool, text: str) -> None:
        self.finished.append((tag, ok, text))

    def count(self, counter: str, amount: int = 1) -> None:
        self.counts[counter] += amount

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


class Gateway:
    """One life of a gateway: boot state from `store`, all extensions on a fake core."""

    def __init__(
        self,
        store: MemoryStore,
        *connections: Connection,
        seed: int = 1,
        now: Now | None = None,
        options: CrashOptions | None = None,
        member: int = 0,
    ) -> None:
        options = options or CrashOptions()
        entropy = SeededEntropy(seed)
        self.core = FakeCore()
        self.state = boot.start(store, entropy)
        codec = SpiCodec(self.state.spi_key)
        self.spis = EpochSpis(codec, self.state.epoch, member, entropy)
        self.monitor = Monitor(options)
        self.policy = Policy()
        self.liveness = Liveness(self.monitor, self.policy)
        self.maker = TokenMaker(self.state, entropy, options)
        self.taker = TokenTaker(self.monitor, self.policy)
        self.lost_children = LostChildren(self.monitor, options)
        self.strangers = Strangers(
            Single(codec, self.state.epoch, member), self.maker, connections, self.lost_children, options
        )
        self.extensions: list[Extension] = [
            self.policy,
            self.monitor,
            self.liveness,
            self.maker,
            self.taker,
            self.lost_children,
            self.strangers,
        ]
        for extension in self.extensions:
            extension.attach(now or at(0), self.core)  # type: ignore[arg-type]

    def signal(self, now: Now, signal: Signal) -> None:
        for extension in self.extensions:
            extension.observe(now, signal)

    def notifies(self, now: Now, slot: Slot, sa: FakeSa, *, response: bool) -> tuple[Notify, ...]:
        return tuple(n for e in self.extensions for n in e.notifies(now, slot, sa, response=response))

    def orphan(self, now: Now, orphan: Orphan) -> bool:
        return any(extension.orphan(now, orphan) for extension in self.extensions)

    def command(self, now: Now, verb: str, tag: int = 1) -> bool:
        return any(e.command(now, ExtensionCommand("qcd", verb, tag)) for e in self.extensions)

    def request(self, now: Now, payload: bytes, remote: Address, local: Address = BOB) -> None:
        """A stranger's protected request arrives."""
        self.orphan(now, OrphanRequest(decode_header(payload), Datagram(payload, local, remote)))

    def esp(self, now: Now, spi: int, remote: Address, octets: int = 100, local: Address = BOB) -> None:
        """An ESP packet with an unknown SPI arrives."""
        self.orphan(now, OrphanEsp(spi, octets, local, remote))

    def news(self, now: Now, message: Message, remote: Address, local: Address = ALICE) -> None:
        """An unprotected message arrives."""
        payload = encode_message(message)
        message = decode_message(payload)
        sa = self.core.find(message.spi_i, message.spi_r)
        self.orphan(now, UnprotectedNews(message, Datagram(payload, local, remote), sa))


def protected_request(
    spi_i: bytes,
    spi_r: bytes,
    *,
    from_initiator: bool,
    octets: int = 57,
    message_id: int = 7,
    exchange: int = ExchangeType.INFORMATIONAL,
) -> bytes:
    """A request whose SK payload nobody can open, `octets` long in all."""
    body = bytes(octets - 32)
    payloads = (Encrypted(PayloadType.NONE, body),)
    return encode_message(Message(spi_i, spi_r, exchange, message_id, from_initiator, False, payloads))


def tokens_in(message: Message) -> list[bytes]:
    """The tokens of N(QCD_TOKEN)."""
    return [n.data for n in message.notifies(NotifyType.QCD_TOKEN)]


def tunnel(alice: Gateway, bob: Gateway, *, a: Connection, b: Connection) -> tuple[FakeSa, FakeSa]:
    """Alice initiates an SA with Bob: both views, tokens handed over in IKE_AUTH as the core does it."""
    spi_i, spi_r = alice.spis.ike_spi(), bob.spis.ike_spi()
    number = 1 + len(alice.core.sas) + len(bob.core.sas)
    at_alice = FakeSa(number, a, True, spi_i, spi_r, ALICE, BOB)
    at_bob = FakeSa(number, b, False, spi_i, spi_r, BOB, ALICE)
    at_bob.child_views = [FakeChild(spi_in=0x2222_2222, spi_out=0x1111_1111)]
    alice.core.sas.append(at_alice)
    bob.core.sas.append(at_bob)
    hand_over(alice, bob, at_alice, at_bob)
    return at_alice, at_bob


def hand_over(alice: Gateway, bob: Gateway, at_alice: FakeSa, at_bob: FakeSa) -> None:
    """IKE_AUTH of an SA that Alice initiates, and what follows it."""
    from deadpeer.ike.extension import ChildUp, PeerNotifies, SaEstablished

    now = at(0)
    request = alice.notifies(now, Slot.AUTH, at_alice, response=False)
    bob.signal(now, PeerNotifies(at_bob, Slot.AUTH, request))
    answer = bob.notifies(now, Slot.AUTH, at_bob, response=True)
    alice.signal(now, PeerNotifies(at_alice, Slot.AUTH, answer))
    for gateway, sa in ((alice, at_alice), (bob, at_bob)):
        gateway.signal(now, SaEstablished(sa))
        gateway.signal(now, ChildUp(sa, sa.child_views[0], None))
