"""Machines for what deploy/ has: network namespaces in which Debian's layout is each one's own.

/etc/keepalived, /run, /var/lib, /opt, /usr/local/bin and the list of users are bound over those of this
machine, for the processes of one namespace only. So the files of deploy/ are used as they are, and where they
belong. The gateway runs as the user `deadpeer` with two capabilities, as contrib/deadpeer.service has it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
WAIT_S = 40.0
"""How long whatever has to come may take, on a machine that is slow."""
_USER = 6290
_DIRECTORIES = {
    "etc": "/etc/keepalived",
    "run": "/run",
    "lib": "/var/lib",
    "opt": "/opt",
    "bin": "/usr/local/bin",
}
_CAPABILITIES = "+net_admin,+net_bind_service"


def needs(*programs: str) -> list[pytest.MarkDecorator]:
    """Marks for a module: Linux, root, and these programs."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    return [
        pytest.mark.root,
        pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
        pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
        pytest.mark.skipif(bool(missing), reason=f"needs the Debian packages with {', '.join(missing)}"),
    ]


def until(condition: Callable[[], Any], what: Callable[[], str], timeout_s: float = WAIT_S) -> Any:
    """Wait for a condition, and return what it has; `what` says what is there instead."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s:\n{what()}")
        time.sleep(0.02)
    return found


def ip(*words: str) -> str:
    """What `ip` prints."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


class Machine:
    """One namespace, its files, and what runs in it."""

    def __init__(self, place: Path, name: str, namespace: str) -> None:
        self.name = name
        self.namespace = namespace
        self.place = place / name
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for directory in _DIRECTORIES:
            (self.place / directory).mkdir(parents=True, mode=0o755)
        for directory, mode in (("run/deadpeer", 0o700), ("lib/deadpeer", 0o700), ("opt/deadpeer", 0o755)):
            (self.place / directory).mkdir(mode=mode)
            os.chown(self.place / directory, _USER, _USER)
        users = Path("/etc/passwd").read_text() + f"deadpeer:x:{_USER}:{_USER}::/nonexistent:/bin/sh\n"
        (self.place / "passwd").write_text(users)
        (self.place / "group").write_text(Path("/etc/group").read_text() + f"deadpeer:x:{_USER}:\n")
        python, packages = Path(sys.executable).resolve(), sysconfig.get_path("purelib")
        self.install(
            "bin/deadpeer",
            f"#!/bin/sh\nexport PYTHONPATH='{ROOT / 'src'}:{packages}'\nexec '{python}' -m deadpeer \"$@\"\n",
            0o755,
        )

    def install(self, where: str, text: str, mode: int = 0o644) -> None:
        """Write a file below one of the directories."""
        file = self.place / where
        file.touch(mode=mode)
        file.write_text(text)
        if where.startswith("opt/"):
            os.chown(file, _USER, _USER)

    def read(self, where: str) -> str:
        file = self.place / where
        return file.read_text(errors="replace") if file.exists() else ""

    def command(self, *words: str) -> list[str]:
        """The command line that runs these words here, with these files, as root."""
        binds = [(str(self.place / directory), there) for directory, there in _DIRECTORIES.items()]
        binds += [(str(self.place / "passwd"), "/etc/passwd"), (str(self.place / "group"), "/etc/group")]
        # `ip netns exec` has made a mount namespace of its own.
        script = "set -e; " + "".join(f"mount --bind '{here}' '{there}'; " for here, there in binds)
        return [
            "ip",
            "netns",
            "exec",
            self.namespace,
            "sh",
            "-c",
            f'{_readable()}{script}exec "$@"',
            "sh",
            *words,
        ]

    def as_user(self, *words: str) -> list[str]:
        """The same as the user `deadpeer`, with what its service may do."""
        who = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
        can = [f"--inh-caps=-all,{_CAPABILITIES}", f"--ambient-caps=-all,{_CAPABILITIES}"]
        return self.command(*who, *can, f"--bounding-set=-all,{_CAPABILITIES}", *words)

    def run(self, *words: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its status."""
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def spawn(self, what: str, command: list[str]) -> None:
        """Start a process; what it says goes to a file."""
        with (self.place / f"{what}.log").open("ab") as log:
            self.processes[what] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, what: str, with_signal: int = signal.SIGKILL) -> None:
        """End a process and wait for its end."""
        process = self.processes.pop(what)
        process.send_signal(with_signal)
        process.wait(WAIT_S)

    def log(self, what: str) -> str:
        return self.read(f"{what}.log")

    # --- the gateway --------------------------------------------------------------------------------

    def start_gateway(self) -> None:
        """Start it, and wait until it is ready."""
        mark = len(self.events())
        self.spawn_gateway()
        self.wait_for("ready", mark)

    def spawn_gateway(self) -> None:
        gateway = ["deadpeer", "gateway", "/opt/deadpeer/gateway.toml", "--log-format", "json"]
        self.spawn("gateway", self.as_user(*gateway))

    def events(self) -> list[dict[str, Any]]:
        lines = [line for line in self.log("gateway").splitlines() if line[:1] == "{" and line[-1:] == "}"]
        return [json.loads(line) for line in lines]

    def wait_for(self, kind: str, mark: int = 0, **fields: object) -> dict[str, Any]:
        """The first event of the kind from number `mark` on with these fields."""
        wanted = {"event": kind, **fields}

        def look() -> dict[str, Any] | None:
            return next((e for e in self.events()[mark:] if wanted.items() <= e.items()), None)

        found: dict[str, Any] = until(look, lambda: f"{self.name}: no {wanted} in\n{self.log('gateway')}")
        return found

    def ask(self, *words: str) -> dict[str, Any]:
        """What `deadpeer WORDS --json` answers."""
        done = self.run("deadpeer", *words, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    # --- keepalived ---------------------------------------------------------------------------------

    def start_keepalived(self) -> None:
        keepalived = ["keepalived", "--dont-fork", "--log-console", "--log-detail"]
        self.spawn("keepalived", self.command(*keepalived))

    def holds(self, address: str) -> bool:
        """Whether the kernel has this address on a device."""
        return f" {address}/" in ip("-n", self.namespace, "-o", "addr", "show", "dev", "eth0")

    def close(self) -> None:
        for what in list(self.processes):
            self.kill(what)


def client_files(client: Machine, here: str, there: str) -> None:
    """A gateway that keeps a tunnel to deploy/'s gateways, and finds out by tokens, or in minutes."""
    client.install("opt/deadpeer/clients.psk", "only for this test\n", 0o600)
    client.install(
        "opt/deadpeer/gateway.toml",
        f'''
[gateway]
listen = ["{here}"]
tun_addresses = ["10.1.0.1/32"]

[connections.home]
local_addrs = "{here}"
remote_addrs = "{there}"
crash_methods = ["qcd", "liveness"]
local = {{ auth = "psk", id = "client.example", secret_file = "clients.psk" }}
remote = {{ auth = "psk", id = "edge.example" }}

[connections.home.children.net]
local_ts = "10.1.0.0/16"
remote_ts = "10.10.2.0/24"
start_action = "start"
dpd_action = "restart"
''',
    )


def _readable() -> str:
    """Shell that lets any user read Python and this checkout, even below a private directory."""
    needed = [ROOT / "src", Path(sysconfig.get_path("purelib")), Path(sys.base_prefix).resolve()]
    script = "set -e; "
    for place, path in zip(("/mnt", "/media", "/srv"), needed, strict=True):
        script += f"mount --bind '{path}' {place}; "
    closed = {
        next(p for p in reversed(path.parents) if not p.stat().st_mode & 0o001)
        for path in needed
        if any(not p.stat().st_mode & 0o001 for p in path.parents)
    }
    for parent in sorted(closed):
        script += f"mount -t tmpfs -o mode=755 none '{parent}'; "
    for place, path in zip(("/mnt", "/media", "/srv"), needed, strict=True):
        if closed & set(path.parents):
            script += f"mkdir -p '{path}'; mount --bind {place} '{path}'; "
    return script


class Ping:
    """iputils' ping, all the while: `ping -D -i`."""

    def __init__(self, machine: Machine, source: str, to: str, interval_s: float = 0.01) -> None:
        self._machine = machine
        self._what = f"ping-{uuid.uuid4().hex[:6]}"
        words = ["ping", "-n", "-D", "-i", f"{interval_s:g}", "-I", source, to]
        machine.spawn(self._what, machine.command(*words))

    def answers(self) -> list[tuple[float, int]]:
        """Unix time and sequence number of each answer."""
        found = []
        for line in self._machine.log(self._what).splitlines():
            if line.startswith("[") and "icmp_seq=" in line and " time=" in line:
                number = int(line.partition("icmp_seq=")[2].split()[0])
                found.append((float(line[1 : line.index("]")]), number))
        return found

    def flows(self, after: float | None = None) -> None:
        """Wait until an answer has come after that Unix time (default: from now on)."""
        since = time.time() if after is None else after
        until(
            lambda: any(at > since for at, _ in self.answers()[-50:]),
            lambda: self._machine.log(self._what)[-2000:] + self._machine.log("gateway")[-6000:],
        )

    def gap_s(self, since: float) -> float:
        """The longest time without an answer, from shortly before that Unix time on, seconds."""
        times = [at for at, _ in self.answers()]
        before = [at for at in times if at <= since][-1:]
        later = before + [at for at in times if at > since]
        return max((b - a for a, b in itertools.pairwise(later)), default=0.0)

    def lost(self) -> int:
        """Sequence numbers without an answer, up to the last that has one."""
        numbers = {number for _, number in self.answers()}
        return max(numbers, default=0) - len(numbers)

    def stop(self) -> None:
        self._machine.kill(self._what, signal.SIGINT)


class Lan:
    """Bridges, and machines with a device on them. `networks`: device name -> bridge, for each machine."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._tag = uuid.uuid4().hex[:5]
        self._bridges: set[str] = set()
        self.switch = f"dpd{self._tag}switch"
        self.machines: dict[str, Machine] = {}
        ip("netns", "add", self.switch)

    def bridge(self, name: str) -> None:
        ip("-n", self.switch, "link", "add", name, "type", "bridge")
        ip("-n", self.switch, "link", "set", name, "up")

    def machine(self, name: str, **addresses: list[str]) -> Machine:
        """A machine with devices of these names, each on the bridge of that name, and these addresses."""
        namespace = f"dpd{self._tag}{name}"
        ip("netns", "add", namespace)
        made = self.machines[name] = Machine(self._place, name, namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        for device, own in addresses.items():
            if device not in self._bridges:
                self._bridges.add(device)
                self.bridge(device)
            port = self.port(name, device)
            ip("-n", namespace, "link", "add", device, "type", "veth", "peer", port, "netns", self.switch)
            self.plug(port, device)
            ip("-n", namespace, "link", "set", device, "up")
            for address in own:
                nodad = ["nodad"] if ":" in address else []
                ip("-n", namespace, "addr", "add", address, "dev", device, *nodad)
        return made

    def plug(self, port: str, device: str) -> None:
        """Put a device that is in the switch's namespace on the bridge of that name."""
        ip("-n", self.switch, "link", "set", port, "master", device, "up")

    def port(self, name: str, device: str) -> str:
        """The switch's end of a machine's cable."""
        return f"{name}-{device}"

    def isolate(self, *names: str, device: str = "eth0", on: bool = True) -> None:
        """Have the switch pass nothing between these machines, and everything between them and others."""
        for name in names:
            port = ["dev", self.port(name, device), "type", "bridge_slave", "isolated"]
            ip("-n", self.switch, "link", "set", *port, "on" if on else "off")

    def cable(self, name: str, device: str, *, plugged: bool) -> None:
        """Pull a machine's cable out of the switch, or put it back; the machine's device stays up."""
        ip("-n", self.switch, "link", "set", self.port(name, device), "up" if plugged else "down")

    def logs(self) -> str:
        found = []
        for machine in self.machines.values():
            for what in ("gateway", "keepalived"):
                if text := machine.log(what):
                    found.append(f"=== {machine.name}: {what}\n{text[-5000:]}")
        return "\n".join(found)

    def close(self) -> None:
        for machine in self.machines.values():
            machine.close()
        for name in [*(machine.namespace for machine in self.machines.values()), self.switch]:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextlib.contextmanager
def lan(place: Path) -> Iterator[Lan]:
    """A network, ended with everything in it in any case."""
    made = Lan(place)
    try:
        yield made
    finally:
        made.close()
