"""Runs our gateway as a process in a namespace, reads its events, and gives it commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support import signals

from deadpeer.gateway.client import ControlError, call

_ROOT = Path(__file__).parents[3]
_LOG_TAIL_LINES = 60
PATIENCE_S = 60.0
"""For what must come about; how fast that is is another question."""


class GatewayError(RuntimeError):
    """The gateway did not do what it was asked to do; the text ends with the tail of its log."""


class Gateway:
    """`deadpeer gateway` in a namespace, its files in `directory`; every wait is bounded."""

    def __init__(
        self, directory: Path, namespace: str | None, config: str, *, keylog: Path | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.namespace = namespace
        self.keylog = keylog
        self.config = directory / "gateway.toml"
        self.config.write_text(config)
        self.config.chmod(0o600)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None or self._process.poll() is not None:
            raise GatewayError(self.explain("the gateway does not run"))
        return self._process.pid

    def start(self, timeout_s: float = PATIENCE_S) -> None:
        """Start it and return when it says that it is ready."""
        mark = len(self.log())
        command = [sys.executable, "-m", "deadpeer", "gateway", str(self.config), "--log-format", "json"]
        if self.keylog is not None:
            command += ["--keylog", str(self.keylog)]
        if self.namespace is not None:
            command = ["ip", "netns", "exec", self.namespace, *command]
        with self._log_path.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=_ROOT, env=_environment()
            )
        self.wait_for("ready", timeout_s, mark)

    def kill(self) -> None:
        """SIGKILL: the crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def stop(self, timeout_s: float = PATIENCE_S) -> int | None:
        """SIGTERM. The exit status, or None if it had to be killed."""
        if self._process is None:
            return None
        self._process.send_signal(signal.SIGTERM)
        status = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(timeout_s)
        self.kill()
        return status

    def freeze(self) -> None:
        signals.freeze(self.pid)

    def thaw(self) -> None:
        signals.thaw(self.pid)

    def ask(self, command: str, timeout_s: float = PATIENCE_S, **request: object) -> Mapping[str, Any]:
        """One request through the control socket; what the answer has as data."""
        try:
            answer = call(self.directory / "control.sock", command, request, timeout_s)
        except ControlError as error:
            raise GatewayError(self.explain(f"{command} {request}: {error}")) from error
        if not answer["ok"]:
            raise GatewayError(self.explain(f"{command} {request}: {answer['text']}"))
        data: Mapping[str, Any] = answer["data"]
        return data

    def sas(self) -> list[dict[str, Any]]:
        """The IKE SAs, as `deadpeer sas --json` prints them."""
        sas: list[dict[str, Any]] = self.ask("sas")["sas"]
        return sas

    # -- the log

    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def events(self, start: int = 0) -> list[dict[str, Any]]:
        """The events in the log from character `start` on."""
        found = []
        for line in self.log()[start:].splitlines():
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return found

    def wait_for(
        self, event: str, timeout_s: float = PATIENCE_S, start: int = 0, **fields: object
    ) -> dict[str, Any]:
        """The first event of this kind from `start` on whose fields are as given."""
        wanted = {"event": event, **fields}
        found: list[dict[str, Any]] = []

        def look() -> bool:
            if not self.running:
                raise GatewayError(self.explain(f"the gateway ended while {wanted} was waited for"))
            found.extend(e for e in self.events(start) if wanted.items() <= e.items())
            return bool(found)

        self._until(look, timeout_s, f"no event {wanted}")
        return found[0]

    def explain(self, what: str) -> str:
        tail = "\n".join(self.log().splitlines()[-_LOG_TAIL_LINES:])
        return f"{what}\n--- the end of {self._log_path}:\n{tail}"

    # -- beneath

    @property
    def _log_path(self) -> Path:
        return self.directory / "gateway.log"

    def _until(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise GatewayError(self.explain(f"{otherwise} after {timeout_s:g} s"))
            time.sleep(0.02)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT / "src"), "PYTHONUNBUFFERED": "1"}
