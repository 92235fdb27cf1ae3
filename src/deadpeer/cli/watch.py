"""`deadpeer watch`: show events as they happen."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from .parser import FAILED, OK, add_control, fail


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "watch",
        help="show events as they happen",
        description="Show the gateway's events as they happen, whatever its log level, until interrupted.",
        epilog="example:\n  deadpeer watch --json | jq 'select(.event == \"verdict\")'\n",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--count", type=_count, metavar="N", help="end after so many events")
    add_control(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Show events; the exit status."""
    from deadpeer.gateway.client import ControlError, watch

    left = args.count
    try:
        for event in watch(args.control):
            print(json.dumps(event) if args.json else _line(event), flush=True)
            left = None if left is None else left - 1
            if left == 0:
                return OK
    except ControlError as error:
        return fail("watch", error, FAILED)
    except KeyboardInterrupt:
        return OK
    return fail("watch", f"{args.control}: the gateway has ended", FAILED)


def _line(event: Mapping[str, Any]) -> str:
    from deadpeer.gateway.logs import text_line
    from deadpeer.ike.io import Event
    from deadpeer.values import Now

    fields = {k: v for k, v in event.items() if k not in ("time", "mono_ns", "level", "event")}
    now = Now(int(event.get("mono_ns", 0)), float(event.get("time", 0.0)))
    return text_line(now, Event(event["event"], fields, event.get("level", "info")), sys.stdout.isatty())


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)
