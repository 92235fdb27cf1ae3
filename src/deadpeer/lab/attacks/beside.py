"""An attacker beside the link: `python -m deadpeer.lab.attacks.beside CONFIG` (JSON text).

He sees nothing of the link. He sends from addresses of his own, and in the name of a gateway's peer: for
that he hands the datagram to the relay, which stands for a forged source address (see `lab.relay`).

Lines of JSON on stdin: {"learn": {...}} tells him what the scenario assumes that he knows, {"begin": true}
lets him begin, {"count": true} is answered with his counts, {"rest": true} ends it and is answered alike.
What comes back to his own addresses he writes out whole.
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
from typing import Any

from deadpeer.lab.attacks import enumerator, forgers, replays, thief
from deadpeer.lab.attacks.attackers import Attacker, Knowledge, Shot, Tally
from deadpeer.lab.child import LineWriter, exact_timers, stop_signal
from deadpeer.lab.garbage import Dice
from deadpeer.lab.relay import LANES, MAX_DATAGRAM, WAYS
from deadpeer.lab.trace import IkeSeen, Lane, Way, look
from deadpeer.values import Address

DRAIN = 64
AT_ONCE = 16
"""Shots that he makes up for at once when he was late."""
KEPT_QUESTIONS = 20_000

ATTACKERS = {
    "forge-invalid-spi": forgers.InvalidSpi,
    "forge-invalid-ike-spi": forgers.InvalidIkeSpi,
    "forge-token": forgers.Token,
    "forge-init": replays.Beginner,
    "forge-check-spi": forgers.CheckSpi,
    "replay-token": replays.ReplayToken,
    "replay-exchange": replays.ReplayExchange,
    "enumerate": enumerator.Enumerator,
    "cookie-replay": replays.CookieReplay,
    "steal-ticket": thief.TicketThief,
}


@dataclass(frozen=True, slots=True)
class BesideConfig:
    """`targets`: the gateways' (IKE, NAT-T) addresses by way. `per_s` shots a second; `sources`: so many own
    addresses 127.66.`network`.1 and on, each with one socket."""

    name: str
    inject: str
    targets: dict[Way, tuple[Address, Address]]
    per_s: int
    seed: int
    network: int
    sources: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BesideConfig:
        record = json.loads(text)
        record["targets"] = {
            Way(way): (Address(*ike), Address(*nat_t)) for way, (ike, nat_t) in record["targets"].items()
        }
        return cls(**record)


def main(argv: Sequence[str]) -> int:
    """Run until stdin ends, SIGTERM or SIGINT."""
    config = BesideConfig.from_json(argv[0])
    stop = stop_signal()
    exact_timers()
    with contextlib.ExitStack() as stack:
        beside = Beside(config, stack)
        beside.run(stop)
        beside.out.drain(1.0)
    return 0


class Beside:
    """The loop: shoot at the pace, hear answers, obey."""

    def __init__(self, config: BesideConfig, stack: contextlib.ExitStack) -> None:
        self.out = LineWriter(sys.stdout.fileno())
        self._config = config
        self._attacker: Attacker = ATTACKERS[config.name](Dice(config.seed))
        self._interval_ns = round(1e9 / config.per_s)
        self._next_ns: int | None = None
        self._tally = Tally()
        self._questions: dict[tuple[object, ...], int] = {}
        self._worst = 0.0
        self._commands = b""
        self._inject = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._inject.connect(config.inject)
        self._own = [stack.enter_context(_bound(config.network, n)) for n in range(config.sources)]
        self._aims = {
            (way, lane): target
            for way, (ike, nat_t) in config.targets.items()
            for lane, target in ((Lane.IKE, ike), (Lane.NAT_T, nat_t))
        }
        self._sides = {target: aim for aim, target in self._aims.items()}

    def run(self, stop: int) -> None:
        """Serve until stdin ends or the descriptor `stop` is readable."""
        stdin = sys.stdin.fileno()
        os.set_blocking(stdin, False)
        self.out.put(json.dumps({"event": "ready", "mono_ns": time.monotonic_ns()}))
        while True:
            self._shoot_due()
            writers = [self.out.fd] if self.out.waiting else []
            readable, _, _ = select.select([stop, stdin, *self._own], writers, [], self._timeout())
            if stop in readable:
                return
            for number, sock in enumerate(self._own):
                if sock in readable:
                    self._hear(number, sock)
            if stdin in readable and not self._obey(os.read(stdin, 1 << 20)):
                return
            self.out.flush()

    def _timeout(self) -> float | None:
        if self._next_ns is None:
            return None
        return max(0.0, (self._next_ns - time.monotonic_ns()) / 1e9)

    def _shoot_due(self) -> None:
        now_ns = time.monotonic_ns()
        for _ in range(AT_ONCE):
            if self._next_ns is None or self._next_ns > now_ns:
                return
            self._next_ns += self._interval_ns
            shot = self._attacker.shot()
            if shot is not None:
                self._send(shot)
        if self._next_ns is not None:
            self._next_ns = max(self._next_ns, now_ns)  # what he could not send is not made up for

    def _send(self, shot: Shot) -> None:
        try:
            if shot.source is None:
                head = bytes((WAYS.index(shot.way), LANES.index(shot.lane)))
                self._inject.send(head + shot.payload)
            else:
                sock = self._own[shot.source % len(self._own)]
                sock.sendto(shot.payload, self._aims[shot.way, shot.lane])
                self._note_question(shot)
        except OSError:
            self._tally.add("unsent", len(shot.payload))  # the victim is dead just now
            return
        self._tally.add("sent", len(shot.payload))
        self._tally.add(f"sent: {shot.what}", len(shot.payload))

    def _note_question(self, shot: Shot) -> None:
        if len(self._questions) >= KEPT_QUESTIONS:
            del self._questions[next(iter(self._questions))]
        seen = look(shot.payload, shot.lane)
        if isinstance(seen, IkeSeen) and seen.response:
            return  # nobody owes it an answer
        key = (shot.way, *question_key(shot.payload, shot.lane))
        self._questions[key] = min(len(shot.payload), self._questions.get(key, len(shot.payload)))

    def _hear(self, number: int, sock: socket.socket) -> None:
        for _ in range(DRAIN):
            try:
                payload, source = sock.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an earlier datagram
            way, lane = self._sides.get(Address(*source), (None, None))
            if way is None or lane is None:
                continue
            self._tally.add("answers", len(payload))
            seen = look(payload, lane)
            if isinstance(seen, IkeSeen):
                for name in set(seen.notifies):
                    self._tally.add(f"answers: {name}", len(payload))
            self._compare(way, lane, payload)
            self._attacker.heard(number, way, lane, payload)
            record = {"answer": payload.hex(), "way": way, "lane": lane, "source": number}
            self.out.put(json.dumps(record))

    def _compare(self, way: Way, lane: Lane, payload: bytes) -> None:
        question = self._questions.get((way, *question_key(payload, lane)))
        if question is None:
            self._tally.add("answers to nothing", len(payload))
        elif len(payload) > self._worst * question:
            self._worst = len(payload) / question
            seen = look(payload, lane)
            what = seen.exchange_name if isinstance(seen, IkeSeen) else "no IKE message"
            self.out.put(json.dumps({"worst": self._worst, "octets": len(payload), "what": what}))

    def _obey(self, data: bytes) -> bool:
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            record: dict[str, Any] = json.loads(line)
            if "learn" in record:
                self._attacker.learn(Knowledge.from_record(record["learn"]))
            if record.get("begin"):
                self._next_ns = time.monotonic_ns()
            if record.get("rest"):
                self._next_ns = None
            if record.get("rest") or record.get("count"):
                self._report("rested" if "rest" in record else "counted")
        return bool(data)

    def _report(self, event: str) -> None:
        counts = {"counts": self._tally.counts, "notes": self._attacker.notes, "worst": self._worst}
        self.out.put(json.dumps({"event": event, "mono_ns": time.monotonic_ns(), **counts}))


def question_key(payload: bytes, lane: Lane) -> tuple[object, ...]:
    """The same for a question and for its answer: what answers copy. Pure."""
    seen = look(payload, lane)
    if isinstance(seen, IkeSeen):
        if seen.about:
            return ("esp", seen.about)
        spi_r = "" if seen.exchange_name in ("IKE_SA_INIT", "IKE_SESSION_RESUME") else seen.spi_r
        return ("ike", seen.exchange, seen.spi_i, spi_r, seen.message_id)
    return ("esp", payload[:4].hex())


def _bound(network: int, number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((f"127.66.{network}.{1 + number}", 0))
    return sock


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
