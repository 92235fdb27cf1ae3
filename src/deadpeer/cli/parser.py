"""What the commands share: errors on one line, the control socket's option, answers as text or JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

OK, FAILED, USAGE = 0, 1, 2
CONTROL_VARIABLE = "DEADPEER_CONTROL"
DEFAULT_CONTROL = "/run/deadpeer/control.sock"


class OneLineParser(argparse.ArgumentParser):
    """Bad usage is one line on standard error, exit status 2. Epilogs keep their lines."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def fail(command: str, text: object, status: int) -> int:
    """Say in one line on standard error why the command did not succeed; returns `status`."""
    print(f"deadpeer {command}: {' '.join(str(text).split())}", file=sys.stderr)
    return status


def add_control(parser: argparse.ArgumentParser) -> None:
    """The option that says where the gateway answers."""
    parser.add_argument(
        "--control",
        metavar="PATH",
        type=Path,
        default=Path(os.environ.get(CONTROL_VARIABLE) or DEFAULT_CONTROL),
        help=f"the gateway's control socket (default: ${CONTROL_VARIABLE}, or {DEFAULT_CONTROL})",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option for programs."""
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on standard output and nothing else"
    )


def print_json(document: object) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2))
