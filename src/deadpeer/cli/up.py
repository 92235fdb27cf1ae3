"""`deadpeer up`: bring up a connection, or one child of it."""

from __future__ import annotations

from typing import Any

from .asking import add_connection_parser


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    return add_connection_parser(
        commands,
        "up",
        "bring up a connection, or one child of it",
        "Build the IKE SA of a connection and all its children, or only the one named. One attempt is made.",
        "  deadpeer up home\n  deadpeer up home net --control /run/deadpeer/control.sock",
    )
