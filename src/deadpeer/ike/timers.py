"""Deadlines by owner and named reason; the earliest one is what the endpoint waits for."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable

from deadpeer.values import Deadline, Now

Callback = Callable[[Now], None]


class TimerQueue:
    """At most one timer for each (owner, reason). Cancelling is cheap; stale heap entries are skipped."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, tuple[Hashable, str]]] = []
        self._armed: dict[tuple[Hashable, str], tuple[int, int, Callback]] = {}
        self._by_owner: dict[Hashable, set[str]] = {}
        self._serial = 0

    def arm(self, owner: Hashable, reason: str, at_ns: int, callback: Callback) -> None:
        """Call `callback(now)` at `at_ns` (monotonic ns); replaces an earlier timer of the same name."""
        self._serial += 1
        key = (owner, reason)
        self._armed[key] = (at_ns, self._serial, callback)
        self._by_owner.setdefault(owner, set()).add(reason)
        heapq.heappush(self._heap, (at_ns, self._serial, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._armed):
            self._compact()

    def cancel(self, owner: Hashable, reason: str) -> None:
        """Forget the timer, if it is armed."""
        if self._armed.pop((owner, reason), None) is not None:
            self._disown(owner, reason)

    def cancel_all(self, owner: Hashable) -> None:
        """Forget every timer of an owner."""
        for reason in self._by_owner.pop(owner, set()):
            self._armed.pop((owner, reason), None)

    def armed(self, owner: Hashable, reason: str) -> int | None:
        """When the timer will fire (ns), or None."""
        entry = self._armed.get((owner, reason))
        return entry[0] if entry else None

    def next(self) -> Deadline | None:
        """The earliest deadline."""
        while self._heap:
            at_ns, serial, key = self._heap[0]
            entry = self._armed.get(key)
            if entry is not None and entry[1] == serial:
                return Deadline(at_ns, key[1])
            heapq.heappop(self._heap)
        return None

    def fire(self, now: Now) -> int:
        """Run all callbacks that are due, in order; a callback may arm new timers. Returns how many ran."""
        ran = 0
        while (deadline := self.next()) is not None and deadline.at_ns <= now.mono_ns:
            key = heapq.heappop(self._heap)[2]
            callback = self._armed.pop(key)[2]
            self._disown(*key)
            callback(now)
            ran += 1
        return ran

    def __len__(self) -> int:
        return len(self._armed)

    def _disown(self, owner: Hashable, reason: str) -> None:
        reasons = self._by_owner.get(owner)
        if reasons is not None:
            reasons.discard(reason)
            if not reasons:
                del self._by_owner[owner]

    def _compact(self) -> None:
        self._heap = [(at, serial, key) for key, (at, serial, _) in self._armed.items()]
        heapq.heapify(self._heap)
