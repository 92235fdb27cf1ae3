"""`deadpeer lab`: usage, and one clear line for what can't be done."""

import argparse
import importlib.util
import os
from pathlib import Path

import pytest

from deadpeer.cli import lab
from deadpeer.cli.parser import OneLineParser
from deadpeer.lab import strongswan
from deadpeer.lab.attacks.catalogue import ATTACKS
from deadpeer.lab.options import LabError, LabOptions
from deadpeer.lab.report.plan import FULL, QUICK


def parse(*words: str) -> argparse.Namespace:
    parser = OneLineParser(prog="deadpeer")
    lab.add_parser(parser.add_subparsers())
    return parser.parse_args(["lab", *words])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--rtt", "-1"], "--rtt"),
        (["--rtt", "nan"], "--rtt"),
        (["--loss", "1"], "--loss"),
        (["--loss", "-0.1"], "--loss"),
        (["--down", "-1"], "--down"),
        (["--down", "inf"], "--down"),
        (["--peer", "strongswan", "--method", "qcd"], "--method liveness"),
        (["--no-hints"], "--announce"),
        (["--quick"], "--report"),
        (["--seconds", "5"], "--attack"),
        (["--method", "all", "--seconds", "5"], "--attack"),
        (["--method", "all", "--rtt", "-1"], "--rtt"),
        (["--method", "all", "--idle"], "--idle"),
        (["--method", "all", "--spi-map"], "--spi-map"),
        (["--method", "all", "--no-hints"], "--no-hints"),
        (["--method", "all", "--peer", "strongswan"], "--peer strongswan"),
        (["--report", "REPORT", "--announce"], "--announce"),
        (["--report", "/dev/null/here"], "/dev/null/here"),
        (["--attack", "bribery"], "forge-invalid-spi"),
        (["--attack", "forge-token", "--method", "sir"], "--method qcd"),
        (["--attack", "forge-token", "--netns"], "--netns"),
        (["--attack", "forge-token", "--seconds", "0.5"], "--seconds"),
        (["--attack", "forge-token", "--seconds", "nan"], "--seconds"),
    ],
)
def test_wrong_values_give_one_line_and_exit_2(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.run(parse(*words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("deadpeer lab: ")
    assert named in err


@pytest.mark.parametrize("words", [["--netns"], ["--peer", "strongswan"]])
def test_without_root_namespaces_are_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert lab.run(parse(*words)) == 2
    assert "needs root" in capsys.readouterr().err


def test_a_missing_program_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert lab.run(parse("--netns")) == 2
    err = capsys.readouterr().err
    assert "iproute2" in err or "/dev/net/tun" in err


def test_a_missing_strongswan_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LabError, match="strongswan-swanctl") as caught:
        strongswan.require_strongswan()
    assert caught.value.usage


@pytest.mark.parametrize("words", [["--method", "telepathy"], ["--peer", "ike"], ["--rtt", "fast"]])
def test_unknown_choices_exit_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2


def test_a_report_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    assert lab.run(parse("--report", str(tmp_path / "here"))) == 2
    err = capsys.readouterr().err
    assert "matplotlib" in err and "jinja2" not in err
    assert "deadpeer[report]" in err
    assert not (tmp_path / "here").exists()


def test_what_all_and_a_report_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    everything, missing = lab.wanted_of(parse("--report", "DIR"))
    assert (everything.method, everything.sizes, everything.base.seed) == (None, FULL, 1)
    assert everything.attacks == ATTACKS
    assert everything.base.rtt_ms == 100
    assert not everything.strongswan
    assert "needs root" in missing[0]

    once, missing = lab.wanted_of(parse("--method", "all", "--no-resume", "--rtt", "30", "--seed", "5"))
    assert (once.attacks, once.report, once.resume) == ((), False, (False,))
    assert (once.base.rtt_ms, once.base.seed) == (30, 5)

    attack, missing = lab.wanted_of(parse("--attack", "forge-token", "--seconds", "3"))
    assert [one.name for one in attack.attacks] == ["forge-token"]
    assert (attack.runs, attack.report, attack.sizes.attack_s, missing) == (False, False, 3, ())

    one, missing = lab.wanted_of(parse("--report", "DIR", "--method", "qcd", "--attack", "all", "--quick"))
    assert (one.method, one.attacks, one.sizes, missing) == ("qcd", ATTACKS, QUICK, ())


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    assert "deadpeer lab --method liveness" in capsys.readouterr().out


def test_strongswan_by_token_is_impossible() -> None:
    with pytest.raises(LabError, match="strongSwan does not"):
        LabOptions(method="qcd", peer="strongswan").check()
