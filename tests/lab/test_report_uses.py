"""The use cases and the load balancer in a report: what is counted, and what is said about it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from tests.lab.report_sample import (
    STRIP,
    copied,
    lost_case,
    measured,
    moved_case,
    report,
    several_case,
    variant,
)

from deadpeer.lab.options import LabError, LabOptions
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.report import balanced_words, collect, words
from deadpeer.lab.report.balanced import columns
from deadpeer.lab.report.cases import (
    NO_PAIR,
    Case,
    Stretch,
    Strip,
    given_up_alive,
    pair_before,
    strip_of,
    tokens_of_living,
)
from deadpeer.lab.report.compare import comparison
from deadpeer.lab.report.markdown import render_markdown
from deadpeer.lab.report.model import Report
from deadpeer.lab.report.page import render_html
from deadpeer.lab.report.plan import (
    FULL,
    QUICK,
    CaseTask,
    CopiesTask,
    ScenarioTask,
    Wanted,
    plan,
)
from deadpeer.lab.report.progress import Estimate, PlainTracker
from deadpeer.lab.report.use_drawing import Line, strips_svg, theft_svg, use_svg
from deadpeer.lab.report.use_words import use_stories
from deadpeer.lab.scenarios.plan import ClusterPlan
from deadpeer.lab.trace import IkeSeen, Lane, Sighting, Way
from deadpeer.lab.traffic import MS, TrafficLog

BASE = LabOptions(rtt_ms=100.0, seed=7)
DEAD, OTHER = ("aa" * 8, "bb" * 8), ("cc" * 8, "dd" * 8)


# --- what is to be run ------------------------------------------------------------------------------


def cluster_plans(wanted: Wanted) -> list[ClusterPlan]:
    tasks = [task for task in plan(wanted) if isinstance(task, ScenarioTask)]
    return [each for task in tasks for each in task.plans]


@pytest.mark.parametrize("sizes", [FULL, QUICK], ids=["full", "quick"])
def test_a_report_tries_all_use_cases_with_what_applies(sizes: object) -> None:
    wanted = Wanted(None, (), BASE, sizes, etcd=True)  # type: ignore[arg-type]
    tasks = plan(wanted)
    lost = {(task.options.method, task.options.lost) for task in tasks if isinstance(task, CaseTask)}
    assert {("qcd", "child"), ("qcd", "all"), ("sir", "all"), ("liveness", "all")} <= lost
    for task in tasks:
        if isinstance(task, CaseTask):
            task.options.check()
    plans = cluster_plans(wanted)
    assert {(each.standby, each.method) for each in plans} == {
        (standby, method) for standby in (False, True) for method in ("qcd", "sir")
    }
    for each in plans:
        each.check()
        assert each.happenings[0] == ("takeover" if each.standby else "kill")
    copies = [each for task in tasks if isinstance(task, CopiesTask) for each in task.plans]
    assert [each.method for each in copies] == ["qcd", "sir"]
    for one in copies:
        one.check()
    assert len({task.title for task in tasks}) == len(tasks)


def test_a_quick_report_is_not_much_longer_for_them() -> None:
    tasks = plan(Wanted(None, (), BASE, QUICK, etcd=True))
    assert sum(t.seconds for t in tasks if isinstance(t, CaseTask | ScenarioTask | CopiesTask)) <= 65


def test_without_etcd_there_is_no_cluster_and_all_else_is() -> None:
    with_it, without = (Wanted(None, (), BASE, FULL, etcd=etcd) for etcd in (True, False))
    assert all(each.standby for each in cluster_plans(without))
    assert len(cluster_plans(with_it)) > len(cluster_plans(without)) > 0
    assert len([t for t in plan(without) if isinstance(t, CopiesTask)]) == 2


def test_one_method_has_its_own_use_cases_only() -> None:
    tasks = plan(Wanted("liveness", (), BASE, FULL, etcd=True))
    assert {t.options.method for t in tasks if isinstance(t, CaseTask)} == {"liveness"}
    assert not any(isinstance(t, ScenarioTask | CopiesTask) for t in tasks)
    sir = plan(Wanted("sir", (), BASE, QUICK, etcd=True))
    assert {p.method for t in sir if isinstance(t, ScenarioTask | CopiesTask) for p in t.plans} == {"sir"}
    alone = plan(Wanted(None, (), BASE, QUICK, etcd=True, report=False))
    assert not any(isinstance(t, CaseTask | ScenarioTask | CopiesTask) for t in alone)


def test_what_was_measured_is_kept_when_the_rest_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def half(each: ClusterPlan, keep: Callable[[Case], None]) -> None:
        keep(several_case(each.method))
        raise LabError("traffic did not happen within 3 s")

    monkeypatch.setattr(collect, "run_scenario", half)
    task = ScenarioTask((ClusterPlan(happenings=("kill", "cut")),))
    out = io.StringIO()
    with PlainTracker(Estimate([(task.title, 1.0)]), out) as shown:
        collected = asyncio.run(collect.collect([task], shown))
    assert [case.lost for case in collected.cases] == ["kill"]
    assert collected.failed == ["cluster by qcd: traffic did not happen within 3 s"]
    assert not collected.ok
    assert "FAILED: cluster by qcd" in out.getvalue()


# --- what is counted --------------------------------------------------------------------------------


def said(at_ms: int, pair: tuple[str, str], *notifies: str, protected: bool = False) -> Sighting:
    seen = IkeSeen(37, True, False, 1, *pair, protected, None, notifies)
    return Sighting(Way.TO_ALICE, Lane.NAT_T, 100, at_ms * MS, at_ms * MS, seen)


def test_a_token_is_of_a_living_sa_if_bob_had_that_sa_when_he_sent_it() -> None:
    of_the_dead = said(150, DEAD, "INVALID_IKE_SPI", "QCD_TOKEN")
    assert tokens_of_living([of_the_dead, said(160, DEAD, "CHECK_SPI NACK")], 100 * MS, DEAD) == 0
    assert tokens_of_living([of_the_dead], 200 * MS, DEAD) == 1, "before the loss"
    assert tokens_of_living([of_the_dead], 100 * MS, OTHER) == 1, "another one"
    assert tokens_of_living([of_the_dead], 100 * MS, None) == 1, "he has lost a child alone"
    harmless = [
        said(50, DEAD, "CHECK_SPI ACK"),
        said(50, DEAD, "QCD_TOKEN", protected=True),
        said(50, (NO_PAIR, NO_PAIR), "CHECK_SPI NACK"),
    ]
    assert tokens_of_living(harmless, 100 * MS, DEAD) == 0


def test_the_sa_that_was_lost_is_the_one_that_was_used_last() -> None:
    seen = [said(10, OTHER, protected=True), said(20, DEAD, protected=True), said(30, OTHER, "QCD_TOKEN")]
    assert pair_before([*seen, said(200, OTHER, protected=True)], 100 * MS) == DEAD
    assert pair_before([], 100 * MS) is None


def test_a_verdict_about_anything_else_is_about_a_living_sa() -> None:
    def verdict(at_ms: int, sa: int) -> SideEvent:
        return SideEvent("alice", "verdict", at_ms * MS, {"sa": sa})

    about = verdict(150, 1)
    assert given_up_alive([about], 100 * MS, child_only=False) == 0
    assert given_up_alive([about], 100 * MS, child_only=True) == 1
    assert given_up_alive([verdict(50, 1), about, verdict(300, 2)], 100 * MS, child_only=False) == 2


def test_a_strip_joins_packets_of_one_fate() -> None:
    log = TrafficLog()
    for seq, (at_ms, took_ms) in enumerate([(0, 5), (20, 5), (40, None), (60, None), (80, 400), (100, 5)]):
        log.take({"event": "sent", "seq": seq, "mono_ns": (1000 + at_ms) * MS})
        if took_ms is not None:
            log.take({"event": "reply", "seq": seq, "mono_ns": (1000 + at_ms + took_ms) * MS})
    log.take({"event": "sent", "seq": 9, "mono_ns": 1050 * MS})
    log.take({"event": "no room", "seq": 9, "mono_ns": 1050 * MS})
    strip = strip_of("Alice", log, 1040 * MS, (-40.0, 70.0), 150.0, 10.0, 60.0)
    assert strip.stretches == (
        Stretch(-40.0, 0.0, "answered"),
        Stretch(0.0, 40.0, "lost"),
        Stretch(40.0, 60.0, "late"),
        Stretch(60.0, 70.0, "answered"),
    )
    assert (strip.knows_ms, strip.flows_ms) == (10.0, 60.0)
    assert strip_of("Alice", TrafficLog(), 0, (0.0, 1.0), 1.0).stretches == ()


def test_a_use_case_is_not_well_if_anything_was_told_or_lost_that_lived() -> None:
    assert lost_case().ok and several_case().ok
    bad = report(cases=(lost_case(tokens=1), several_case(tokens=2)))
    assert not bad.ok
    first, second = words.failures(bad)
    assert first == "robustness (all) by qcd: 1 tokens of living SAs told, 0 living SAs given up"
    assert "tokens for living SAs: 2" in second
    assert "Not everything held in this run." in render_html(bad)


# --- what is shown ----------------------------------------------------------------------------------


def test_a_reboot_is_the_first_run_of_the_table_for_each_method() -> None:
    runs = tuple(
        measured(variant(key), seed=seed, rtt_ms=rtt, resume=resume)
        for key in ("qcd", "qcd-map", "sir")
        for rtt in (0.0, 100.0)
        for resume in (True, False)
        for seed in (1, 2)
    )
    found = report(runs=runs, cases=()).all_cases
    assert [(case.use, case.method, case.record["seed"]) for case in found] == [
        ("reboot", "qcd", 1),
        ("reboot", "sir", 1),
    ]
    assert {case.record["rtt_ms"] for case in found} == {100.0}


def test_the_four_use_cases_are_told_in_their_order_with_their_numbers() -> None:
    stories = use_stories(report())
    assert [story.use for story in stories] == ["robustness", "reboot", "failover", "cluster"]
    cluster = stories[3]
    assert [line.label for line in cluster.lines[:3]] == [
        "QCD: clients led to another member",
        "QCD: a member killed",
        "QCD: another member's client",
    ]
    cells = {cell.text.replace("\N{NO-BREAK SPACE}", " ") for cell in cluster.rows[1]}
    assert {"a member killed", "QCD", "2.01 s", "2.10 s", "90", "0"} <= cells
    assert cluster.rows[0][3].text == "nothing was lost"
    assert "lease of 2 s" in cluster.note
    child = stories[0].rows[0]
    assert child[2].note == "Bob\N{RIGHT SINGLE QUOTATION MARK}s word under protection"
    page, text = render_html(report()), render_markdown(report())
    for story in stories:
        assert story.title in page and f"### {story.title}" in text
        assert story.ok


def test_the_json_has_the_numbers_of_every_use_case() -> None:
    record = json.loads(json.dumps(report().to_record(), allow_nan=False))
    uses = {case["use_case"] for case in record["cases"]}
    assert uses == {"robustness", "reboot", "failover", "cluster"}
    killed = next(case for case in record["cases"] if case["lost"] == "kill")
    assert (killed["tokens_for_living_sas"], killed["run"]["lease_s"]) == (0, 2)
    assert killed["strips"][0]["stretches"][1] == {"from_ms": 0.0, "to_ms": 300.0, "fate": "lost"}
    assert [one["said_of_living_sas"] for one in record["copies"]] == [16, 16]


def test_pictures_are_whole_and_say_what_they_are() -> None:
    lines = [Line("QCD: <all> SAs lost", STRIP, "470 ms"), Line("nothing", Strip("nothing", ()), "")]
    pictures = [strips_svg("a title", "he loses it", lines), strips_svg("empty", "0", []), theft_svg()]
    pictures += [use_svg(use) for use in ("robustness", "reboot", "failover", "cluster")]
    for picture in pictures:
        root = ElementTree.fromstring(picture)  # noqa: S314 - our own text
        assert root.get("aria-label")
        assert "nan" not in picture and "inf" not in picture


# --- behind a load balancer -------------------------------------------------------------------------


def table(of: Report) -> dict[str, list[tuple[str, str]]]:
    return {
        row.label: [
            (c.text.replace("\N{NO-BREAK SPACE}", " "), c.note.replace("\N{NO-BREAK SPACE}", " "))
            for c in row.cells
        ]
        for row in balanced_words.rows(of)
    }


def test_the_row_is_judged_by_what_was_measured() -> None:
    found = table(report())
    assert [text for text, _ in found["Support for load-balancer failover"]] == [
        "No",
        "Yes",
        "Yes, by the client alone",
        "Yes",
    ]
    assert [text for text, _ in found["Told that a living SA is lost"]] == ["18", "0", "18", "0"]
    assert found["Living SAs ended by that"] == [
        ("2 of 2", ""),
        ("0", "nothing to present"),
        ("0 of 2", "2 reported as an attack"),
        ("0", "nothing to present"),
    ]
    back = found["A member dies: its clients are back after"]
    assert back[1] == ("2.10 s", "its lease of 2 s, and 100 ms")
    assert found["The balancer moves the clients of a member that lives"] == [
        ("1 living SA ended", "traffic after 480 ms; 13 of 60 packets lost"),
        ("handed on to it", "0 of 100 packets lost"),
        ("1 living SA ended", "traffic after 480 ms; 13 of 60 packets lost"),
        ("\N{EM DASH}", ""),
    ]
    said_so = " ".join(balanced_words.sentences(report()))
    assert "2 living SAs were dropped" in said_so
    assert "told no tokens of living SAs" in said_so


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"copies": (copied(told=0), copied("sir", told=0))}, ["yes", "yes", "yes", "yes"]),
        ({"copies": (copied(), copied("sir", died=True))}, ["no", "yes", "no", "yes"]),
        ({"copies": ()}, ["", "yes", "", "yes"]),
        ({"cases": ()}, ["no", "", "harmless", ""]),
        ({"cases": (moved_case(packets_lost=3),)}, ["no", "no", "harmless", ""]),
        (
            {"cases": (several_case(tokens=1), several_case("sir", back=False))},
            ["no", "harmless", "harmless", "no"],
        ),
    ],
    ids=[
        "copies are silent",
        "a denial ended one",
        "no copies",
        "no etcd",
        "no death",
        "a cluster that does not hold",
    ],
)
def test_another_measurement_gives_another_row(changed: dict[str, object], wanted: list[str]) -> None:
    shown = report(**changed)
    assert [column.verdict for column in columns(shown)] == wanted
    assert "## Support for load-balancer failover" in render_markdown(shown)


def test_the_comparison_has_the_row() -> None:
    rows = {row.label: row for section in comparison(report()).sections for row in section.rows}
    row = rows["Support for load-balancer failover"]
    assert row.cells[0].text == "alone: no; with ownership: yes"
    sir = next(n for n, v in enumerate(report().variants) if v.method == "sir")
    assert row.cells[sir].text == "alone: yes; with ownership: yes"
    assert all(cell.text for cell in row.cells)
    missing = {r.label: r for s in comparison(report(cases=(), copies=())).sections for r in s.rows}
    assert missing[row.label].cells[0].text == "alone: not measured; with ownership: not measured"


def test_what_etcd_is_missing_for_is_said_with_the_package() -> None:
    told = "a load-balanced cluster: needs the program etcd: apt-get install etcd-server (Debian, Ubuntu)"
    page = render_html(report(missing=(told,), cases=(lost_case(),)))
    assert told in page[: page.index('id="problem"')]
    assert "not measured" in page[page.index('id="balanced"') : page.index('id="plot"')]
