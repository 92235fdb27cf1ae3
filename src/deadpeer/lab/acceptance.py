"""Long series of runs, judged and summed up in a table: `python -m deadpeer.lab.acceptance [--quick]`.

What needs root is skipped without it, and the table says so. Exit status 0 if every row that ran holds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from rich.console import Console
from rich.table import Table

from deadpeer.lab.flood import run_flood
from deadpeer.lab.kills import KillOutcome, plan, run_kills, worst
from deadpeer.lab.netns import require_root
from deadpeer.lab.options import LIVENESS_S, LabError, LabOptions
from deadpeer.lab.recording import Silent
from deadpeer.lab.result import RunResult
from deadpeer.lab.runs import run_once
from deadpeer.lab.strongswan import require_strongswan

DETECT_RTTS, RECOVER_RTTS = 1.8, 4.8
"""Bounds of the medians; in theory 1.5 and 4.5, the rest is for processing."""
LOSSY_S = 3.0
"""Nine recoveries in ten are to be faster in spite of the losses."""
LIVENESS_BOUND_S = LIVENESS_S + 2.5
"""From the kill: the silence before the first question, the configured time without an answer, the new SA."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the series are."""

    qcd: int
    lossy: int
    liveness: int
    idle: int
    netns: int
    strongswan: int
    kills: int
    garbage: int
    garbage_per_s: int


FULL = Sizes(20, 40, 5, 5, 5, 2, 100, 1_000_000, 10_000)
QUICK = Sizes(5, 5, 1, 1, 1, 1, 8, 20_000, 4000)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `holds` None: skipped."""

    name: str
    wanted: str
    measured: str
    holds: bool | None


async def series(options: LabOptions, count: int, say: Say) -> list[RunResult]:
    """`count` runs with consecutive seeds. A run that can't begin counts as one that failed."""
    results = []
    for number in range(count):
        seeded = replace(options, seed=options.seed + number)
        try:
            result = (await run_once(seeded, Silent())).result
        except LabError as error:
            result = RunResult(seeded, ok=False, failure=str(error))
        results.append(result)
        recover = "-" if result.recover_ms is None else f"{result.recover_ms:.0f} ms"
        say(f"run {number + 1} of {count}, seed {seeded.seed}: {result.failure or recover}")
    return results


def judge_qcd(results: Sequence[RunResult]) -> tuple[str, bool]:
    """Medians of detection and recovery, in round trips; every run recovered."""
    detect = median([r.detect_rtts for r in results])
    recover = median([r.recover_rtts for r in results])
    ok = all(r.ok for r in results)
    text = f"median detect {detect:.2f}, recover {recover:.2f} round trips; {_share_ok(results)}"
    return text, ok and detect <= DETECT_RTTS and recover <= RECOVER_RTTS


def judge_lossy(results: Sequence[RunResult]) -> tuple[str, bool]:
    """Every run recovered, nine in ten fast."""
    fast = sum(1 for r in results if r.ok and r.recover_ms is not None and r.recover_ms <= LOSSY_S * 1000)
    slowest = max((r.recover_ms or 0 for r in results), default=0)
    text = f"{_share_ok(results)}, {fast} within {LOSSY_S:g} s, slowest {slowest / 1000:.2f} s"
    return text, all(r.ok for r in results) and fast >= ceil(len(results) * 0.9)


def judge_liveness(results: Sequence[RunResult]) -> tuple[str, bool]:
    """Every run recovered within the bound that the configuration implies, counted from the kill."""
    after_kill = [(r.peer_down_s or 0) + (r.recover_ms or 0) / 1000 for r in results]
    text = f"{_share_ok(results)}, slowest {max(after_kill, default=0):.2f} s after the kill"
    return text, all(r.ok for r in results) and all(t <= LIVENESS_BOUND_S for t in after_kill)


def judge_recovered(results: Sequence[RunResult]) -> tuple[str, bool]:
    """Every run recovered."""
    times = [r.recover_ms for r in results if r.recover_ms is not None]
    slowest = f", slowest {max(times):.0f} ms" if times else ""
    return f"{_share_ok(results)}{slowest}", bool(results) and all(r.ok for r in results)


def judge_kills(outcomes: Sequence[KillOutcome], failure: str | None) -> tuple[str, bool]:
    """Traffic flowed again after every kill that was waited for, without a hand."""
    times = [o.recovery_s for o in outcomes if o.recovery_s is not None]
    if failure is not None:
        return f"{len(outcomes)} kills, then: {failure}", False
    slowest = worst(list(outcomes))
    which = "" if slowest is None else f" (kill {slowest.kill.number}, {slowest.kill.side})"
    middle = f"median {statistics.median(times):.2f} s, " if times else ""
    longest = f"slowest {max(times, default=0):.1f} s{which}"
    text = f"{len(outcomes)} kills, {len(times)} recoveries: {middle}{longest}"
    return text, bool(times)


def median(values: Sequence[float | None]) -> float:
    """The median; a missing value counts as infinitely long."""
    return statistics.median([float("inf") if v is None else v for v in values] or [float("inf")])


def _share_ok(results: Sequence[RunResult]) -> str:
    return f"{sum(r.ok for r in results)} of {len(results)} recovered"


async def _qcd(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    results = await series(LabOptions("qcd", rtt_ms=100, seed=seed), sizes.qcd, say)
    wanted = f"medians at most {DETECT_RTTS:g} and {RECOVER_RTTS:g} round trips"
    return [Row("QCD, round trip 100 ms", wanted, *judge_qcd(results))]


async def _lossy(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    results = await series(LabOptions("qcd", loss=0.05, seed=seed), sizes.lossy, say)
    wanted = f"all recover, nine in ten within {LOSSY_S:g} s"
    return [Row("QCD, 5% loss each way", wanted, *judge_lossy(results))]


async def _liveness(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    results = await series(LabOptions("liveness", seed=seed), sizes.liveness, say)
    wanted = f"within {LIVENESS_BOUND_S:g} s of the kill"
    return [Row("liveness", wanted, *judge_liveness(results))]


async def _idle(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    results = await series(LabOptions("qcd", idle=True, seed=seed), sizes.idle, say)
    return [Row("QCD, idle tunnel", "all recover", *judge_recovered(results))]


async def _netns(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    qcd = await series(LabOptions("qcd", rtt_ms=100, netns=True, seed=seed), sizes.netns, say)
    silent = await series(LabOptions("liveness", netns=True, seed=seed), sizes.netns, say)
    return [
        Row("QCD, namespaces and real ping", "all recover", *judge_recovered(qcd)),
        Row("liveness, namespaces and real ping", f"within {LIVENESS_BOUND_S:g} s", *judge_liveness(silent)),
    ]


async def _strongswan(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    options = LabOptions("liveness", netns=True, peer="strongswan", seed=seed)
    results = await series(options, sizes.strongswan, say)
    return [Row("liveness, Bob is strongSwan", f"within {LIVENESS_BOUND_S:g} s", *judge_liveness(results))]


async def _kills(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    outcomes: list[KillOutcome] = []

    def progress(outcome: KillOutcome) -> None:
        outcomes.append(outcome)
        took = "killed again" if outcome.recovery_s is None else f"{outcome.recovery_s:.2f} s"
        kill = outcome.kill
        say(f"kill {kill.number} of {sizes.kills}, {kill.side}, {kill.moment}: {took}")

    failure = None
    try:
        await run_kills(LabOptions("qcd", seed=seed), plan(sizes.kills, seed), progress)
    except LabError as error:
        failure = str(error)
    return [Row("kill -9 of either side at random", "traffic flows again", *judge_kills(outcomes, failure))]


async def _garbage(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    shown = 0.0

    def progress(sent: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            say(f"{sent:,} of {sizes.garbage:,} datagrams")

    try:
        result = await run_flood(LabOptions("qcd", seed=seed), sizes.garbage, sizes.garbage_per_s, progress)
    except LabError as error:
        return [Row("garbage at a living gateway", "nothing breaks", str(error), False)]
    name = f"{result.sent:,} garbage datagrams"
    return [Row(name, what, numbers, holds) for what, holds, numbers in result.checks]


async def _root_or_skip(
    name: str, check: Callable[[], None], work: Callable[[], Awaitable[list[Row]]]
) -> list[Row]:
    try:
        check()
    except LabError as error:
        return [Row(name, "", f"skipped: {error}", None)]
    return await work()


async def run_all(sizes: Sizes, seed: int, only: Sequence[str], say: Say) -> list[Row]:
    """All series, or those named, one after the other: they measure time."""
    parts: dict[str, Callable[[], Awaitable[list[Row]]]] = {
        "qcd": lambda: _qcd(sizes, seed, say),
        "lossy": lambda: _lossy(sizes, seed, say),
        "liveness": lambda: _liveness(sizes, seed, say),
        "idle": lambda: _idle(sizes, seed, say),
        "netns": lambda: _root_or_skip("namespaces", require_root, lambda: _netns(sizes, seed, say)),
        "strongswan": lambda: _root_or_skip(
            "strongSwan", _require_both, lambda: _strongswan(sizes, seed, say)
        ),
        "kills": lambda: _kills(sizes, seed, say),
        "garbage": lambda: _garbage(sizes, seed, say),
    }
    rows: list[Row] = []
    for name, part in parts.items():
        if not only or name in only:
            say(f"== {name}")
            rows += await part()
    return rows


PARTS = ("qcd", "lossy", "liveness", "idle", "netns", "strongswan", "kills", "garbage")


def _require_both() -> None:
    require_root("unshare")
    require_strongswan()


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    out = Table(title="deadpeer acceptance", title_justify="left")
    for column in ("series", "wanted", "measured", ""):
        out.add_column(column, overflow="fold")
    for row in rows:
        verdict = {True: "[green]ok[/]", False: "[bold red]FAILED[/]", None: "[yellow]skipped[/]"}[row.holds]
        out.add_row(row.name, row.wanted, row.measured, verdict)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the series; 0 if all that ran hold, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m deadpeer.lab.acceptance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each, for CI")
    parser.add_argument("--seed", type=int, default=1, help="the first seed of each series (default: 1)")
    parser.add_argument("--only", action="append", choices=PARTS, default=[], help="only this series")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else FULL

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    try:
        rows = asyncio.run(run_all(sizes, args.seed, args.only, say))
    except KeyboardInterrupt:
        print("acceptance: interrupted; everything it started has been ended", file=sys.stderr)
        return 1
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "150"))
    Console(width=width).print(table(rows))
    return 1 if any(row.holds is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
