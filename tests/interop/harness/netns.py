"""Network namespaces with a link between them, addresses, and what runs inside: always cleaned up."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_PREFIX = "dpit"
_numbers = itertools.count()


class NetworkError(RuntimeError):
    """A command of iproute2 failed; the text has its words."""


class Namespace:
    """A network namespace of this process's own, with its loopback device up."""

    def __init__(self, label: str) -> None:
        # The pid in the name tells leftovers of a run that was killed from those of one that runs.
        self.name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}-{label}"
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> str:
        """Run `ip` inside. Raises NetworkError."""
        return _ip("-n", self.name, *arguments)

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs `arguments` inside."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end, whatever its status. Raises TimeoutExpired."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def add_inner(self, addresses: Iterable[str]) -> None:
        """Put addresses (without a prefix length) on the loopback device."""
        lines = (f"addr add {a}/{128 if ':' in a else 32} dev lo" for a in addresses)
        self.batch(lines)

    def batch(self, lines: Iterable[str]) -> None:
        """Run many `ip` commands at once."""
        done = subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise NetworkError(f"ip -batch in {self.name}: {done.stderr.strip()}")

    def sysctl(self, name: str, value: int) -> None:
        """Set a kernel parameter inside. Raises NetworkError."""
        _checked(self.command("sysctl", "-qw", f"{name}={value}"))

    def link_address(self, device: str) -> str:
        """A device's link-layer address."""
        (link,) = json.loads(self.ip("-json", "link", "show", "dev", device))
        return str(link["address"])

    def addresses(self, device: str) -> list[str]:
        """The IPv4 addresses on a device."""
        (link,) = json.loads(self.ip("-4", "-json", "addr", "show", "dev", device))
        return [str(entry["local"]) for entry in link["addr_info"]]

    def delete(self) -> None:
        """Kill what still runs inside and delete it."""
        _delete(self.name)


def connect(a: Namespace, b: Namespace, device_a: str, device_b: str) -> None:
    """Put a veth pair between two namespaces, both ends up, no duplicate address detection."""
    _ip("link", "add", device_a, "netns", a.name, "type", "veth", "peer", device_b, "netns", b.name)
    for space, device in ((a, device_a), (b, device_b)):
        for family in ("all", "default", device):
            space.run("sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{family}/accept_dad")
        space.ip("link", "set", device, "up")


@contextlib.contextmanager
def held(a: Namespace, b: Namespace, device: str) -> Iterator[None]:
    """Hold every IPv4 packet between two linked namespaces, in both directions; let them go at the end.

    Nobody answers ARP, and the kernel keeps the packets that wait for an answer. None is lost.
    """
    ends = (a, b), (b, a)
    for space, _ in ends:
        space.sysctl(f"net.ipv4.conf.{device}.arp_ignore", 8)
        space.sysctl(f"net.ipv4.neigh.{device}.mcast_solicit", 1000)
        space.sysctl(f"net.ipv4.neigh.{device}.unres_qlen_bytes", 16_000_000)
    for space, _ in ends:
        space.ip("neigh", "flush", "dev", device, "nud", "all")
    try:
        yield
    finally:
        for space, _ in ends:
            space.sysctl(f"net.ipv4.conf.{device}.arp_ignore", 0)
        for space, far in ends:
            for address in far.addresses(device):
                space.ip(
                    "neigh", "replace", address, "lladdr", far.link_address(device), "dev", device,
                    "nud", "reachable",
                )  # fmt: skip


@contextlib.contextmanager
def namespaces(*labels: str) -> Iterator[list[Namespace]]:
    """New namespaces, deleted with everything inside when the block ends."""
    made: list[Namespace] = []
    try:
        for label in labels:
            made.append(Namespace(label))
        yield made
    finally:
        for space in made:
            space.delete()


def sweep() -> None:
    """Delete namespaces of earlier test runs that were killed."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0] if line.split() else ""
        owner = name.removeprefix(_PREFIX).split("-")[0]
        if name.startswith(_PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _delete(name)


def _delete(name: str) -> None:
    with contextlib.suppress(NetworkError):
        for pid in _ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> str:
    return _checked(["ip", *arguments])


def _checked(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
