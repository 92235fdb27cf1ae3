"""The sentences of a report that depend on its numbers: the problem, the answer, tiles, ladders' captions.

Pure; what is shown here and in Markdown comes from the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deadpeer.lab.attacks.model import Attack, AttackResult, Cost
from deadpeer.lab.report import drawing
from deadpeer.lab.report.cases import Case
from deadpeer.lab.report.model import Measured, Report, Rung, spread
from deadpeer.lab.report.notation import NARROW, NONE, duration, octets, round_trips
from deadpeer.lab.report.variants import Variant

COLOURS = {
    "qcd": drawing.BLUE,
    "qcd-map": drawing.SKY,
    "qcd-announced": drawing.BLUE,
    "sir": drawing.GREEN,
    "reconnect": drawing.PURPLE,
    "reconnect-mute": drawing.PURPLE,
    "liveness": drawing.ORANGE,
    "strongswan": drawing.BLACK,
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One number, large, and what it is."""

    number: str
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Ladder:
    """One run's messages."""

    title: str
    says: str
    rungs: tuple[Rung, ...]


@dataclass(frozen=True, slots=True)
class AttackLine:
    """An attack's numbers as they are written."""

    method: str
    sent: str
    answered: str
    amplification: str
    sas_lost: int
    rebuilt: int
    cpu: str
    cpu_quiet: str
    seconds: str
    held: str
    failure: str
    ok: bool


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One thing that must hold, and what was measured with each method: (text, holds), or None."""

    what: str
    bound: str
    measured: tuple[tuple[str, bool] | None, ...]


@dataclass(frozen=True, slots=True)
class AttackStory:
    """One attack, against every method that it was tried on."""

    attack: Attack
    lines: tuple[AttackLine, ...]
    checks: tuple[CheckLine, ...]

    @property
    def ok(self) -> bool:
        return all(line.ok for line in self.lines)


def recovered_ms(report: Report, variant: Variant, *, resume: bool = False) -> float | None:
    """The median recovery of a variant at the table's round trip time; None if none recovered."""
    value = spread(report.of(variant, resume=resume), lambda m: m.result.recover_ms)
    return None if value is None else value.median


def reference_note(report: Report) -> str:
    """Where the 174 seconds come from."""
    one = report.reference
    if one.here:
        return (
            f"strongSwan {one.version} on both sides with its default timers was measured in this very run:"
            f" {one.recover_s:.0f} s."
        )
    return (
        f"strongSwan {one.version} on both sides with its default timers was not part of this run: the"
        f" {one.recover_s:.0f} s were measured on {one.measured}, earlier, as docs/benchmarks.md says."
    )


def problem(report: Report) -> tuple[str, ...]:
    """What is wrong with the world, in three sentences."""
    return (
        "When an IPsec gateway crashes and restarts, it has lost its keys and the other end does not know:"
        " it goes on encrypting into a black hole, and its tunnel says \N{LEFT DOUBLE QUOTATION MARK}up"
        "\N{RIGHT DOUBLE QUOTATION MARK}.",
        "The restarted gateway could speak up at the first packet it does not understand, but an"
        " unauthenticated \N{LEFT DOUBLE QUOTATION MARK}I do not know this connection"
        "\N{RIGHT DOUBLE QUOTATION MARK} must not be able to kill a tunnel, or anybody could;"
        " so mostly nobody says it, and nobody listens.",
        "What is left is to wait until a timer gives up: with strongSwan on both sides and its default"
        f" timers, traffic was back {report.reference.recover_s:.0f} seconds after the crashed gateway was.",
    )


def answer(report: Report) -> tuple[str, ...]:
    """What helps, with the numbers of this run."""
    sentences = [
        "The other end needs more than a hint: it needs proof that can be checked, found in round trips and"
        " not in minutes. deadpeer knows four ways to get one. A hint only ever causes a question, at a"
        " limited rate; only a proof ends a connection."
    ]
    times = [(v, ms) for v in report.variants if (ms := recovered_ms(report, v)) is not None]
    named = [(v, ms) for v, ms in times if v.key in NAMED]
    if named:
        told = ", ".join(f"{duration(ms)} with {v.short}" for v, ms in named)
        slowest = max(ms for _, ms in named)
        factor = _about(1000 * report.reference.recover_s / slowest)
        sentences.append(
            f"At a round trip time of {report.rtt_ms:g} ms traffic flows again, counted from Bob's return,"
            f" after {told}: at least {factor} times as fast as by the timers."
        )
    strongswan = next((ms for v, ms in times if v.peer == "strongswan"), None)
    if strongswan is not None:
        sentences.append(
            "Bob need not be deadpeer: an unmodified strongSwan that was killed and restarted carries"
            f" traffic again after {duration(strongswan)}."
        )
    return tuple(sentences)


NAMED = ("qcd", "qcd-map", "sir", "reconnect")


def _about(factor: float) -> str:
    return octets(round(factor, -1) if factor >= 100 else factor)


TILED = ("qcd", "qcd-map", "sir", "strongswan")


def tiles(report: Report) -> tuple[Tile, ...]:
    """The numbers to remember."""
    earlier = "" if report.reference.here else ", measured earlier"
    found = [
        Tile(
            f"{report.reference.recover_s:.0f} s",
            f"until traffic flows: strongSwan on both sides, default timers{earlier}",
            drawing.VERMILION,
        )
    ]
    for v in report.variants:
        ms = recovered_ms(report, v)
        if ms is None or (v.key not in TILED and len(report.variants) > len(TILED)):
            continue
        trips = round_trips(ms, report.rtt_ms)
        among = "" if v.theory is None or not trips else f", {trips} round trips"
        found.append(Tile(duration(ms), f"{v.title}{among}", COLOURS[v.key]))
    off_path = [result for result in report.attacks if result.attack.place == "off-path"]
    if off_path:
        found.append(
            Tile(
                str(sum(result.sas_lost for result in off_path)),
                f"living SAs lost to {len(off_path)} attacks from off the path",
                drawing.GREEN,
            )
        )
    return tuple(found)


def bars(report: Report) -> list[tuple[str, float, str]]:
    """(name, milliseconds, colour) of what is compared at first sight, slowest first."""
    found = [
        (v.title, ms, COLOURS[v.key])
        for v in report.variants
        if (ms := recovered_ms(report, v)) is not None and not v.idle
    ]
    found.sort(key=lambda bar: -bar[1])
    name = "strongSwan on both sides"
    return [(name, 1000 * report.reference.recover_s, drawing.VERMILION), *found]


def ladders(report: Report) -> tuple[Ladder, ...]:
    """One run of each variant; of the first one resumed as well."""
    found = []
    for v in report.variants:
        for resume in (False, True):
            run = _first(report.of(v, resume=resume))
            if run is None or (resume and v != report.variants[0]):
                continue
            title = v.title + (", session resumed" if resume else "")
            says = "The same, with a ticket in place of the key exchange." if resume else v.says
            found.append(Ladder(title, says, run.rungs))
    return tuple(found)


def _first(runs: tuple[Measured, ...]) -> Measured | None:
    return next((run for run in runs if run.result.ok and run.rungs), None)


def attack_stories(results: Sequence[AttackResult]) -> tuple[AttackStory, ...]:
    """The results by attack, in their order."""
    names = dict.fromkeys(result.attack.name for result in results)
    return tuple(_story([r for r in results if r.attack.name == name]) for name in names)


def _story(results: Sequence[AttackResult]) -> AttackStory:
    keys = dict.fromkeys((check.what, check.bound) for result in results for check in result.checks)
    found = [{(c.what, c.bound): (c.measured, c.holds) for c in result.checks} for result in results]
    return AttackStory(
        results[0].attack,
        tuple(map(attack_line, results)),
        tuple(CheckLine(what, bound, tuple(one.get((what, bound)) for one in found)) for what, bound in keys),
    )


def attack_line(result: AttackResult) -> AttackLine:
    """An attack's numbers as they are written."""
    amplification = result.amplification
    return AttackLine(
        method=result.method,
        sent=octets(result.sent),
        answered=octets(result.answered),
        amplification=NONE if amplification is None else f"{amplification:.2f}",
        sas_lost=result.sas_lost,
        rebuilt=result.rebuilt,
        cpu=_cpu(result.attacked),
        cpu_quiet=_cpu(result.quiet),
        seconds=f"{result.seconds:.0f}",
        held=_held(result),
        failure=result.failure,
        ok=result.ok,
    )


def _held(result: AttackResult) -> str:
    count, total = sum(check.holds for check in result.checks), len(result.checks)
    return f"all {total} hold" if result.ok else f"{count} of {total} hold"


def _cpu(cost: Cost) -> str:
    """Alice's and Bob's, in percent of a core."""
    if not cost.seconds:
        return NONE
    return f"{cost.alice_cpu_s / cost.seconds:.0%},{NARROW}{cost.bob_cpu_s / cost.seconds:.0%}"


def failures(report: Report) -> tuple[str, ...]:
    """What did not do what it should, each in a line."""
    runs = [
        f"{run.variant.title}{', resumed' if run.result.options.resume else ''}, round trip"
        f" {run.result.options.rtt_ms:g} ms, seed {run.result.options.seed}: {run.result.failure}"
        for run in report.runs
        if not run.result.ok
    ]
    attacks = [
        f"attack {one.attack.name} against {one.method}: "
        + (one.failure or "; ".join(f"{c.what}: {c.measured}" for c in one.checks if not c.holds))
        for one in report.attacks
        if not one.ok
    ]
    cases = [f"{one.title}: {_wrong(one)}" for one in report.cases if not one.ok]
    copies = [f"copies of a gateway, {one.plan.method}: {one.failure}" for one in report.copies if not one.ok]
    return (*report.failed, *runs, *cases, *copies, *attacks)


def _wrong(case: Case) -> str:
    return case.failure or (
        f"{case.tokens} tokens of living SAs told, {case.living_lost} living SAs given up"
    )


def commands(report: Report) -> tuple[str, ...]:
    """How to see single runs of what is compared."""
    lines = []
    for v in report.variants:
        options = v.options_text
        sudo = "sudo " if v.peer == "strongswan" else ""
        lines.append(f"{sudo}deadpeer lab {options} --rtt {report.rtt_ms:g} --seed {report.seeds[0]}")
    scenarios = [
        f"deadpeer lab --scenario {use} --method {method} --seed {report.seeds[0]}"
        for use, method in dict.fromkeys((case.use, case.method) for case in report.cases)
    ]
    lines += scenarios if report.seeds else []
    first = {result.attack.name: result for result in reversed(report.attacks)}
    lines += [
        f"deadpeer lab --attack {name} --method {first[name].method} --seed {first[name].options.seed}"
        for name in dict.fromkeys(result.attack.name for result in report.attacks)
    ]
    return tuple(lines)
