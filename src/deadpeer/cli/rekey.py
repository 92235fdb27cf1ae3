"""`deadpeer rekey`: rekey the IKE SAs of a connection, or one child of it."""

from __future__ import annotations

from typing import Any

from .asking import add_connection_parser


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    return add_connection_parser(
        commands,
        "rekey",
        "rekey the IKE SAs of a connection, or one child of it",
        "Replace the IKE SAs of a connection by new ones, or only one child's. No packet is lost.",
        "  deadpeer rekey home\n  deadpeer rekey home net --control /run/deadpeer/control.sock",
    )
