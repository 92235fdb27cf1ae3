"""The clock of leases, which the lab can have run at another rate, and the core's clock behind it."""

from __future__ import annotations

import asyncio

import pytest

from deadpeer.cluster.fence import Fence, Margin
from deadpeer.gateway import clocks
from deadpeer.gateway.clocks import FencedClock, LeaseClock

S = 1_000_000_000


class Boottime:
    """What the kernel would say."""

    def __init__(self) -> None:
        self.now_ns = 1000 * S

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Boottime:
    boottime = Boottime()
    monkeypatch.setattr(clocks, "boottime_ns", boottime)
    return boottime


def test_it_is_the_kernels_and_goes_on_from_where_it_is_when_its_rate_changes(kernel: Boottime) -> None:
    clock = LeaseClock()
    kernel.now_ns += 7 * S
    assert clock() == 1007 * S
    clock.skew(0.8)
    assert clock() == 1007 * S
    kernel.now_ns += 10 * S
    assert clock() == 1015 * S
    clock.skew(1.0)
    kernel.now_ns += 10 * S
    assert clock() == 1025 * S


def test_a_fence_is_asked_by_it_so_that_a_slow_one_closes_late(kernel: Boottime) -> None:
    async def story() -> list[bool]:
        lease, fence = LeaseClock(), Fence(Margin(0.0, 0.0))
        changes: list[bool] = []
        core = FencedClock(fence, changes.append, lease)
        fence.renewed(lease(), 4.0)
        lease.skew(0.5)
        found = []
        for _ in range(3):
            found.append(core.enter() is not None)
            kernel.now_ns += int(3.9 * S)
        assert changes == [True]
        kernel.now_ns += S
        assert core.enter() is None
        assert changes == [True, False]
        return found

    assert asyncio.run(story()) == [True, True, True]
