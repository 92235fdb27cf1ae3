"""A small report of real gateways: a crash, an attack, three files. The whole takes minutes: `make lab`."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path

from tests.lab.report_sample import report

from deadpeer.lab.attacks.catalogue import attack
from deadpeer.lab.options import LabOptions
from deadpeer.lab.report.collect import collect
from deadpeer.lab.report.plan import AttackTask, CaseTask, RunTask
from deadpeer.lab.report.progress import Estimate, PlainTracker
from deadpeer.lab.report.surroundings import surroundings
from deadpeer.lab.report.variants import variant
from deadpeer.lab.report.write import FILES, write_report


def test_a_real_crash_and_a_real_attack_become_a_page(tmp_path: Path) -> None:
    one = variant("qcd-map")
    base = LabOptions(rtt_ms=20.0, down_s=0.2, seed=1)
    tasks = (
        RunTask(one, one.options(base, rtt_ms=20.0, resume=True, seed=1)),
        CaseTask(LabOptions(rtt_ms=20.0, seed=1, lost="child")),
        AttackTask(attack("mitm-blackout"), LabOptions(method="reconnect", seed=1), 1.0),
    )
    out = io.StringIO()
    with PlainTracker(Estimate([(task.title, task.seconds) for task in tasks]), out) as shown:
        collected = asyncio.run(collect(tasks, shown))
    assert "[3/3]" in out.getvalue()
    (run,), (case,), (attacked,) = collected.runs, collected.cases, collected.attacks
    assert run.result.ok, run.result.failure
    assert run.alice.messages >= 2 and run.bob.messages >= 2
    assert any(rung.what == "VERDICT: qcd-token" for rung in run.rungs)
    assert any(rung.what == "IKE_SESSION_RESUME request" for rung in run.rungs)
    assert attacked.checks
    assert case.ok, case.failure
    assert (case.use, case.living_lost, case.tokens) == ("robustness", 0, 0)
    assert run.case is not None and run.case.use == "reboot"
    for strip in (*case.strips, *run.case.strips):
        assert {stretch.fate for stretch in strip.stretches} >= {"answered", "lost"}

    small = report(
        environment=surroundings("deadpeer lab --report DIR"),
        variants=(one,),
        rtt_ms=20.0,
        runs=tuple(collected.runs),
        cases=tuple(collected.cases),
        copies=(),
        attacks=tuple(collected.attacks),
        costs=None,
    )
    paths = write_report(small, tmp_path)
    assert [path.name for path in paths] == list(FILES)
    assert "mitm-blackout" in paths[0].read_text()
    assert json.loads(paths[1].read_text())["runs"][0]["variant"] == "qcd-map"


def test_an_attack_alone_as_json() -> None:
    words = ["--attack", "mitm-blackout", "--method", "liveness", "--seconds", "1", "--seed", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "deadpeer", "lab", *words],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    document = json.loads(done.stdout)
    assert "attacks" in document, done.stderr
    (one,) = document["attacks"]
    assert (document["runs"], one["name"], one["method"], one["seed"]) == ([], "mitm-blackout", "liveness", 1)
    assert one["checks"]
    assert done.returncode == (0 if one["ok"] else 1)
    assert "[1/1]" in done.stderr
