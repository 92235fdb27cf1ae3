"""Two engines back to back: Alice has 10.1.0.0/24 and fd01::/64 behind her, Bob 10.2.0.0/24 and fd02::/64."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from struct import pack

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from deadpeer.crypto import ENCRYPTIONS, INTEGRITIES, EspKeys, EspSuite, SeededEntropy
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.model import InstallChild, InstallTrap, PlaneReport, RemoveChild
from deadpeer.plane.packets import echo_request
from deadpeer.values import NS_PER_S, Address, Datagram
from deadpeer.wire import TrafficSelector

ALICE = Address("192.0.2.1", 4500)
BOB = Address("192.0.2.2", 4500)
POLICY = 7


def make_suite(name: str, *, esn: bool = False) -> EspSuite:
    encryption, _, integrity = name.partition("-")
    return EspSuite(ENCRYPTIONS[encryption], INTEGRITIES[integrity] if integrity else None, None, esn)


GCM = make_suite("aes256gcm16")
SUITES = [
    make_suite(name, esn=esn)
    for name in (
        "aes128gcm16",
        "aes256gcm16",
        "chacha20poly1305",
        "aes128-sha256",
        "aes256-sha256",
        "aes256-sha384",
        "aes256-sha512",
    )
    for esn in (False, True)
]


def ts(network: str, protocol: int = 0, ports: tuple[int, int] = (0, 65535)) -> TrafficSelector:
    net = ip_network(network)
    return TrafficSelector(protocol, *ports, net.network_address, net.broadcast_address)


ALICE_TS = (ts("10.1.0.0/24"), ts("fd01::/64"))
BOB_TS = (ts("10.2.0.0/24"), ts("fd02::/64"))


def make_keys(suite: EspSuite, label: bytes) -> EspKeys:
    stream = SeededEntropy(label)
    return EspKeys(
        stream.octets(suite.encryption.key_octets),
        stream.octets(suite.encryption.salt_octets),
        stream.octets(suite.integrity.key_octets if suite.integrity else 0),
    )


def ping(seq: int, *, size: int = 56, version: int = 4) -> bytes:
    """An inner packet from Alice's to Bob's side; `seq` tells it from others."""
    hosts = ("10.1.0.1", "10.2.0.1") if version == 4 else ("fd01::1", "fd02::1")
    return echo_request(*hosts, 1, seq, bytes(size))


def pong(seq: int) -> bytes:
    """One the other way."""
    return echo_request("10.2.0.1", "10.1.0.1", 1, seq, bytes(56))


class Pair:
    """`a` and `b` with virtual time; `now_ns` moves only by `sleep`, which also expires what is due."""

    def __init__(self, **engine: int) -> None:
        self.now_ns = 1_000 * NS_PER_S
        self.a = EspEngine(SeededEntropy(1), **engine)
        self.b = EspEngine(SeededEntropy(2), **engine)
        self._children = count(1)

    def ops(self, suite: EspSuite = GCM, **changes: object) -> tuple[InstallChild, InstallChild]:
        """A new child as Alice and as Bob install it; `changes` are made to both."""
        number = next(self._children)
        spi_a, spi_b = 0xA000 + number, 0xB000 + number
        to_b, to_a = make_keys(suite, b"to b %d" % number), make_keys(suite, b"to a %d" % number)
        alice = InstallChild(number, POLICY, spi_a, spi_b, suite, to_a, to_b, ALICE, BOB, ALICE_TS, BOB_TS)
        bob = InstallChild(number, POLICY, spi_b, spi_a, suite, to_b, to_a, BOB, ALICE, BOB_TS, ALICE_TS)
        return replace(alice, **changes), replace(bob, **changes)

    def install(self, suite: EspSuite = GCM, **changes: object) -> int:
        """A child on both sides at once. Returns its number, the same on both."""
        alice, bob = self.ops(suite, **changes)
        self.a.apply(self.now_ns, alice)
        self.b.apply(self.now_ns, bob)
        return alice.child

    def trap(self) -> None:
        """A trap on Alice's side."""
        self.a.apply(self.now_ns, InstallTrap(POLICY, ALICE_TS, BOB_TS))

    def remove(self, engine: EspEngine, child: int, linger_s: float = 0.0) -> None:
        engine.apply(self.now_ns, RemoveChild(child, linger_s))

    def sleep(self, seconds: float) -> None:
        end = self.now_ns + int(seconds * NS_PER_S)
        while True:
            due = [
                d.at_ns for d in (self.a.deadline(), self.b.deadline()) if d is not None and d.at_ns <= end
            ]
            if not due:
                break
            self.now_ns = max(self.now_ns, min(due))
            self.a.expire(self.now_ns)
            self.b.expire(self.now_ns)
        self.now_ns = end

    def send(self, *packets: bytes) -> list[Datagram]:
        """Packets from Alice's host; what she puts on the wire."""
        for packet in packets:
            self.a.outbound(self.now_ns, packet)
        return datagrams(self.a)

    def send_back(self, *packets: bytes) -> list[Datagram]:
        """Packets from Bob's host; what he puts on the wire."""
        for packet in packets:
            self.b.outbound(self.now_ns, packet)
        return datagrams(self.b)

    def arrive(self, *wire: Datagram) -> list[bytes]:
        """Datagrams reach their destination; the packets that come out there."""
        out: list[bytes] = []
        for datagram in wire:
            engine = self.b if datagram.remote == BOB else self.a
            engine.inbound(self.now_ns, datagram.payload, datagram.remote, datagram.local)
            out += packets(engine)
        return out


def foreign_seal(op: InstallChild, sequence: int, plaintext: bytes) -> bytes:
    """A GCM packet, made without our code, to the receiver that installed `op`: any plaintext at all."""
    header = pack("!II", op.spi_in, sequence)
    iv = pack("!Q", sequence)
    return header + iv + AESGCM(op.inbound.encryption_key).encrypt(op.inbound.salt + iv, plaintext, header)


def datagrams(engine: EspEngine) -> list[Datagram]:
    return list(iter(engine.poll_datagram, None))


def packets(engine: EspEngine) -> list[bytes]:
    return list(iter(engine.poll_packet, None))


def reports(engine: EspEngine, *kinds: type) -> list[PlaneReport]:
    """The reports that wait, of these kinds if any is given; the others are thrown away."""
    found = list(iter(engine.poll_report, None))
    return [report for report in found if not kinds or isinstance(report, kinds)]
