"""The link between two gateways as pure scheduling: who gets what, and when. No sockets, no clock.

A `Policy` decides what becomes of each datagram; `Link` keeps what it decided in order of time. The
relay process feeds it real datagrams and the real clock, the tests feed it theirs.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deadpeer.lab.trace import Lane, Way

NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Passing:
    """A datagram that came to the relay at `arrived_ns` (monotonic)."""

    way: Way
    lane: Lane
    payload: bytes = field(repr=False)
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Hand `payload` to the side that `way` points at, at `at_ns` (monotonic).

    `forged`: no gateway sent it, so it is not traced as one's.
    """

    at_ns: int
    way: Way
    lane: Lane
    payload: bytes = field(repr=False)
    forged: bool = False


class Policy(Protocol):
    """What becomes of a datagram. An attacker in the middle is a policy that wraps another one."""

    def decide(self, passing: Passing) -> Sequence[Delivery]:
        """The deliveries that this datagram causes: none is a loss, several are copies or forgeries."""
        ...


class PlainPolicy:
    """A constant one-way delay of half of `rtt_ms`, and a loss of probability `loss` in each direction.

    Which datagrams are lost depends on `seed` and on their count in their direction, on nothing else.
    """

    def __init__(self, rtt_ms: float, loss: float, seed: int) -> None:
        self._delay_ns = round(rtt_ms * NS_PER_MS / 2)
        self._loss = loss
        self._seed = seed
        self._count: Counter[Way] = Counter()

    def decide(self, passing: Passing) -> Sequence[Delivery]:
        self._count[passing.way] += 1
        if chance(self._seed, passing.way, self._count[passing.way]) < self._loss:
            return ()
        due = passing.arrived_ns + self._delay_ns
        return (Delivery(due, passing.way, passing.lane, passing.payload),)


class Link:
    """Datagrams on their way, in order of delivery; those due at the same time keep their order."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._heap: list[tuple[int, int, Delivery, Passing]] = []
        self._count = 0

    def offer(self, passing: Passing) -> bool:
        """Take a datagram. False: nothing of it will be delivered (forgeries that it causes may be)."""
        deliveries = self._policy.decide(passing)
        for delivery in deliveries:
            self._count += 1
            heapq.heappush(self._heap, (delivery.at_ns, self._count, delivery, passing))
        return any(not delivery.forged for delivery in deliveries)

    def due(self, now_ns: int) -> list[tuple[Delivery, Passing]]:
        """Take out what is to be delivered by `now_ns`, each with the datagram that caused it."""
        out = []
        while self._heap and self._heap[0][0] <= now_ns:
            _, _, delivery, passing = heapq.heappop(self._heap)
            out.append((delivery, passing))
        return out

    @property
    def next_ns(self) -> int | None:
        """When the next delivery is due, or None if nothing is on its way."""
        return self._heap[0][0] if self._heap else None


def chance(seed: int, stream: str, number: int) -> float:
    """A number in [0, 1) that depends on its arguments only: the same run again loses the same packets."""
    digest = hashlib.sha256(f"{seed}|{stream}|{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
