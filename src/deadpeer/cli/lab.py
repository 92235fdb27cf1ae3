"""`deadpeer lab`: crash a real gateway and watch the other one find out."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import io
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deadpeer.lab.options import METHODS, PEERS, LabError, LabOptions

from . import lab_scenario
from .parser import FAILED, OK, USAGE, add_json, fail, print_json

if TYPE_CHECKING:
    from deadpeer.lab.attacks.model import Attack
    from deadpeer.lab.report.plan import Wanted
    from deadpeer.lab.runs import Run

T = TypeVar("T")
ALL = "all"
LONGEST_ATTACK_S = 3600
DOWN_S = 1.0

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
  deadpeer lab --method all                    every way to find out, once
  deadpeer lab --scenario robustness           Bob lives, and loses SAs without a word
  deadpeer lab --scenario cluster              members killed, frozen, cut off; needs etcd-server
  deadpeer lab --scenario failover --swarm     500 clients at once, and how soon all of them are back
  deadpeer lab --attack forge-invalid-spi      an attacker at two living gateways
  deadpeer lab --method all --report DIR       all of it, measured, as a page; about half an hour
  deadpeer lab --report DIR --quick            the same in minutes, with fewer runs

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
    lab_scenario.add_arguments(parser)
    parser.add_argument(
        "--method",
        choices=(*METHODS, ALL),
        help="how Alice finds out: a QCD token, a SIR query, a new SA beside the old one, or silence alone;"
        " all: every one (default: qcd; with strongswan reconnect; with --report all)",
    )
    parser.add_argument(
        "--rtt",
        type=float,
        metavar="MS",
        help="round trip time of the link (default: 20; with --report or all 100)",
    )
    parser.add_argument(
        "--loss", type=float, default=0.0, metavar="P", help="loss in each direction, 0 to 1 (default: 0)"
    )
    parser.add_argument(
        "--down",
        type=float,
        metavar="S",
        help="seconds until Bob is started again (default: 1); in a cluster, how much longer than its lease a"
        " member is stopped or cut off, or etcd is down (default: 2); with blink, for how long etcd is down",
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
        help="session resumption: the new SA without a key exchange (default: no; with --report or all both)",
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
    parser.add_argument(
        "--attack",
        metavar="NAME",
        help=f"attack two living gateways: a name, or {ALL}; a wrong name lists them",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="how long an attack lasts (default: 10; with --quick 4)"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="measure everything, and write report.html, report.json and report.md there",
    )
    parser.add_argument("--quick", action="store_true", help="a report of few runs and short attacks")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="which packets are lost (default: random; with --report 1)"
    )
    add_json(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say; the exit status."""
    try:
        if args.scenario != "reboot":
            return lab_scenario.run(args, _options(args), _with_signals, _to_screen)
        lab_scenario.only_reboot(args)
        if args.report is not None or args.method == ALL or args.attack is not None:
            return _many(args)
        return _one(args)
    except LabError as error:
        return fail("lab", error, USAGE if error.usage else FAILED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return fail("lab", "interrupted; everything it started has been ended", FAILED)


def _one(args: argparse.Namespace) -> int:
    from deadpeer.lab.session import require

    for name in ("quick", "seconds"):
        if getattr(args, name):
            raise LabError(f"--{name} belongs to --report or --attack", usage=True)
    options = _options(args)
    require(options)
    finished = asyncio.run(_with_signals(_to_json(options) if args.json else _to_screen(options)))
    return OK if finished.result.ok else FAILED


def _options(args: argparse.Namespace) -> LabOptions:
    """What one run is asked to do."""
    return LabOptions(
        method=args.method or ("reconnect" if args.peer == "strongswan" else "qcd"),
        rtt_ms=20.0 if args.rtt is None else args.rtt,
        loss=args.loss,
        down_s=DOWN_S if args.down is None else args.down,
        idle=args.idle,
        netns=args.netns or args.peer == "strongswan",
        peer=args.peer,
        resume=bool(args.resume),
        spi_map=args.spi_map,
        announce=args.announce,
        hints=args.hints,
        seed=secrets.randbelow(2**31) if args.seed is None else args.seed,
    )


def _many(args: argparse.Namespace) -> int:
    """Several runs, attacks, or a report."""
    from deadpeer.lab.report import write
    from deadpeer.lab.report.screen import show

    wanted, missing = wanted_of(args)
    _check(args, wanted)
    out = sys.stderr if args.json else sys.stdout
    if args.report is not None:
        write.require(args.report)
        report = asyncio.run(_with_signals(write.make_report(wanted, write.typed(), missing, out)))
        paths = write.write_report(report, args.report)
        print(*paths, sep="\n", file=out)
        if args.json:
            print_json(report.to_record())
        return OK if report.ok else fail("lab", f"not everything held: {paths[0]} says what did not", FAILED)
    collected = asyncio.run(_with_signals(write.run_all(wanted, out)))
    if args.json:
        print_json(collected.to_record())
    else:
        from rich.console import Console

        show(collected, Console(width=None if sys.stdout.isatty() else 140))
    return OK if collected.ok else fail("lab", "not everything held: see above", FAILED)


def wanted_of(args: argparse.Namespace) -> tuple[Wanted, tuple[str, ...]]:
    """What is to be run, and what of it can't be here, and why."""
    from deadpeer.lab.attacks import catalogue
    from deadpeer.lab.report.plan import FULL, QUICK, Wanted

    sizes = QUICK if args.quick or args.report is None else FULL
    if args.attack is not None and args.report is None and not args.quick:
        sizes = replace(sizes, attack_s=FULL.attack_s)
    if args.seconds is not None:
        sizes = replace(sizes, attack_s=args.seconds)
    attacks: tuple[Attack, ...] = ()
    if args.attack == ALL or (args.attack is None and args.report is not None):
        attacks = catalogue.ATTACKS
    elif args.attack is not None:
        attacks = (catalogue.attack(args.attack),)
    obstacle, no_etcd = _strongswan_obstacle(), _etcd_obstacle()
    rtt = 100.0 if args.report is not None or args.method == ALL else 20.0
    wanted = Wanted(
        method=None if args.method == ALL else args.method,
        attacks=attacks,
        base=LabOptions(
            rtt_ms=rtt if args.rtt is None else args.rtt,
            loss=args.loss,
            down_s=DOWN_S if args.down is None else args.down,
            netns=args.netns,
            seed=args.seed if args.seed is not None else 1 if args.report else secrets.randbelow(2**31),
        ),
        sizes=sizes,
        strongswan=obstacle is None,
        etcd=no_etcd is None,
        runs=args.report is not None or args.method == ALL,
        report=args.report is not None,
        resume=(False, True) if args.resume is None else (args.resume,),
    )
    missing = []
    if obstacle is not None and wanted.runs and wanted.method in (None, "reconnect"):
        missing.append(f"strongSwan, as Bob and on both sides: {obstacle}")
    if no_etcd is not None and wanted.report and wanted.method in (None, "qcd", "sir"):
        missing.append(f"a load-balanced cluster whose members know of each other: {no_etcd}")
    return wanted, tuple(missing)


def _check(args: argparse.Namespace, wanted: Wanted) -> None:
    """Raise LabError (usage) for what makes no sense together."""
    if args.attack is not None and args.attack != ALL and wanted.method is not None:
        (attack,) = wanted.attacks
        if wanted.method not in attack.methods:
            raise LabError(
                f"--attack {attack.name} says nothing about {wanted.method}:"
                f" use --method {' or '.join(attack.methods)}",
                usage=True,
            )
    for name, given in (
        ("--idle", args.idle),
        ("--announce", args.announce),
        ("--spi-map", args.spi_map),
        ("--no-hints", not args.hints),
        ("--peer strongswan", args.peer != "deadpeer"),
        ("--netns", args.netns and not wanted.runs),
    ):
        if given:
            raise LabError(
                f"{name} belongs to a run of one method: --method all and --report have their own runs with"
                " and without it, and attacks choose for themselves; leave it out",
                usage=True,
            )
    if wanted.attacks and not 1 <= wanted.sizes.attack_s <= LONGEST_ATTACK_S:
        raise LabError(
            f"--seconds {wanted.sizes.attack_s:g}: must be between 1 and {LONGEST_ATTACK_S} seconds",
            usage=True,
        )
    if args.seconds is not None and not wanted.attacks:
        raise LabError("--seconds belongs to --attack or --report", usage=True)
    wanted.base.check()
    if args.netns:
        from deadpeer.lab.netns import require_root

        require_root("unshare")


def _strongswan_obstacle() -> str | None:
    """Why strongSwan can't be run here; None: it can."""
    if os.geteuid() != 0:
        return "needs root: run it with sudo"
    from deadpeer.lab.netns import require_root
    from deadpeer.lab.strongswan import require_strongswan

    try:
        require_root("unshare")
        require_strongswan()
    except LabError as error:
        return str(error)
    return None


def _etcd_obstacle() -> str | None:
    """Why a cluster can't be run here; None: it can."""
    from deadpeer.lab.scenarios.etcd import PACKAGE, PROGRAM

    if shutil.which(PROGRAM) is None:
        return f"needs the program {PROGRAM}: apt-get install {PACKAGE} (Debian, Ubuntu)"
    if importlib.util.find_spec("etcd3gw") is None:
        return "needs the package etcd3gw: pip install 'deadpeer[cluster]'"
    return None


async def _with_signals(work: Coroutine[Any, Any, T]) -> T:
    """SIGTERM and SIGHUP end the lab like ^C: cleanly."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
    return await work


async def _to_json(options: LabOptions) -> Run:
    from deadpeer.lab.recording import Silent
    from deadpeer.lab.runs import run_once

    finished = await run_once(options, Silent())
    print_json({"ok": finished.result.ok, "runs": [finished.result.to_record()]})
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
