"""Two gateways in two processes on loopback: what an administrator does to them, and what a crash does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.gateway.processes import (
    PATIENCE_S,
    PORT,
    SOON_S,
    Gateway,
    Pair,
    document,
    environment,
    two_gateways,
    until,
)
from tests.support.loopback import LoopbackNet


@pytest.fixture
def pair(place: Path) -> Iterator[Pair]:
    with two_gateways(place) as both:
        both.start()
        yield both


def test_a_tunnel_carries_packets_and_can_be_rekeyed_and_taken_down(pair: Pair) -> None:
    pair.ping_until_it_works()
    (sa,) = pair.alice.sas()
    (child,) = sa["children"]
    assert (sa["connection"], sa["identity"], child["child"]) == ("home", "bob.example", "net")
    assert child["traffic"]["packets_in"] >= 1
    assert child["traffic"]["packets_out"] >= child["traffic"]["packets_in"]

    for words in (("rekey", "home", "net"), ("rekey", "home")):
        done = pair.alice.command(*words)
        assert done.returncode == 0, done.stderr
        assert pair.ping()
    (rekeyed,) = pair.alice.sas()
    assert rekeyed["spi_i"] != sa["spi_i"]
    assert rekeyed["children"][-1]["spi_in"] != child["spi_in"]

    assert pair.alice.command("down", "home").returncode == 0
    pair.bob.wait_for("ike_sa_down")
    assert pair.alice.sas() == pair.bob.sas() == []
    assert not pair.ping(SOON_S)

    done = pair.alice.command("up", "home", "net")
    assert done.returncode == 0, done.stderr
    assert pair.ping()


def test_commands_that_can_not_succeed(pair: Pair) -> None:
    for words in (("up", "nowhere"), ("down", "nowhere"), ("rekey", "nowhere"), ("up", "home", "nochild")):
        done = pair.alice.command(*words)
        assert done.returncode == 1, (words, done)
        assert done.stderr.count("\n") == 1
        assert words[-1] in done.stderr
        assert done.stdout == ""


def test_sigterm_says_goodbye(pair: Pair) -> None:
    assert pair.alice.terminate() == 0
    pair.bob.wait_for("ike_sa_down")
    assert pair.bob.sas() == []
    kinds = [e["event"] for e in pair.alice.events()]
    assert kinds[-2:] == ["shutdown_done", "stopped"]
    assert "goodbye_unanswered" not in kinds
    assert not pair.alice.control.exists()
    assert not (pair.place / "alice-gw").exists()


def test_sigterm_does_not_wait_for_the_dead(pair: Pair) -> None:
    pair.bob.kill()
    began = time.monotonic()
    assert pair.alice.terminate() == 0
    assert time.monotonic() - began > 1, "it waits for a moment"
    assert any(event["event"] == "goodbye_unanswered" for event in pair.alice.events())


def test_sighup_takes_new_connections_and_leaves_living_sas_alone(pair: Pair) -> None:
    before = pair.alice.sas()[0]["spi_i"]
    changed = pair.documents["alice"]
    changed["connections"]["second"] = changed["connections"]["home"] | {"dpd_delay": 99}
    pair.alice.write(changed)
    pair.alice.process.send_signal(signal.SIGHUP)
    assert pair.alice.wait_for("reload")["connections"] == ["home", "second"]
    assert pair.alice.sas()[0]["spi_i"] == before
    assert pair.ping()


def test_sighup_with_a_bad_file_changes_nothing(pair: Pair) -> None:
    changed = pair.documents["alice"]
    changed["connections"]["home"]["proposals"] = "rot13"
    pair.alice.write(changed)
    pair.alice.process.send_signal(signal.SIGHUP)
    error = pair.alice.wait_for("reload_failed")["error"]
    assert "connections.home.proposals: unknown algorithm 'rot13'" in error
    assert pair.ping()
    done = pair.alice.command("reload")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "rot13" in done.stderr


def test_what_waits_for_a_restart_is_said(pair: Pair) -> None:
    changed = pair.documents["alice"]
    changed["gateway"] |= {"port": PORT + 7, "log_level": "debug"}
    pair.alice.write(changed)
    done = pair.alice.command("reload")
    assert (done.returncode, done.stdout) == (0, "1 connections; restart needed\n")


@pytest.mark.parametrize("graceful", [False, True])
def test_after_a_crash_the_tunnel_comes_back_by_itself(pair: Pair, graceful: bool) -> None:
    pair.ping_until_it_works()
    epoch = pair.bob.wait_for("boot")["epoch"]
    mark = len(pair.alice.events())
    if graceful:
        pair.bob.terminate()
    else:
        pair.bob.kill()
    pair.bob.start()
    if graceful:
        assert pair.alice.command("up", "home").returncode == 0
    pair.ping_until_it_works()
    assert max(e["epoch"] for e in pair.bob.events() if e["event"] == "boot") == epoch + 1
    verdicts = [event for event in pair.alice.events()[mark:] if event["event"] == "verdict"]
    if graceful:
        assert verdicts == []
    else:
        assert verdicts[0]["evidence"]
        assert verdicts[0]["connection"] == "home"


def test_the_one_who_starts_the_tunnel_crashes(pair: Pair) -> None:
    pair.ping_until_it_works()
    pair.alice.kill()
    pair.alice.start()
    pair.ping_until_it_works()


def test_watch_shows_events_as_they_happen(pair: Pair) -> None:
    command = [sys.executable, "-m", "deadpeer", "watch", "--json", "--count", "1"]
    with subprocess.Popen(
        [*command, "--control", str(pair.alice.control)], stdout=subprocess.PIPE, env=environment()
    ) as watching:
        # It is watching once the gateway counts it; a second event does no harm.
        until(lambda: _reload_and_poll(pair, watching), lambda: "watch saw nothing")
        assert watching.stdout is not None
        assert json.loads(watching.stdout.read())["event"] == "reload"


def _reload_and_poll(pair: Pair, watching: subprocess.Popen[bytes]) -> bool:
    assert pair.alice.command("reload").returncode == 0
    return watching.poll() == 0


def test_rotate_makes_a_new_generation(pair: Pair) -> None:
    done = pair.bob.command("rotate")
    assert done.returncode == 0, done.stderr
    pair.bob.wait_for("secret_rotated")


def test_rotate_makes_a_new_ticket_key(pair: Pair) -> None:
    done = pair.bob.command("rotate", "--tickets")
    assert done.returncode == 0, done.stderr
    pair.bob.wait_for("ticket_key_rotated")


def test_counters_name_every_drop(pair: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        address = pair.documents["alice"]["gateway"]["listen"][0]
        for payload in (b"", b"\xff" * 100, bytes(28)):
            stranger.sendto(payload, (address, PORT))
    until(lambda: _dropped(pair) == 3, lambda: pair.alice.command("counters").stdout)
    counters = json.loads(pair.alice.command("counters", "--json").stdout)["counters"]
    assert "exception" not in json.dumps(counters)
    assert pair.ping()


def _dropped(pair: Pair) -> int:
    endpoint = json.loads(pair.alice.command("counters", "--json").stdout)["counters"]["endpoint"]
    return sum(count for name, count in endpoint.items() if name.startswith("dropped"))


def test_a_second_daemon_is_refused(pair: Pair) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deadpeer", "gateway", str(pair.alice.config)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"deadpeer gateway: {pair.alice.config}: gateway.state_dir: {pair.place}/alice-state is in use by"
        f" another gateway (pid {pair.alice.process.pid}); stop that one, or name another directory\n"
    )
    assert pair.ping()


def test_no_secret_is_in_the_log_and_the_process_is_hardened(pair: Pair) -> None:
    pair.ping_until_it_works()
    assert pair.alice.command("rekey", "home").returncode == 0
    assert "the two of them" not in pair.alice.log()
    limits = Path(f"/proc/{pair.alice.process.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == [
        "0",
        "0",
    ]
    for path in pair.place.joinpath("alice-state").iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_keys_are_logged_only_when_asked_for(place: Path) -> None:
    with two_gateways(place) as pair:
        pair.bob.start()
        pair.alice.start("--keylog", str(place / "keys"))
        assert pair.alice.wait_for("keylog")["level"] == "warning"
        pair.alice.wait_for("child_up")
        assert (place / "keys").stat().st_mode & 0o777 == 0o700
        until(
            lambda: len(list((place / "keys").glob("*"))) == 2, lambda: str(list((place / "keys").glob("*")))
        )
        key = (place / "keys" / "ikev2_decryption_table").read_text().split(",")[2]
        assert len(key) >= 32
        assert key not in pair.alice.log()


def test_a_service_manager_is_told(place: Path, net: LoopbackNet) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        manager.settimeout(PATIENCE_S)
        ends = f"{net.prefix}.1", f"{net.prefix}.2"
        gateway = Gateway(place, "solo", document("solo", "x", *ends, "10.0.0.0/24", "10.0.1.0/24"))
        (place / "home.psk").touch(mode=0o600)
        (place / "home.psk").write_text("x" * 20)
        os.environ["NOTIFY_SOCKET"] = str(place / "notify")
        try:
            gateway.start()
            assert manager.recv(100) == b"READY=1"
            ready = gateway.wait_for("ready")
            assert ready["mono_ns"] <= time.monotonic_ns()
            assert gateway.terminate() == 0
            assert manager.recv(100) == b"STOPPING=1"
        finally:
            del os.environ["NOTIFY_SOCKET"]
            gateway.close()
