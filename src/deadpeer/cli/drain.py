"""`deadpeer drain`: send all peers to another gateway, and take no new ones."""

from __future__ import annotations

from typing import Any

from .asking import ask, print_text, seconds
from .parser import add_control, add_json


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "drain",
        help="send all peers to another gateway, and take no new ones",
        description="Send all peers elsewhere: by redirect (RFC 5685) those that can, new SA first; all"
        " others get a DELETE. From then on the gateway takes no new SA until it is started again. Returns"
        " when all have gone. Where a load balancer chooses the gateway, tell it first.",
        epilog="example:\n  deadpeer drain --to 192.0.2.2 && systemctl stop deadpeer\n",
    )
    parser.add_argument(
        "--to", metavar="ADDRESS", help="where they shall go (default: the address where they found us)"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=3600.0,
        metavar="S",
        help="give up waiting after so many seconds; the gateway goes on (default: 3600)",
    )
    add_control(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args: ask("drain", args, print_text, to=args.to))
    return parser
