"""Drives an unmodified strongSwan (charon) as a peer: start, kill, configure, ask, all with bounded waits.

charon runs its own userspace ESP (kernel-libipsec, TUN device ipsec0) inside a given network namespace and a
private mount namespace, since its pid file is in /run. Root, Linux and Debian's packages strongswan-charon,
strongswan-swanctl, libcharon-extra-plugins and libstrongswan-extra-plugins are needed; so is the PyPI package
`vici`, which is imported when it is first used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import signals

from deadpeer.lab import charon_files
from deadpeer.lab.charon_files import CharonFiles

_LOG_TAIL_LINES = 40
PATIENCE_S = 60.0
"""For what must come about; how fast that is is another question."""


class CharonError(RuntimeError):
    """charon did not do what it was asked to do; the text ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class CharonChild:
    """A child SA as charon lists it. SPIs are 8 hexadecimal digits; counters are charon's own."""

    name: str
    state: str
    spi_in: str
    spi_out: str
    packets_in: int
    packets_out: int
    octets_in: int
    octets_out: int
    suite: str


@dataclass(frozen=True, slots=True)
class CharonSa:
    """An IKE SA as charon lists it. SPIs are 16 hexadecimal digits."""

    name: str
    state: str
    initiator: bool
    spi_i: str
    spi_r: str
    local: str
    remote: str
    nat_local: bool
    nat_remote: bool
    suite: str
    children: tuple[CharonChild, ...] = field(default=())


def missing() -> str | None:
    """Why charon can't be run here, in a few words, or None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = charon_files.missing()
    if lacking is not None:
        return f"needs {lacking}"
    return None if importlib.util.find_spec("vici") else "needs the Python package vici"


class Charon:
    """One charon in a network namespace, its files in `directory`.

    `settings` are further lines of strongswan.conf's `charon` section by dotted key, for example
    `{"retransmit_timeout": "1.0", "plugins.kernel-libipsec.foo": "yes"}`; they hold from the next `start`.
    Every wait is bounded and raises CharonError when it is over.
    """

    def __init__(
        self, directory: Path, namespace: str | None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._files = CharonFiles(directory, namespace, settings)
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    # -- the process

    @property
    def pid(self) -> int:
        """charon's process id. Raises CharonError if it does not run."""
        if self._process is None or self._process.poll() is not None:
            raise CharonError(self._explain("charon does not run"))
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = PATIENCE_S) -> None:
        """Start charon and return when its control socket answers. SAs of an earlier one are gone."""
        if self.running:
            raise CharonError("charon runs already")
        command = self._files.prepare()
        with (self.directory / "charon.out").open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._until(self._answers, timeout_s, "charon's control socket does not answer")

    def kill(self) -> None:
        """SIGKILL: the crash. Returns when the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM, which deletes its SAs; SIGKILL if that takes longer than `timeout_s`."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self.kill()

    def freeze(self) -> None:
        """SIGSTOP: alive, and silent."""
        signals.freeze(self.pid)

    def thaw(self) -> None:
        """SIGCONT."""
        signals.thaw(self.pid)

    # -- configuration and commands

    def load(self, swanctl_conf: str, timeout_s: float = PATIENCE_S) -> None:
        """Load connections and secrets, a swanctl.conf as text (`swanctl --load-all`).

        Certificates may be named by absolute paths there; private keys go into `private_directory`.
        """
        self.private_directory.mkdir(parents=True, exist_ok=True)
        command = self._files.write_connections(swanctl_conf)
        environment = {**os.environ, "SWANCTL_DIR": str(self._files.swanctl_directory)}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CharonError(self._explain("swanctl --load-all takes too long")) from error
        if done.returncode != 0:
            raise CharonError(self._explain(f"swanctl --load-all: {done.stdout}{done.stderr}"))

    @property
    def private_directory(self) -> Path:
        """Where `load` looks for private keys (PEM)."""
        return self._files.swanctl_directory / "private"

    def initiate(
        self, child: str | None, connection: str | None = None, timeout_s: float = PATIENCE_S
    ) -> None:
        """Bring up a child (with its IKE SA where there is none), or the IKE SA alone if `child` is None."""
        self._command("initiate", _named(connection, child), timeout_s)

    def terminate(
        self, connection: str | None = None, child: str | None = None, timeout_s: float = PATIENCE_S
    ) -> None:
        """Delete IKE SAs or child SAs by name, politely."""
        self._command("terminate", _named(connection, child), timeout_s)

    def rekey(self, connection: str | None = None, child: str | None = None) -> None:
        """Begin rekeying IKE SAs or child SAs by name; list_sas shows when it is done."""
        with self._session(PATIENCE_S) as session, self._explained("rekey"):
            session.rekey(_named(connection, child))

    def list_sas(self, connection: str | None = None, timeout_s: float = PATIENCE_S) -> list[CharonSa]:
        """The IKE SAs with their children, of one connection or all."""
        request = {"ike": connection} if connection else {}
        with self._session(timeout_s) as session, self._explained("list-sas"):
            return [_ike_sa(name, raw) for entry in session.list_sas(request) for name, raw in entry.items()]

    # -- the log

    def log(self) -> str:
        """What charon logged since the directory was made, over all its lives."""
        return self._files.log_text()

    def wait_for_log(self, pattern: str, timeout_s: float = PATIENCE_S, start: int = 0) -> re.Match[str]:
        """Wait for a regular expression in the log, from character `start` on."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            match = re.compile(pattern).search(self.log(), start)
            found.extend([match] if match else [])
            return match is not None

        self._until(look, timeout_s, f"charon's log has no {pattern!r}")
        return found[0]

    # -- beneath

    def _answers(self) -> bool:
        if not self.running:
            raise CharonError(self._explain("charon ended at its start"))
        try:
            with self._session(2.0) as session:
                session.version()
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def _session(self, timeout_s: float) -> Iterator[Any]:
        import vici

        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(self._files.socket))
            yield vici.Session(connection)

    def _command(self, name: str, request: dict[str, str], timeout_s: float) -> None:
        request |= {"timeout": str(int(timeout_s * 1000)), "loglevel": "-1"}
        # charon itself keeps the time; ours is only for a charon that hangs.
        with self._session(timeout_s + 5.0) as session, self._explained(f"{name} {request}"):
            for _ in getattr(session, name)(request):
                pass

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        import vici.exception

        try:
            yield
        except (OSError, vici.exception.CommandException, vici.exception.SessionException) as error:
            raise CharonError(self._explain(f"{what}: {error}")) from error

    def _until(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise CharonError(self._explain(f"{otherwise} after {timeout_s:g} s"))
            time.sleep(0.02)

    def _explain(self, what: str) -> str:
        output = self.directory / "charon.out"
        texts = (output.read_text(errors="replace") if output.exists() else "", self.log())
        tail = "\n".join(line for text in texts for line in text.splitlines()[-_LOG_TAIL_LINES:])
        return f"{what}\n--- the end of the log in {self.directory}:\n{tail}"


def _named(connection: str | None, child: str | None) -> dict[str, str]:
    named = {"ike": connection, "child": child}
    return {key: name for key, name in named.items() if name is not None}


def _ike_sa(name: str, raw: Mapping[str, Any]) -> CharonSa:
    return CharonSa(
        name=name,
        state=_text(raw, "state"),
        initiator=_text(raw, "initiator") == "yes",
        spi_i=_text(raw, "initiator-spi"),
        spi_r=_text(raw, "responder-spi"),
        local=f"{_text(raw, 'local-host')}[{_text(raw, 'local-port')}]",
        remote=f"{_text(raw, 'remote-host')}[{_text(raw, 'remote-port')}]",
        nat_local=_text(raw, "nat-local") == "yes",
        nat_remote=_text(raw, "nat-remote") == "yes",
        suite=_suite(raw, "prf-alg"),
        children=tuple(_child_sa(child) for child in raw.get("child-sas", {}).values()),
    )


def _child_sa(raw: Mapping[str, Any]) -> CharonChild:
    return CharonChild(
        name=_text(raw, "name"),
        state=_text(raw, "state"),
        spi_in=_text(raw, "spi-in").rjust(8, "0"),
        spi_out=_text(raw, "spi-out").rjust(8, "0"),
        packets_in=int(_text(raw, "packets-in") or 0),
        packets_out=int(_text(raw, "packets-out") or 0),
        octets_in=int(_text(raw, "bytes-in") or 0),
        octets_out=int(_text(raw, "bytes-out") or 0),
        suite=_suite(raw),
    )


def _suite(raw: Mapping[str, Any], *more: str) -> str:
    parts = [_text(raw, key) for key in ("encr-alg", "encr-keysize", "integ-alg", *more, "dh-group")]
    return "-".join(part for part in parts if part)


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key, b"")
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
