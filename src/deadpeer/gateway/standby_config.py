"""From the table [standby] to its frozen options: judges what needs several keys, or another file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deadpeer.cluster.secrets import SECRET_SIZE
from deadpeer.cluster.standby import MAX_KEYS
from deadpeer.values import Address

from .cluster_config import decoded_key
from .errors import Problem, Problems
from .files import read_private
from .notation import Host, parse_host
from .schema import Configuration
from .schema_standby import MovedBy


@dataclass(frozen=True, slots=True)
class StandbyOptions:
    """One of two with one address. `keys`: 1 to 4 of 32 octets, the first is in use."""

    number: int
    address: Host
    keys: tuple[bytes, ...] = field(repr=False)
    listen: Address
    partner: Address
    by: MovedBy


def resolve_standby(
    shape: Configuration, listen: tuple[Host, ...], directory: Path, problems: Problems
) -> StandbyOptions | None:
    """The frozen options; None if there is no such table, or any problem, which is noted in `problems`.

    `listen`: the addresses of gateway.listen."""
    section = shape.standby
    if section is None:
        return None
    before = len(problems)
    problems.check("standby", lambda: _check_alone(shape))
    address = problems.get("standby.address", lambda: _address(section.address))
    if address is not None:
        problems.check("gateway.listen", lambda: _check_listen(listen, address))
    keys = problems.get("standby.key_file", lambda: _keys(directory / section.key_file))
    ours = problems.get("standby.listen", lambda: _endpoint(section.listen, "listen", address))
    theirs = problems.get("standby.partner", lambda: _endpoint(section.partner, "partner", address))
    if ours is not None and theirs is not None:
        problems.check("standby.partner", lambda: _check_partner(ours, theirs))
    if address is None or keys is None or ours is None or theirs is None or len(problems) > before:
        return None
    return StandbyOptions(section.number, address, keys, ours, theirs, section.by)


def _check_alone(shape: Configuration) -> None:
    if shape.cluster is not None:
        raise Problem("and [cluster] exclude each other; remove one of them")


def _address(text: str) -> Host:
    address = parse_host(text)
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        raise Problem(f"{text} can't be shared by two gateways; name the address that moves between them")
    return address


def _check_listen(listen: tuple[Host, ...], address: Host) -> None:
    if any(host != address for host in listen):
        raise Problem(f"with [standby] only the shared address is served; remove it, or write {address}")


def _keys(path: Path) -> tuple[bytes, ...]:
    remedy = f"write one, and copy the file to the other: openssl rand -hex {SECRET_SIZE} > {path}"
    lines = [line.strip() for line in read_private(path).splitlines() if line.strip()]
    keys = []
    for number, line in enumerate(lines, 1):
        found = decoded_key(line)
        if found is None:
            raise Problem(f"{path}: key {number} is neither hexadecimal nor base64; {remedy}")
        if len(found) != SECRET_SIZE:
            raise Problem(
                f"{path}: key {number} has {len(found)} octets, and {SECRET_SIZE} are needed; {remedy}"
            )
        keys.append(found)
    if not 1 <= len(keys) <= MAX_KEYS:
        raise Problem(f"{path} holds {len(keys)} keys; there must be 1 to {MAX_KEYS}, one a line")
    if len(set(keys)) != len(keys):
        raise Problem(f"{path} holds a key twice; remove one of them")
    return tuple(keys)


def _endpoint(text: str, name: str, shared: Host | None) -> Address:
    example = f'for example: {name} = "192.0.2.10:4502"'
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Problem(f'"{text}" has no port; {example}')
    try:
        address = parse_host(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise Problem(f"{error}; {example}") from None
    if address.is_unspecified or address.is_multicast:
        raise Problem(f"{host} is not the address of one gateway; {example}")
    if address == shared:
        raise Problem(f"{host} is the shared address, which moves; name a gateway's own address, {example}")
    return Address(str(address), int(port))


def _check_partner(ours: Address, theirs: Address) -> None:
    if ours == theirs:
        raise Problem("is the same as listen; name the other gateway's address")
    if (":" in ours.host) != (":" in theirs.host):
        raise Problem("and listen must be of one IP version; correct one of them")
