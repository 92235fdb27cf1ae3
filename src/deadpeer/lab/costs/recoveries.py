"""CPU and messages of recoveries, by every way to find out, full and resumed."""

from __future__ import annotations

import gc
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product

from deadpeer.lab.costs.meter import Meter
from deadpeer.lab.costs.model import (
    Authentication,
    Operations,
    Ratio,
    RecoveryCost,
    SideCost,
    Way,
    Wire,
)
from deadpeer.lab.costs.rig import RTT_MS, Gateway, Rig
from deadpeer.lab.costs.setups import BEHIND_BOB, behind_alice, name_of, rig_of, setup_of
from deadpeer.lab.options import LabError

Kind = tuple[Way, Authentication, bool]
"""Way, authentication, resumed."""

IDLE: tuple[Way, ...] = ("qcd-announced",)
"""Here nothing is sent through the tunnel, and Bob speaks first."""

METERED = 5
"""So many further recoveries of each kind run with the meter on. It slows down all but the primitives."""

_LIMIT_S = 300.0
_PACKET_S = 1.0
"""Alice's host sends one packet when Bob is back, and others so long after each other."""
_FLOW_S = 0.2


@dataclass(frozen=True, slots=True)
class _Side:
    cpu_us: float
    primitives_us: float
    operations: Operations
    sent: Wire


@dataclass(frozen=True, slots=True)
class _Sample:
    """One recovery. Without a meter it knows no primitives; with one its CPU is of no use."""

    detect_ms: float
    recover_ms: float
    alice: _Side
    bob: _Side


def measure_recoveries(
    say: Callable[[str], None],
    ways: Sequence[Way],
    authentications: Sequence[Authentication],
    recoveries: int,
) -> tuple[RecoveryCost, ...]:
    """`recoveries` of each kind, those full and those resumed in turns, and some more with the meter on.

    Raises LabError where something did not go as its kind demands: no verdict, no traffic, not resumed.
    """
    meter = Meter()
    costs = []
    for way, authentication in product(ways, authentications):
        plain: dict[bool, list[_Sample]] = defaultdict(list)
        metered: dict[bool, list[_Sample]] = defaultdict(list)
        for _ in range(recoveries):
            for resumed in (False, True):
                plain[resumed].append(_sample((way, authentication, resumed)))
        for _ in range(min(METERED, recoveries)):
            for resumed in (False, True):
                metered[resumed].append(_sample((way, authentication, resumed), meter))
        for resumed in (False, True):
            kind = (way, authentication, resumed)
            costs.append(_cost(kind, plain[resumed], metered[resumed]))
            cost = costs[-1]
            say(
                f"{way}, {authentication}, {'resumed' if resumed else 'full'}:"
                f" Alice {cost.alice.cpu_us:.0f} us, Bob {cost.bob.cpu_us:.0f} us"
            )
    return tuple(costs)


def ratios(costs: Sequence[RecoveryCost]) -> tuple[Ratio, ...]:
    """Resumed against full, for each pair that is there. Pure."""
    full = {(c.way, c.authentication): c for c in costs if not c.resumed}
    found = []
    for cost in costs:
        other = full.get((cost.way, cost.authentication))
        if cost.resumed and other is not None:
            alice = cost.alice.cpu_us / other.alice.cpu_us
            bob = cost.bob.cpu_us / other.bob.cpu_us
            found.append(Ratio(cost.way, cost.authentication, alice, bob))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Recovered:
    """Two gateways after a recovery. Moments are virtual, ns."""

    rig: Rig
    back_ns: int
    verdict_ns: int
    recovered_ns: int


def recovered(kind: Kind, meter: Meter | None = None) -> Recovered:
    """Build a tunnel, let it carry a packet, crash Bob, and bring it back. Raises LabError.

    What both sides have counted begins when Bob is up again.
    """
    way, authentication, resumed = kind
    setup = setup_of(way, resumed=resumed)
    rig = rig_of({"alice": setup, "bob": setup}, authentication, meter=meter)
    rig.up(name_of(0))
    rig.send(behind_alice(0), BEHIND_BOB)
    rig.run(_FLOW_S)
    rig.crash("bob")
    rig.boot("bob")
    gc.collect()
    rig.reset()
    # Times count from the arrival of a packet that is on its way when Bob is back; an idle tunnel has none.
    back_ns = rig.mono_ns + (0 if way in IDLE else int(RTT_MS * 1e6 / 2))
    with meter.running() if meter is not None else nullcontext():
        recovered_ns = _bring_back(rig, kind)
    verdict = rig.alice.event("verdict")
    if verdict is None:
        raise LabError(f"{_name(kind)}: Alice came to no verdict")
    return Recovered(rig, back_ns, verdict[0], recovered_ns)


def _bring_back(rig: Rig, kind: Kind) -> int:
    """From Bob's boot until an echo has made the round trip over the new SA; when that was (with an idle
    tunnel: when the new child SA was up)."""
    way, _, resumed = kind
    idle = way in IDLE
    if not idle:
        rig.send(behind_alice(0), BEHIND_BOB)
    waited = 0.0
    while not rig.run(_PACKET_S, lambda: _stands(rig)):
        waited += _PACKET_S
        if waited > _LIMIT_S:
            raise LabError(f"{_name(kind)}: no verdict within {_LIMIT_S:g} s")
        if not idle:
            rig.send(behind_alice(0), BEHIND_BOB)
    up_ns, heard = rig.mono_ns, len(rig.alice.behind.received)
    rig.send(behind_alice(0), BEHIND_BOB)
    if not rig.run(_PACKET_S, lambda: len(rig.alice.behind.received) > heard):
        raise LabError(f"{_name(kind)}: the new SA carries no traffic")
    recovered_ns = up_ns if idle else rig.mono_ns
    if (rig.bob.event("resumed") is not None) is not resumed:
        raise LabError(f"{_name(kind)}: {'not resumed' if resumed else 'resumed'}")
    rig.settle()
    return recovered_ns


def _sample(kind: Kind, meter: Meter | None = None) -> _Sample:
    done = recovered(kind, meter)
    return _Sample(
        (done.verdict_ns - done.back_ns) / 1e6,
        (done.recovered_ns - done.back_ns) / 1e6,
        _side(done.rig.alice),
        _side(done.rig.bob),
    )


def _stands(rig: Rig) -> bool:
    return rig.alice.event("verdict") is not None and rig.alice.event("child_up") is not None


def _side(gateway: Gateway) -> _Side:
    tally = gateway.tally
    return _Side(gateway.cpu_ns / 1e3, tally.ns / 1e3, tally.operations(), gateway.wire())


def _cost(kind: Kind, plain: Sequence[_Sample], metered: Sequence[_Sample]) -> RecoveryCost:
    way, authentication, resumed = kind
    return RecoveryCost(
        way,
        authentication,
        resumed,
        len(plain),
        RTT_MS,
        statistics.median(s.detect_ms for s in plain),
        statistics.median(s.recover_ms for s in plain),
        _side_cost([s.alice for s in plain], [s.alice for s in metered]),
        _side_cost([s.bob for s in plain], [s.bob for s in metered]),
    )


def _side_cost(plain: Sequence[_Side], metered: Sequence[_Side]) -> SideCost:
    """CPU from the runs without the meter; what only it can tell, from those with it."""
    cpu = [side.cpu_us for side in plain]
    low, middle, high = statistics.quantiles(cpu, n=4, method="inclusive") if len(cpu) > 1 else cpu * 3
    return SideCost(
        cpu_us=middle,
        cpu_quartiles_us=(low, high),
        primitives_us=statistics.median(side.primitives_us for side in metered),
        operations=statistics.mode(side.operations for side in metered),
        sent=statistics.mode(side.sent for side in plain),
    )


def _name(kind: Kind) -> str:
    way, authentication, resumed = kind
    return f"{way}, {authentication}, {'resumed' if resumed else 'full'}"
