"""The command line: exit statuses, one line on standard error, one document on standard output."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.documents import base_document, write_config

from deadpeer.cli import COMMANDS, main
from deadpeer.gateway.control import ControlServer, Reply

ROOT = Path(__file__).parents[2]
LOW_PORTS_GUARDED = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 500
SA = {
    "sa": 3,
    "connection": "home",
    "state": "established",
    "role": "initiator",
    "local": "192.0.2.1:4500",
    "remote": "198.51.100.1:4500",
    "identity": "[red]bob.example",
    "suite": "aes256gcm16-prfsha384-x25519",
    "age_s": 7500.0,
    "rtt_ms": 12.34,
    "children": [
        {
            "child": "net",
            "state": "installed",
            "spi_in": "c0ffee00",
            "spi_out": "deadbeef",
            "local_ts": ["10.0.0.0/24"],
            "remote_ts": ["10.0.1.0/24"],
            "suite": "aes256gcm16",
            "age_s": 12.0,
            "traffic": {"packets_in": 5, "packets_out": 6, "last_in_ns": 1_000_000_000},
        },
        {"child": "idle", "state": "installed", "spi_in": "1", "spi_out": "2"},
    ],
}
ANSWERS: dict[str, Reply] = {
    "sas": Reply(True, data={"sas": [SA], "mono_ns": 4_000_000_000}),
    "counters": Reply(True, data={"counters": {"endpoint": {"dropped: garbage": 7}, "udp": {"sent": 1}}}),
    "up": Reply(True, "home is up"),
    "down": Reply(False, "there is no connection 'home'"),
    "rekey": Reply(True, "rekeyed"),
    "rotate": Reply(True, "generation 2"),
    "drain": Reply(True, "3 IKE SAs have gone"),
    "activate": Reply(True, "active, epoch 7"),
    "standby": Reply(False, "the gateway watches the address itself"),
    "reload": Reply(False, "gw.toml: gateway.port: is out of range"),
}


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dp", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def control(place: Path) -> Iterator[Path]:
    """A control socket that gives the answers above; publishes an event every few milliseconds."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()

    async def answer(command: str, args: Mapping[str, Any]) -> Reply:
        return ANSWERS[command]

    async def serve() -> None:
        server = ControlServer(place / "c", answer)
        await server.start()
        ready.set()
        while not stop.is_set():
            server.publish({"time": 0, "mono_ns": 1, "level": "notice", "event": "verdict", "proof": "token"})
            await asyncio.wait([asyncio.ensure_future(stop.wait())], timeout=0.005)
        await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield place / "c"
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


def deadpeer(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "deadpeer", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")} | options.pop("env", {}),
        timeout=150,
        check=False,
        **options,
    )


def status(*words: object) -> int:
    """The exit status of the command in this process."""
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(name, "--help") == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert f"deadpeer {name}" in text.split("example")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_is_that_of_the_command(name: str) -> None:
    import argparse

    commands = argparse.ArgumentParser().add_subparsers()
    importlib.import_module(f"deadpeer.cli.{name}").add_parser(commands)
    (choice,) = commands._choices_actions
    assert choice.help == COMMANDS[name]


def test_help_imports_no_command() -> None:
    script = (
        "import sys; sys.argv[1:] = ['--help']\nfrom deadpeer.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'asyncio', 'cryptography', 'pydantic', 'rich', 'pyroute2'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
        timeout=150,
    )
    assert done.stderr == "[]\n"
    for name, summary in COMMANDS.items():
        assert name in done.stdout
        assert summary in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("up",),
        ("up", "home", "net", "more"),
        ("up", "home", "--timeout", "never"),
        ("up", "home", "--timeout", "nan"),
        ("gateway",),
        ("gateway", "a.toml", "--log-format", "xml"),
        ("watch", "--count", "0"),
        ("sas", "--jso"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "--help" in printed.err


def test_check_says_what_a_good_configuration_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_config(place, base_document())
    assert status("check", file) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{file}: good\n")
    assert "alice.example (psk)" in text
    assert "child net: 10.0.0.0/24 to 10.0.1.0/24" in text
    assert "battery" not in text


def test_check_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("check", write_config(place, base_document()), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["connections"][0]["children"][0]["name"] == "net"


def test_a_bad_configuration_is_one_line_and_status_2(place: Path) -> None:
    document = base_document()
    document["connections"]["home"]["children"]["net"]["start_acton"] = "start"
    file = write_config(place, document)
    line = (
        f"{file}: connections.home.children.net.start_acton: is not a known key; did you mean start_action?\n"
    )
    for command in ("check", "gateway"):
        done = deadpeer(command, file)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"deadpeer {command}: {line}")


def test_a_bad_configuration_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "gw.toml").write_text("[gateway]\nport = 0\n")
    assert status("check", place / "gw.toml", "--json") == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["key"] == "gateway.port"
    assert printed.err.count("\n") == 1


def test_a_port_in_use_and_a_device_that_can_not_be_are_one_line_and_status_2(place: Path) -> None:
    import socket

    document = base_document()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        document["gateway"]["port"] = other.getsockname()[1]
        done = deadpeer("gateway", write_config(place, document))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "gw.toml: gateway.port: port" in done.stderr
    document = base_document()
    document["gateway"]["unix_local"] = "absent/gw.sock"
    done = deadpeer("gateway", write_config(place, document))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "gateway.unix_local: " in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give capabilities up")
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"plane": "tun", "listen": ["127.0.0.9"]}, "gateway.tun: "),
        # Containers often let anybody bind any port; then tests/gateway/test_sockets.py alone has this.
        *[({"port": 500, "port_nat_t": 4500, "listen": ["127.0.0.9"]}, "gateway.port: ")] * LOW_PORTS_GUARDED,
    ],
)
def test_a_missing_capability_is_one_line_and_status_2(
    place: Path, keys: dict[str, object], says: str
) -> None:
    document = base_document()
    document["gateway"] |= keys
    file = write_config(place, document)
    without = ("setpriv", "--bounding-set", "-net_bind_service,-net_admin", "--")
    done = subprocess.run(
        [*without, sys.executable, "-m", "deadpeer", "gateway", str(file)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=150,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"deadpeer gateway: {file}: {says}")
    assert "CAP_NET_" in done.stderr


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (("up", "home"), "home is up\n"),
        (("rekey", "home", "net"), "rekeyed\n"),
        (("rotate",), "generation 2\n"),
        (("drain", "--to", "192.0.2.2"), "3 IKE SAs have gone\n"),
        (("activate",), "active, epoch 7\n"),
    ],
)
def test_a_command_that_succeeds(
    control: Path, words: tuple[str, ...], out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*words, "--control", control) == 0
    assert capsys.readouterr() == (out, "")
    assert status(*words, "--json", "--control", control) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "text": out.strip()}


@pytest.mark.parametrize("words", [("down", "home"), ("reload",), ("standby",)])
def test_a_command_that_fails(
    control: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"deadpeer {words[0]}: {ANSWERS[words[0]].text}\n"
    assert status(*words, "--control", control) == 1
    assert capsys.readouterr() == ("", line)
    assert status(*words, "--json", "--control", control) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"ok": False, "text": ANSWERS[words[0]].text}
    assert printed.err == line


@pytest.mark.parametrize("name", [*ANSWERS, "watch"])
def test_without_a_gateway(place: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = (name, "home") if name in ("up", "down", "rekey") else (name,)
    assert status(*words, "--control", place / "absent") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "start one (deadpeer gateway CONFIG)" in printed.err


def test_the_environment_names_the_socket(control: Path) -> None:
    done = deadpeer("counters", env={"DEADPEER_CONTROL": str(control)})
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["           7 endpoint.dropped: garbage", "           1 udp.sent"]


def test_sas_as_text(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("sas", "--control", control) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "IKE SAs:"
    ike = dict(zip(lines[1].split(), lines[2].split(), strict=False))
    assert (ike["connection"], ike["sa"], ike["identity"]) == ("home", "3", "[red]bob.example")
    assert "2 h" in lines[2] and "12.3 ms" in lines[2]
    assert lines[4] == "child SAs:"
    assert lines[6].startswith("net ") and "5/6" in lines[6] and lines[6].endswith("3.0 s")
    assert lines[7].startswith("idle ") and "0/0" in lines[7] and lines[7].endswith("-")


def test_sas_as_json(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("sas", "--json", "--control", control) == 0
    assert json.loads(capsys.readouterr().out)["sas"] == [SA]


def test_sas_on_a_terminal_is_a_table_and_takes_no_markup_from_a_peer(control: Path) -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "deadpeer", "sas", "--control", str(control)],
        stdout=slave,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200", "TERM": "xterm"},
    ) as process:
        os.close(slave)
        printed = b""
        try:
            while chunk := os.read(master, 65536):
                printed += chunk
        except OSError:
            pass  # EIO: the other end is closed
        assert process.wait(30) == 0
    os.close(master)
    text = printed.decode()
    assert "┃" in text
    assert "[red]bob.example" in text


def test_no_sas(control: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ANSWERS, "sas", Reply(True, data={"sas": [], "mono_ns": 1}))
    assert status("sas", "--control", control) == 0
    assert capsys.readouterr().out == "no security associations\n"


def test_watch_as_text_and_json(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("watch", "--count", "2", "--control", control) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("notice  verdict proof=token")
    assert status("watch", "--count", "1", "--json", "--control", control) == 0
    assert json.loads(capsys.readouterr().out)["proof"] == "token"


def test_a_reader_that_leaves_is_no_traceback(control: Path) -> None:
    command = f"{sys.executable} -m deadpeer watch --control {control} | head -n 1"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=150,
        check=False,
    )
    assert "verdict" in done.stdout
    assert done.stderr == ""


def test_the_version() -> None:
    assert deadpeer("--version").stdout.startswith("deadpeer ")
