"""`deadpeer lab` from end to end: real gateways in real processes, a real SIGKILL.

How good a recovery is depends on the machine, so bounds here are generous; `make acceptance` has the tight
ones, over many runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deadpeer.lab import strongswan

PATIENCE_S = 200.0
"""Beyond all bounds of the lab's own."""
root = pytest.mark.root
NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists() or not shutil.which("ping"),
    reason="needs root, /dev/net/tun and iputils-ping",
)
NEEDS_STRONGSWAN = pytest.mark.skipif(
    not strongswan.CHARON.exists(), reason="needs the Debian package strongswan-charon"
)


def deadpeer(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deadpeer", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
        assert namespaces_of(process.pid) == []
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def lab(*words: str) -> dict[str, Any]:
    """The one run of `deadpeer lab --json`, which must have succeeded."""
    done = deadpeer("lab", "--json", *words)
    assert done.returncode == 0, done.stderr + done.stdout
    (run,) = json.loads(done.stdout)["runs"]
    assert run["ok"] is True
    assert isinstance(run, dict)
    return run


def namespaces_of(pid: int) -> list[str]:
    """The network namespaces that the lab of that process has made and not yet removed."""
    return [path.name for path in Path("/run/netns").glob(f"deadpeer-{pid}-*")]


def test_a_token_brings_the_tunnel_back_in_round_trips() -> None:
    run = lab("--rtt", "100", "--seed", "1", "--down", "0.5")
    assert run["verdict"] == "qcd-token"
    assert any("qcd-token" in line for line in run["evidence"])
    assert run["detect_rtts"] > 0
    # Two round trips for the new SA, one for the packet, counted from the verdict.
    assert run["recover_rtts"] - run["detect_rtts"] >= 3
    assert run["packets_lost"] >= run["packets_lost_while_down"] > 0
    assert run["packets_sent"] > run["packets_lost"]
    steps = [(step["who"], step["what"].split(" (")[0]) for step in run["timeline"]]
    hint = next(i for i, (who, what) in enumerate(steps) if who == "bob>alice" and "INVALID_SPI" in what)
    token = steps.index(("bob>alice", "INVALID_IKE_SPI + QCD_TOKEN"))
    again = steps.index(("alice>bob", "IKE_SA_INIT request"))
    assert steps.index(("bob", "can answer again")) < hint
    assert token < steps.index(("alice", "VERDICT: qcd-token")) < again


def test_losses_only_delay_the_recovery() -> None:
    run = lab("--loss", "0.05", "--seed", "2", "--down", "0.3")
    assert run["verdict"] == "qcd-token"
    assert run["loss"] == 0.05


def test_liveness_needs_no_token_and_says_that_it_was_hurried() -> None:
    done = deadpeer("lab", "--method", "liveness", "--seed", "3", "--down", "0.3")
    assert done.returncode == 0, done.stderr
    assert "LAB SETTING: dpd_timeout and dpd_floor 3 s" in done.stdout
    assert "VERDICT: liveness" in done.stdout
    assert "QCD_TOKEN" not in done.stdout
    assert "Bob was dead for" in done.stdout


def test_an_idle_tunnel_is_found_dead_too() -> None:
    run = lab("--idle", "--seed", "4", "--down", "0.3", "--rtt", "0")
    assert run["verdict"] == "qcd-token"
    assert run["packets_sent"] == 0
    assert run["detect_rtts"] is None


def test_the_view_shows_packets_steps_and_a_summary() -> None:
    done = deadpeer("lab", "--seed", "5", "--down", "0.3")
    assert done.returncode == 0, done.stderr
    assert "\N{MIDDLE DOT}" in done.stdout
    assert "\N{MULTIPLICATION SIGN}" in done.stdout
    assert "INVALID_IKE_SPI + QCD_TOKEN" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Bob was dead for")
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_lab_leaves_nothing_behind(number: signal.Signals, short_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(short_path)}
    command = [sys.executable, "-m", "deadpeer", "lab", "--down", "60"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if "is killed" in line:
                break
        children = _children(process.pid)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 1
        assert "interrupted" in process.stderr.read()
    assert len(children) == 3  # the relay, the hosts, Alice: Bob is dead
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert list(short_path.iterdir()) == []


@root
@NEEDS_ROOT
@pytest.mark.parametrize("method", ["qcd", "liveness"])
def test_namespaces_and_the_real_ping(method: str) -> None:
    run = lab("--netns", "--method", method, "--seed", "6", "--down", "0.5")
    assert run["netns"] is True
    assert run["packets_sent"] > run["packets_lost"] > 0
    assert run["verdict"] == {"qcd": "qcd-token", "liveness": "liveness"}[method]


@root
@NEEDS_ROOT
@NEEDS_STRONGSWAN
def test_an_unmodified_strongswan_as_bob() -> None:
    run = lab("--peer", "strongswan", "--seed", "7", "--down", "0.5")
    assert run["peer"] == "strongswan"
    assert run["verdict"] == "replaced"
    assert not any("invalid" in step["what"].lower() for step in run["timeline"])


@root
@NEEDS_ROOT
def test_an_interrupted_lab_removes_its_namespaces() -> None:
    command = [sys.executable, "-m", "deadpeer", "lab", "--netns", "--down", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "is killed" in line:
                break
        assert len(namespaces_of(process.pid)) == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 1
    assert namespaces_of(process.pid) == []


@root
@NEEDS_ROOT
def test_what_a_killed_lab_left_behind_is_swept_by_the_next() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait()
    name = f"deadpeer-{gone.pid}-0000-alice"
    subprocess.run(["ip", "netns", "add", name], check=True)
    lab("--netns", "--seed", "8", "--down", "0.1")
    assert namespaces_of(gone.pid) == []


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        (("--method", "sir"), "sir"),
        (("--method", "reconnect"), "replaced"),
        (("--spi-map",), "qcd-token"),
        (("--resume",), "qcd-token"),
        (("--idle", "--announce"), "qcd-token"),
    ],
)
def test_every_other_way_to_find_out_recovers(arguments: tuple[str, ...], verdict: str) -> None:
    run = lab(*arguments, "--rtt", "50", "--seed", "11", "--down", "0.5")
    assert run["ok"]
    assert run["verdict"] == verdict
    assert run["recover_ms"] is not None
