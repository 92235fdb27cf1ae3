"""What lies between and behind: `python -m deadpeer.lab.swarm.middle CONFIG`, CONFIG being JSON text.

The UDP balancer, as that of `deadpeer.lab.scenarios.balancer`, for hundreds of clients; and the hosts behind
the members, which answer echo requests. Commands on stdin: `out N` and `in N` take a member out and put it
back; `homes` asks to which member each client is led now; `heard` has it tell what members denied in the
clear since (a token, a NACK of SIR's), each as a line of JSON: reading it meanwhile would be measured too.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from deadpeer.crash.sir_wire import CHECK_SPI
from deadpeer.lab.child import LineWriter, stop_signal
from deadpeer.lab.relay import DRAIN, MAX_DATAGRAM, bound, unix_socket
from deadpeer.lab.scenarios.plan import home_of
from deadpeer.lab.swarm.plan import SwarmPlace
from deadpeer.lab.trace import IkeSeen, Lane, look
from deadpeer.plane.packets import echo_reply
from deadpeer.values import Address
from deadpeer.wire import NotifyType

LANES = (Lane.IKE, Lane.NAT_T)
DENIALS = frozenset({"QCD_TOKEN", "CHECK_SPI NACK"})
_DENYING = tuple(number.to_bytes(2, "big") for number in (NotifyType.QCD_TOKEN, CHECK_SPI))
"""What must never be said of a living SA."""
BACKLOG = 4096
"""Answers that wait where a gateway's socket has no room; without them a full socket would lose packets, and
that would be this machine's fault, not the tunnel's."""
AGAIN_S = 0.002
HEARD = 20_000
"""So many messages that may be denials are kept until somebody asks; more are read at once."""


@dataclass(frozen=True, slots=True)
class MiddleConfig:
    """Where everything is."""

    place: SwarmPlace

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> MiddleConfig:
        return cls(SwarmPlace.from_record(json.loads(text)["place"]))


class Middle:
    """The loop: nothing waits."""

    def __init__(self, config: MiddleConfig, stack: contextlib.ExitStack) -> None:
        place = self._place = config.place
        ports = (place.port, place.port_nat_t)
        self._ports = ports
        self._out = LineWriter(sys.stdout.fileno())
        self._commands = b""
        self._serving = set(range(len(place.members)))
        self._heard: deque[tuple[int, int, Lane, bytes]] = deque()
        self._ways: dict[int, int] = {}
        self._number = {place.host(number): number for number in range(place.clients)}
        self._member = {host: number for number, host in enumerate(place.members)}
        # For each packet: nothing that could be known before.
        self._clients = [[(place.host(number), port) for port in ports] for number in range(place.clients)]
        self._gateways = [place.path(f"m{number}-gw") for number in range(len(place.members))]
        self._facing = [stack.enter_context(bound(Address(place.address, port))) for port in ports]
        self._towards = {
            (client, lane): stack.enter_context(bound(Address(place.inside(client), port)))
            for client in range(place.clients)
            for lane, port in enumerate(ports)
        }
        self._hosts = [
            stack.enter_context(unix_socket(place.path(f"m{number}-host")))
            for number in range(len(place.members))
        ]
        self._answers: list[deque[bytes]] = [deque() for _ in place.members]
        self._outside = {sock.fileno(): (lane, sock) for lane, sock in enumerate(self._facing)}
        self._inside = {sock.fileno(): (*key, sock) for key, sock in self._towards.items()}
        self._behind = {sock.fileno(): number for number, sock in enumerate(self._hosts)}
        self._poll = stack.enter_context(contextlib.closing(select.epoll()))
        for fd in (*self._outside, *self._inside, *self._behind):
            self._poll.register(fd, select.EPOLLIN)

    def run(self, stop: int) -> None:
        """Serve until stdin ends or the descriptor `stop` is readable."""
        stdin = sys.stdin.fileno()
        for fd in (stop, stdin):
            self._poll.register(fd, select.EPOLLIN)
        self._tell("ready")
        while True:
            self._out.flush()
            for fd, _ in self._poll.poll(AGAIN_S if any(self._answers) or self._out.waiting else 1.0):
                if fd in self._outside:
                    self._from_client(*self._outside[fd])
                elif fd in self._inside:
                    self._from_member(*self._inside[fd])
                elif fd in self._behind:
                    self._answer(self._behind[fd])
                elif fd == stop or not self._obey(os.read(stdin, 4096)):
                    self._out.drain(1.0)
                    return
            self._hand_over()

    # --- the balancer ----------------------------------------------------------------------------

    def _from_client(self, lane: int, sock: socket.socket) -> None:
        for _ in range(DRAIN):
            try:
                payload, (host, _) = sock.recvfrom(MAX_DATAGRAM)
                client = self._number.get(host)
                if client is not None and self._serving:
                    target = (self._place.members[self._way(client)], self._ports[lane])
                    self._towards[client, lane].sendto(payload, target)
            except BlockingIOError:
                return
            except OSError:
                continue  # A member that is dead answers with ICMP: lost, as on any link.

    def _from_member(self, client: int, lane: int, sock: socket.socket) -> None:
        # One of them: there are as many sockets as clients, and asking each for a second datagram, which it
        # seldom has, would cost as much as the first.
        with contextlib.suppress(OSError):
            payload, source = sock.recvfrom(MAX_DATAGRAM)
            member = self._member.get(source[0])
            if member is not None:
                self._hear(member, LANES[lane], payload)
                self._facing[lane].sendto(payload, self._clients[client][lane])

    def _way(self, client: int) -> int:
        way = self._ways.get(client)
        if way is None:
            way = self._ways[client] = home_of(self._place.host(client), sorted(self._serving))
        return way

    def _hear(self, member: int, lane: Lane, payload: bytes) -> None:
        if _says_nothing(payload, lane):
            return
        self._heard.append((time.monotonic_ns(), member, lane, payload))
        if len(self._heard) > HEARD:
            self._look()

    def _look(self) -> None:
        while self._heard:
            at_ns, member, lane, payload = self._heard.popleft()
            seen = look(payload, lane)
            if isinstance(seen, IkeSeen) and not seen.protected and DENIALS.intersection(seen.notifies):
                self._tell("said", at_ns, member=member, spi_i=seen.spi_i, spi_r=seen.spi_r)
                self._out.drain(1.0)

    # --- the hosts behind the members ------------------------------------------------------------

    def _answer(self, member: int) -> None:
        for _ in range(64):
            try:
                packet = self._hosts[member].recv(65_535)
            except OSError:
                return
            reply = echo_reply(packet)
            if reply is not None and len(self._answers[member]) < BACKLOG:
                self._answers[member].append(reply)

    def _hand_over(self) -> None:
        for member, answers in enumerate(self._answers):
            while answers:
                try:
                    self._hosts[member].sendto(answers[0], self._gateways[member])
                except BlockingIOError:
                    break
                except OSError:
                    pass  # that gateway is gone
                answers.popleft()

    # --- commands --------------------------------------------------------------------------------

    def _obey(self, octets: bytes) -> bool:
        *lines, self._commands = (self._commands + octets).split(b"\n")
        for line in lines:
            match line.split():
                case [b"out", number]:
                    self._serving.discard(int(number))
                case [b"in", number]:
                    self._serving.add(int(number))
                case [b"heard"]:
                    self._look()
                    self._tell("heard", lost=self._out.lost)
                    continue
                case [b"homes"]:
                    self._tell("homes", homes=[self._way(n) for n in range(self._place.clients)])
                    continue
            self._ways.clear()
            self._tell("serving", members=sorted(self._serving))
        return bool(octets)

    def _tell(self, event: str, at_ns: int | None = None, **fields: object) -> None:
        record = {"event": event, "mono_ns": time.monotonic_ns() if at_ns is None else at_ns, **fields}
        self._out.put(json.dumps(record))


def _says_nothing(payload: bytes, lane: Lane) -> bool:
    """Whether it can't be a denial: most is ESP, or has no such notify, and reading it takes long."""
    if lane is Lane.NAT_T and payload[:4] != bytes(4):
        return True
    return not any(octets in payload for octets in _DENYING)


def main(argv: Sequence[str]) -> int:
    """Run until stdin ends, SIGTERM or SIGINT."""
    stop = stop_signal()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        Middle(MiddleConfig.from_json(argv[0]), stack).run(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
