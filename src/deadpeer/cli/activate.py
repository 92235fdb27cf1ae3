"""`deadpeer activate`: tell one of two gateways with one address that the address is its own now."""

from __future__ import annotations

from typing import Any

from .asking import ask, print_text
from .parser import add_control, add_json


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "activate",
        help="tell a hot standby that the shared address is its own",
        description='For the hook of whatever moves the address, with by = "command" in [standby]: call it'
        " after the address has come. The gateway begins a new life, and speaks for the SAs of its partner"
        " once that has been asked. Told again, it just goes on.",
        epilog="example, in keepalived's notify script:\n"
        "  deadpeer activate --control /run/deadpeer/control.sock\n",
    )
    add_control(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args: ask("activate", args, print_text))
    return parser
