"""`deadpeer gateway`: run a gateway in the foreground."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .parser import USAGE, fail

_EPILOG = """\
example:
  deadpeer check gateway.toml && deadpeer gateway gateway.toml
  deadpeer gateway gateway.toml --log-format json | jq .

Events go to standard output, one a line. SIGTERM deletes the SAs politely and ends, SIGHUP takes the
connections of the file anew. docs/configuration.md has every key; contrib/deadpeer.service starts it.
"""


def add_parser(commands: Any) -> Any:
    """Add the command to what `add_subparsers` returned."""
    parser = commands.add_parser(
        "gateway",
        help="run a gateway in the foreground",
        description="Run an IKEv2 gateway in the foreground, as systemd likes it.",
        epilog=_EPILOG,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the configuration file (TOML)")
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="how events look (default: text)"
    )
    parser.add_argument(
        "--keylog",
        metavar="DIR",
        type=Path,
        help="write the keys of all SAs to DIR, for Wireshark: whoever reads them reads all traffic",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run until told to stop; the exit status."""
    from deadpeer.gateway.daemon import run as run_gateway
    from deadpeer.gateway.errors import StartError

    try:
        return run_gateway(args.config, log_format=args.log_format, keylog=args.keylog)
    except StartError as error:
        return fail("gateway", error, USAGE)
