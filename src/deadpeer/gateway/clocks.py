"""The protocol core's clock: the plain monotonic one, or one that stands still while a fence is closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from deadpeer.cluster.fence import Gate, Opening
from deadpeer.values import NS_PER_S, Now


class CoreClock(Protocol):
    """Asked before each input is handed over and before each output is obeyed."""

    def enter(self) -> Now | None:
        """The core's present moment, or None if it may do nothing now."""
        ...

    def loop_s(self, core_ns: int) -> float:
        """When a moment of the core's clock comes, in the event loop's time."""
        ...


def clock() -> Now:
    """The present moment."""
    return Now(time.monotonic_ns(), time.time())


def boottime_ns() -> int:
    """The clock of leases: it runs while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class LeaseClock:
    """The clock of leases, which can be made to run at another rate: so the lab does, with gateway.faults."""

    def __init__(self) -> None:
        self.rate = 1.0
        self._from_ns = self._at_ns = boottime_ns()

    def __call__(self) -> int:
        return self._at_ns + int((boottime_ns() - self._from_ns) * self.rate)

    def skew(self, rate: float) -> None:
        """Count `rate` seconds in a second from now on."""
        self._at_ns, self._from_ns = self(), boottime_ns()
        self.rate = rate


class PlainClock:
    """A gateway by itself: always open."""

    def enter(self) -> Now:
        return clock()

    def loop_s(self, core_ns: int) -> float:
        return core_ns / NS_PER_S


class FencedClock:
    """The clock behind a fence. `on_change` is told when it is found open (True), or closed. `lease_ns`: the
    clock by which the fence is asked."""

    def __init__(
        self, fence: Opening, on_change: Callable[[bool], None], lease_ns: Callable[[], int] = boottime_ns
    ) -> None:
        self.open = False
        self._lease_ns = lease_ns
        self._gate = Gate(fence)
        self._on_change = on_change

    def enter(self) -> Now | None:
        now = self._gate.enter(self._lease_ns(), time.time())
        if (now is not None) != self.open:
            self.open = now is not None
            self._on_change(self.open)
        return now

    def loop_s(self, core_ns: int) -> float:
        left_ns = self._gate.outside_ns(core_ns) - self._lease_ns()
        return asyncio.get_running_loop().time() + left_ns / NS_PER_S

    @property
    def paused_s(self) -> float:
        """How long the core has stood still, all pauses together."""
        return self._gate.paused_ns / NS_PER_S
