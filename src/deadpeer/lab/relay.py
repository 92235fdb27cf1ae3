"""The relay process between two gateways: `python -m deadpeer.lab.relay CONFIG`, CONFIG being JSON text.

For each lane it has a pair of UDP sockets: one faces Alice and has the address that she takes for Bob's,
one faces Bob. It adds the round trip time and the loss, and writes what a bystander sees as lines of JSON
to stdout. Writing never delays forwarding: a reader that falls behind loses trace lines, and the count of
them is in the statistics, which are the last line.

Attackers. One in the middle is a policy (`lab.attacks.policies`), idle until the line `attack` comes on
stdin, and again from `rest` on; that and `count` are answered with what he did. One beside the link, who
can send from any source address, hands his datagrams in at the socket `inject`: a process without
privileges can't forge a source address, so the relay delivers such a datagram from the address that the
victim takes for its peer's. He sees nothing of the link by it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from deadpeer.lab.child import Bucket, LineWriter, exact_timers, stop_signal
from deadpeer.lab.link import Link, Passing, PlainPolicy, Policy
from deadpeer.lab.trace import EspSeen, Lane, OtherSeen, Sighting, Way, look
from deadpeer.values import Address
from deadpeer.wire import UdpKind, classify

if TYPE_CHECKING:
    from deadpeer.lab.attacks.policies import AttackPolicy

MAX_DATAGRAM = 65_535
DRAIN = 64
"""Datagrams taken from a socket before the others and the deadlines get their turn."""

ESP_LINES_PER_S = 1000
"""Trace lines a second for ESP and garbage. IKE is always traced: it is rare."""

TAPPED_ESP_PER_S = 20
"""ESP packets whose octets a tap shows."""

SOCKET_BUFFER = 4 << 20
WAYS, LANES = tuple(Way), tuple(Lane)


@dataclass(frozen=True, slots=True)
class Face:
    """One side of a lane: where the relay listens, and the gateway that it talks to from there."""

    bind: Address
    peer: Address


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """`lanes` maps each lane to (the face towards Alice, the face towards Bob).

    The octets of the first `capture` datagrams go to stdout too, for who wants to make garbage of them.
    With `tap` those of every IKE message do, and of some ESP packets, for who wants to replay them.
    `inject` is the path of the socket for forgeries, `attack` the policy of the man in the middle by name
    and its parameters; empty: there is none.
    """

    rtt_ms: float
    loss: float
    seed: int
    lanes: dict[Lane, tuple[Face, Face]]
    capture: int = 0
    tap: bool = False
    inject: str = ""
    attack: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        lanes = {lane.value: [_face_record(face) for face in faces] for lane, faces in self.lanes.items()}
        return json.dumps({**{f.name: getattr(self, f.name) for f in fields(self)}, "lanes": lanes})

    @classmethod
    def from_json(cls, text: str) -> RelayConfig:
        record = json.loads(text)
        lanes = {Lane(name): (_face(alice), _face(bob)) for name, (alice, bob) in record["lanes"].items()}
        return cls(**{**record, "lanes": lanes})


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT."""
    config = RelayConfig.from_json(argv[0])
    stop = stop_signal()
    exact_timers()
    with contextlib.ExitStack() as stack:
        relay = Relay(config, stack)
        relay.run(stop)
        relay.finish()
    return 0


class Relay:
    """The loop: deliver what is due, then sleep in select() until the next one or the next datagram."""

    def __init__(self, config: RelayConfig, stack: contextlib.ExitStack) -> None:
        self._capture = config.capture
        self._tap = Bucket(TAPPED_ESP_PER_S) if config.tap else None
        policy: Policy = PlainPolicy(config.rtt_ms, config.loss, config.seed)
        self._attacker: AttackPolicy | None = None
        if config.attack:
            from deadpeer.lab.attacks.policies import wrap  # most relays need none of it

            policy = self._attacker = wrap(config.attack, policy, config.seed)
        self._link = Link(policy)
        self._inject = stack.enter_context(unix_socket(config.inject)) if config.inject else None
        self._stdin: int | None = sys.stdin.fileno()
        self._commands = b""
        self._out = LineWriter(sys.stdout.fileno())
        self._stats: Counter[str] = Counter()
        self._late_ns = 0
        self._esp_lines = Bucket(ESP_LINES_PER_S)
        self._incoming: dict[socket.socket, tuple[Way, Lane, Address]] = {}
        self._outgoing: dict[tuple[Way, Lane], tuple[socket.socket, Address]] = {}
        for lane, (alice, bob) in config.lanes.items():
            to_alice, to_bob = (stack.enter_context(bound(face.bind)) for face in (alice, bob))
            self._incoming[to_alice] = (Way.TO_BOB, lane, alice.peer)
            self._incoming[to_bob] = (Way.TO_ALICE, lane, bob.peer)
            self._outgoing[Way.TO_BOB, lane] = (to_bob, bob.peer)
            self._outgoing[Way.TO_ALICE, lane] = (to_alice, alice.peer)

    def run(self, stop: int) -> None:
        """Relay until the descriptor `stop` is readable."""
        self._out.put(json.dumps({"event": "ready", "mono_ns": time.monotonic_ns()}))
        while True:
            self._deliver()
            self._out.flush()
            readable = self._wait(stop)
            if stop in readable:
                return
            for sock in self._incoming:
                if sock in readable:
                    self._take(sock)
            if self._inject is not None and self._inject in readable:
                self._forge(self._inject)
            if self._stdin is not None and self._stdin in readable:
                self._read_commands(self._stdin)

    def finish(self) -> None:
        """Write the statistics, and wait a moment for the reader to take what is left."""
        stats = {**self._stats, "trace_lost": self._out.lost, "latest_us": self._late_ns // 1000}
        self._out.put(json.dumps({"event": "stats", "mono_ns": time.monotonic_ns(), "stats": stats}))
        self._out.drain(1.0)

    def _wait(self, stop: int) -> Sequence[socket.socket | int]:
        next_ns = self._link.next_ns
        timeout = None if next_ns is None else max(0.0, (next_ns - time.monotonic_ns()) / 1e9)
        writers = [self._out.fd] if self._out.waiting else []
        sources: list[socket.socket | int] = [stop, *self._incoming]
        sources += [source for source in (self._inject, self._stdin) if source is not None]
        readable, _, _ = select.select(sources, writers, [], timeout)
        return readable

    def _take(self, sock: socket.socket) -> None:
        way, lane, peer = self._incoming[sock]
        for payload, source, now_ns in drain(sock):
            if source != peer:
                self._stats["stranger"] += 1
                continue
            passing = Passing(way, lane, payload, now_ns)
            if self._capture:
                self._capture -= 1
                self._out.put(json.dumps({"captured": payload.hex(), "way": way, "lane": lane}))
            self._show(passing)
            self._stats[f"{way} arrived"] += 1
            if not self._link.offer(passing):
                self._stats[f"{way} lost"] += 1
                self._trace(way, lane, payload, now_ns, None)

    def _show(self, passing: Passing) -> None:
        if self._tap is None:
            return
        esp = classify(passing.payload, passing.lane is Lane.NAT_T) is not UdpKind.IKE
        if not esp or self._tap.take(passing.arrived_ns):
            record = {"tapped": passing.payload.hex(), "way": passing.way, "lane": passing.lane}
            self._out.put(json.dumps({**record, "mono_ns": passing.arrived_ns}))

    def _forge(self, inject: socket.socket) -> None:
        """Deliver what a forger handed in: way (1 octet), lane (1 octet), the UDP payload."""
        for _ in range(DRAIN):
            try:
                octets = inject.recv(MAX_DATAGRAM)
                way, lane = WAYS[octets[0]], LANES[octets[1]]
                sock, peer = self._outgoing[way, lane]
                sock.sendto(octets[2:], peer)
            except BlockingIOError:
                return
            except (OSError, IndexError):
                self._stats["forgeries undeliverable"] += 1
            else:
                self._stats[f"{way} forged"] += 1

    def _read_commands(self, stdin: int) -> None:
        octets = os.read(stdin, 4096)
        if not octets:
            self._stdin = None
            return
        *lines, self._commands = (self._commands + octets).split(b"\n")
        for line in lines:
            now_ns = time.monotonic_ns()
            if line == b"attack" and self._attacker is not None:
                self._attacker.begin(now_ns)
            elif line in (b"count", b"rest") and self._attacker is not None:
                if line == b"rest":
                    self._attacker.rest()
                record = {"event": "mischief", "mono_ns": now_ns, "mischief": self._attacker.mischief}
                self._out.put(json.dumps(record))

    def _deliver(self) -> None:
        for delivery, passing in self._link.due(time.monotonic_ns()):
            sock, peer = self._outgoing[delivery.way, delivery.lane]
            now_ns = time.monotonic_ns()  # before it goes: the far side may act on it at once
            try:
                sock.sendto(delivery.payload, peer)
            except OSError as error:
                # The far gateway is dead (ECONNREFUSED) or the kernel has no room: lost, like on any link.
                self._stats[f"{delivery.way} {error.strerror or 'error'}"] += 1
            else:
                self._stats[f"{delivery.way} delivered"] += 1
            self._late_ns = max(self._late_ns, now_ns - delivery.at_ns)
            if delivery.forged:
                self._stats[f"{delivery.way} forged"] += 1
                continue
            self._trace(delivery.way, delivery.lane, delivery.payload, passing.arrived_ns, now_ns)

    def _trace(self, way: Way, lane: Lane, payload: bytes, arrived_ns: int, delivered_ns: int | None) -> None:
        seen = look(payload, lane)
        if isinstance(seen, EspSeen | OtherSeen) and not self._esp_lines.take(delivered_ns or arrived_ns):
            self._out.lost += 1
            return
        self._out.put(Sighting(way, lane, len(payload), arrived_ns, delivered_ns, seen).to_json())


def drain(sock: socket.socket) -> Iterator[tuple[bytes, Address, int]]:
    """What waits in a socket, bounded: payload, source, and when it was read (monotonic ns)."""
    for _ in range(DRAIN):
        try:
            payload, source = sock.recvfrom(MAX_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error about an earlier datagram
        yield payload, Address(*source[:2]), time.monotonic_ns()


def bound(address: Address) -> socket.socket:
    """A UDP socket with large buffers that never blocks."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
    sock.bind(address)
    return sock


def unix_socket(path: str) -> socket.socket:
    """A UNIX datagram socket with a large buffer that never blocks."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    sock.bind(path)
    return sock


def _face(record: dict[str, Any]) -> Face:
    return Face(Address(*record["bind"]), Address(*record["peer"]))


def _face_record(face: Face) -> dict[str, Any]:
    return {"bind": list(face.bind), "peer": list(face.peer)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
