"""`deadpeer lab`: usage, and one clear line for what can't be done."""

import argparse
import os

import pytest

from deadpeer.cli import lab
from deadpeer.cli.parser import OneLineParser
from deadpeer.lab import strongswan
from deadpeer.lab.options import LabError, LabOptions


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


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    assert "deadpeer lab --method liveness" in capsys.readouterr().out


def test_strongswan_by_token_is_impossible() -> None:
    with pytest.raises(LabError, match="strongSwan does not"):
        LabOptions(method="qcd", peer="strongswan").check()
