"""The hosts behind the two gateways, without privileges: `python -m deadpeer.lab.hosts CONFIG` (JSON text).

Inner packets pass between a host and its gateway as datagrams of UNIX sockets. Alice's host sends an ICMP
echo request every `interval_ms`, Bob's answers; both outlive the gateways. `start` and `stop` come as lines
on stdin; each request and each reply leaves as a line of JSON on stdout. So does each packet for which a
gateway's socket had no room: then this machine had no time for it, and nothing of the tunnel is to blame.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from deadpeer.lab.child import LineWriter, exact_timers, stop_signal
from deadpeer.plane.packets import decode_echo, echo_reply, echo_request

MAX_PACKET = 65_535
DRAIN = 64
PAYLOAD = bytes(range(56))
"""What ping carries by default, in octets."""


@dataclass(frozen=True, slots=True)
class HostsConfig:
    """`alice` and `bob` are (the host's socket path, the gateway's socket path, the host's inner address)."""

    alice: tuple[str, str, str]
    bob: tuple[str, str, str]
    interval_ms: float
    ident: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> HostsConfig:
        record = json.loads(text)
        return cls(
            tuple(record["alice"]), tuple(record["bob"]), float(record["interval_ms"]), int(record["ident"])
        )


def main(argv: Sequence[str]) -> int:
    """Run until stdin ends, SIGTERM or SIGINT."""
    config = HostsConfig.from_json(argv[0])
    stop = stop_signal()
    exact_timers()
    with contextlib.ExitStack() as stack:
        hosts = Hosts(config, stack)
        hosts.run(stop)
        hosts.out.drain(1.0)
    return 0


class Hosts:
    """Both hosts in one loop. Sequence numbers in the records are not cut to 16 bits."""

    def __init__(self, config: HostsConfig, stack: contextlib.ExitStack) -> None:
        self.out = LineWriter(sys.stdout.fileno())
        self._config = config
        self._interval_ns = round(config.interval_ms * 1e6)
        self._alice = stack.enter_context(_bound(config.alice[0]))
        self._bob = stack.enter_context(_bound(config.bob[0]))
        self._sending = False
        self._next_ns = 0
        self._sent = 0
        self._commands = b""

    def run(self, stop: int) -> None:
        """Serve both hosts until stdin ends or the descriptor `stop` is readable."""
        stdin = sys.stdin.fileno()
        os.set_blocking(stdin, False)
        self.out.put(json.dumps({"event": "ready", "mono_ns": time.monotonic_ns()}))
        while True:
            self._send_due()
            writers = [self.out.fd] if self.out.waiting else []
            sources = [self._alice, self._bob, stdin, stop]
            readable, _, _ = select.select(sources, writers, [], self._timeout())
            if stop in readable:
                return
            if self._alice in readable:
                self._take_replies()
            if self._bob in readable:
                self._answer_requests()
            if stdin in readable and not self._obey(os.read(stdin, 4096)):
                return
            self.out.flush()

    def _timeout(self) -> float | None:
        return max(0.0, (self._next_ns - time.monotonic_ns()) / 1e9) if self._sending else None

    def _send_due(self) -> None:
        now_ns = time.monotonic_ns()
        if not self._sending or now_ns < self._next_ns:
            return
        self._sent += 1
        packet = echo_request(
            self._config.alice[2], self._config.bob[2], self._config.ident, self._sent & 0xFFFF, PAYLOAD
        )
        room = _send(self._alice, packet, self._config.alice[1])
        self.out.put(json.dumps({"event": "sent", "seq": self._sent, "mono_ns": now_ns}))
        if not room:
            self.out.put(json.dumps({"event": "no room", "seq": self._sent, "mono_ns": now_ns}))
        # A late tick is not made up for: the rate never rises above the configured one.
        self._next_ns = max(self._next_ns + self._interval_ns, now_ns + self._interval_ns // 2)

    def _take_replies(self) -> None:
        for packet, now_ns in _drain(self._alice):
            echo = decode_echo(packet)
            if echo is None or echo.request or echo.ident != self._config.ident or echo.data != PAYLOAD:
                self.out.put(json.dumps({"event": "strange", "mono_ns": now_ns, "octets": len(packet)}))
                continue
            record = {"event": "reply", "seq": self._whole(echo.seq), "mono_ns": now_ns}
            self.out.put(json.dumps(record))

    def _answer_requests(self) -> None:
        for packet, now_ns in _drain(self._bob):
            reply = echo_reply(packet)
            if reply is None or _send(self._bob, reply, self._config.bob[1]):
                continue
            echo = decode_echo(reply)
            if echo is not None:
                record = {"event": "no room", "seq": self._whole(echo.seq), "mono_ns": now_ns}
                self.out.put(json.dumps(record))

    def _whole(self, seq: int) -> int:
        return self._sent - ((self._sent - seq) & 0xFFFF)

    def _obey(self, data: bytes) -> bool:
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            self._sending = line == b"start"
            self._next_ns = time.monotonic_ns()
        return bool(data)


def _send(sock: socket.socket, packet: bytes, path: str) -> bool:
    """False: there was no room. A gateway that is dead or busy loses the packet, like any next hop."""
    try:
        sock.sendto(packet, path)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _drain(sock: socket.socket) -> Iterator[tuple[bytes, int]]:
    for _ in range(DRAIN):
        try:
            packet = sock.recv(MAX_PACKET)
        except OSError:
            return
        yield packet, time.monotonic_ns()


def _bound(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(path)
    return sock


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
