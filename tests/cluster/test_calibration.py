"""A member's clock against the store's: slowness is found, and never where there is none. Virtual time."""

from __future__ import annotations

import pytest
from tests.support.cluster import Member, World

from deadpeer.cluster.calibration import PAUSE_S, SPANS_S, TTL_S, UNMEASURED, Calibration
from deadpeer.cluster.fence import Margin
from deadpeer.cluster.store import (
    Done,
    Failed,
    Grant,
    GrantReply,
    KeepAlive,
    Range,
    Revoke,
    TimeToLive,
    TimeToLiveReply,
)

S = 1_000_000_000
MARGIN = Margin(0.01, 0.25)


class Bench:
    """A calibration, and a store that answers by true time. `rate`: of our clock. `way_s`: how long it takes
    to the store, or back."""

    def __init__(self, rate: float = 1.0, way_s: float = 0.005) -> None:
        self.rate, self.way_s = rate, way_s
        self.ahead_s = 0.0
        self.term = 1
        self.granted_s = 0.0
        self.now_s = 0.0
        self.asked: list[object] = []
        self.calibration = Calibration(MARGIN)

    def own_ns(self) -> int:
        return int((self.now_s * self.rate + self.ahead_s) * S)

    def skew(self, rate: float) -> None:
        """Our clock runs at another rate from now on."""
        self.ahead_s += self.now_s * (self.rate - rate)
        self.rate = rate

    def due_s(self) -> float:
        """When the next question is due, true time."""
        due_ns = self.calibration.due_ns
        assert due_ns is not None
        return ((due_ns + 1) / S - self.ahead_s) / self.rate

    def next(self) -> object:
        """The next question, asked and answered."""
        self.now_s = max(self.now_s, self.due_s())
        asked_ns = self.own_ns()
        question = self.calibration.poll(asked_ns)
        assert question is not None
        assert self.calibration.poll(asked_ns) is None, "one at a time"
        self.asked.append(question)
        self.now_s += self.way_s
        match question:
            case Grant(ttl_s=ttl_s):
                self.granted_s = self.now_s
                reply: object = GrantReply(7, ttl_s, self.term)
            case TimeToLive(lease=lease):
                left_s = int(TTL_S - (self.now_s - self.granted_s))
                reply = TimeToLiveReply(lease, left_s, self.term)
            case _:
                reply = Done()
        self.now_s += self.way_s
        self.calibration.replied(asked_ns, self.own_ns(), reply)  # type: ignore[arg-type]
        return question

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.due_s() < end_s:
            self.next()
        self.now_s = end_s

    def known(self) -> float:
        return self.calibration.rate(self.own_ns())


# --- one clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.991, 1.0, 1.009, 1.2, 3.0])
@pytest.mark.parametrize("way_s", [0.0, 0.005, 0.3, 1.9])
def test_a_clock_within_the_margin_is_never_slow(rate: float, way_s: float) -> None:
    bench = Bench(rate, way_s)
    for _ in range(400):
        bench.next()
        assert bench.calibration.slow is None
        assert bench.known() <= max(rate, UNMEASURED)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.983])
def test_a_slow_clock_is_found_and_never_counts_as_faster_than_it_is(rate: float) -> None:
    bench = Bench(rate)
    while bench.calibration.slow is None:
        assert bench.known() <= max(rate, UNMEASURED)
        bench.next()
        assert bench.now_s < 90
    slow = bench.calibration.slow
    assert rate <= slow.ratio < 0.99
    assert bench.known() == UNMEASURED


def test_what_the_fence_could_not_bear_is_found_in_some_seconds_and_not_relied_on_before() -> None:
    """With a lease of 5 s: 4.7 s of a clock that is slower than 0.94 are more than 5 s of the store's."""
    for rate in (0.935, 0.9, 0.8, 0.76):
        bench = Bench(rate)
        while bench.calibration.slow is None:
            assert MARGIN.usable_s(5, bench.known()) / rate <= 5
            bench.next()
        assert bench.now_s < 11


@pytest.mark.parametrize("paused_s", [0.1, 0.2, 0.25])
@pytest.mark.parametrize("at_s", [0.1, 1.0, 4.0, 30.0, 59.0])
def test_a_machine_that_is_paused_with_its_clock_for_no_longer_than_the_margin(
    at_s: float, paused_s: float
) -> None:
    bench = Bench()
    bench.run(at_s)
    bench.ahead_s -= paused_s
    bench.run(130)
    assert bench.calibration.slow is None


def test_a_machine_that_is_paused_with_its_clock_for_longer_is_found_out_and_believed_again() -> None:
    bench = Bench()
    bench.run(1)
    bench.ahead_s -= 1.0
    while bench.calibration.slow is None:
        bench.next()
    assert bench.now_s < 7
    bench.run(10)
    assert bench.calibration.slow is None


def test_more_and_more_is_known_of_a_good_clock() -> None:
    bench = Bench()
    found = []
    for _ in range(1 + len(SPANS_S)):
        found.append(bench.known())
        bench.next()
    assert found[0] == found[1] == UNMEASURED
    assert found == sorted(found)
    assert found[2] > 0.79
    assert bench.known() > 0.983
    assert [type(question) for question in bench.asked[1:-1]] == [TimeToLive] * (len(SPANS_S) - 1)


def test_one_lease_at_a_time_and_a_handful_of_questions_in_a_minute() -> None:
    bench = Bench()
    bench.run(600)
    kinds = [type(question) for question in bench.asked]
    assert kinds.count(Grant) == 10 or kinds.count(Grant) == 11
    assert kinds.count(Revoke) in (kinds.count(Grant), kinds.count(Grant) - 1)
    assert len(kinds) < 16 * 10


def test_a_clock_that_slows_down_is_found_and_one_that_is_good_again_is_believed() -> None:
    bench = Bench()
    bench.run(63)
    bench.skew(0.8)
    began_s = bench.now_s
    while bench.calibration.slow is None:
        bench.next()
    assert bench.now_s - began_s < 13
    bench.skew(1.0)
    began_s = bench.now_s
    while bench.calibration.slow is not None:
        bench.next()
    assert bench.now_s - began_s < 30


@pytest.mark.parametrize("rate", [0.96, 0.97, 0.98])
def test_a_clock_that_is_a_little_too_slow_is_not_believed_again_and_again(rate: float) -> None:
    """What takes a minute to be seen looks good after some seconds."""
    bench = Bench(rate)
    changes, before = 0, False
    while bench.now_s < 3600:
        bench.next()
        slow = bench.calibration.slow is not None
        changes += slow is not before
        before = slow
    assert before
    assert changes <= 5
    bench.skew(1.0)
    bench.run(200)
    assert bench.calibration.slow is None


def test_an_election_says_nothing_about_our_clock_and_forgets_what_was_known() -> None:
    """The new leader gives the lease its whole time again: a slow clock must not look good by that."""
    bench = Bench(0.96)
    bench.next()
    bench.next()
    bench.granted_s = bench.now_s
    bench.term = 2
    bench.next()
    assert bench.known() == UNMEASURED
    assert isinstance(bench.next(), Revoke)
    assert isinstance(bench.next(), Grant)
    while bench.calibration.slow is None:
        bench.next()
    assert bench.now_s < 25


def test_a_leader_that_does_not_yet_say_that_it_is_a_new_one() -> None:
    bench = Bench(0.9)
    bench.next()
    bench.granted_s = bench.now_s + 1.5
    bench.next()
    assert (bench.known(), bench.calibration.slow) == (UNMEASURED, None)


def test_a_lease_that_somebody_revoked_says_nothing() -> None:
    bench = Bench()
    bench.next()
    bench.granted_s -= 1000
    calibration, due_ns = bench.calibration, bench.calibration.due_ns
    assert due_ns is not None
    assert calibration.poll(due_ns) == TimeToLive(7)
    calibration.replied(due_ns, due_ns + 1, TimeToLiveReply(7, -1, 1))
    assert calibration.slow is None
    assert calibration.due_ns == due_ns + 1 + int(PAUSE_S * S)
    assert calibration.poll(calibration.due_ns) == Grant(TTL_S)


def test_a_store_that_does_not_answer_is_asked_again_and_what_was_known_is_forgotten() -> None:
    bench = Bench()
    bench.run(62)
    assert bench.known() > 0.98
    for _ in range(100):
        due_ns = bench.calibration.due_ns
        assert due_ns is not None
        bench.calibration.poll(due_ns)
        bench.calibration.replied(due_ns, due_ns + 2 * S, Failed("no answer"))
    assert bench.calibration.rate(due_ns) == UNMEASURED
    assert bench.calibration.slow is None


# --- members -------------------------------------------------------------------------------------


def kinds(member: Member) -> list[str]:
    return [trouble.kind for trouble in member.troubles]


def up(world: World, seconds: float = 8.0) -> World:
    for member in world.members:
        member.boot()
    world.run(seconds)
    return world


def test_a_member_with_a_slow_clock_serves_nobody_until_it_is_good_again() -> None:
    world = up(World(1))
    slow = world.members[1]
    assert slow.lives == [1]
    slow.skew(-0.2)
    world.run(17.0)
    assert kinds(slow)[-1] == "clock_slow"
    [trouble] = [trouble for trouble in slow.troubles if trouble.kind == "clock_slow"]
    assert 0.75 < trouble.numbers["ratio"] < 0.99
    assert (slow.serves, slow.over) == (False, 1)
    others = world.members[0].process
    assert others is not None
    assert 1 not in others.view.leases
    assert others.view.members[1].ended == 1, "nobody waits for a lease that it may have"
    world.run(60.0)
    assert not slow.serves
    slow.skew(0.0)
    world.run(30.0)
    assert slow.lives == [1, 2]
    assert slow.serves
    assert world.violations == []
    assert [m.over for m in world.members] == [0, 1, 0]


@pytest.mark.parametrize("after_s", [0.5, 3.0, 6.5, 9.0, 12.0, 40.0])
@pytest.mark.parametrize("slower", [0.01, 0.03, 0.06, 0.1, 0.2])
def test_a_slow_member_that_is_cut_off_is_fenced_before_anybody_writes_it_off(
    slower: float, after_s: float
) -> None:
    """Its clock is slow from the beginning. Until something is known of it, it uses less of its lease."""
    world = World(2)
    world.members[2].drift = -slower
    up(world, after_s)
    world.members[2].cut_off = True
    world.run(12.0)
    assert world.violations == []


def test_without_it_a_slow_member_serves_after_it_was_written_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all this is for."""
    monkeypatch.setattr(Calibration, "rate", lambda *_: 1.0)
    monkeypatch.setattr(Calibration, "poll", lambda *_: None)
    monkeypatch.setattr(Calibration, "due_ns", None)
    world = World(2)
    world.members[2].drift = -0.2
    up(world, 9.0)
    world.members[2].cut_off = True
    world.run(12.0)
    assert world.violations != []


@pytest.mark.parametrize("seed", range(12))
def test_no_clock_within_the_margin_is_taken_for_a_slow_one(seed: int) -> None:
    """Elections, partitions, lost answers, slow ones, restores, stops, sleep."""
    world = World(seed, members=3)
    dice = world.dice
    for member in world.members:
        member.drift = dice.uniform(-0.004, 0.004)
    world.store.drift = dice.uniform(-0.004, 0.004)
    world.slowest_s = dice.choice([0.02, 0.3, 1.5])
    up(world)
    backup = world.store.backup()
    for _ in range(30):
        member = dice.choice(world.members)
        match dice.randrange(8):
            case 0:
                world.elect(dice.choice([0.5, 3.0]))
            case 1:
                member.cut_off = True
            case 2:
                member.deaf = True
            case 3:
                member.mute = (dice.choice((KeepAlive, TimeToLive, Grant, Range)),)
            case 4:
                member.frozen = True
            case 5:
                world.store.restore(backup)
            case 6:
                backup = world.store.backup()
            case _:
                member.suspend()
        world.run(dice.choice([0.3, 2.0, 7.0, 20.0]))
        if dice.random() < 0.6:
            world.heal()
            for each in world.members:
                each.thaw()
        assert world.violations == []
    assert [kind for member in world.members for kind in kinds(member) if kind == "clock_slow"] == []


@pytest.mark.parametrize("seed", range(8))
def test_random_lives_of_slow_members(seed: int) -> None:
    """Clocks of any slowness down to what is taken for possible, cut off at any time: nobody serves in a life
    that is over."""
    world = World(seed, members=4)
    dice = world.dice
    for member in world.members[1:]:
        member.drift = -dice.choice([0.0, 0.008, dice.uniform(0.01, 0.24)])
    up(world, dice.uniform(0.5, 8.0))
    for _ in range(25):
        member = dice.choice(world.members)
        match dice.randrange(4):
            case 0:
                member.cut_off = True
            case 1:
                member.frozen = True
            case 2:
                member.crash()
            case _:
                world.heal()
        world.run(dice.choice([0.3, 2.0, 7.0, 20.0]))
        if dice.random() < 0.5:
            world.heal()
        for each in world.members:
            each.boot() if each.process is None else each.thaw()
        assert world.violations == []
