"""The hosts behind all clients and all members: `python -m deadpeer.lab.scenarios.crowd CONFIG` (JSON text).

Like `deadpeer.lab.hosts`, for many: each client's host sends an ICMP echo request every `interval_ms`, and
the host behind whichever member it comes out of answers. `start` and `stop` come as lines on stdin.
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

from deadpeer.lab.child import LineWriter, exact_timers, stop_signal
from deadpeer.lab.hosts import PAYLOAD
from deadpeer.lab.relay import unix_socket
from deadpeer.plane.packets import decode_echo, echo_reply, echo_request

DRAIN = 64
IDENT = 0x6290


@dataclass(frozen=True, slots=True)
class CrowdConfig:
    """`clients`: (the host's socket path, the gateway's, the host's inner address). `members`: the first two.

    `server`: the inner address of the host behind the members.
    """

    clients: tuple[tuple[str, str, str], ...]
    members: tuple[tuple[str, str], ...]
    server: str
    interval_ms: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CrowdConfig:
        record = json.loads(text)
        return cls(
            tuple((host, gateway, inner) for host, gateway, inner in record["clients"]),
            tuple((host, gateway) for host, gateway in record["members"]),
            record["server"],
            float(record["interval_ms"]),
        )


class Crowd:
    """All hosts in one loop. Clients take turns: their packets are spread over the interval."""

    def __init__(self, config: CrowdConfig, stack: contextlib.ExitStack) -> None:
        self.out = LineWriter(sys.stdout.fileno())
        self._config = config
        self._step_ns = round(config.interval_ms * 1e6 / len(config.clients))
        self._clients = [stack.enter_context(unix_socket(host)) for host, _, _ in config.clients]
        self._members = [stack.enter_context(unix_socket(host)) for host, _ in config.members]
        self._number = {inner: number for number, (_, _, inner) in enumerate(config.clients)}
        self._sent = [0] * len(config.clients)
        self._turn = 0
        self._sending = False
        self._next_ns = 0
        self._commands = b""

    def run(self, stop: int) -> None:
        """Serve until stdin ends or the descriptor `stop` is readable."""
        stdin = sys.stdin.fileno()
        self._tell("ready")
        while True:
            self._send_due()
            self.out.flush()
            writers = [self.out.fd] if self.out.waiting else []
            sources: list[socket.socket | int] = [stop, stdin, *self._clients, *self._members]
            timeout = max(0.0, (self._next_ns - time.monotonic_ns()) / 1e9) if self._sending else None
            readable, _, _ = select.select(sources, writers, [], timeout)
            if stop in readable or (stdin in readable and not self._obey(os.read(stdin, 4096))):
                return
            for number, sock in enumerate(self._members):
                if sock in readable:
                    self._answer(number, sock)
            for number, sock in enumerate(self._clients):
                if sock in readable:
                    self._take_replies(number, sock)

    def _send_due(self) -> None:
        while self._sending and (now_ns := time.monotonic_ns()) >= self._next_ns:
            client = self._turn
            self._turn = (client + 1) % len(self._clients)
            self._sent[client] += 1
            seq = self._sent[client]
            _, gateway, inner = self._config.clients[client]
            packet = echo_request(inner, self._config.server, IDENT, seq & 0xFFFF, PAYLOAD)
            room = _send(self._clients[client], packet, gateway)
            self._tell("sent", now_ns, client=client, seq=seq)
            if not room:
                self._tell("no room", now_ns, client=client, seq=seq)
            # A late turn is not made up for: the rate never rises.
            self._next_ns = max(self._next_ns + self._step_ns, now_ns + self._step_ns // 2)

    def _take_replies(self, client: int, sock: socket.socket) -> None:
        for packet in _drain(sock):
            echo = decode_echo(packet)
            if echo is not None and not echo.request and echo.ident == IDENT:
                self._tell("reply", client=client, seq=self._whole(client, echo.seq))

    def _whole(self, client: int, seq: int) -> int:
        """A sequence number of 16 bits as it was counted."""
        return self._sent[client] - ((self._sent[client] - seq) & 0xFFFF)

    def _answer(self, member: int, sock: socket.socket) -> None:
        for packet in _drain(sock):
            reply = echo_reply(packet)
            if reply is None or _send(sock, reply, self._config.members[member][1]):
                continue
            echo = decode_echo(reply)
            client = None if echo is None else self._number.get(str(echo.destination))
            if echo is not None and client is not None:
                self._tell("no room", client=client, seq=self._whole(client, echo.seq))

    def _obey(self, data: bytes) -> bool:
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            self._sending = line == b"start"
            self._next_ns = time.monotonic_ns()
        return bool(data)

    def _tell(self, event: str, at_ns: int | None = None, **fields: int) -> None:
        record = {"event": event, "mono_ns": time.monotonic_ns() if at_ns is None else at_ns, **fields}
        self.out.put(json.dumps(record))


def _send(sock: socket.socket, packet: bytes, path: str) -> bool:
    """False: there was no room. A gateway that is dead loses the packet, like any next hop."""
    try:
        sock.sendto(packet, path)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _drain(sock: socket.socket) -> list[bytes]:
    packets: list[bytes] = []
    with contextlib.suppress(OSError):
        while len(packets) < DRAIN:
            packets.append(sock.recv(65_535))
    return packets


def main(argv: Sequence[str]) -> int:
    """Run until stdin ends, SIGTERM or SIGINT."""
    stop = stop_signal()
    exact_timers()
    with contextlib.ExitStack() as stack:
        crowd = Crowd(CrowdConfig.from_json(argv[0]), stack)
        crowd.run(stop)
        crowd.out.drain(1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
