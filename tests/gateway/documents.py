"""Configurations as documents, written as TOML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def to_toml(value: Any) -> str:
    """A value in TOML; tables are written inline."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{to_toml(k)} = {to_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    # JSON's escapes are TOML's, except that TOML wants DEL escaped too and knows no surrogate pairs.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_config(place: Path, document: Mapping[str, Any]) -> Path:
    """The document as gw.toml in the directory, with the shared secret that it may name."""
    secret = place / "home.psk"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text("correct horse battery staple\n")
    cluster_key = place / "cluster.key"
    if not cluster_key.exists():
        cluster_key.touch(mode=0o600)
        cluster_key.write_text("5a" * 32 + "\n")
    standby_key = place / "standby.key"
    if not standby_key.exists():
        standby_key.touch(mode=0o600)
        standby_key.write_text("6b" * 32 + "\n")
    file = place / "gw.toml"
    file.write_text("".join(f"{name} = {to_toml(value)}\n" for name, value in document.items()))
    return file


def base_cluster() -> dict[str, Any]:
    """The least that makes a gateway a member of a cluster."""
    return {
        "name": "edge",
        "member": 3,
        "key_file": "cluster.key",
        "etcd": ["http://127.0.0.1:2379"],
        "forward_listen": "127.0.0.1:15502",
    }


def base_standby() -> dict[str, Any]:
    """The least that makes a gateway one of two with one address."""
    return {
        "number": 0,
        "address": "127.0.0.1",
        "key_file": "standby.key",
        "listen": "127.0.0.2:15503",
        "partner": "127.0.0.3:15503",
    }


def base_document() -> dict[str, Any]:
    """The least that brings up a tunnel without privileges."""
    return {
        "gateway": {
            "state_dir": "state",
            "control": "control.sock",
            "listen": ["127.0.0.1"],
            "port": 15500,
            "port_nat_t": 15501,
            "plane": "unix",
            "unix_local": "gw.sock",
            "unix_peer": "host.sock",
        },
        "connections": {
            "home": {
                "remote_addrs": ["198.51.100.1"],
                "local": {"auth": "psk", "id": "alice.example", "secret_file": "home.psk"},
                "remote": {"auth": "psk", "id": "bob.example"},
                "children": {"net": {"local_ts": ["10.0.0.0/24"], "remote_ts": ["10.0.1.0/24"]}},
            }
        },
    }
