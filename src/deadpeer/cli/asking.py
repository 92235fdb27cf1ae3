"""Commands that ask a running gateway one thing and show its answer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from .parser import FAILED, OK, add_control, add_json, fail, print_json

Show = Callable[[Mapping[str, Any]], None]


def add_connection_parser(commands: Any, name: str, summary: str, description: str, example: str) -> Any:
    """A command on a connection, or on one child of it."""
    parser = commands.add_parser(name, help=summary, description=description, epilog=f"example:\n{example}\n")
    parser.add_argument("connection", metavar="NAME", help="name of the connection")
    parser.add_argument("child", metavar="CHILD", nargs="?", help="name of one child of it")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=90.0,
        metavar="S",
        help="give up waiting after so many seconds; the gateway goes on (default: 90)",
    )
    add_control(parser)
    add_json(parser)
    parser.set_defaults(run=lambda args: _run_on_connection(name, args))
    return parser


def ask(name: str, args: argparse.Namespace, show: Show, **request: Any) -> int:
    """Send the request, print the answer's data as JSON or through `show`; the exit status."""
    from deadpeer.gateway.client import ControlError, call

    try:
        answer = call(args.control, name, request, getattr(args, "timeout", 10.0))
    except ControlError as error:
        if args.json:
            print_json({"ok": False, "text": str(error)})
        return fail(name, error, FAILED)
    if args.json:
        print_json(answer.get("data") or {"ok": answer["ok"], "text": answer.get("text", "")})
    elif answer["ok"]:
        show(answer)
    if not answer["ok"]:
        return fail(name, answer.get("text", "failed"), FAILED)
    return OK


def print_text(answer: Mapping[str, Any]) -> None:
    """The answer's line for a person."""
    if answer.get("text"):
        print(answer["text"])


def _run_on_connection(name: str, args: argparse.Namespace) -> int:
    return ask(name, args, print_text, connection=args.connection, child=args.child)


def seconds(text: str) -> float:
    """A positive number of seconds, as an argument."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value
