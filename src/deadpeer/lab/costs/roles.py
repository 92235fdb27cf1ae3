"""What each role adds to an SA: octets in memory and on disk, messages, CPU.

A role is played by one side while the other has no more than it takes; all other roles are off. What it adds
is the difference to two gateways without any role (for the SPI map, to two token makers without it).
"""

from __future__ import annotations

import gc
import math
import statistics
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from deadpeer.crash.options import Method
from deadpeer.ike.io import Rekey
from deadpeer.lab.costs.model import Baseline, End, Role, RoleCost, Wire
from deadpeer.lab.costs.rig import SIDES, Rig
from deadpeer.lab.costs.setups import Setup, name_of, rig_of
from deadpeer.lab.options import Side

END: dict[Side, End] = {"alice": "initiator", "bob": "responder"}
"""Alice initiates, and rekeys."""

_OFF = Setup()
_QCD = (Method.QCD, Method.LIVENESS)
_BOTH = Setup(methods=_QCD, qcd="both")


@dataclass(frozen=True, slots=True)
class _Case:
    """Two setups, those to compare with, and who plays which role."""

    alice: Setup
    bob: Setup
    roles: tuple[tuple[Role, Side], ...]
    than: tuple[Setup, Setup] = (_OFF, _OFF)


_CASES: tuple[_Case, ...] = (
    _Case(
        Setup(methods=_QCD, qcd="taker"),
        Setup(methods=_QCD, qcd="maker"),
        (("token-maker", "bob"), ("token-taker", "alice")),
    ),
    _Case(
        Setup(methods=_QCD, qcd="maker"),
        Setup(methods=_QCD, qcd="taker"),
        (("token-maker", "alice"), ("token-taker", "bob")),
    ),
    _Case(
        Setup(methods=(Method.SIR, Method.LIVENESS), sir=True),
        Setup(methods=(Method.SIR, Method.LIVENESS), sir=True),
        (("sir", "alice"), ("sir", "bob")),
    ),
    _Case(
        Setup(resumption=True),
        Setup(resumption=True),
        (("ticket-client", "alice"), ("ticket-gateway", "bob")),
    ),
    _Case(
        replace(_BOTH, spi_map=True),
        replace(_BOTH, spi_map=True),
        (("spi-map", "alice"), ("spi-map", "bob")),
        (_BOTH, _BOTH),
    ),
)


@dataclass(frozen=True, slots=True)
class _Figures:
    """One side of one pair of setups. `setup_cpu_us` has one figure for each SA that was built."""

    memory_octets: float
    disk_octets: float
    disk_fixed_octets: int
    setup: Wire
    rekey: Wire
    setup_cpu_us: tuple[float, ...]


_Pair = tuple[Setup, Setup]


def measure_roles(
    say: Callable[[str], None], *, sas: int, setups: int
) -> tuple[tuple[Baseline, ...], tuple[RoleCost, ...]]:
    """The SA without roles, and what each role adds to it, at either end where it can be played.

    Octets are averages over `sas` SAs, CPU is the median of `setups`, taken in turns. Raises LabError.
    """
    pairs = list(dict.fromkeys([(_OFF, _OFF), (_BOTH, _BOTH), *((c.alice, c.bob) for c in _CASES)]))
    cpu = _setup_cpu(pairs, setups)
    figures: dict[_Pair, dict[Side, _Figures]] = {}
    for pair in pairs:
        figures[pair] = _measure(pair, sas, cpu[pair])
        say(f"roles: {len(figures)} of {len(pairs)} pairs of gateways with {sas} SAs")
    bare = figures[_OFF, _OFF]
    baselines = tuple(
        Baseline(
            END[side],
            bare[side].memory_octets,
            bare[side].setup,
            bare[side].rekey,
            statistics.median(bare[side].setup_cpu_us),
        )
        for side in SIDES
    )
    return baselines, tuple(
        _role(role, side, figures[case.alice, case.bob], figures[case.than])
        for case in _CASES
        for role, side in case.roles
    )


def _role(
    role: Role, side: Side, with_it: Mapping[Side, _Figures], without: Mapping[Side, _Figures]
) -> RoleCost:
    other: Side = "bob" if side == "alice" else "alice"
    mine, bare = with_it[side], without[side]
    theirs, bare_theirs = with_it[other], without[other]
    added, error = median_difference(mine.setup_cpu_us, bare.setup_cpu_us)
    return RoleCost(
        role=role,
        end=END[side],
        memory_octets=mine.memory_octets - bare.memory_octets,
        disk_octets=mine.disk_octets - bare.disk_octets,
        disk_fixed_octets=mine.disk_fixed_octets - bare.disk_fixed_octets,
        setup_sent=mine.setup - bare.setup,
        setup_received=theirs.setup - bare_theirs.setup,
        rekey_sent=mine.rekey - bare.rekey,
        rekey_received=theirs.rekey - bare_theirs.rekey,
        setup_cpu_us=added,
        setup_cpu_error_us=error,
    )


def median_difference(more: Sequence[float], less: Sequence[float]) -> tuple[float, float]:
    """The difference of two medians and its standard error, from the spread of the middle half. Pure."""
    return (
        statistics.median(more) - statistics.median(less),
        math.hypot(_standard_error(more), _standard_error(less)),
    )


def _standard_error(sample: Sequence[float]) -> float:
    """Of a median: 1.253 sigma / sqrt(n), with sigma = 0.741 of the distance between the quartiles."""
    if len(sample) < 2:
        return 0.0
    low, _, high = statistics.quantiles(sample, n=4, method="inclusive")
    return 1.253 * 0.741 * (high - low) / math.sqrt(len(sample))


# --- messages and CPU -----------------------------------------------------------------------------


def _measure(pair: _Pair, sas: int, cpu: Mapping[Side, tuple[float, ...]]) -> dict[Side, _Figures]:
    rig = _rig(pair, 1)
    fixed = {g.name: g.stored() for g in (rig.alice, rig.bob)}
    rig.reset()
    rig.up(name_of(0))
    setup = {g.name: g.wire() for g in (rig.alice, rig.bob)}
    rig.reset()
    rig.command("alice", lambda tag: Rekey(name_of(0), None, tag))
    # What follows a rekey without being part of it: a new token, a new ticket, the old SA's DELETE.
    rig.run(1.0)
    rekey = {g.name: g.wire() for g in (rig.alice, rig.bob)}
    few, many = max(1, sas // 4), sas
    less, more = _held(pair, few), _held(pair, many)
    return {
        side: _Figures(
            memory_octets=_slope(less[side].memory, more[side].memory, few, many),
            disk_octets=_slope(less[side].disk, more[side].disk, few, many),
            disk_fixed_octets=fixed[side],
            setup=setup[side],
            rekey=rekey[side],
            setup_cpu_us=cpu[side],
        )
        for side in SIDES
    }


def _slope(few_octets: int, many_octets: int, few: int, many: int) -> float:
    """Octets per SA; what is there once falls out. With a single SA there is no telling."""
    return (many_octets - few_octets) / (many - few) if many > few else float(many_octets)


def _setup_cpu(pairs: Sequence[_Pair], setups: int) -> dict[_Pair, dict[Side, tuple[float, ...]]]:
    """CPU of building one SA, `setups` times, the pairs in turns, so that what slows the machine hits all."""
    found: dict[_Pair, dict[Side, list[float]]] = {pair: defaultdict(list) for pair in pairs}
    for _ in range(setups):
        for pair in pairs:
            rig = _rig(pair, 1)
            gc.collect()
            rig.reset()
            rig.up(name_of(0))
            for gateway in (rig.alice, rig.bob):
                found[pair][gateway.name].append(gateway.cpu_ns / 1e3)
    return {pair: {side: tuple(sides[side]) for side in SIDES} for pair, sides in found.items()}


# --- memory and disk ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """Octets that one side has with so many SAs."""

    memory: int
    disk: int


def _held(pair: _Pair, sas: int) -> dict[Side, _Held]:
    """Memory is what goes when a gateway goes: first Bob, then Alice."""
    tracemalloc.start()
    try:
        rig = _rig(pair, sas)
        for number in range(sas):
            rig.up(name_of(number))
        rig.reset()
        return {g.name: _Held(_dropped(rig, g.name), g.stored()) for g in (rig.bob, rig.alice)}
    finally:
        tracemalloc.stop()


def _dropped(rig: Rig, side: Side) -> int:
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    rig.crash(side)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    return before - after


def _rig(pair: _Pair, sas: int) -> Rig:
    return rig_of({"alice": pair[0], "bob": pair[1]}, "psk", sas=sas)
