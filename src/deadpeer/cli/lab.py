"""`deadpeer lab`: crash a real gateway and watch the other one find out."""

from __future__ import annotations

import argparse
import asyncio
import io
import secrets
import signal
import sys
from typing import TYPE_CHECKING, Any

from deadpeer.lab.options import METHODS, PEERS, LabError, LabOptions

from .parser import FAILED, OK, USAGE, add_json, fail, print_json

if TYPE_CHECKING:
    from deadpeer.lab.runs import Run

EPILOG = """\
examples:
  deadpeer lab                                 kill Bob, see QCD bring the tunnel back
  deadpeer lab --method sir                    ask statelessly; a new SA before the old one goes
  deadpeer lab --method reconnect              nothing is needed from Bob but RFC 7296
  deadpeer lab --method liveness               only silence tells
  deadpeer lab --spi-map                       Bob's first answer has the token
  deadpeer lab --idle --announce               no traffic: Bob says that he is back
  deadpeer lab --rtt 100 --loss 0.05 --json    a worse link; one JSON document on stdout
  sudo deadpeer lab --netns                    network namespaces, TUN devices, the real ping
  sudo deadpeer lab --peer strongswan          Bob is an unmodified strongSwan

The lab touches nothing but loopback addresses of 127.77.0.0/16 (or namespaces of its own).
Times in the results count from the moment Bob can answer again.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to `commands`, what `ArgumentParser.add_subparsers` returned."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "lab",
        help="crash a real gateway and watch the other one find out",
        description="Two gateways in two processes build a tunnel; Bob's is killed with SIGKILL and started "
        "again; the lab shows how Alice finds out, and how long it takes until traffic flows.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="how Alice finds out: a QCD token, a SIR query, a new SA beside the old one, or silence alone"
        " (default: qcd; with strongswan reconnect)",
    )
    parser.add_argument(
        "--rtt", type=float, default=20.0, metavar="MS", help="round trip time of the link (default: 20)"
    )
    parser.add_argument(
        "--loss", type=float, default=0.0, metavar="P", help="loss in each direction, 0 to 1 (default: 0)"
    )
    parser.add_argument(
        "--down", type=float, default=1.0, metavar="S", help="seconds until Bob is started again (default: 1)"
    )
    parser.add_argument("--idle", action="store_true", help="an idle tunnel: no inner packets")
    parser.add_argument(
        "--netns", action="store_true", help="network namespaces, TUN devices and the real ping (needs root)"
    )
    parser.add_argument(
        "--peer",
        choices=PEERS,
        default="deadpeer",
        help="what Bob is; strongswan needs root (default: deadpeer)",
    )
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="session resumption: the new SA without a key exchange (default: no)",
    )
    parser.add_argument(
        "--spi-map",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="Bob keeps the SPI map on disk: his first answer has the token (default: no)",
    )
    parser.add_argument("--announce", action="store_true", help="Bob speaks first after his boot")
    parser.add_argument(
        "--hints",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Bob answers packets with unknown SPIs; most daemons do not (default: yes)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="which packets are lost (default: random)")
    add_json(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say; the exit status."""
    from deadpeer.lab.session import require

    options = LabOptions(
        method=args.method or ("reconnect" if args.peer == "strongswan" else "qcd"),
        rtt_ms=args.rtt,
        loss=args.loss,
        down_s=args.down,
        idle=args.idle,
        netns=args.netns or args.peer == "strongswan",
        peer=args.peer,
        resume=args.resume,
        spi_map=args.spi_map,
        announce=args.announce,
        hints=args.hints,
        seed=secrets.randbelow(2**31) if args.seed is None else args.seed,
    )
    try:
        require(options)
        finished = asyncio.run(_with_signals(options, as_json=args.json))
    except LabError as error:
        return fail("lab", error, USAGE if error.usage else FAILED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return fail("lab", "interrupted; everything it started has been ended", FAILED)
    return OK if finished.result.ok else FAILED


async def _with_signals(options: LabOptions, *, as_json: bool) -> Run:
    """SIGTERM and SIGHUP end the lab like ^C: cleanly."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
    return await (_to_json(options) if as_json else _to_screen(options))


async def _to_json(options: LabOptions) -> Run:
    from deadpeer.lab.recording import Silent
    from deadpeer.lab.runs import run_once

    finished = await run_once(options, Silent())
    print_json({"runs": [finished.result.to_record()]})
    return finished


async def _to_screen(options: LabOptions) -> Run:
    from rich.console import Console

    from deadpeer.lab.runs import run_once
    from deadpeer.lab.view import LiveView, PlainView, failure_line

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    console = Console()
    view = LiveView(options, console) if console.is_terminal else PlainView(options, sys.stdout)
    with view:
        finished = await run_once(options, view)
    view.show(finished)
    if not finished.result.ok:
        print(failure_line(finished.result), file=sys.stderr)
    return finished
