"""One description of a tunnel between side "a" and side "b", written as swanctl.conf or as our TOML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.interop.harness.pki import Leaf

from deadpeer.lab.charon_files import sections

Side = Literal["a", "b"]
Auth = Literal["psk", "ecdsa", "rsa", "ed25519"]
# Keys of a connection that strongSwan has not, or has for the whole daemon only.
_OURS_ONLY = {"fragment_size", "dpd_timeout", "dpd_floor", "silence"}
SIDES: tuple[Side, Side] = ("a", "b")


def other(side: Side) -> Side:
    return "b" if side == "a" else "a"


@dataclass(frozen=True)
class Tunnel:
    """`number` (1 to 250) chooses the addresses, so that tunnels of one pair of peers don't meet.

    `settings` are keys of the connection, by side, that both daemons know by that name and with that value;
    `child_settings` the same for every child. `via` replaces the address at which a side sees the other.
    """

    name: str
    number: int
    ike: str = "aes128gcm16-prfsha256-x25519"
    esp: str = "aes128gcm16"
    auth: Auth = "psk"
    outer: Literal[4, 6] = 4
    inner: Literal[4, 6] = 4
    children: Sequence[str] = ("c",)
    proposals: Mapping[Side, str] = field(default_factory=dict)
    esp_proposals: Mapping[Side, str] = field(default_factory=dict)
    settings: Mapping[Side, Mapping[str, object]] = field(default_factory=dict)
    child_settings: Mapping[Side, Mapping[str, object]] = field(default_factory=dict)
    via: Mapping[Side, str] = field(default_factory=dict)
    addressed_as: int = 0
    """The number that chooses the outer addresses, if not `number`: tunnels may share them."""
    secrets: Mapping[Side, str] = field(default_factory=dict)
    expected: Mapping[Side, str] = field(default_factory=dict)
    """The identity that a side expects of the other, if not the true one."""
    distrusted: Side | None = None
    """The side whose certification authority the other one does not have."""

    def outer_address(self, side: Side) -> str:
        place = SIDES.index(side) + 1
        number = self.addressed_as or self.number
        return f"10.9.{place}.{number}" if self.outer == 4 else f"fd09::{place}:{number:x}"

    def inner_address(self, side: Side, child: str | None = None) -> str:
        """The address behind a side that a child's selectors name; the first child's by default."""
        place = SIDES.index(side) + 1
        index = self.children.index(child) if child else 0
        if self.inner == 4:
            return f"10.{10 + index}.{place}.{self.number}"
        return f"fd10:{index:x}::{place}:{self.number:x}"

    def inner_addresses(self, side: Side) -> list[str]:
        return [self.inner_address(side, child) for child in self.children]

    def identity(self, side: Side) -> str:
        return f"{side}.{self.name}.example"

    def peer_identity(self, side: Side) -> str:
        """What a side takes the other one's identity to be."""
        return self.expected.get(side, self.identity(other(side)))

    def child_name(self, child: str) -> str:
        """Children have names of their own in a whole daemon, since charon initiates them by name."""
        return f"{self.name}-{child}"

    def remote_address(self, side: Side) -> str:
        return self.via.get(side) or self.outer_address(other(side))


@dataclass(frozen=True)
class Credentials:
    """What a side needs for a tunnel: the shared secret's file, or its own leaf and the peer's root."""

    secret: str
    leaf: Leaf | None = None
    peer_root: Path | None = None


def swanctl(tunnels: Iterable[tuple[Tunnel, Credentials]], side: Side) -> str:
    """A swanctl.conf, one setting a line."""
    connections: dict[str, object] = {}
    secrets: dict[str, object] = {}
    for tunnel, credentials in tunnels:
        connections[tunnel.name] = _swanctl_connection(tunnel, credentials, side)
        if tunnel.auth == "psk":
            secrets[f"ike-{tunnel.name}"] = {
                "id-local": tunnel.identity(side),
                "id-remote": tunnel.peer_identity(side),
                "secret": json.dumps(credentials.secret),
            }
    return "\n".join(sections({"connections": connections, "secrets": secrets})) + "\n"


def toml(
    tunnels: Iterable[tuple[Tunnel, Credentials]], side: Side, directory: Path, gateway: Mapping[str, object]
) -> str:
    """Our configuration; writes the secrets' files into `directory`."""
    document: dict[str, object] = {"gateway": gateway}
    for tunnel, credentials in tunnels:
        key = f"connections.{tunnel.name}"
        document[key] = {
            "local_addrs": [tunnel.outer_address(side)],
            "remote_addrs": [tunnel.remote_address(side)],
            "proposals": [tunnel.proposals.get(side, tunnel.ike)],
            **tunnel.settings.get(side, {}),
        }
        document |= _toml_auth(tunnel, credentials, side, directory)
        for child in tunnel.children:
            document[f"{key}.children.{tunnel.child_name(child)}"] = {
                "local_ts": [tunnel.inner_address(side, child)],
                "remote_ts": [tunnel.inner_address(other(side), child)],
                "esp_proposals": [tunnel.esp_proposals.get(side, tunnel.esp)],
                **tunnel.child_settings.get(side, {}),
            }
    return "\n".join(_tables(document)) + "\n"


def _swanctl_connection(tunnel: Tunnel, credentials: Credentials, side: Side) -> dict[str, object]:
    auth = "psk" if tunnel.auth == "psk" else "pubkey"
    local: dict[str, object] = {"auth": auth, "id": tunnel.identity(side)}
    remote: dict[str, object] = {"auth": auth, "id": tunnel.peer_identity(side)}
    if credentials.leaf is not None:
        local["certs"] = credentials.leaf.certificate
        remote["cacerts"] = credentials.peer_root
    children = {
        tunnel.child_name(child): {
            "local_ts": tunnel.inner_address(side, child),
            "remote_ts": tunnel.inner_address(other(side), child),
            "esp_proposals": tunnel.esp_proposals.get(side, tunnel.esp),
            **tunnel.child_settings.get(side, {}),
        }
        for child in tunnel.children
    }
    return {
        "version": 2,
        "local_addrs": tunnel.outer_address(side),
        "remote_addrs": tunnel.remote_address(side),
        "proposals": tunnel.proposals.get(side, tunnel.ike),
        **{k: v for k, v in tunnel.settings.get(side, {}).items() if k not in _OURS_ONLY},
        "local": local,
        "remote": remote,
        "children": children,
    }


def _toml_auth(tunnel: Tunnel, credentials: Credentials, side: Side, directory: Path) -> dict[str, object]:
    key = f"connections.{tunnel.name}"
    if tunnel.auth == "psk":
        secret = directory / f"{tunnel.name}.psk"
        secret.write_text(credentials.secret + "\n")
        secret.chmod(0o600)
        local: dict[str, object] = {"auth": "psk", "secret_file": str(secret)}
        remote: dict[str, object] = {"auth": "psk"}
    else:
        assert credentials.leaf is not None
        certificates = [credentials.leaf.certificate, *credentials.leaf.intermediates]
        local = {
            "auth": "pubkey",
            "certs": [str(path) for path in certificates],
            "private_key": str(credentials.leaf.private_key),
        }
        remote = {"auth": "pubkey", "cacerts": [str(credentials.peer_root)]}
    return {
        f"{key}.local": local | {"id": tunnel.identity(side)},
        f"{key}.remote": remote | {"id": tunnel.peer_identity(side)},
    }


def _tables(document: Mapping[str, object]) -> Iterator[str]:
    for name, table in document.items():
        assert isinstance(table, Mapping)
        yield f"[{name}]"
        # Strings, numbers, booleans and lists of strings look in TOML as they do in JSON.
        yield from (f"{key} = {json.dumps(value)}" for key, value in table.items())
