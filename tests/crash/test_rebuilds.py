"""What a failed attempt to build a new SA costs, and what a budget's end, a deletion and a verdict do to it.

(How many new SAs forged evidence can cause in all: test_budget.py.)
"""

from __future__ import annotations

from tests.crash.fakes import FakeCore, FakeSa, at, connection

from deadpeer.crash.options import CrashOptions
from deadpeer.crash.rebuilds import FIRST_PAUSE_S, HURRY, LONGEST_PAUSE_S, MAX_PEERS, Rebuilds
from deadpeer.ike.extension import SaClosed, SaView
from deadpeer.values import NS_PER_S, Address, Now

BUDGET = int(CrashOptions().rebuilds_per_hour)


class Core(FakeCore):
    """Says what was asked of it; builds what it is asked for unless `able` is False."""

    def __init__(self) -> None:
        super().__init__()
        self.able = True
        self.calls: list[tuple[str, int]] = []

    def rebuild(self, now: Now, sa: FakeSa, reason: str, host: str | None = None) -> bool:
        self.calls.append(("rebuild", sa.number))
        return self.able

    def hurry_rebuild(self, now: Now, sa: FakeSa, reason: str) -> None:
        self.calls.append(("hurry", sa.number))

    def abandon_rebuild(self, now: Now, sa: FakeSa, reason: str) -> None:
        self.calls.append(("abandon", sa.number))


def fresh() -> tuple[Rebuilds, Core]:
    rebuilds, core = Rebuilds(CrashOptions()), Core()
    rebuilds.attach(at(0), core)  # type: ignore[arg-type]
    return rebuilds, core


def suspect(number: int = 1, name: str = "peer", rtt_s: float = 0.1) -> SaView:
    sa = FakeSa(number, connection(name), True, b"i" * 8, b"r" * 8, Address("a", 1), Address("b", 2))
    sa.rtt_s = rtt_s
    sa.remote_identity = None  # type: ignore[attr-defined]
    return sa  # type: ignore[return-value]


def test_a_failure_costs_a_pause_that_doubles_up_to_a_minute() -> None:
    rebuilds, core = fresh()
    sa, now_s, pauses = suspect(), 0.0, []
    for _ in range(10):
        assert rebuilds.begin(at(now_s), sa, "test")
        again_ns = rebuilds.failed(at(now_s), sa)
        pauses.append((again_ns - at(now_s).mono_ns) / NS_PER_S)
        assert not rebuilds.begin(at(now_s + pauses[-1] - 0.001), sa, "test")
        now_s += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE_S, LONGEST_PAUSE_S)
    assert len(core.calls) == 10
    # Another SA is not held up by it, and no budget was used.
    assert rebuilds.begin(at(now_s), suspect(2), "test")


def test_what_can_not_be_initiated_costs_nothing() -> None:
    rebuilds, core = fresh()
    core.able = False
    for n in range(2 * BUDGET):
        assert not rebuilds.begin(at(n), suspect(), "test")
    assert core.counts["rebuild.impossible"] == 2 * BUDGET
    core.able = True
    assert rebuilds.begin(at(99), suspect(), "test")


def test_an_end_of_the_budget_is_reported_once_and_ends_with_the_hour() -> None:
    rebuilds, core = fresh()
    for number in range(BUDGET):
        assert rebuilds.begin(at(0), suspect(number), "test")
        rebuilds.done(at(0), suspect(number))
    last = suspect(99)
    assert not any(rebuilds.begin(at(n), last, "test") for n in range(100))
    assert core.kinds().count("rebuild_refused") == 1
    assert core.counts["rebuild.no_budget"] == 100
    assert rebuilds.begin(at(3600 / BUDGET + 1), last, "test")


def test_of_too_many_peers_the_one_used_least_recently_is_forgotten() -> None:
    rebuilds, _ = fresh()

    def spend(name: str) -> None:
        for number in range(BUDGET):
            assert rebuilds.begin(at(0), suspect(number, name), "test")
            rebuilds.done(at(0), suspect(number, name))

    spend("old")
    spend("kept")
    for n in range(MAX_PEERS - 1):
        assert not rebuilds.begin(at(0), suspect(9, "kept"), "test")
        assert rebuilds.begin(at(0), suspect(1, f"c{n}"), "test")
        rebuilds.done(at(0), suspect(1, f"c{n}"))
    assert rebuilds.counters()["rebuilds.budgets"] == MAX_PEERS
    assert not rebuilds.begin(at(0), suspect(9, "kept"), "test")
    assert rebuilds.begin(at(0), suspect(9, "old"), "test")


def test_hints_hurry_a_new_sa_at_most_once_in_a_round_trip_and_three_times_at_once() -> None:
    rebuilds, core = fresh()
    sa = suspect(rtt_s=0.1)
    rebuilds.hurry(at(0), sa, "hint")
    assert core.calls == []
    assert rebuilds.begin(at(0), sa, "test")
    for ms in range(1000):
        rebuilds.hurry(at(ms / 1000), sa, "hint")
    hurried = core.calls.count(("hurry", 1))
    assert hurried == HURRY.burst
    rebuilds.hurry(at(1.2), sa, "hint")
    assert core.calls.count(("hurry", 1)) == hurried + 1


def test_the_end_of_the_old_sa_ends_what_is_built_beside_it() -> None:
    rebuilds, core = fresh()
    sa = suspect()
    assert rebuilds.begin(at(0), sa, "test")
    assert rebuilds.owner(sa) == "test"
    rebuilds.observe(at(1), SaClosed(sa, "deleted"))
    assert core.calls == [("rebuild", 1), ("abandon", 1)]
    assert rebuilds.owner(sa) is None
    assert set(rebuilds.counters().values()) == {0, 1}  # one budget
