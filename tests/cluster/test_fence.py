"""A member that may have lost its lease does nothing, and then goes on where it stopped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.cluster.fence import Fence, Gate, Margin

S = 1_000_000_000
MARGIN = Margin(drift=0.01, slack_s=0.25)


def test_it_counts_from_when_the_lease_was_asked_for() -> None:
    fence = Fence(MARGIN)
    assert not fence.is_open(0)
    fence.renewed(10 * S, 5.0)
    assert fence.is_open(12 * S)
    assert fence.until_ns == 10 * S + int(4.70 * S)
    assert not fence.is_open(10 * S + int(4.70 * S))
    fence.renewed(13 * S, 5.0)
    assert fence.is_open(17 * S)
    fence.renewed(11 * S, 5.0)  # the answer to an older request comes late
    assert fence.is_open(17 * S)
    fence.close()
    assert not fence.is_open(13 * S)


def test_a_lease_shorter_than_the_margin_opens_nothing() -> None:
    fence = Fence(MARGIN)
    fence.renewed(0, 0.25)
    assert not fence.is_open(0)


@given(
    st.floats(1.0, 600.0),
    st.floats(-0.004, 0.004),
    st.floats(-0.004, 0.004),
    st.floats(0.0, 0.2),
)
def test_it_closes_before_the_store_lets_the_lease_go(
    ttl_s: float, ours: float, theirs: float, on_the_way_s: float
) -> None:
    """Clocks that run up to 0.4 % wrong each; the store counts from when the request arrived."""
    fence = Fence(MARGIN)
    fence.renewed(0, ttl_s)
    assert fence.until_ns is not None
    closes_s = fence.until_ns / S / (1 + ours)
    expires_s = on_the_way_s + ttl_s / (1 + theirs)
    assert closes_s < expires_s


def test_the_core_does_not_notice_the_pause() -> None:
    fence = Fence(MARGIN)
    gate = Gate(fence)
    assert gate.enter(0, 1.0) is None
    fence.renewed(1 * S, 5.0)
    first = gate.enter(2 * S, 1.0)
    assert first is not None
    assert first.mono_ns == 2 * S
    assert gate.enter(100 * S, 1.0) is None
    fence.renewed(101 * S, 5.0)
    again = gate.enter(102 * S, 1.0)
    assert again is not None
    assert again.mono_ns == first.mono_ns
    assert gate.paused_ns == 100 * S
    assert gate.outside_ns(again.mono_ns + S) == 103 * S


@given(st.lists(st.tuples(st.integers(0, 10 * S), st.booleans()), max_size=50))
def test_the_cores_clock_never_goes_back(steps: list[tuple[int, bool]]) -> None:
    fence = Fence(MARGIN)
    gate = Gate(fence)
    now, last = 0, 0
    for step, renew in steps:
        now += step
        if renew:
            fence.renewed(now, 5.0)
        inside = gate.enter(now, 0.0)
        assert (inside is not None) == fence.is_open(now)
        if inside is not None:
            assert last <= inside.mono_ns <= now
            last = inside.mono_ns


@pytest.mark.parametrize("frozen_s", [6.0, 3600.0])
def test_a_process_that_was_stopped_finds_itself_fenced(frozen_s: float) -> None:
    """SIGSTOP, then SIGCONT: its keepalives did not go out, and the first thing it asks is the gate."""
    fence = Fence(MARGIN)
    gate = Gate(fence)
    fence.renewed(0, 5.0)
    assert gate.enter(S, 0.0) is not None
    assert gate.enter(S + int(frozen_s * S), 0.0) is None
