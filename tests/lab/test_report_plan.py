"""What a report runs, in which order, and how far it says it is."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import count

import pytest

from deadpeer.lab.attacks.catalogue import ATTACKS
from deadpeer.lab.ladder import Step
from deadpeer.lab.options import METHODS, LabError, LabOptions
from deadpeer.lab.report.collect import between
from deadpeer.lab.report.model import Rung, Wire
from deadpeer.lab.report.notation import cpu, duration, number, octets, pair, round_trips, span
from deadpeer.lab.report.plan import (
    FULL,
    QUICK,
    AttackTask,
    CostsTask,
    ReferenceTask,
    RunTask,
    Wanted,
    plan,
    variants,
)
from deadpeer.lab.report.plot import STYLES
from deadpeer.lab.report.progress import Estimate, PlainTracker, clock_text
from deadpeer.lab.report.variants import VARIANTS, variant
from deadpeer.lab.report.words import COLOURS
from deadpeer.lab.result import RunResult
from deadpeer.lab.runs import Run
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, Seen, Sighting, Way

BASE = LabOptions(rtt_ms=100.0, seed=7)
EVERYTHING = Wanted(None, ATTACKS, BASE, FULL, strongswan=True)


def runs(wanted: Wanted) -> list[RunTask]:
    return [task for task in plan(wanted) if isinstance(task, RunTask)]


def attacks(wanted: Wanted) -> list[AttackTask]:
    return [task for task in plan(wanted) if isinstance(task, AttackTask)]


def test_everything_is_every_variant_full_and_resumed_and_at_every_distance() -> None:
    tasks = runs(EVERYTHING)
    table = [task for task in tasks if task.options.rtt_ms == 100]
    for one in VARIANTS:
        mine = [t.options for t in table if t.variant == one]
        assert [o.seed for o in mine if not o.resume] == [7, 8, 9, 10, 11]
        assert len([o for o in mine if o.resume]) == (5 if one.resumable else 0)
        distances = {t.options.rtt_ms for t in tasks if t.variant == one}
        assert distances == set(FULL.rtts_ms)
    assert {0.0, 300.0} <= set(FULL.rtts_ms) and {0.0, 300.0} <= set(QUICK.rtts_ms)
    for task in tasks:
        task.options.check()


def test_the_reference_comes_first_since_the_rest_runs_beside_it() -> None:
    tasks = plan(EVERYTHING)
    assert isinstance(tasks[0], ReferenceTask)
    assert isinstance(tasks[-1], CostsTask)
    assert len({task.title for task in tasks}) == len(tasks)


@pytest.mark.parametrize(
    "less",
    [{"strongswan": False}, {"sizes": QUICK}, {"method": "qcd"}, {"report": False}],
    ids=["no strongSwan", "quick", "one method", "no report"],
)
def test_no_reference_without_strongswan_or_in_a_hurry(less: dict[str, object]) -> None:
    wanted = replace(EVERYTHING, **less)  # type: ignore[arg-type]
    assert not any(isinstance(task, ReferenceTask) for task in plan(wanted))


def test_without_strongswan_its_column_is_left_out() -> None:
    assert [v.key for v in variants(replace(EVERYTHING, strongswan=False))] == [v.key for v in VARIANTS[:-1]]
    assert VARIANTS[-1].peer == "strongswan"


def test_a_full_report_tries_each_attack_on_each_method_that_it_concerns() -> None:
    tried = {(task.attack.name, task.options.method) for task in attacks(EVERYTHING)}
    assert tried == {(attack.name, method) for attack in ATTACKS for method in attack.methods}
    quick = [(task.attack.name, task.options.method) for task in attacks(replace(EVERYTHING, sizes=QUICK))]
    assert quick == [(attack.name, attack.methods[0]) for attack in ATTACKS]


@pytest.mark.parametrize("method", METHODS)
def test_one_method_means_its_variants_and_the_attacks_that_concern_it(method: str) -> None:
    wanted = replace(EVERYTHING, method=method)  # type: ignore[arg-type]
    assert {task.options.method for task in (*runs(wanted), *attacks(wanted))} == {method}
    assert {task.attack for task in attacks(wanted)} == {a for a in ATTACKS if method in a.methods}


def test_without_a_report_each_variant_runs_once_full_and_once_resumed() -> None:
    wanted = Wanted(None, (), BASE, QUICK, strongswan=True, report=False)
    tasks = runs(wanted)
    assert len(tasks) == len(plan(wanted)) == sum(2 if v.resumable else 1 for v in VARIANTS)
    assert {task.options.rtt_ms for task in tasks} == {100.0}
    full = replace(wanted, resume=(False,))
    assert [task.variant for task in runs(full)] == list(VARIANTS)


def test_an_attack_alone_is_an_attack_alone() -> None:
    wanted = Wanted(None, ATTACKS[:1], BASE, QUICK, runs=False, report=False)
    (task,) = plan(wanted)
    assert isinstance(task, AttackTask)
    assert task.attack == ATTACKS[0]
    assert (task.options.rtt_ms, task.options.seed) == (100.0, 7)
    in_report = attacks(replace(EVERYTHING, sizes=QUICK))[0]
    assert (in_report.options.rtt_ms, in_report.options.seed) == (20.0, 7)


def test_nothing_to_run_is_wrong_usage() -> None:
    with pytest.raises(LabError, match="nothing to run") as caught:
        plan(Wanted(None, (), BASE, QUICK, runs=False, report=False))
    assert caught.value.usage


def test_the_words_of_a_variant_are_options_of_the_command_line() -> None:
    assert variant("qcd-announced").options_text == "--method qcd --announce --idle"
    assert variant("reconnect-mute").options_text == "--method reconnect --no-hints"
    assert variant("strongswan").options_text == "--method reconnect --peer strongswan"
    with pytest.raises(LabError, match="no variant"):
        variant("telepathy")


def test_each_variant_has_a_colour_and_a_line_of_its_own() -> None:
    keys = {v.key for v in VARIANTS}
    assert set(STYLES) == set(COLOURS) == keys
    assert len(set(STYLES.values())) == len(keys)
    assert len({marker for _, marker, _ in STYLES.values()}) == len(keys), "told apart without colour"


# --- what a run gives ---------------------------------------------------------------------------------


def sighting(way: Way, heard_ms: float, octets_: int, seen: Seen | None = None) -> Sighting:
    ike = IkeSeen(37, False, True, 0, "aa", "bb")
    at = round(heard_ms * 1e6)
    return Sighting(way, Lane.NAT_T, octets_, at - 10, at, seen or ike)


def test_messages_count_from_bobs_return_to_the_recovery() -> None:
    options = LabOptions()
    run = Run(RunResult(options, ok=True, recover_ms=100.0), (), 1_000_000_000)
    seen = [
        sighting(Way.TO_BOB, 999, 1000),
        sighting(Way.TO_BOB, 1000, 60),
        sighting(Way.TO_ALICE, 1050, 132),
        sighting(Way.TO_ALICE, 1060, 200, EspSeen("0efdc339", 1)),
        sighting(Way.TO_BOB, 1100, 300),
        sighting(Way.TO_BOB, 1101, 1000),
    ]
    assert between(seen, run) == (Wire(2, 360), Wire(1, 132))
    lost = Run(RunResult(options, ok=False), (), 0)
    assert between(seen, lost) == (Wire(), Wire())


def test_a_rung_counts_from_bobs_return() -> None:
    step = Step(2_500_000, "alice>bob", "IKE_AUTH request", "good", lost=True, count=3)
    assert Rung.of(step, 1_000_000) == Rung(1.5, "alice>bob", "IKE_AUTH request", "good", True, 3)


# --- progress -----------------------------------------------------------------------------------------


def test_what_is_left_follows_from_how_the_past_went() -> None:
    ticks = count(0, 20)
    estimate = Estimate([("a", 10.0), ("b", 10.0), ("c", 30.0)], clock=lambda: float(next(ticks)))
    assert estimate.left_s == 50.0, "nothing is known yet"
    estimate.finish("b")
    # 20 seconds went by for what was to take ten.
    assert estimate.left_s == pytest.approx(80.0)
    estimate.finish("what nobody planned")
    assert (estimate.count, estimate.total) == (1, 3)


def test_plain_progress_is_lines_with_what_is_left_and_what_failed() -> None:
    out = io.StringIO()
    estimate = Estimate([("one", 60.0), ("two", 60.0)], clock=lambda: 0.0)
    with PlainTracker(estimate, out) as shown:
        shown.begin("one")
        shown.done("one", "traffic after 100 ms", ok=True)
        shown.done("two", "no tunnel", ok=False)
    first, second, third = out.getvalue().splitlines()
    assert first == "2 to do, about 2:00 in all"
    assert second.startswith("[1/2] 0:00") and second.endswith("one: traffic after 100 ms")
    assert third.endswith("two: FAILED: no tunnel")


# --- numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (duration(0.04), "0.0 ms"),
        (duration(-0.04), "0.0 ms"),
        (duration(4.26), "4.3 ms"),
        (duration(352.4), "352 ms"),
        (duration(-1384.9), "\N{MINUS SIGN}1.38 s"),
        (duration(12_345), "12.3 s"),
        (duration(174_000), "174 s"),
        (cpu(940.2), "940 µs"),
        (cpu(1355.0), "1.35 ms"),
        (round_trips(156.2, 100), "1.6"),
        (round_trips(-50, 100), "\N{MINUS SIGN}0.5"),
        (round_trips(50, 0), ""),
        (octets(12_137.4), "12 137"),
        (number(42.0), "42"),
        (number(42.5), "42.5"),
        (span("460 ms".replace(" ", "\xa0"), "480 ms".replace(" ", "\xa0")), "460\N{EN DASH}480 ms"),
        (span("4 ms", "4 ms"), "4 ms"),
        (pair("1.20 ms".replace(" ", "\xa0"), "900 µs".replace(" ", "\xa0")), "1.20 ms / 900 µs"),
        (clock_text(65.2), "1:05"),
    ],
)
def test_numbers_are_written_for_people(written: str, wanted: str) -> None:
    assert written.replace("\xa0", " ") == wanted
