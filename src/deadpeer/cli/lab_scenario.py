"""The part of `deadpeer lab` that is about `--scenario`."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deadpeer.lab.options import SCENARIOS, LabError, LabOptions

from . import lab_swarm
from .parser import FAILED, OK, print_json

if TYPE_CHECKING:
    from deadpeer.lab.runs import Run
    from deadpeer.lab.scenarios.outcome import Outcome
    from deadpeer.lab.scenarios.plan import ClusterPlan

Signals = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]
EVENTS = {
    "cluster": ("kill", "freeze", "cut", "split", "drain", "drift", "skew", "etcd", "blink"),
    "failover": ("takeover", "stall", "both"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The option that chooses a scenario, and those of the cluster."""
    parser.add_argument(
        "--scenario",
        choices=SCENARIOS,
        default="reboot",
        help="reboot: Bob's process is killed and started again; robustness: it lives, and loses a child SA,"
        " an IKE SA, or all, one after the other; cluster: members behind a balancer, with a real etcd, are"
        " killed, frozen, cut off; failover: a standby takes over from an active gateway (default: reboot)",
    )
    cluster = parser.add_argument_group("with --scenario cluster, and some with failover")
    cluster.add_argument("--members", type=int, metavar="N", help="gateways behind the balancer (default: 4)")
    cluster.add_argument("--clients", type=int, metavar="N", help="gateways in front of it (default: 4)")
    cluster.add_argument(
        "--lease",
        type=int,
        metavar="S",
        help="a member that dies is written off within so many seconds, 3 or more (default: 5)",
    )
    cluster.add_argument(
        "--forward",
        action=argparse.BooleanOptionalAction,
        help="members hand packets to the member whose SA they are of (default: both, one after the other)",
    )
    cluster.add_argument(
        "--event",
        action="append",
        choices=(*EVENTS["cluster"], *EVENTS["failover"], lab_swarm.STATE, "all"),
        help="cluster: a member is killed; stopped and going on; cut off from etcd; all are cut off from each"
        " other; some are drained; a clock is slow within the margin, or beyond it; etcd is down for longer"
        " than the leases, or for less. failover: the active gateway is killed, or stopped and going on; or"
        " both are told that they are active. May be given several times (default: all of them)",
    )
    lab_swarm.add_argument(cluster)


def run(
    args: argparse.Namespace,
    options: LabOptions,
    with_signals: Signals,
    to_screen: Callable[[LabOptions], Awaitable[Run]],
) -> int:
    """The runs of a scenario, one after the other; the exit status. Raises LabError."""
    _only(args)
    if args.scenario in EVENTS:
        say = _say_nothing if args.json else _saying(time.monotonic())
        if args.swarm is not None:
            return _end(args, asyncio.run(with_signals(lab_swarm.run(lab_swarm.plan(args), say))))
        plans = _plans(args)
        outcomes = asyncio.run(with_signals(_clusters(plans, say)))
        return _end(args, [outcome.to_record() for outcome in outcomes])
    from deadpeer.lab.scenarios import robustness
    from deadpeer.lab.session import require

    runs = robustness.plan(options)
    require(runs[0])
    finished = asyncio.run(with_signals(_each(runs, None if args.json else to_screen)))
    return _end(args, [run.result.to_record() for run in finished], say=False)


def _end(args: argparse.Namespace, records: list[dict[str, Any]], *, say: bool = True) -> int:
    ok = all(record["ok"] for record in records)
    if args.json:
        print_json({"ok": ok, "runs": records})
    for record in records:
        if not record["ok"] and say:
            print(f"deadpeer lab: {record['failure']} (seed {record['seed']})", file=sys.stderr)
    return OK if ok else FAILED


async def _each(
    runs: Sequence[LabOptions], to_screen: Callable[[LabOptions], Awaitable[Run]] | None
) -> list[Run]:
    from deadpeer.lab.recording import Silent
    from deadpeer.lab.runs import run_once

    return [await (to_screen(each) if to_screen else run_once(each, Silent())) for each in runs]


async def _clusters(plans: Sequence[ClusterPlan], say: Callable[[str], None]) -> list[Outcome]:
    from deadpeer.lab.scenarios.cluster import run_cluster

    return [outcome for plan in plans for outcome in await run_cluster(plan, say)]


def _plans(args: argparse.Namespace) -> list[ClusterPlan]:
    """What is to be run; raises LabError if it can't be.

    One cluster; unless it was said otherwise a second one, whose members hand no packets to each other: they
    must know by themselves that others' SAs live.
    """
    from deadpeer.lab.scenarios.etcd import require_etcd
    from deadpeer.lab.scenarios.plan import (
        BLINK_LEASE_S,
        HAPPENINGS,
        NEED_FORWARD,
        STANDBY_HAPPENINGS,
        ClusterPlan,
    )

    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    every = args.event is None or "all" in args.event
    if args.scenario == "failover":
        happenings = STANDBY_HAPPENINGS if every else tuple(args.event)
        clients = 4 if args.clients is None else args.clients
        plan = ClusterPlan.of_standby(clients, happenings, seed, args.method or "qcd")
        plan.check()
        return [plan]
    given = {"members": args.members, "clients": args.clients, "lease_s": args.lease, "beyond_s": args.down}
    left_out = set() if args.lease is None or args.lease >= BLINK_LEASE_S else {"blink"}
    left_out |= NEED_FORWARD if args.forward is False else set()
    usual = tuple(happening for happening in HAPPENINGS if happening not in left_out)
    plan = ClusterPlan(
        happenings=usual if every else tuple(args.event),
        seed=seed,
        forward=args.forward is not False,
        blink_s=args.down,
        method=args.method or "qcd",
        **{name: value for name, value in given.items() if value is not None},
    )
    plan.check()
    require_etcd()
    both = args.forward is None and every
    return [plan, replace(plan, forward=False, happenings=("kill",))] if both else [plan]


def only_reboot(args: argparse.Namespace) -> None:
    """Raise LabError (usage) for options of a cluster where there is none."""
    for name in ("members", "clients", "lease", "event", "forward", "swarm"):
        if getattr(args, name) is not None:
            raise LabError(f"--{name} belongs to --scenario cluster", usage=True)


def _only(args: argparse.Namespace) -> None:
    """Raise LabError (usage) for options that belong to other runs."""
    several = args.scenario in EVENTS
    failover = args.scenario == "failover"
    if not several:
        only_reboot(args)
    else:
        _only_its_own([] if args.swarm is not None else args.event or (), args.scenario)
    for name, given in (
        ("--attack", args.attack is not None),
        ("--report", args.report is not None),
        ("--quick", args.quick),
        ("--seconds", args.seconds is not None),
        ("--method all", args.method == "all"),
        (f"--method {args.method}", several and args.method not in (None, "qcd", "sir", "all")),
        ("--rtt", several and args.rtt is not None),
        ("--loss", several and args.loss != 0.0),
        ("--idle", args.idle),
        ("--netns", several and args.netns),
        ("--peer strongswan", args.peer != "deadpeer"),
        ("--resume", several and bool(args.resume) and args.swarm is None),
        ("--spi-map", args.spi_map),
        ("--announce", args.announce),
        ("--no-hints", several and not args.hints),
        ("--down", args.scenario != "cluster" and args.down is not None),
        ("--members", failover and args.members is not None),
        ("--lease", failover and args.lease is not None),
        ("--forward", failover and args.forward is not None),
    ):
        if given:
            raise LabError(f"{name} does not go with --scenario {args.scenario}: leave it out", usage=True)


def _only_its_own(events: Sequence[str], scenario: str) -> None:
    for event in events:
        if event not in ("all", *EVENTS[scenario]):
            names = ", ".join(EVENTS[scenario])
            raise LabError(f"--event {event}: --scenario {scenario} has {names}", usage=True)


def _saying(began_s: float) -> Callable[[str], None]:
    def say(text: str) -> None:
        print(f"{time.monotonic() - began_s:8.3f} s  {text}", flush=True)

    return say


def _say_nothing(_text: str) -> None:
    pass
