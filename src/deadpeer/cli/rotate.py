"""`deadpeer rotate`: make a new generation of the QCD token secret, or of the ticket key."""

from __future__ import annotations

from typing import Any

from .asking import ask, print_text
from .parser import add_control, add_json


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "rotate",
        help="make a new generation of the QCD token secret",
        description="Make a new secret for QCD tokens. The three older ones stay good; SAs"
        " whose tokens would become unrecoverable get new ones first. With --tickets, make a"
        " new key for resumption tickets; older keys open theirs until they expire. In"
        " a cluster: for all members; returns when all use it.",
        epilog="example:\n  deadpeer rotate --control /run/deadpeer/control.sock\n",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--spi", action="store_true", help="the key of the IKE SPIs, which the members of a cluster share"
    )
    which.add_argument(
        "--tickets", action="store_true", help="the key of resumption tickets instead of the token secret"
    )
    add_control(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args: ask("rotate", args, print_text, tickets=args.tickets, spi=args.spi))
    return parser
