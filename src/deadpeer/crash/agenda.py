"""Deadlines of an extension: at most one for each key, cheap to move and to cancel."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from deadpeer.values import Deadline

K = TypeVar("K")


class Agenda(Generic[K]):
    """Keys with the moment (monotonic ns) at which each is due. `reason` names the deadline."""

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self._due: dict[K, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: K, at_ns: int) -> None:
        """`key` is due at `at_ns`, whatever was set before."""
        self._serial += 1
        self._due[key] = (at_ns, self._serial)
        heapq.heappush(self._heap, (at_ns, self._serial, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due):
            self._heap = [(at, serial, key) for key, (at, serial) in self._due.items()]
            heapq.heapify(self._heap)

    def hasten(self, key: K, at_ns: int) -> None:
        """`key` is due at `at_ns` at the latest."""
        due = self._due.get(key)
        if due is None or at_ns < due[0]:
            self.set(key, at_ns)

    def cancel(self, key: K) -> None:
        """`key` is not due any more."""
        self._due.pop(key, None)

    def deadline(self) -> Deadline | None:
        """The earliest one."""
        while self._heap:
            at_ns, serial, key = self._heap[0]
            if self._due.get(key) == (at_ns, serial):
                return Deadline(at_ns, self._reason)
            heapq.heappop(self._heap)
        return None

    def due(self, now_ns: int) -> K | None:
        """Take the next key that is due by `now_ns`, or None."""
        deadline = self.deadline()
        if deadline is None or deadline.at_ns > now_ns:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key
