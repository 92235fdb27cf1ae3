"""A member stops by itself before anybody may take it for dead. Pure: time comes in as numbers.

A `Fence` says until when this member may serve. A `Gate` hands out the time to the protocol core while the
fence is open, and none while it is closed: the core's clock stands still meanwhile, so that nothing is
sent, nothing is decrypted and no timer runs, and all SAs go on afterwards as if nothing had been.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deadpeer.values import NS_PER_S, Now


@dataclass(frozen=True, slots=True)
class Margin:
    """What may go wrong with two clocks. `drift`: how much faster one may run than the other, as a share;
    `slack_s`: granularity of timers, time between the check and the packet on the wire, seconds."""

    drift: float = 0.01
    slack_s: float = 0.25

    def usable_s(self, ttl_s: float, rate: float = 1.0) -> float:
        """How much of a lease of `ttl_s` seconds its holder may use, counted from when it asked for it, if
        its clock has at least this rate of the store's."""
        return max(0.0, ttl_s * min(1 - self.drift, rate) - self.slack_s)


class Fence:
    """Open while the last lease that we hold is certain to last. Closed at first.

    Times are nanoseconds of a clock that runs while the machine is suspended.
    """

    def __init__(self, margin: Margin) -> None:
        self._margin = margin
        self._until_ns: int | None = None

    def renewed(self, asked_ns: int, ttl_s: float, rate: float = 1.0) -> None:
        """The store granted `ttl_s` seconds to a request that we sent at `asked_ns`. `rate`: how fast our
        clock is at least, as a share of the store's."""
        until_ns = asked_ns + int(self._margin.usable_s(ttl_s, rate) * NS_PER_S)
        self._until_ns = until_ns if self._until_ns is None else max(self._until_ns, until_ns)

    def close(self) -> None:
        """We do not hold it any more, or are told so."""
        self._until_ns = None

    def is_open(self, now_ns: int) -> bool:
        """Whether this member may serve at this moment."""
        return self._until_ns is not None and now_ns < self._until_ns

    @property
    def until_ns(self) -> int | None:
        """When it closes by itself; None: it is closed already."""
        return self._until_ns


class Opening(Protocol):
    """What a gate asks: a `Fence`, or whatever else knows whether we may serve."""

    def is_open(self, now_ns: int) -> bool: ...


class Gate:
    """The clock of the protocol core behind a fence.

    `enter` is asked before each input is handed over and before each output is obeyed; it returns None
    while the fence is closed. Fenced time does not exist for the core.
    """

    def __init__(self, fence: Opening) -> None:
        self._fence = fence
        self._behind_ns = 0
        self._last_ns: int | None = None
        """When the fence was last seen open."""
        self._closed = True

    def enter(self, now_ns: int, unix_s: float) -> Now | None:
        """The core's present moment, or None if it may do nothing now."""
        if not self._fence.is_open(now_ns):
            self._closed = True
            return None
        if self._closed and self._last_ns is not None:
            self._behind_ns += now_ns - self._last_ns
        self._closed = False
        self._last_ns = now_ns
        return Now(now_ns - self._behind_ns, unix_s)

    def outside_ns(self, core_ns: int) -> int:
        """When a moment of the core's clock comes, if the fence stays open until then."""
        return core_ns + self._behind_ns

    @property
    def paused_ns(self) -> int:
        """How long the core has stood still, all pauses together."""
        return self._behind_ns
