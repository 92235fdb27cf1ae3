"""`deadpeer standby`: tell one of two gateways with one address that the address is not its own any more."""

from __future__ import annotations

from typing import Any

from .asking import ask, print_text
from .parser import add_control, add_json


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "standby",
        help="tell a hot standby that it has lost the shared address",
        description='For the hook of whatever moves the address, with by = "command" in [standby]: call it'
        " before the address goes. When it returns, the gateway sends nothing any more, and its SAs are"
        " forgotten: the partner speaks for them.",
        epilog="example, in keepalived's notify script:\n"
        "  deadpeer standby --control /run/deadpeer/control.sock\n",
    )
    add_control(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args: ask("standby", args, print_text))
    return parser
