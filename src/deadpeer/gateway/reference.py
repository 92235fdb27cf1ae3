"""docs/configuration.md, made from the schema: `python -m deadpeer.gateway.reference` prints it."""

from __future__ import annotations

from inspect import cleandoc

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .schema import (
    ChildSection,
    ConnectionSection,
    GatewaySection,
    LocalSection,
    QcdSection,
    RemoteSection,
)
from .schema_cluster import ClusterSection
from .schema_standby import StandbySection

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("gateway", GatewaySection),
    ("connections.NAME", ConnectionSection),
    ("connections.NAME.local", LocalSection),
    ("connections.NAME.remote", RemoteSection),
    ("connections.NAME.children.CHILD", ChildSection),
    ("qcd", QcdSection),
    ("cluster", ClusterSection),
    ("standby", StandbySection),
)

_HEAD = """\
# Configuration

`deadpeer gateway CONFIG` reads one TOML file; `deadpeer check CONFIG` says whether it is good. Key names
are those of strongSwan's swanctl.conf where the meaning is the same. This page is made from the schema
(`python -m deadpeer.gateway.reference`), and a test keeps it so.

- Paths are relative to the directory of the configuration file.
- A time is a number of seconds, or text with a unit: `"500ms"`, `"30s"`, `"5m"`, `"1h"`, `"1d"`.
- Where an array of strings is wanted, a single string stands for one entry; commas in it separate entries.
- Files with a shared secret or a private key must be of mode 0600 and belong to the gateway's user or root.
- Host names are not looked up: addresses are IP addresses. `%any` stands for any.
- An unknown key, a value of another type, or anything else that can't be used stops the gateway with one
  line that names the file, the key and the remedy, exit status 2. On SIGHUP it changes nothing.
- SIGHUP (or `deadpeer reload`) takes `connections` and `gateway.log_level` anew, without touching
  living SAs; all else waits for a restart.

A whole one:

```toml
[gateway]
listen = ["192.0.2.1"]

[connections.home]
remote_addrs = "198.51.100.1"
local = { auth = "psk", id = "alice.example", secret_file = "home.psk" }
remote = { auth = "psk", id = "bob.example" }

[connections.home.children.net]
local_ts = "10.0.0.0/24"
remote_ts = "10.0.1.0/24"
start_action = "start"
dpd_action = "restart"
```

`listen` left empty opens sockets on every address that the host has at that moment, loopback and link-local
ones left out; an address that comes later is not served until a restart. A fixed list is better where
addresses are fixed: each answer then leaves from the address that was asked, and nothing else is opened.
"""


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(name, table) for name, table in SECTIONS)])


def _section(name: str, table: type[BaseModel]) -> str:
    lines = [
        f"## [{name}]",
        "",
        cleandoc(table.__doc__ or ""),
        "",
        "| key | default | meaning | example |",
        "|---|---|---|---|",
    ]
    for key, field in table.model_fields.items():
        if field.examples:
            cells = (f"`{key}`", _default(field), field.description or "", f"`{key} = {field.examples[0]}`")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "(must be given)"
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    print(render(), end="")
