"""Where a run takes place: the addresses, the ports, and how a process is put in its place.

A `Site` is either the loopback interface of this machine, without privileges, or three network namespaces
that the lab makes and removes (`deadpeer.lab.netns`).
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deadpeer.lab.options import LabError, Side
from deadpeer.lab.relay import Face
from deadpeer.lab.trace import Lane
from deadpeer.values import Address

INNER: dict[Side, str] = {"alice": "10.10.1.1", "bob": "10.10.2.1"}
"""The host behind each gateway. Only ever inside the tunnel, or inside the lab's namespaces."""

MAX_PLACE = 64
"""Octets; what is made there has names of up to 42."""
SHORT_PLACE = "/tmp"  # noqa: S108 - what we make there has mode 0700 and a random name
PREFIX = "dplab-"
"""What the names of our temporary directories begin with; our process's number follows."""

SIDES: tuple[Side, Side] = ("alice", "bob")


@dataclass(frozen=True, slots=True)
class Outer:
    """One gateway's outer side: its own address, and the relay's that it takes for its peer's."""

    host: str
    relay: str


@dataclass(frozen=True, slots=True)
class Site:
    """Everything about the place. `prefix` comes before the command of a process (empty on loopback)."""

    directory: Path
    kind: Literal["loopback", "netns"]
    outer: dict[Side, Outer]
    port: int
    port_nat_t: int
    namespaces: dict[str, str] = field(default_factory=dict)

    def prefix(self, who: str) -> list[str]:
        """What puts a process of alice, bob or relay in its place."""
        name = self.namespaces.get(who)
        return [] if name is None else ["ip", "netns", "exec", name]

    def lanes(self) -> dict[Lane, tuple[Face, Face]]:
        """The relay's pairs of sockets."""
        ports = {Lane.IKE: self.port, Lane.NAT_T: self.port_nat_t}
        return {
            lane: (_face(self.outer["alice"], port), _face(self.outer["bob"], port))
            for lane, port in ports.items()
        }

    def socket_path(self, who: Side, end: Literal["gw", "host"]) -> str:
        """Path of one end of the UNIX sockets between a gateway and the host behind it."""
        return str(self.directory / f"{who}-{end}.sock")


@contextmanager
def lab_directory() -> Iterator[Path]:
    """A new directory of mode 0700 for one run, removed at its end; those of killed runs go first."""
    place = _place(tempfile.gettempdir())
    _sweep(Path(place))
    prefix = f"{PREFIX}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as name:
        handle = _lock(Path(name))
        try:
            yield Path(name)
        finally:
            if handle is not None:
                os.close(handle)


def loopback_site(directory: Path) -> Site:
    """Four loopback addresses and two ports that nobody uses. Raises LabError if none are free."""
    choice = random.SystemRandom()
    for _ in range(50):
        third, port = choice.randrange(256), choice.randrange(20_000, 30_000, 2)
        hosts = [f"127.77.{third}.{last}" for last in (1, 2, 3, 4)]
        if all(is_free(Address(host, p)) for host in hosts for p in (port, port + 1)):
            outer: dict[Side, Outer] = {
                "alice": Outer(hosts[0], hosts[1]),
                "bob": Outer(hosts[3], hosts[2]),
            }
            return Site(directory, "loopback", outer, port, port + 1)
    raise LabError("no free UDP ports on 127.77.0.0/16: is the loopback interface up?")


def _place(wanted: str) -> str:
    """Where the directory is made: a UNIX socket's path may have 107 octets, and TMPDIR can be long."""
    if len(os.fsencode(wanted)) <= MAX_PLACE:
        return wanted
    if os.access(SHORT_PLACE, os.W_OK | os.X_OK):
        return SHORT_PLACE
    raise LabError(
        f"TMPDIR {wanted} is too long for UNIX sockets: set one of at most {MAX_PLACE} octets", usage=True
    )


def _sweep(place: Path) -> None:
    """Remove what runs of ours left that were ended by SIGKILL: their process is gone, and so is its lock."""
    for path in place.glob(f"{PREFIX}*-*"):
        pid = path.name.removeprefix(PREFIX).split("-")[0]
        with suppress(OSError):
            status = path.lstat()
            if not pid.isdigit() or not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            # A process of another container, with this directory too, has a lock but no such entry.
            if Path(f"/proc/{pid}").exists() or (handle := _lock(path)) is None:
                continue
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _lock(directory: Path) -> int | None:
    """Hold a directory until the descriptor is closed, or the process ends; None if somebody holds it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def is_free(address: Address) -> bool:
    """Whether a UDP socket can be bound there."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        try:
            sock.bind(address)
        except OSError:
            return False
        return True


def _face(outer: Outer, port: int) -> Face:
    return Face(Address(outer.relay, port), Address(outer.host, port))
