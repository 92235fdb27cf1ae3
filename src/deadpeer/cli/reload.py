"""`deadpeer reload`: have the gateway take the connections of its file as it is now."""

from __future__ import annotations

from typing import Any

from .asking import ask, print_text
from .parser import add_control, add_json


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "reload",
        help="have the gateway take the connections of its file as it is now",
        description="Like SIGHUP: new SAs use the file as it is now, living ones stay as they are."
        " A bad file changes nothing.",
        epilog="example:\n  deadpeer reload --control /run/deadpeer/control.sock\n",
    )
    add_control(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args: ask("reload", args, print_text))
    return parser
