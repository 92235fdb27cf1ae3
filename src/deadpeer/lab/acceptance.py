"""Long series of runs, judged and summed up in a table: `python -m deadpeer.lab.acceptance [--quick]`.

What needs root is skipped without it, and the table says so. Exit status 0 if every row that ran holds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from deadpeer.lab.attacks.catalogue import ATTACKS
from deadpeer.lab.attacks.model import Attack
from deadpeer.lab.attacks.run import run_attack
from deadpeer.lab.costs import AUTHENTICATIONS, openssl
from deadpeer.lab.costs.recoveries import measure_recoveries
from deadpeer.lab.flood import run_flood
from deadpeer.lab.judgement import (
    LIVENESS_BOUND_S,
    LOSSY_S,
    RSA_RATIO,
    WINDOW_RTTS,
    Bounds,
    Judgement,
    Window,
    judge_attack,
    judge_costs,
    judge_kills,
    judge_liveness,
    judge_lossy,
    judge_medians,
    judge_recovered,
    judge_windows,
)
from deadpeer.lab.kills import KillOutcome, plan, run_kills
from deadpeer.lab.netns import require_root
from deadpeer.lab.options import LabError, LabOptions, Method
from deadpeer.lab.recording import Observer, SideEvent, Silent
from deadpeer.lab.result import RunResult
from deadpeer.lab.runs import run_once
from deadpeer.lab.strongswan import require_strongswan
from deadpeer.lab.swarm.plan import Event
from deadpeer.lab.swarm.series import judge_swarm

RTT_MS = 100.0
"""Of the judged series. What is left above the theoretical values is for processing."""

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the series are."""

    judged: int
    again: int
    """So many further runs where those of a judged series miss its bound: the median of all decides."""
    lossy: int
    liveness: int
    idle: int
    netns: int
    strongswan: int
    kills: int
    garbage: int
    garbage_per_s: int
    recoveries: int
    attack_s: float
    other_methods_s: float
    """Attacks with the other methods that they are about; 0: only with the first."""
    slack: float
    """So many times the bounds of time are allowed: with more than 1 it is not speed that is judged."""
    at_once: int
    """So many series, or attacks, at a time: more than one where it is not speed that is judged."""
    swarm: int
    """Clients of a swarm under which a gateway dies."""
    swarms: int
    """So many times."""
    state: int
    """SAs at which the state that a cluster shares is read."""


FULL = Sizes(20, 0, 40, 5, 5, 5, 5, 100, 1_000_000, 10_000, 40, 30.0, 5.0, 1.0, 1, 500, 5, 10_000)
QUICK = Sizes(2, 3, 2, 1, 1, 1, 1, 5, 10_000, 2000, 15, 2.0, 0.0, 10.0, 3, 40, 1, 100)

JUDGED: dict[str, tuple[str, Bounds, LabOptions]] = {
    "qcd": ("QCD", Bounds(1.8, 4.8), LabOptions("qcd")),
    "qcd-map": ("QCD, SPI map", Bounds(0.8, 3.8), LabOptions("qcd", spi_map=True)),
    "qcd-map-resumed": (
        "QCD, SPI map, resumed",
        Bounds(0.8, 3.8),
        LabOptions("qcd", spi_map=True, resume=True),
    ),
    "announced": ("QCD, announced, idle", Bounds(0.8), LabOptions("qcd", announce=True, idle=True)),
    "sir": ("SIR", Bounds(recover_rtts=4.8), LabOptions("sir")),
    "reconnect": ("reconnect", Bounds(recover_rtts=4.8), LabOptions("reconnect")),
    "no-hints": (
        "reconnect, Bob gives no hint",
        Bounds(recover_s=4.0),
        LabOptions("reconnect", hints=False),
    ),
}
"""Series at a round trip of 100 ms, by their name on the command line: what they are, bounds, options."""

STRONGSWAN_BOUNDS = Bounds(recover_s=5.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `holds` None: skipped."""

    name: str
    wanted: str
    measured: str
    holds: bool | None


class Windows(Silent):
    """Watches runs with SIR: when Alice's window opened, and when the old SA was condemned."""

    def __init__(self) -> None:
        self._opened_ns: int | None = None
        self._gone_ns: int | None = None

    def event(self, event: SideEvent) -> None:
        if event.side == "alice" and event.kind == "sir_window":
            self._opened_ns = event.at_ns
        elif event.side == "alice" and event.kind == "verdict":
            self._gone_ns = event.at_ns

    def window(self, rtt_ms: float) -> Window:
        """What was seen."""
        if self._opened_ns is None or self._gone_ns is None:
            return Window(None, rtt_ms)
        return Window((self._gone_ns - self._opened_ns) / 1e6, rtt_ms)


async def series(
    options: LabOptions, count: int, say: Say, observe: Callable[[], Observer] = Silent
) -> list[RunResult]:
    """`count` runs with consecutive seeds, each with an observer of its own.

    A run that can't begin counts as one that failed.
    """
    results = []
    for number in range(count):
        seeded = replace(options, seed=options.seed + number)
        try:
            result = (await run_once(seeded, observe())).result
        except LabError as error:
            result = RunResult(seeded, ok=False, failure=str(error))
        results.append(result)
        recover = "-" if result.recover_ms is None else f"{result.recover_ms:.0f} ms"
        detect = "-" if result.detect_ms is None else f"{result.detect_ms:.0f} ms"
        what = result.failure or f"detect {detect}, recover {recover}"
        say(f"run {number + 1} of {count}, seed {seeded.seed}: {what}")
    return results


async def _judged(name: str, sizes: Sizes, seed: int, say: Say) -> list[Row]:
    title, bounds, options = JUDGED[name]
    options = replace(options, rtt_ms=RTT_MS, seed=seed)
    watchers: list[Windows] = []

    def observe() -> Observer:
        watchers.append(Windows())
        return watchers[-1]

    results = await series(options, sizes.judged, say, observe)
    if sizes.again and not judge_medians(results, bounds, sizes.slack)[1]:
        results += await series(replace(options, seed=seed + sizes.judged), sizes.again, say, observe)
    rows = [Row(title, allowing(str(bounds), sizes), *judge_medians(results, bounds, sizes.slack))]
    if options.method == "sir":
        windows = [watcher.window(RTT_MS) for watcher in watchers]
        wanted = f"not before {WINDOW_RTTS:g} round trips, in every run"
        rows.append(Row(f"{title}: when the old SA goes", wanted, *judge_windows(windows)))
    return rows


async def _lossy(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    results = await series(LabOptions("qcd", loss=0.05, seed=seed), sizes.lossy, say)
    wanted = allowing(f"all recover, nine in ten within {LOSSY_S:g} s", sizes)
    return [Row("QCD, 5% loss each way", wanted, *judge_lossy(results, sizes.slack))]


async def _liveness(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    results = await series(LabOptions("liveness", seed=seed), sizes.liveness, say)
    wanted = allowing(f"within {LIVENESS_BOUND_S:g} s of the kill", sizes)
    return [Row("liveness", wanted, *judge_liveness(results, sizes.slack))]


async def _idle(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    results = await series(LabOptions("qcd", idle=True, seed=seed), sizes.idle, say)
    return [Row("QCD, idle tunnel", "all recover", *judge_recovered(results))]


async def _netns(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    qcd = await series(LabOptions("qcd", rtt_ms=100, netns=True, seed=seed), sizes.netns, say)
    silent = await series(LabOptions("liveness", netns=True, seed=seed), sizes.netns, say)
    wanted = allowing(f"within {LIVENESS_BOUND_S:g} s", sizes)
    judged = judge_liveness(silent, sizes.slack)
    return [
        Row("QCD, namespaces and real ping", "all recover", *judge_recovered(qcd)),
        Row("liveness, namespaces and real ping", wanted, *judged),
    ]


async def _strongswan(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    options = LabOptions("liveness", netns=True, peer="strongswan", seed=seed)
    results = await series(options, sizes.strongswan, say)
    wanted = allowing(f"within {LIVENESS_BOUND_S:g} s", sizes)
    silent = Row("liveness, Bob is strongSwan", wanted, *judge_liveness(results, sizes.slack))
    options = replace(options, method="reconnect")
    results = await series(options, sizes.strongswan, say)
    judged = judge_medians(results, STRONGSWAN_BOUNDS, sizes.slack)
    return [silent, Row("reconnect, Bob is strongSwan", allowing(str(STRONGSWAN_BOUNDS), sizes), *judged)]


async def _kills(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    outcomes: list[KillOutcome] = []

    def progress(outcome: KillOutcome) -> None:
        outcomes.append(outcome)
        took = "killed again" if outcome.recovery_s is None else f"{outcome.recovery_s:.2f} s"
        kill = outcome.kill
        say(f"kill {kill.number} of {sizes.kills}, {kill.side}, {kill.moment}: {took}")

    failure = None
    try:
        await run_kills(LabOptions("qcd", seed=seed), plan(sizes.kills, seed), progress, sizes.slack)
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
        result = await run_flood(
            LabOptions("qcd", seed=seed), sizes.garbage, sizes.garbage_per_s, progress, sizes.slack
        )
    except LabError as error:
        return [Row("garbage at a living gateway", "nothing breaks", str(error), False)]
    name = f"{result.sent:,} garbage datagrams"
    return [Row(name, what, numbers, holds) for what, holds, numbers in result.checks]


async def _costs(sizes: Sizes, say: Say) -> list[Row]:
    name = "CPU on Bob, QCD, resumed against full"
    bound = min(1.0, RSA_RATIO * sizes.slack)
    wanted = f"RSA-3072 at most {bound:g}; the others are reported"
    try:
        costs = measure_recoveries(say, ["qcd"], AUTHENTICATIONS, sizes.recoveries)
    except LabError as error:
        return [Row(name, wanted, str(error), False)]
    return [Row(name, wanted, *judge_costs(costs, sizes.slack))]


async def _attacks(sizes: Sizes, seed: int, say: Say) -> list[Row]:
    async def row(attack: Attack, method: Method, seconds: float) -> Row:
        measured, holds = await _attack(attack, LabOptions(method, seed=seed), seconds, sizes.slack)
        say(f"{attack.name}, {method}: {measured}")
        return Row(f"attack: {attack.name}, {method}, {seconds:g} s", attack.promise, measured, holds)

    return await in_turn([partial(row, *assault) for assault in assaults(ATTACKS, sizes)], sizes.at_once)


async def _swarm(event: Event, clients: int, sizes: Sizes, seed: int, say: Say) -> list[Row]:
    runs = 1 if event == "state" else sizes.swarms
    return [Row(*await judge_swarm(event, clients, runs, sizes.slack, seed, say))]


def allowing(wanted: str, sizes: Sizes) -> str:
    """What is wanted, and how much more is let pass."""
    return wanted if sizes.slack == 1.0 else f"{wanted}; {sizes.slack:g} times that passes here"


def assaults(attacks: Sequence[Attack], sizes: Sizes) -> list[tuple[Attack, Method, float]]:
    """Each attack with its methods, and for how many seconds: all with their first one, then the others."""
    first = [(attack, attack.methods[0], sizes.attack_s) for attack in attacks]
    if not sizes.other_methods_s:
        return first
    others = [(attack, method, sizes.other_methods_s) for attack in attacks for method in attack.methods[1:]]
    return first + others


async def _attack(attack: Attack, options: LabOptions, seconds: float, slack: float) -> Judgement:
    try:
        result = await run_attack(attack, options, Silent(), seconds=seconds)
    except LabError as error:
        return str(error), False
    return judge_attack(result, slack)


async def _root_or_skip(
    name: str, check: Callable[[], None], work: Callable[[], Awaitable[list[Row]]]
) -> list[Row]:
    try:
        check()
    except LabError as error:
        return [Row(name, "", f"skipped: {error}", None)]
    return await work()


async def in_turn(works: Sequence[Callable[[], Awaitable[T]]], at_once: int) -> list[T]:
    """What all return, in their order; so many run at a time."""
    turn = asyncio.Semaphore(at_once)

    async def one(work: Callable[[], Awaitable[T]]) -> T:
        async with turn:
            return await work()

    return await asyncio.gather(*map(one, works))


async def run_all(sizes: Sizes, seed: int, only: Sequence[str], say: Say) -> list[Row]:
    """All series, or those named. One after the other if they measure time."""
    parts: dict[str, Callable[[Say], Awaitable[list[Row]]]] = {
        **{name: partial(_judged, name, sizes, seed) for name in JUDGED},
        "lossy": partial(_lossy, sizes, seed),
        "liveness": partial(_liveness, sizes, seed),
        "idle": partial(_idle, sizes, seed),
        "netns": lambda say: _root_or_skip("namespaces", require_root, lambda: _netns(sizes, seed, say)),
        "strongswan": lambda say: _root_or_skip(
            "strongSwan", _require_both, lambda: _strongswan(sizes, seed, say)
        ),
        "kills": partial(_kills, sizes, seed),
        "garbage": partial(_garbage, sizes, seed),
        "costs": partial(_costs, sizes),
        "attacks": partial(_attacks, sizes, seed),
        "failover-swarm": partial(_swarm, "takeover", sizes.swarm, sizes, seed),
        "cluster-swarm": partial(_swarm, "kill", sizes.swarm, sizes, seed),
        "state": partial(_swarm, "state", sizes.state, sizes, seed),
    }

    async def run(name: str) -> list[Row]:
        say(f"== {name}")
        return await parts[name](lambda text: say(f"{name}: {text}"))

    chosen = [name for name in parts if not only or name in only]
    beside = [partial(run, name) for name in chosen if name not in ALONE]
    rows = await in_turn(beside, sizes.at_once)
    rows += [await run(name) for name in chosen if name in ALONE]
    return [row for part in rows for row in part]


ALONE = ("costs", "attacks")
"""Parts that nothing else may run beside: the one never waits, the other is a series of series."""


PARTS = (
    *JUDGED, "lossy", "liveness", "idle", "netns", "strongswan", "kills", "garbage", "costs", "attacks",
    "failover-swarm", "cluster-swarm", "state",
)  # fmt: skip


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


def markdown(rows: Sequence[Row], about: str) -> str:
    """The rows as a table for docs/benchmarks.md, under a line that says how they came about."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    verdicts = {True: "ok", False: "**FAILED**", None: "skipped"}
    lines = [about, "", "| series | wanted | measured | |", "|---|---|---|---|"]
    for row in rows:
        cells = (row.name, row.wanted, row.measured, verdicts[row.holds])
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def about_this_run(sizes: Sizes, seed: int, began: str, took_s: float, load: float) -> str:
    """When, where, how much: what somebody needs who compares figures."""
    return (
        f"{began}, {took_s / 60:.0f} minutes, {os.cpu_count()} processors, Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {openssl()}; "
        f"{sizes.judged} runs in each judged series, seeds from {seed}; load average at the start {load:.1f}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the series; 0 if all that ran hold, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m deadpeer.lab.acceptance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each, for CI")
    parser.add_argument("--seed", type=int, default=1, help="the first seed of each series (default: 1)")
    parser.add_argument("--only", action="append", choices=PARTS, default=[], help="only this series")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    args = parser.parse_args(argv)
    if args.markdown is not None and not args.markdown.parent.is_dir():
        parser.error(f"--markdown {args.markdown}: there is no such folder")
    sizes = QUICK if args.quick else FULL

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    began, begin, load = (
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        time.monotonic(),
        os.getloadavg()[0],
    )
    try:
        rows = asyncio.run(run_all(sizes, args.seed, args.only, say))
    except KeyboardInterrupt:
        print("acceptance: interrupted; everything it started has been ended", file=sys.stderr)
        return 1
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "150"))
    Console(width=width).print(table(rows))
    if args.markdown is not None:
        about = about_this_run(sizes, args.seed, began, time.monotonic() - begin, load)
        args.markdown.write_text(markdown(rows, about))
    return 1 if any(row.holds is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
