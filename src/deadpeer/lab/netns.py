"""Three network namespaces, Alice's, the relay's and Bob's, that the lab makes and always removes."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deadpeer.lab.options import LabError, Side
from deadpeer.lab.process import run
from deadpeer.lab.sites import INNER, SIDES, Outer, Site

PREFIX = "deadpeer-"
NAMESPACES = Path("/run/netns")
TUN = "deadpeer0"
TUN_MTU = 1400
OUTER: dict[Side, Outer] = {
    "alice": Outer("10.77.1.1", "10.77.1.2"),
    "bob": Outer("10.77.2.1", "10.77.2.2"),
}


def require_root(*programs: str) -> None:
    """Raise LabError (usage) unless we are root and have what namespaces and `programs` need."""
    if os.geteuid() != 0:
        raise LabError("--netns needs root (network namespaces, TUN devices): run it with sudo", usage=True)
    if not Path("/dev/net/tun").exists():
        raise LabError("--netns needs /dev/net/tun: load the kernel's tun module", usage=True)
    for program, package in (("ip", "iproute2"), ("ping", "iputils-ping"), *((p, "") for p in programs)):
        if shutil.which(program) is None:
            remedy = f": install the Debian package {package}" if package else ""
            raise LabError(f"--netns needs the program {program}{remedy}", usage=True)


@asynccontextmanager
async def netns_site(directory: Path) -> AsyncIterator[Site]:
    """The namespaces, joined by veth pairs: Alice - relay - Bob. Raises LabError."""
    require_root()
    await _sweep()
    tag = f"{PREFIX}{os.getpid()}-{secrets.token_hex(2)}"
    names = {who: f"{tag}-{who}" for who in ("alice", "relay", "bob")}
    made: list[str] = []
    try:
        for name in names.values():
            made.append(name)
            await _add(name)
        for side in SIDES:
            await _join(names[side], names["relay"], side)
        yield Site(directory, "netns", OUTER, 500, 4500, names)
    finally:
        for name in made:
            await _remove(name)


async def add_tun(site: Site, side: Side) -> None:
    """A TUN device with the inner address, which outlives the gateway that will use it."""
    name = site.namespaces[side]
    await _ip("-n", name, "tuntap", "add", "dev", TUN, "mode", "tun")
    await _ip("-n", name, "addr", "add", f"{INNER[side]}/32", "dev", TUN)
    await _ip("-n", name, "link", "set", TUN, "mtu", str(TUN_MTU), "up")
    other = INNER["bob" if side == "alice" else "alice"]
    await _ip("-n", name, "route", "add", f"{other}/32", "dev", TUN, "src", INNER[side])


async def _add(name: str) -> None:
    try:
        await _ip("netns", "add", name)
        await _ip("-n", name, "link", "set", "lo", "up")
    except LabError as error:
        raise LabError(f"--netns needs CAP_SYS_ADMIN and CAP_NET_ADMIN: {error}", usage=True) from error


async def _sweep() -> None:
    """Remove what a lab that was killed with SIGKILL has left behind: its processes are gone."""
    for name in _left_behind():
        await _remove(name)


def _left_behind() -> list[str]:
    names = [path.name for path in NAMESPACES.glob(f"{PREFIX}*")]
    owners = {name: name.removeprefix(PREFIX).split("-")[0] for name in names}
    return [name for name, pid in owners.items() if pid.isdigit() and not Path(f"/proc/{pid}").exists()]


async def _join(gateway: str, relay: str, side: Side) -> None:
    outer = OUTER[side]
    await _ip("-n", relay, "link", "add", side, "type", "veth", "peer", "name", "outer", "netns", gateway)
    for name, device, address in ((relay, side, outer.relay), (gateway, "outer", outer.host)):
        await _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
        await _ip("-n", name, "link", "set", device, "up")


async def _remove(name: str) -> None:
    # It may not have come to exist; removing must go on with the others in any case.
    try:
        await _ip("netns", "del", name)
    except LabError:
        return


async def _ip(*words: str) -> None:
    await run(["ip", *words])
