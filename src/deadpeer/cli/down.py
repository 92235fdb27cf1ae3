"""`deadpeer down`: delete the SAs of a connection, or one child of it."""

from __future__ import annotations

from typing import Any

from .asking import add_connection_parser


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    return add_connection_parser(
        commands,
        "down",
        "delete the SAs of a connection, or one child of it",
        "Delete the IKE SAs of a connection with their children, or only the child named.",
        "  deadpeer down home\n  deadpeer down home net --control /run/deadpeer/control.sock",
    )
