"""The UDP balancer: `python -m deadpeer.lab.scenarios.balancer CONFIG`, CONFIG being JSON text.

Clients talk to its one address. Each client has an address of its own towards the members, by which the
balancer knows whom an answer is for, whichever member gives it. Commands on stdin: `out N` and `in N` take a
member out and put it back, `spoken` asks which SPIs members have used towards clients, and when last.

What members say in the clear leaves as a line of JSON. A forger hands his datagrams in at the socket
`inject`: member (1 octet), client (1 octet), lane (1 octet), the UDP payload; they arrive as that client's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from deadpeer.lab.child import LineWriter, stop_signal
from deadpeer.lab.relay import bound, drain, unix_socket
from deadpeer.lab.scenarios.plan import home_of
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, look
from deadpeer.values import Address

LANES = (Lane.IKE, Lane.NAT_T)


@dataclass(frozen=True, slots=True)
class BalancerConfig:
    """`ports`: those of IKE and of NAT-T. `clients`: (the client's host, the one that stands for it).

    `sticky`: a client stays where it is until that member is taken out, whatever the hash says.
    """

    address: str
    ports: tuple[int, int]
    members: tuple[str, ...]
    clients: tuple[tuple[str, str], ...]
    inject: str
    sticky: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BalancerConfig:
        record = json.loads(text)
        return cls(
            record["address"],
            (record["ports"][0], record["ports"][1]),
            tuple(record["members"]),
            tuple((host, inside) for host, inside in record["clients"]),
            record["inject"],
            bool(record["sticky"]),
        )


class Balancer:
    """The loop: nothing waits, so that nothing needs a clock."""

    def __init__(self, config: BalancerConfig, stack: contextlib.ExitStack) -> None:
        self._config = config
        self._out = LineWriter(sys.stdout.fileno())
        self._stdin: int | None = sys.stdin.fileno()
        self._commands = b""
        self._serving = set(range(len(config.members)))
        self._table: dict[str, int] = {}
        self._number = {host: number for number, (host, _) in enumerate(config.clients)}
        self._member = {host: number for number, host in enumerate(config.members)}
        self._outside = {
            stack.enter_context(bound(Address(config.address, port))): lane
            for lane, port in enumerate(config.ports)
        }
        self._facing = {lane: sock for sock, lane in self._outside.items()}
        self._inside = {
            stack.enter_context(bound(Address(inside, port))): (client, lane)
            for client, (_, inside) in enumerate(config.clients)
            for lane, port in enumerate(config.ports)
        }
        self._towards = {place: sock for sock, place in self._inside.items()}
        self._inject = stack.enter_context(unix_socket(config.inject))
        self._spoken: dict[tuple[int, int, str], list[int]] = {}

    def run(self, stop: int) -> None:
        """Balance until the descriptor `stop` is readable."""
        self._tell("ready")
        while True:
            self._out.flush()
            writers = [self._out.fd] if self._out.waiting else []
            sources: list[socket.socket | int] = [stop, *self._outside, *self._inside, self._inject]
            sources += [] if self._stdin is None else [self._stdin]
            readable, _, _ = select.select(sources, writers, [])
            if stop in readable:
                self._out.drain(1.0)
                return
            for sock in readable:
                if sock in self._outside:
                    self._from_client(sock, self._outside[sock])
                elif sock in self._inside:
                    self._from_member(sock, *self._inside[sock])
                elif sock is self._inject:
                    self._forge()
                else:
                    self._read_commands()

    def _from_client(self, sock: socket.socket, lane: int) -> None:
        for payload, source, _ in drain(sock):
            client = self._number.get(source.host)
            if client is None or not self._serving:
                continue
            self._to_member(self._choose(source.host), client, lane, payload)

    def _choose(self, host: str) -> int:
        now = self._table.get(host)
        if now is None or not self._config.sticky or now not in self._serving:
            now = self._table[host] = home_of(host, sorted(self._serving))
        return now

    def _to_member(self, member: int, client: int, lane: int, payload: bytes) -> None:
        target = (self._config.members[member], self._config.ports[lane])
        # A member that is dead answers with ICMP: lost, as on any link.
        with contextlib.suppress(OSError):
            self._towards[client, lane].sendto(payload, target)

    def _from_member(self, sock: socket.socket, client: int, lane: int) -> None:
        for payload, source, now_ns in drain(sock):
            member = self._member.get(source.host)
            if member is None:
                continue
            self._look(member, client, lane, payload, now_ns)
            with contextlib.suppress(OSError):
                target = (self._config.clients[client][0], self._config.ports[lane])
                self._facing[lane].sendto(payload, target)

    def _look(self, member: int, client: int, lane: int, payload: bytes, now_ns: int) -> None:
        seen = look(payload, LANES[lane])
        if isinstance(seen, IkeSeen) and not seen.protected and seen.notifies:
            spis = {"spi_i": seen.spi_i, "spi_r": seen.spi_r, "about": seen.about}
            what = {"member": member, "client": client, "notifies": seen.notifies, "response": seen.response}
            self._tell("said", now_ns, **spis, **what)
        elif isinstance(seen, IkeSeen | EspSeen):
            spi = seen.spi if isinstance(seen, EspSeen) else f"{seen.spi_i}:{seen.spi_r}"
            entry = self._spoken.setdefault((member, client, spi), [0, 0])
            entry[0] += 1
            entry[1] = now_ns

    def _forge(self) -> None:
        for _ in range(64):
            try:
                octets = self._inject.recv(65_535)
            except OSError:
                return
            member, client, lane = octets[:3]
            self._to_member(member, client, lane, octets[3:])

    def _read_commands(self) -> None:
        octets = os.read(sys.stdin.fileno(), 4096)
        if not octets:
            self._stdin = None
            return
        *lines, self._commands = (self._commands + octets).split(b"\n")
        for line in lines:
            match line.split():
                case [b"out", number]:
                    self._serving.discard(int(number))
                case [b"in", number]:
                    self._serving.add(int(number))
                case [b"spoken"]:
                    spoken = [[*key, *entry] for key, entry in self._spoken.items()]
                    self._tell("spoken", spoken=spoken)
                    continue
            self._tell("serving", members=sorted(self._serving))

    def _tell(self, event: str, at_ns: int | None = None, **fields: object) -> None:
        record = {"event": event, "mono_ns": time.monotonic_ns() if at_ns is None else at_ns, **fields}
        self._out.put(json.dumps(record))


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT."""
    stop = stop_signal()
    with contextlib.ExitStack() as stack:
        Balancer(BalancerConfig.from_json(argv[0]), stack).run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
