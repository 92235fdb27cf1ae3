"""The command line. One small module per command, imported only when it is asked for.

Every command exits 0 on success, 1 where what was asked for did not succeed, 2 on bad usage or bad
configuration, with one line on standard error.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from deadpeer import __version__

from .parser import OneLineParser

COMMANDS = {
    "lab": "crash a real gateway and watch the other one find out",
    "gateway": "run a gateway in the foreground",
    "check": "check a gateway's configuration and sum it up",
    "up": "bring up a connection, or one child of it",
    "down": "delete the SAs of a connection, or one child of it",
    "rekey": "rekey the IKE SAs of a connection, or one child of it",
    "sas": "show the security associations",
    "watch": "show events as they happen",
    "rotate": "make a new generation of the QCD token secret",
    "counters": "show what was counted: every packet dropped, by reason",
    "reload": "have the gateway take the connections of its file as it is now",
    "drain": "send all peers to another gateway, and take no new ones",
    "activate": "tell a hot standby that the shared address is its own",
    "standby": "tell a hot standby that it has lost the shared address",
}
"""Each is a module of this package with `add_parser(commands)`, which sets the default `run`."""

_EPILOG = """\
example:
  deadpeer lab                     two gateways on this machine, one crash, and the recovery
  deadpeer gateway /etc/deadpeer/gateway.toml

deadpeer COMMAND --help says more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = OneLineParser("deadpeer", description="Secure crash discovery for IKEv2.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"deadpeer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == wanted:
            importlib.import_module(f"{__name__}.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    args = parser.parse_args(words)
    try:
        status = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone. Python must not try to flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 1
    return status
