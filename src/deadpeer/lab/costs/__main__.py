"""Measure what recoveries and roles cost: `python -m deadpeer.lab.costs [--json]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from deadpeer.lab.costs import AUTHENTICATIONS, SAS, WAYS, measure
from deadpeer.lab.costs.table import tables
from deadpeer.lab.options import LabError

EXAMPLE = "example: python -m deadpeer.lab.costs --only qcd --auth rsa-3072 --recoveries 50"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if all was measured, 1 if a tunnel did not come back, 2 on wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m deadpeer.lab.costs", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--recoveries", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--only", action="append", choices=WAYS, help="only this way to find out")
    parser.add_argument("--auth", action="append", choices=AUTHENTICATIONS, help="only this authentication")
    parser.add_argument("--sas", type=int, default=SAS, help=f"SAs for octets per SA (default: {SAS})")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args(argv)
    for name, value, least in (("--recoveries", args.recoveries, 1), ("--sas", args.sas, 2)):
        if value < least:
            parser.error(f"{name} {value}: must be at least {least}")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        costs = measure(
            say,
            recoveries=args.recoveries,
            ways=args.only or WAYS,
            authentications=args.auth or AUTHENTICATIONS,
            sas=args.sas,
        )
    except LabError as error:
        print(f"costs: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(costs.to_record(), indent=2))
        return 0
    console = Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "150")))
    console.print(costs.machine, highlight=False)
    for table in tables(costs):
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
