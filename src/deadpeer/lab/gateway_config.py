"""The configuration files that the lab writes for its gateways."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from deadpeer.lab.netns import TUN, TUN_MTU
from deadpeer.lab.options import IDLE_PROBE_S, LIVENESS_S, LabOptions, Side
from deadpeer.lab.sites import INNER, Site

CONNECTION = "lab"
CHILD = "inner"
STRANGERS = "travellers"
IKE_PROPOSAL = "aes256gcm16-prfsha384-x25519"
ESP_PROPOSAL = "aes256gcm16"


@dataclass(frozen=True, slots=True)
class GatewayFiles:
    """Paths of one gateway's configuration, shared secret, state directory and control socket."""

    config: Path
    secret: Path
    state: Path
    control: Path


def write_secret(site: Site) -> Path:
    """A fresh shared secret for this run, mode 0600; the same file if it is there already."""
    path = site.directory / "lab.psk"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32) + "\n")
    return path


def write_gateway(site: Site, side: Side, options: LabOptions) -> GatewayFiles:
    """Write the files of one gateway under the site's directory. Alice is the one who starts the tunnel."""
    base = site.directory
    files = GatewayFiles(
        base / f"{side}.toml", write_secret(site), base / f"{side}-state", base / f"{side}-control.sock"
    )
    files.config.write_text(render(site, side, options, files))
    return files


def render(site: Site, side: Side, options: LabOptions, files: GatewayFiles) -> str:
    """The TOML text of one gateway's configuration."""
    other: Side = "bob" if side == "alice" else "alice"
    outer = site.outer[side]
    gateway: dict[str, object] = {
        "state_dir": str(files.state),
        "control": str(files.control),
        "listen": [outer.host],
        "port": site.port,
        "port_nat_t": site.port_nat_t,
        "faults": options.lost is not None and side == "bob",
        **_plane(site, side),
    }
    connection: dict[str, object] = {
        "local_addrs": [outer.host],
        "remote_addrs": [outer.relay],
        "remote_port": site.port,
        "remote_port_nat_t": site.port_nat_t,
        "proposals": [IKE_PROPOSAL],
        "qcd": "both" if options.method == "qcd" else "off",
        "sir": "auto" if options.method == "sir" else "off",
        "crash_methods": [options.method] if options.method == "liveness" else [options.method, "liveness"],
        "resumption": options.resume,
        **_liveness(options),
    }
    child: dict[str, object] = {
        "local_ts": [f"{INNER[side]}/32"],
        "remote_ts": [f"{INNER[other]}/32"],
        "esp_proposals": [ESP_PROPOSAL],
        "start_action": "start" if side == "alice" else "none",
        "dpd_action": "restart" if side == "alice" else "clear",
    }
    tables: dict[str, dict[str, object]] = {
        "gateway": gateway,
        "qcd": {
            "spi_map": options.spi_map or options.announce,
            "announce": options.announce,
            "answer_strangers": options.hints or side == "alice",
        },
        f"connections.{CONNECTION}": connection,
        f"connections.{CONNECTION}.local": {
            "auth": "psk",
            "id": identity(side),
            "secret_file": str(files.secret),
        },
        f"connections.{CONNECTION}.remote": {"auth": "psk", "id": identity(other)},
        f"connections.{CONNECTION}.children.{CHILD}": child,
    }
    if options.strangers and side == "alice":
        tables |= _strangers(files)
    return toml(tables)


def toml(tables: dict[str, dict[str, object]]) -> str:
    """Tables by their dotted names as TOML text."""
    return "\n".join(_table(name, keys) for name, keys in tables.items())


def identity(side: Side) -> str:
    """The IKE identity of a side of the lab."""
    return f"{side}.lab.example"


def _plane(site: Site, side: Side) -> dict[str, object]:
    if site.kind == "netns":
        return {"plane": "tun", "tun": TUN, "tun_mtu": TUN_MTU}
    return {
        "plane": "unix",
        "unix_local": site.socket_path(side, "gw"),
        "unix_peer": site.socket_path(side, "host"),
    }


def _strangers(files: GatewayFiles) -> dict[str, dict[str, object]]:
    """A connection for peers at any address, as a gateway for travellers has it."""
    name = f"connections.{STRANGERS}"
    return {
        name: {"remote_addrs": ["%any"], "proposals": [IKE_PROPOSAL]},
        f"{name}.local": {"auth": "psk", "id": identity("alice"), "secret_file": str(files.secret)},
        f"{name}.remote": {"auth": "psk"},
        f"{name}.children.{STRANGERS}": {
            "local_ts": [f"{INNER['alice']}/32"],
            "remote_ts": ["dynamic"],
            "esp_proposals": [ESP_PROPOSAL],
        },
    }


def _liveness(options: LabOptions) -> dict[str, object]:
    keys: dict[str, object] = {}
    if options.method == "liveness":
        keys |= {"dpd_timeout": LIVENESS_S, "dpd_floor": LIVENESS_S}
    if options.idle:
        keys |= {"dpd_delay": IDLE_PROBE_S}
    return keys


def _table(name: str, keys: dict[str, object]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in keys.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
