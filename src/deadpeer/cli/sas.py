"""`deadpeer sas`: show the security associations."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .asking import ask
from .parser import add_control, add_json

_IKE = ("connection", "sa", "state", "role", "local", "remote", "identity", "suite", "age", "rtt")
_CHILD = (
    "child",
    "of",
    "state",
    "spi in/out",
    "local",
    "remote",
    "suite",
    "age",
    "packets in/out",
    "last in",
)


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "sas",
        help="show the security associations",
        description="Show the IKE SAs and their child SAs, with what these have carried; in a cluster, this"
        " member too; with a hot standby, which of the two serves.",
        epilog="example:\n  deadpeer sas\n  deadpeer sas --json | jq '.sas[].children[].traffic'\n",
    )
    add_control(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args: ask("sas", args, _show))
    return parser


def _show(answer: Mapping[str, Any]) -> None:
    sas = answer["data"]["sas"]
    if (cluster := answer["data"].get("cluster")) is not None:
        print(_member(cluster), end="\n\n")
    if (standby := answer["data"].get("standby")) is not None:
        print(_standby(standby), end="\n\n")
    if not sas:
        print("no security associations")
        return
    _print_table("IKE SAs", _IKE, [_ike_row(sa) for sa in sas])
    children = [
        _child_row(sa, child, answer["data"].get("mono_ns")) for sa in sas for child in sa["children"]
    ]
    if children:
        print()
        _print_table("child SAs", _CHILD, children)


def _member(cluster: Mapping[str, Any]) -> str:
    """One line about this member of a cluster."""
    state = "fenced" if cluster["fenced"] else "serving" if cluster["serving"] else "joining"
    lease = f"lease {cluster['lease_left_s']:.1f} of {cluster['ttl_s']} s"
    others = sum(
        1 for other in cluster["members"] if other["leased"] and other["member"] != cluster["member"]
    )
    me = f"member {cluster['member']} of cluster {cluster['name']}: {state}, epoch {cluster['epoch']}"
    return f"{me}, {lease}, {others} other member{'' if others == 1 else 's'} alive"


def _standby(standby: Mapping[str, Any]) -> str:
    """One line about this one of two gateways with one address."""
    line = f"gateway {standby['number']} of the two at {standby['address']}: {standby['state']}"
    line += f", epoch {standby['epoch']}"
    if standby["both_active"]:
        line += "; the partner holds the address as well"
    return line


def _ike_row(sa: Mapping[str, Any]) -> list[str]:
    rtt = sa.get("rtt_ms")
    return [
        str(sa["connection"]),
        str(sa["sa"]),
        str(sa["state"]),
        str(sa["role"]),
        str(sa["local"]),
        str(sa["remote"]),
        str(sa.get("identity") or "-"),
        str(sa.get("suite") or "-"),
        _age(sa.get("age_s")),
        "-" if rtt is None else f"{rtt:.1f} ms",
    ]


def _child_row(sa: Mapping[str, Any], child: Mapping[str, Any], mono_ns: int | None) -> list[str]:
    traffic = child.get("traffic") or {}
    last = traffic.get("last_in_ns")
    silent = None if last is None or mono_ns is None else (mono_ns - last) / 1e9
    return [
        str(child["child"]),
        str(sa["sa"]),
        str(child["state"]),
        f"{child['spi_in']}/{child['spi_out']}",
        ", ".join(child.get("local_ts", [])),
        ", ".join(child.get("remote_ts", [])),
        str(child.get("suite") or "-"),
        _age(child.get("age_s")),
        f"{traffic.get('packets_in', 0)}/{traffic.get('packets_out', 0)}",
        _age(silent),
    ]


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def _print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left")
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            # Text, not str: what a peer calls itself must not be read as markup.
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    print(f"{title}:")
    print("\n".join(_aligned([heads, *rows])))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
