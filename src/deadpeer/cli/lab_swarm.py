"""The part of `deadpeer lab` that is about `--swarm`."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deadpeer.lab.options import LabError

if TYPE_CHECKING:
    from deadpeer.lab.swarm.plan import SwarmPlan

SWARM = 500
STATE = "state"


def add_argument(group: Any) -> None:
    """The option, to a group of an argument parser."""
    group.add_argument(
        "--swarm",
        type=int,
        nargs="?",
        const=SWARM,
        metavar="N",
        help="instead of all this: N clients at once in a few processes, each an endpoint of its own with its"
        " own sockets. They connect; the active gateway, or a member, is killed; how long until all are back"
        f" is held against how long connecting took. With cluster --event {STATE}: what the members share in"
        f" etcd, at 10 SAs and at N (default N: {SWARM})",
    )


def plan(args: argparse.Namespace) -> SwarmPlan:
    """What is to be run; raises LabError if it can't be."""
    from deadpeer.lab.scenarios.etcd import require_etcd
    from deadpeer.lab.swarm.plan import EVENTS, SwarmPlan

    known = EVENTS[args.scenario]
    named = [event for event in args.event or () if event != "all"]
    if len(named) > 1 or any(event not in known for event in named):
        raise LabError(f"--swarm has one --event: {' or '.join(known)}", usage=True)
    for name, given in (
        ("--clients", args.clients is not None),
        ("--forward", args.forward is not None),
        ("--down", args.down is not None),
        ("--resume", bool(args.resume) and STATE in named),
    ):
        if given:
            raise LabError(f"{name} does not go with --swarm: leave it out", usage=True)
    event = next((each for each in known if each in named), known[0])
    given_too = {"members": args.members, "lease_s": args.lease}
    made = SwarmPlan(
        event,
        args.swarm,
        resume=bool(args.resume),
        method=args.method or "qcd",
        seed=secrets.randbelow(2**31) if args.seed is None else args.seed,
        **{name: value for name, value in given_too.items() if value is not None},
        **({"members": 2} if args.scenario == "failover" else {}),
    )
    made.check()
    if not made.standby:
        require_etcd()
    return made


async def run(wanted: SwarmPlan, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The records of the run. Raises LabError."""
    from deadpeer.lab.swarm.runs import run_swarm

    return [outcome.to_record() for outcome in await run_swarm(wanted, say)]
