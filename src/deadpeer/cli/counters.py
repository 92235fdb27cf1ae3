"""`deadpeer counters`: show what was counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .asking import ask
from .parser import add_control, add_json


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "counters",
        help="show what was counted: every packet dropped, by reason",
        description="Every count of the gateway since it started, by where it was counted.",
        epilog="example:\n  deadpeer counters --json | jq .counters.esp_dropped\n",
    )
    add_control(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args: ask("counters", args, _show))
    return parser


def _show(answer: Mapping[str, Any]) -> None:
    for group, counters in answer["data"]["counters"].items():
        for name, value in counters.items():
            print(f"{value:>12} {group}.{name}")
