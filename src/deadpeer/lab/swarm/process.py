"""Some of a swarm's clients: `python -m deadpeer.lab.swarm.process CONFIG`, CONFIG being JSON text.

Commands come on stdin, each a line of JSON: `{"do": "connect", "clients": [...]}`, `{"do": "send"}` and
`{"do": "rest"}` (their hosts send echo requests, or no longer do), `{"do": "tally", "from_ns", "until_ns"}`.
What happens leaves as lines of JSON: `ready`, `tally`, and `moments` of clients: each a list of the event
(`up`, `back`, `verdict`, `failed`, `down`), the client's number, when (monotonic ns), and more.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from pathlib import Path

from deadpeer.crypto import SystemEntropy
from deadpeer.gateway import collector
from deadpeer.gateway.clocks import clock
from deadpeer.gateway.config import load
from deadpeer.gateway.sockets import UdpSocket
from deadpeer.gateway.warm import warm_up
from deadpeer.lab.child import LineWriter, exact_timers, stop_signal
from deadpeer.lab.swarm.client import SwarmClient, Tell, connection_of
from deadpeer.lab.swarm.plan import SwarmPlace

AT_ONCE = 4
"""Clients that begin to connect before those that have begun get their turn."""
TOGETHER, TOGETHER_NS = 1000, 50_000_000
"""So many moments are told together, and so long after the first: a line for each would be measured too."""


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """Number `number` of so many `processes`: clients are dealt out in turn.

    `file`: what each client's configuration is made from. `remotes`: which gateways they know; one each, in
    turn. `interval_s`: each client's host sends an inner packet so often.
    """

    number: int
    processes: int
    file: str
    place: SwarmPlace
    remotes: tuple[str, ...]
    interval_s: float

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @property
    def clients(self) -> range:
        """The numbers of its clients."""
        return range(self.number, self.place.clients, self.processes)

    @classmethod
    def from_json(cls, text: str) -> ProcessConfig:
        record = json.loads(text)
        return cls(
            int(record["number"]),
            int(record["processes"]),
            record["file"],
            SwarmPlace.from_record(record["place"]),
            tuple(record["remotes"]),
            float(record["interval_s"]),
        )


class SwarmProcess:
    """The loop. Whoever has something to do gets it done in turn; nothing waits."""

    def __init__(self, config: ProcessConfig, stack: contextlib.ExitStack) -> None:
        self.out = LineWriter(sys.stdout.fileno())
        self._poll = stack.enter_context(contextlib.closing(select.epoll()))
        self._clients: dict[int, SwarmClient] = {}
        self._sockets: dict[int, tuple[SwarmClient, UdpSocket]] = {}
        self._timers: list[tuple[int, int, SwarmClient]] = []
        self._timers_made = 0
        self._to_connect: deque[SwarmClient] = deque()
        self._interval_ns = round(config.interval_s * 1e9)
        self._sends: list[tuple[int, int, SwarmClient]] = []
        self._commands = b""
        self._moments: list[tuple[str, int, int, dict[str, object]]] = []
        self._tell_at_ns = 0
        self._build(config, stack)

    def run(self, stop: int) -> None:
        """Serve until stdin ends or the descriptor `stop` is readable."""
        stdin = sys.stdin.fileno()
        os.set_blocking(stdin, False)
        for fd in (stop, stdin):
            self._poll.register(fd, select.EPOLLIN)
        self._tell("ready", time.monotonic_ns(), clients=len(self._clients))
        while True:
            if self._moments and (self._tell_at_ns <= time.monotonic_ns() or len(self._moments) >= TOGETHER):
                self._tell_moments()
            self.out.flush()
            for fd, _ in self._poll.poll(self._patience_s()):
                if fd == stop or (fd == stdin and not self._obey(os.read(stdin, 1 << 16))):
                    return
                if (found := self._sockets.get(fd)) is not None:
                    self._read(*found)
            for _ in range(min(AT_ONCE, len(self._to_connect))):
                client = self._to_connect.popleft()
                client.connect(clock())
                self._arm(client)
            self._send_due()
            self._expire()

    # --- helpers ---------------------------------------------------------------------------------

    def _build(self, config: ProcessConfig, stack: contextlib.ExitStack) -> None:
        gateway = load(Path(config.file))
        entropy = SystemEntropy()
        warm_up(gateway.connections, entropy)
        for number in config.clients:
            remote = config.remotes[number % len(config.remotes)]
            connection = connection_of(gateway.connections[0], config.place, number, remote)
            inner, tell = config.place.inner(number), self._teller(number)
            client = SwarmClient(clock(), connection, inner, gateway, entropy, tell)
            stack.callback(client.sockets.close)
            self._clients[number] = client
            for sock in client.sockets:
                self._sockets[sock.fileno()] = client, sock
                self._poll.register(sock.fileno(), select.EPOLLIN)
            self._arm(client)
        collector.spare()

    def _teller(self, number: int) -> Tell:
        def tell(event: str, at_ns: int, more: dict[str, object]) -> None:
            if not self._moments:
                self._tell_at_ns = time.monotonic_ns() + TOGETHER_NS
            self._moments.append((event, number, at_ns, more))
            if event == "failed":
                self._to_connect.append(self._clients[number])

        return tell

    def _read(self, client: SwarmClient, sock: UdpSocket) -> None:
        for datagram in sock.receive():
            client.arrive(clock(), datagram)
        self._arm(client)

    def _patience_s(self) -> float:
        """How long there is nothing to do."""
        if self._to_connect:
            return 0.0
        due = [timers[0][0] for timers in (self._sends, self._timers) if timers]
        due += [self._tell_at_ns] if self._moments else []
        return min(1.0, max(0.0, (min(due) - time.monotonic_ns()) / 1e9)) if due else 1.0

    def _send_due(self) -> None:
        now = clock()
        while self._sends and self._sends[0][0] <= now.mono_ns:
            due_ns, number, client = heappop(self._sends)
            client.send(now)
            self._arm(client)
            # A late turn is not made up for: the rate never rises.
            again_ns = max(due_ns + self._interval_ns, now.mono_ns + self._interval_ns // 2)
            heappush(self._sends, (again_ns, number, client))

    def _spread(self) -> None:
        """Hosts begin to send, evenly spread over the interval."""
        begin_ns, step_ns = time.monotonic_ns(), self._interval_ns // len(self._clients)
        turns = enumerate(self._clients.items())
        self._sends = [(begin_ns + turn * step_ns, number, client) for turn, (number, client) in turns]

    def _expire(self) -> None:
        now = clock()
        while self._timers and self._timers[0][0] <= now.mono_ns:
            at_ns, _, client = heappop(self._timers)
            if client.armed_ns == at_ns:
                client.armed_ns = None
                # Most of what was due has been done with: an answer has come.
                if (due_ns := client.deadline_ns()) is not None and due_ns <= now.mono_ns:
                    client.expire(now)
                self._arm(client)

    def _arm(self, client: SwarmClient) -> None:
        """See to it that the client is looked at when something of it is due."""
        due_ns = client.deadline_ns()
        if due_ns is not None and (client.armed_ns is None or due_ns < client.armed_ns):
            client.armed_ns = due_ns
            self._timers_made += 1
            heappush(self._timers, (due_ns, self._timers_made, client))

    def _obey(self, octets: bytes) -> bool:
        *lines, self._commands = (self._commands + octets).split(b"\n")
        for line in lines:
            command = json.loads(line)
            match command["do"]:
                case "connect":
                    self._to_connect.extend(
                        self._clients[n] for n in command["clients"] if n in self._clients
                    )
                case "send":
                    self._spread()
                case "rest":
                    self._sends.clear()
                case "tally":
                    self._tally(command["from_ns"], command["until_ns"])
        return bool(octets)

    def _tally(self, from_ns: int, until_ns: int) -> None:
        self._tell_moments()
        found = {number: client.tally(from_ns, until_ns) for number, client in self._clients.items()}
        lost = {number: lost for number, (_, lost) in found.items() if lost}
        sent = {number: sent for number, (sent, _) in found.items()}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._tell("tally", time.monotonic_ns(), sent=sent, lost=lost, rss_kib=peak)

    def _tell_moments(self) -> None:
        self._tell("moments", time.monotonic_ns(), moments=self._moments)
        self._moments = []

    def _tell(self, event: str, at_ns: int, **fields: object) -> None:
        self.out.put(json.dumps({"event": event, "mono_ns": at_ns, **fields}))


def main(argv: Sequence[str]) -> int:
    """Run until stdin ends, SIGTERM or SIGINT."""
    stop = stop_signal()
    exact_timers()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        process = SwarmProcess(ProcessConfig.from_json(argv[0]), stack)
        process.run(stop)
        process.out.drain(1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
