"""Real gateways as processes on loopback, and the hosts behind them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.gateway.documents import to_toml
from tests.support.loopback import LoopbackNet

from deadpeer.plane.packets import decode_echo, echo_reply, echo_request

PORT, PORT_NAT_T = 15500, 15501
ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
"""For what must come about. Nothing here says how fast that is: machines are busy now and then."""
SOON_S = 0.5
"""For an answer that is not to come, or that the next question will bring."""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def until(condition: Callable[[], bool], what: Callable[[], str], timeout_s: float = PATIENCE_S) -> None:
    """Wait for a condition; `what` says what is there instead."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s:\n{what()}")
        time.sleep(0.01)


class Gateway:
    """One gateway: its configuration, its process, its events, and the host behind it."""

    def __init__(
        self, place: Path, name: str, document: dict[str, Any], namespace: str | None = None
    ) -> None:
        self.name = name
        self._prefix = [] if namespace is None else ["ip", "netns", "exec", namespace]
        self.place = place
        self.config = place / f"{name}.toml"
        self.control = place / f"{name}.sock"
        self._log = place / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.host = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.host.bind(str(place / f"{name}-host"))
        self.write(document)

    def write(self, document: dict[str, Any]) -> None:
        self.config.write_text("".join(f"{key} = {to_toml(value)}\n" for key, value in document.items()))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self, *arguments: str) -> None:
        """Start it and wait until it is ready."""
        mark = len(self.events())
        self.spawn(*arguments)
        self.wait_for("ready", mark)

    def spawn(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "deadpeer", "gateway", str(self.config), "--log-format", "json"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = PATIENCE_S) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deadpeer", *words, "--control", str(self.control)],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=PATIENCE_S,
            check=False,
        )

    def sas(self) -> list[dict[str, Any]]:
        done = self.command("sas", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["sas"]
        return found

    def children(self) -> list[dict[str, Any]]:
        return [child for sa in self.sas() for child in sa["children"]]

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        lines = [line for line in self.log().splitlines() if line.startswith("{") and line.endswith("}")]
        return [json.loads(line) for line in lines]

    def wait_for(self, kind: str, mark: int = 0, **fields: object) -> dict[str, Any]:
        """The first event of the kind from number `mark` on with these fields."""
        wanted = {"event": kind, **fields}
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found.extend(e for e in self.events()[mark:] if wanted.items() <= e.items())
            if not found and self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended, waiting for {wanted}:\n{self.log()}")
            return bool(found)

        until(look, lambda: f"{self.name}: no {wanted} in\n{self.log()}")
        return found[0]

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.host.close()


class Pair:
    """Alice, who starts the tunnel, and Bob."""

    def __init__(self, place: Path, **gateway_keys: Any) -> None:
        self._net = LoopbackNet()
        net = self._net.prefix
        self.place = place
        secret = place / "home.psk"
        secret.touch(mode=0o600)
        secret.write_text("the two of them only\n")
        self.documents = {
            "alice": document("alice", "bob", f"{net}.1", f"{net}.2", "10.0.0.0/24", "10.0.1.0/24"),
            "bob": document("bob", "alice", f"{net}.2", f"{net}.1", "10.0.1.0/24", "10.0.0.0/24"),
        }
        self.documents["alice"]["connections"]["home"]["children"]["net"]["start_action"] = "start"
        self.documents["alice"]["connections"]["home"]["children"]["net"]["dpd_action"] = "restart"
        for each in self.documents.values():
            each["gateway"] |= gateway_keys
        self.alice = Gateway(place, "alice", self.documents["alice"])
        self.bob = Gateway(place, "bob", self.documents["bob"])
        self._sequence = 0

    def start(self) -> None:
        self.bob.start()
        self.alice.start()
        self.alice.wait_for("child_up")
        self.bob.wait_for("child_up")

    def ping(self, wait_s: float = PATIENCE_S / 2) -> bool:
        """One echo request from the host behind Alice to the one behind Bob, and its answer."""
        self._sequence += 1
        request = echo_request("10.0.0.7", "10.0.1.7", 0x6290, self._sequence, b"inner")
        with contextlib.suppress(OSError):  # a gateway that is dead just now
            self.alice.host.sendto(request, str(self.place / "alice-gw"))
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            # Answers to earlier requests may come late; Bob's host answers whatever comes.
            readable, _, _ = select.select([self.alice.host, self.bob.host], [], [], left)
            if self.bob.host in readable and (answer := echo_reply(self.bob.host.recv(2000))):
                with contextlib.suppress(OSError):
                    self.bob.host.sendto(answer, str(self.place / "bob-gw"))
            if self.alice.host in readable:
                echo = decode_echo(self.alice.host.recv(2000))
                if echo is not None and not echo.request and echo.seq == self._sequence:
                    return True
        return False

    def ping_until_it_works(self) -> None:
        until(lambda: self.ping(SOON_S), lambda: f"no echo\n{self.alice.log()}\n---\n{self.bob.log()}")

    def close(self) -> None:
        self.alice.close()
        self.bob.close()
        self._net.close()


@contextlib.contextmanager
def two_gateways(place: Path, **gateway_keys: Any) -> Iterator[Pair]:
    """Both, ended in any case."""
    pair = Pair(place, **gateway_keys)
    try:
        yield pair
    finally:
        pair.close()


def document(us: str, them: str, here: str, there: str, local: str, remote: str) -> dict[str, Any]:
    return {
        "gateway": {
            "state_dir": f"{us}-state",
            "control": f"{us}.sock",
            "listen": [here],
            "port": PORT,
            "port_nat_t": PORT_NAT_T,
            "plane": "unix",
            "unix_local": f"{us}-gw",
            "unix_peer": f"{us}-host",
        },
        "connections": {
            "home": {
                "local_addrs": here,
                "remote_addrs": there,
                "remote_port": PORT,
                "remote_port_nat_t": PORT_NAT_T,
                "local": {"auth": "psk", "id": f"{us}.example", "secret_file": "home.psk"},
                "remote": {"auth": "psk", "id": f"{them}.example"},
                "children": {"net": {"local_ts": local, "remote_ts": remote}},
            }
        },
    }
