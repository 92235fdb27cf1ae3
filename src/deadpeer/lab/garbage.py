"""A stranger who sends garbage: `python -m deadpeer.lab.garbage FILE` (JSON), paced and counted.

Random octets, mutations of datagrams that were really sent (so that SPIs of living SAs are among them),
and well-formed forgeries of the unprotected notifies. It comes from many source addresses and ports, none
of them the peer's, and never reads an answer.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deadpeer.lab.child import LineWriter, exact_timers, stop_signal
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, look
from deadpeer.values import Address
from deadpeer.wire import (
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    Payload,
    Protocol,
    add_marker,
    encode_message,
)

TICK_S = 0.01
REPORT_S = 0.5
PER_SOURCE = 2000
"""Datagrams from one source address before the next one takes over."""


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway's two ports, and its share of the datagrams (a weight)."""

    ike: Address
    nat_t: Address
    weight: int = 1


@dataclass(frozen=True, slots=True)
class GarbageConfig:
    """`count` datagrams in all, `per_s` a second, from 127.78.0.0/16. `seeds` are (lane, hexadecimal)."""

    targets: list[Target]
    count: int
    per_s: int
    seed: int
    seeds: list[tuple[str, str]] = field(repr=False)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GarbageConfig:
        record = json.loads(text)
        record["targets"] = [
            Target(Address(*t["ike"]), Address(*t["nat_t"]), t["weight"]) for t in record["targets"]
        ]
        return cls(**record)


class Dice:
    """A fast stream of random octets that is fixed by its seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._block = 0
        self._rest = b""

    def octets(self, n: int) -> bytes:
        """The next `n` octets."""
        if len(self._rest) < n:
            name = f"{self._seed}|{self._block}".encode()
            self._block += 1
            self._rest += hashlib.shake_128(name).digest(1 << 16)
        out, self._rest = self._rest[:n], self._rest[n:]
        return out

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        return int.from_bytes(self.octets(4)) % n


class Garbage:
    """Makes datagrams, each with the lane that it is for. Pure: the seed and the samples decide."""

    def __init__(self, seed: int, samples: Sequence[tuple[Lane, bytes]]) -> None:
        self._dice = Dice(seed)
        seen = [(look(octets, lane), lane, octets) for lane, octets in samples]
        self._ike = [s for s, _, _ in seen if isinstance(s, IkeSeen)]
        self._esp = [bytes.fromhex(s.spi) for s, _, _ in seen if isinstance(s, EspSeen)]
        # IKE is rare among what was captured; half of the mutations shall be of it.
        kinds = [
            [(lane, octets) for s, lane, octets in seen if isinstance(s, kind)] for kind in (IkeSeen, EspSeen)
        ]
        self._samples = [kind for kind in kinds if kind]

    def next(self) -> tuple[Lane, bytes]:
        """The next datagram."""
        kind = self._dice.below(10)
        if kind < 3 or not self._samples:
            lane = Lane.NAT_T if self._dice.below(2) else Lane.IKE
            return lane, self._dice.octets(self._dice.below(600))
        if kind < 8:
            samples = self._samples[self._dice.below(len(self._samples))]
            lane, octets = samples[self._dice.below(len(samples))]
            return lane, self._mutated(lane, octets)
        return self._forged()

    def _mutated(self, lane: Lane, octets: bytes) -> bytes:
        work = bytearray(octets)
        marker = 4 if lane is Lane.NAT_T and octets[:4] == bytes(4) else 0
        for _ in range(1 + self._dice.below(3)):
            if not work:
                break
            match self._dice.below(7):
                case 0:
                    work[self._dice.below(len(work))] ^= 1 << self._dice.below(8)
                case 1:
                    del work[self._dice.below(len(work)) :]
                case 2:
                    work += self._dice.octets(self._dice.below(64))
                case 3:
                    at = self._dice.below(len(work))
                    work[at : at + 8] = self._dice.octets(8)
                case 4 if len(work) > marker + 28:
                    work[marker + 16 + self._dice.below(4)] = self._dice.below(256)
                case 5 if len(work) > marker + 28:
                    work[marker : marker + 8] = self._dice.octets(8)
                case _:
                    a, b = self._dice.below(len(work)), self._dice.below(len(work))
                    work[a : a + 16] = work[b : b + 16]
        if len(work) >= marker + 28 and self._dice.below(4):
            # Mostly with a true length, or nothing behind the header would ever be looked at.
            work[marker + 24 : marker + 28] = (len(work) - marker).to_bytes(4)
        return bytes(work)

    def _forged(self) -> tuple[Lane, bytes]:
        if self._esp and self._dice.below(3) == 0:
            spi = self._esp[self._dice.below(len(self._esp))]
            return Lane.NAT_T, spi + self._dice.octets(4) + self._dice.octets(24 + self._dice.below(200))
        spi_i, spi_r = self._pair()
        about = self._esp[self._dice.below(len(self._esp))] if self._esp else self._dice.octets(4)
        token = Notify(NotifyType.QCD_TOKEN, self._dice.octets(16), Protocol.IKE)
        choices: list[tuple[Payload, ...]] = [
            (Notify(NotifyType.INVALID_SPI, about),),
            (Notify(NotifyType.INVALID_SPI, about), token),
            (Notify(NotifyType.INVALID_IKE_SPI), token),
            (Notify(NotifyType.INVALID_IKE_SPI),),
        ]
        message = Message(
            spi_i,
            spi_r,
            ExchangeType.INFORMATIONAL,
            self._dice.below(4),
            bool(self._dice.below(2)),
            bool(self._dice.below(2)),
            choices[self._dice.below(len(choices))],
        )
        octets = encode_message(message)
        return (Lane.NAT_T, add_marker(octets)) if self._dice.below(2) else (Lane.IKE, octets)

    def _pair(self) -> tuple[bytes, bytes]:
        if self._ike and self._dice.below(2):
            seen = self._ike[self._dice.below(len(self._ike))]
            return bytes.fromhex(seen.spi_i), bytes.fromhex(seen.spi_r)
        return self._dice.octets(8), self._dice.octets(8)


def main(argv: Sequence[str]) -> int:
    """Send until the count is reached, SIGTERM or SIGINT. Raises OSError if it can't send at all."""
    config = GarbageConfig.from_json(Path(argv[0]).read_text())
    stop = stop_signal()
    exact_timers()
    out = LineWriter(sys.stdout.fileno())
    out.put(json.dumps({"event": "ready", "mono_ns": time.monotonic_ns()}))
    sent = dict.fromkeys(range(len(config.targets)), 0)
    began, reported = time.monotonic(), 0.0
    for number, (target, lane, payload, sock) in enumerate(_stream(config)):
        address = config.targets[target].nat_t if lane is Lane.NAT_T else config.targets[target].ike
        sock.sendto(payload, address)
        sent[target] += 1
        ahead = number / config.per_s - (time.monotonic() - began)
        if ahead > TICK_S:
            out.flush()
            readable, _, _ = select.select([stop], [], [], ahead)
            if readable:
                break
        if time.monotonic() - reported > REPORT_S:
            reported = time.monotonic()
            out.put(json.dumps({"event": "progress", "sent": list(sent.values())}))
    out.put(json.dumps({"event": "finished", "mono_ns": time.monotonic_ns(), "sent": list(sent.values())}))
    out.drain(1.0)
    return 0


def _stream(config: GarbageConfig) -> Iterator[tuple[int, Lane, bytes, socket.socket]]:
    samples = [(Lane(lane), bytes.fromhex(text)) for lane, text in config.seeds]
    garbage = Garbage(config.seed, samples)
    order = [i for i, target in enumerate(config.targets) for _ in range(target.weight)]
    sock: socket.socket | None = None
    for number in range(config.count):
        if sock is None or number % PER_SOURCE == 0:
            if sock is not None:
                sock.close()
            sock = _source(number // PER_SOURCE)
        lane, payload = garbage.next()
        yield order[number % len(order)], lane, payload, sock
    if sock is not None:
        sock.close()


def _source(number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((f"127.78.{number // 250 % 256}.{1 + number % 250}", 0))
    return sock


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
