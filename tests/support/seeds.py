"""Plays random lives of clusters (`tests.support.fates`), many at a time: `make seeds ARGS="--help"`.

One line for each seed; one that fails says what was violated, and how to play it again. Exit status 1 then.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.fates import SIZES, failure, play


@dataclass(frozen=True)
class Outcome:
    """What became of a seed. `failed`: the message, if it did."""

    seed: int
    members: int = 0
    way: str = ""
    cpu_s: float = 0.0
    life_s: float = 0.0
    back_s: float = 0.0
    asked: int = 0
    said: Counter[str] = field(default_factory=Counter)
    befell: Counter[str] = field(default_factory=Counter)
    waited: Counter[str] = field(default_factory=Counter)
    failed: str = ""
    story: str = ""


def one(job: tuple[int, tuple[int, int]]) -> Outcome:
    """Play one seed."""
    seed, sizes = job
    began = time.process_time()
    try:
        fate = play(seed, sizes)
    except Exception as error:
        known = isinstance(error, AssertionError) and str(error).startswith("seed ")
        why = str(error) if known else f"seed {seed}: {type(error).__name__}: {error}"
        return Outcome(seed, failed=why)
    fleet = fate.fleet
    return Outcome(
        seed,
        len(fleet.gateways),
        fate.way,
        time.process_time() - began,
        fleet.now_ns / 1e9,
        fate.back_s,
        fate.mallory.asked,
        fleet.witness.counts,
        fate.befell,
        sum((gateway.unanswered.counters for gateway in fleet.everybody), Counter()),
        story=failure(fate, "held"),
    )


def main() -> int:
    """Returns the exit status."""
    options = _options()
    low, high = (int(number) for number in options.members.split("-"))
    seeds = (
        [options.seed] if options.seed is not None else range(options.first, options.first + options.count)
    )
    began = time.monotonic()
    total = _Total()
    with multiprocessing.Pool(min(options.jobs, len(seeds))) as pool:
        outcomes: Iterable[Outcome] = pool.imap(one, [(seed, (low, high)) for seed in seeds])
        for outcome in outcomes:
            total.add(outcome)
            if outcome.failed:
                print(outcome.failed, flush=True)
                continue
            print(
                f"seed {outcome.seed}: {outcome.members} members, {outcome.way}, {outcome.life_s:.0f} s,"
                f" asked {outcome.asked} times, told {dict(sorted(outcome.said.items()))},"
                f" back in {outcome.back_s:.0f} s, cpu {outcome.cpu_s:.2f} s: ok",
                flush=True,
            )
            if options.seed is not None:
                print(outcome.story)
    total.show(time.monotonic() - began)
    return 1 if total.failed else 0


class _Total:
    def __init__(self) -> None:
        self.failed: list[int] = []
        self._sizes: Counter[int] = Counter()
        self._said: Counter[str] = Counter()
        self._befell: Counter[str] = Counter()
        self._waited: Counter[str] = Counter()
        self._asked = 0
        self._life_s = 0.0
        self._cpu_s = 0.0
        self._back_s: list[float] = []

    def add(self, outcome: Outcome) -> None:
        if outcome.failed:
            self.failed.append(outcome.seed)
            return
        self._sizes[outcome.members] += 1
        self._said += outcome.said
        self._befell += outcome.befell
        self._waited += outcome.waited
        self._asked += outcome.asked
        self._life_s += outcome.life_s
        self._cpu_s += outcome.cpu_s
        self._back_s.append(outcome.back_s)

    def show(self, took_s: float) -> None:
        count = sum(self._sizes.values())
        print(f"\n{count + len(self.failed)} seeds in {took_s:.0f} s, {self._cpu_s:.0f} s of one core")
        print(f"members: {dict(sorted(self._sizes.items()))}")
        print(f"{self._life_s / 3600:.1f} hours of virtual time, {self._asked:,} questions of the attacker")
        print(f"told in the clear: {dict(self._said)}")
        print(f"questions that had to wait: {dict(sorted(self._waited.items()))}")
        print(f"befell: {dict(sorted(self._befell.items()))}")
        if self._back_s:
            slow = sum(seconds > 5 for seconds in self._back_s)
            print(
                f"back: {slow} later than 5 s after the end of all faults, the last {max(self._back_s):.0f} s"
            )
        print(f"failed: {self.failed or 'none'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make seeds ARGS=...", description="random lives of clusters")
    parser.add_argument("--seed", type=int, help="play this one and tell its story")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=500, help="how many")
    parser.add_argument("--members", default=f"{SIZES[0]}-{SIZES[1]}", help="fewest-most members")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
