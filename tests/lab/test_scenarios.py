"""`deadpeer lab --scenario`: what can be asked for together, and the runs themselves on real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from deadpeer.cli import main
from deadpeer.lab.options import LOSSES, LabError, LabOptions
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.result import Moments, measure, summary
from deadpeer.lab.scenarios import robustness
from deadpeer.lab.traffic import TrafficLog

MS = 1_000_000


def scenario(*words: str) -> list[dict[str, Any]]:
    """The runs of `deadpeer lab --json --scenario`, which must have succeeded."""
    command = [sys.executable, "-m", "deadpeer", "lab", "--json", "--scenario", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    assert all(run["ok"] for run in runs)
    return runs


# --- robustness: pure ----------------------------------------------------------------------------


def child_lost(reason: str | None, *, recovered: bool = True) -> tuple[LabOptions, Any]:
    options = LabOptions(lost="child")
    known = None
    if reason is not None:
        fields = {"event": "child_down", "mono_ns": 1300 * MS, "reason": reason}
        known = SideEvent("alice", "child_down", 1300 * MS, fields)
    moments = Moments(1000 * MS, 1000 * MS, 1360 * MS if recovered else None)
    return options, measure(options, moments, TrafficLog(), known)


def test_a_lost_child_needs_no_verdict() -> None:
    _, result = child_lost("the peer does not know its SPI")
    record = result.to_record()
    assert result.ok
    assert (record["scenario"], record["lost"], record["verdict"]) == ("robustness", "child", None)
    assert (record["detect_ms"], record["recover_ms"], record["peer_down_s"]) == (300.0, 360.0, 0.0)
    assert record["evidence"] == ["INVALID_SPI, protected by the IKE SA: the peer does not know its SPI"]
    assert "no verdict is needed" in summary(result)


@pytest.mark.parametrize(
    ("reason", "recovered", "failure"),
    [
        (None, False, "Alice never heard"),
        ("condemned: qcd-token", True, "ended otherwise: condemned"),
        ("the peer does not know its SPI", False, "did not carry traffic again"),
    ],
)
def test_a_child_that_ended_otherwise_or_did_not_come_back_is_a_failure(
    reason: str | None, recovered: bool, failure: str
) -> None:
    _, result = child_lost(reason, recovered=recovered)
    assert not result.ok
    assert failure in str(result.failure)
    assert failure in summary(result)


def test_the_runs_are_one_for_each_thing_that_can_be_lost() -> None:
    assert [run.lost for run in robustness.plan(LabOptions())] == list(LOSSES)


@pytest.mark.parametrize("options", [LabOptions(idle=True), LabOptions(spi_map=True)])
def test_what_makes_no_sense_for_a_gateway_that_lives_is_refused(options: LabOptions) -> None:
    with pytest.raises(LabError, match="robustness") as caught:
        robustness.plan(options)
    assert caught.value.usage


@pytest.mark.parametrize(
    "words",
    [
        ("robustness", "--attack", "all"),
        ("robustness", "--method", "all"),
        ("robustness", "--seconds", "5"),
        ("robustness", "--idle"),
        ("nothing",),
    ],
)
def test_wrong_usage_is_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["lab", "--scenario", *words])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    printed = capsys.readouterr()
    assert (status, printed.out, printed.err.count("\n")) == (2, "", 1)


# --- robustness: real ----------------------------------------------------------------------------


def test_a_gateway_that_forgets_and_lives_is_found_out() -> None:
    child, ike, everything = scenario("robustness", "--rtt", "50", "--seed", "1")
    assert [run["lost"] for run in (child, ike, everything)] == list(LOSSES)
    assert child["verdict"] is None
    assert "INVALID_SPI, protected" in child["evidence"][0]
    for run in (ike, everything):
        assert run["verdict"] == "qcd-token"
        assert any("qcd-token" in line for line in run["evidence"])
    for run in (child, ike, everything):
        assert run["peer_down_s"] == 0
        assert 0 < run["detect_ms"] < run["recover_ms"]
        assert run["timeline"][0]["what"].endswith("lives on")
        assert "killed" not in str(run["timeline"])
