"""The comparison: one column for each way to find out, one row for each thing to know, computed. Pure.

Each row says how its numbers came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from deadpeer.lab.attacks.model import AttackResult
from deadpeer.lab.costs.model import (
    AUTHENTICATION_TITLES,
    AUTHENTICATIONS,
    Authentication,
    Costs,
    End,
    RecoveryCost,
    Role,
)
from deadpeer.lab.options import LIVENESS_S
from deadpeer.lab.report.balanced import columns
from deadpeer.lab.report.model import Measured, Report, spread
from deadpeer.lab.report.notation import (
    NARROW,
    NONE,
    cpu,
    duration,
    number,
    octets,
    pair,
    round_trips,
    span,
)
from deadpeer.lab.report.variants import Variant

Tone = Literal["", "good", "bad", "muted"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is read first, and what is read after it."""

    text: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Row:
    """`how`: how it was measured, or that it is by design."""

    label: str
    how: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that belong together."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Columns by title, and the rows in sections; every row has a cell for each column."""

    columns: tuple[str, ...]
    sections: tuple[Section, ...]


EMPTY = Cell(NONE, tone="muted")
INITIATOR: End = "initiator"
RESPONDER: End = "responder"


def comparison(report: Report) -> Comparison:
    """The table. Its last column is the reference: strongSwan on both sides."""
    return Comparison(
        (*(v.short for v in report.variants), "strongSwan on both sides, defaults"),
        (
            Section("What it is", _design(report)),
            Section("Finding out, and traffic again", _times(report)),
            Section("What a recovery takes", _effort(report)),
            Section("What is stored for each SA", _storage(report)),
            Section("What an attacker can do, and where it fits", _safety(report)),
        ),
    )


def _row(
    report: Report, label: str, how: str, cell: Callable[[Variant], Cell], reference: Cell = EMPTY
) -> Row:
    return Row(label, how, (*(cell(v) for v in report.variants), reference))


# --- by design ---------------------------------------------------------------------------------------


def _design(report: Report) -> tuple[Row, ...]:
    return (
        _row(report, "Needs from Bob", "by design", lambda v: Cell(v.needs), Cell("nothing")),
        _row(
            report,
            "Proof of the loss",
            "by design; every verdict in the log names its evidence",
            lambda v: Cell(v.proof),
            Cell("165 s without an answer"),
        ),
    )


# --- times -------------------------------------------------------------------------------------------


def _times(report: Report) -> tuple[Row, ...]:
    count = max((len(report.of(v, resume=False)) for v in report.variants), default=0)
    how = f"median of {count} runs, least to greatest; round trip time (RTT) {report.rtt_ms:g} ms"
    if count == 1:
        how = f"one run; round trip time (RTT) {report.rtt_ms:g} ms"
    reference = report.reference
    earlier = f"measured {reference.measured}" + ("" if reference.here else ", earlier")
    return (
        _row(
            report,
            "Detect",
            f"{how}; from Bob\N{RIGHT SINGLE QUOTATION MARK}s return until Alice holds the verdict;"
            " theory in RTT; who is asking already when he returns is faster",
            lambda v: _time(report, v, False, lambda m: m.result.detect_ms, 0),
        ),
        _row(
            report,
            "Recover",
            f"{how}; until the first packet made the round trip (idle: until the new SA is up)",
            lambda v: _time(report, v, False, lambda m: m.result.recover_ms, 1),
            Cell(f"{reference.recover_s:.0f}{NARROW}s", earlier, "bad"),
        ),
        _row(
            report,
            "Recover, session resumed",
            "the same with a ticket (RFC 5723) in place of a key exchange",
            lambda v: _time(report, v, True, lambda m: m.result.recover_ms, None),
        ),
        _row(
            report,
            "Packets lost after Bob was back",
            f"median; one packet every 10 ms, Bob down for {report.down_s:g} s and his start",
            lambda v: _lost(report, v),
            Cell(f"some {octets(reference.recover_s * 100)}", "at the same rate", "bad"),
        ),
        _row(
            report,
            "Runs that recovered by this method",
            "of all runs of this page: round trip times, seeds, full and resumed",
            lambda v: _share(report, v),
            Cell("1 of 1") if reference.here else EMPTY,
        ),
    )


def _time(
    report: Report, v: Variant, resume: bool, pick: Callable[[Measured], float | None], which: int | None
) -> Cell:
    asked = report.of(v, resume=resume)
    runs = tuple(run for run in asked if run.resumed) if resume else asked
    value = spread(runs, pick)
    if value is None:
        failures = _failures(asked)
        return (
            Cell("did not recover", failures, "bad") if failures else Cell(NONE, _full(asked, runs), "muted")
        )
    trips = "" if v.theory is None else round_trips(value.median, report.rtt_ms)
    notes = [
        duration(value.median) if trips else "",
        span(duration(value.least), duration(value.greatest)) if value.count > 1 else "",
        _full(asked, runs),
        f"theory {v.theory[which]:g}" if which is not None and v.theory is not None else "",
        f"{LIVENESS_S:g} s after his death here, 60 s by default"
        if v.method == "liveness" and which == 0
        else "",
    ]
    return Cell(f"{trips} RTT" if trips else duration(value.median), "; ".join(filter(None, notes)))


def _full(asked: Sequence[Measured], runs: Sequence[Measured]) -> str:
    """How many of those that had a ticket went the long way."""
    count = len(asked) - len(runs)
    return f"{count} of {len(asked)} took a full exchange" if count else ""


def _failures(runs: Sequence[Measured]) -> str:
    return next((run.result.failure for run in runs if run.result.failure), "")


def _lost(report: Report, v: Variant) -> Cell:
    if v.idle:
        return Cell(NONE, "idle: none sent", "muted")
    runs = report.of(v, resume=False)
    after = spread(runs, lambda m: float(m.result.packets_lost - m.result.lost_while_down))
    total = spread(runs, lambda m: float(m.result.packets_lost))
    if after is None or total is None:
        return EMPTY
    return Cell(number(after.median), f"{number(total.median)} with those lost while he was down")


def _share(report: Report, v: Variant) -> Cell:
    runs = [run for run in report.runs if run.variant.key == v.key]
    if not runs:
        return EMPTY
    good = sum(run.result.ok for run in runs)
    return Cell(f"{good} of {len(runs)}", _failures(runs), "good" if good == len(runs) else "bad")


# --- effort ------------------------------------------------------------------------------------------


def _effort(report: Report) -> tuple[Row, ...]:
    rows = [
        _row(
            report,
            "IKE messages, Alice + Bob",
            "median; seen by the relay from Bob\N{RIGHT SINGLE QUOTATION MARK}s return until traffic flows,"
            " UDP payload octets below",
            lambda v: _messages(report, v),
        )
    ]
    costs = report.costs
    if costs is None:
        return tuple(rows)
    how = "median; the real endpoints driven in memory, no sockets"
    rows += [
        _row(
            report,
            f"CPU per recovery, Alice / Bob, {AUTHENTICATION_TITLES[authentication]}",
            how,
            lambda v, authentication=authentication: _cpu(costs, v, authentication),  # type: ignore[misc]
        )
        for authentication in AUTHENTICATIONS
    ]
    return tuple(rows)


def _messages(report: Report, v: Variant) -> Cell:
    runs = report.of(v, resume=False)
    alice, bob = spread(runs, lambda m: m.alice.messages), spread(runs, lambda m: m.bob.messages)
    all_octets = spread(runs, lambda m: float(m.alice.octets + m.bob.octets))
    if alice is None or bob is None or all_octets is None:
        return EMPTY
    return Cell(
        f"{number(alice.median)} + {number(bob.median)}", f"{octets(all_octets.median)} octets in all"
    )


def _cpu(costs: Costs, v: Variant, authentication: Authentication) -> Cell:
    full = recovery_cost(costs, v, authentication, resumed=False)
    if full is None:
        return EMPTY
    if v.peer != "deadpeer":
        return Cell(cpu(full.alice.cpu_us), f"Alice; OpenSSL {full.alice.primitives_share:.0%}")
    note = f"OpenSSL {full.alice.primitives_share:.0%} / {full.bob.primitives_share:.0%}"
    resumed = recovery_cost(costs, v, authentication, resumed=True)
    if resumed is not None:
        note = f"resumed {pair(cpu(resumed.alice.cpu_us), cpu(resumed.bob.cpu_us))}; {note}"
    return Cell(pair(cpu(full.alice.cpu_us), cpu(full.bob.cpu_us)), note)


def recovery_cost(
    costs: Costs, v: Variant, authentication: Authentication, *, resumed: bool
) -> RecoveryCost | None:
    """What a recovery of this variant costs; None if it was not measured."""
    try:
        return costs.recovery(v.way, authentication, resumed=resumed)
    except KeyError:
        return None


# --- storage -----------------------------------------------------------------------------------------


def _storage(report: Report) -> tuple[Row, ...]:
    keys = _row(
        report,
        "Keys and secrets",
        "by design; with resumption Bob also has a ticket key that rotates, on disk",
        lambda v: Cell(v.secrets),
        Cell("none"),
    )
    costs = report.costs
    if costs is None:
        return (keys,)
    return (
        _row(
            report,
            "Octets in memory per SA, Alice / Bob",
            f"more than without it, in CPython, measured over {costs.sas} SAs",
            lambda v: _memory(costs, v),
            Cell("0 / 0"),
        ),
        _row(
            report,
            "Octets on disk per SA, Alice / Bob",
            "sizes of the records; once: for the whole gateway, the secret of the tokens included",
            lambda v: _disk(costs, v),
            Cell("0 / 0"),
        ),
        keys,
    )


def _memory(costs: Costs, v: Variant) -> Cell:
    alice, bob = _sum(costs, v.alice, INITIATOR), _sum(costs, v.bob, RESPONDER)
    note = ""
    if v.resumable:
        tickets = _cost(costs, "ticket-client", INITIATOR)[0], _cost(costs, "ticket-gateway", RESPONDER)[0]
        note = f"+ {octets(tickets[0])} / {octets(tickets[1])} with resumption"
    return Cell(f"{octets(alice[0])} / {octets(bob[0])}", note)


def _disk(costs: Costs, v: Variant) -> Cell:
    alice, bob = _sum(costs, v.alice, INITIATOR), _sum(costs, v.bob, RESPONDER)
    once = bob[2] + (secret_octets(costs) if "token-maker" in v.bob else 0)
    note = f"once: {octets(alice[2])} / {octets(once)}" if alice[2] or once else ""
    return Cell(f"{octets(alice[1])} / {octets(bob[1])}", note)


def secret_octets(costs: Costs) -> float:
    """What holds the secret that tokens are made from, once per gateway."""
    return next((kept.octets for kept in costs.kept if "secret of the tokens" in kept.what), 0.0)


def _sum(costs: Costs, roles: Sequence[Role], end: End) -> tuple[float, float, float]:
    each = [_cost(costs, role, end) for role in roles]
    return sum(one[0] for one in each), sum(one[1] for one in each), sum(one[2] for one in each)


def _cost(costs: Costs, role: Role, end: End) -> tuple[float, float, float]:
    """(memory and disk per SA, disk once) of a role at one end; zeros if it has nothing there."""
    try:
        cost = costs.role(role, end)
    except KeyError:
        return 0.0, 0.0, 0.0
    return cost.memory_octets, cost.disk_octets, float(cost.disk_fixed_octets)


# --- safety ------------------------------------------------------------------------------------------

_MIDDLE = {
    "qcd": Cell(
        "stops packets, forges no verdict", "no token crosses the link in the clear while its SA lives"
    ),
    "sir": Cell("a bounded number of new SAs", "the old one goes only when Bob authenticated a new one"),
    "reconnect": Cell(
        "a bounded number of new SAs", "the old one goes only when Bob authenticated a new one"
    ),
    "liveness": Cell("cuts the line", "for longer than the floor of time: then the SA is rebuilt"),
}
_BALANCED = {
    "reconnect": Cell("yes: the proof is a new SA, whichever member builds it", "by design"),
    "liveness": Cell("yes: nothing is asked of Bob", "by design"),
}
_SUPPORT = {"yes": "yes", "no": "no", "harmless": "yes", "": "not measured"}


def _safety(report: Report) -> tuple[Row, ...]:
    return (
        _row(
            report,
            "Attacks that kept to their bound",
            "measured against the method, on living gateways under traffic; details below",
            lambda v: _attacks(report, v),
        ),
        _row(
            report,
            "Living SAs that attackers made a side drop",
            "measured in those attacks; a forced rekey counts too",
            lambda v: _sas_lost(report, v),
        ),
        _row(
            report,
            "A man in the middle can",
            "by design; his attacks are measured below",
            lambda v: _MIDDLE[v.method],
            Cell("cut the line", "for 165 s: then the SA is rebuilt"),
        ),
        _row(
            report,
            "Support for load-balancer failover",
            "measured for QCD and SIR, by gateways that know nothing of each other (alone) and by a cluster"
            " (with ownership); details below",
            lambda v: _BALANCED.get(v.method) or _balanced(report, v),
            Cell("yes: nothing is asked of Bob", "by design"),
        ),
    )


def _balanced(report: Report, v: Variant) -> Cell:
    """Alone and with ownership."""
    found = [column for column in columns(report) if column.method == v.method]
    texts = [f"{'with ownership' if c.owned else 'alone'}: {_SUPPORT[c.verdict]}" for c in found]
    notes = [
        f"{'with ownership' if c.owned else 'alone'} {c.told} of {octets(c.asked or 0)} questions about"
        f" living SAs answered, {(c.ended or 0) + c.ended_besides} SAs ended"
        for c in found
        if c.told is not None
    ]
    bad = any(c.owned and c.verdict not in ("yes", "") for c in found)
    return Cell("; ".join(texts), "; ".join(notes), "bad" if bad else "" if notes else "muted")


def _attacks(report: Report, v: Variant) -> Cell:
    results = _tried(report, v)
    if not results:
        return EMPTY
    held = sum(result.ok for result in results)
    return Cell(f"{held} of {len(results)}", "", "good" if held == len(results) else "bad")


def _tried(report: Report, v: Variant) -> list[AttackResult]:
    """The attacks are on two gateways of ours."""
    return [one for one in report.attacks if one.method == v.method and v.peer == "deadpeer"]


def _sas_lost(report: Report, v: Variant) -> Cell:
    results = _tried(report, v)
    if not results:
        return EMPTY
    off, on = (
        sum(result.sas_lost for result in results if result.attack.place == place)
        for place in ("off-path", "on-path")
    )
    note = "each after its replacement was up" if on else ""
    return Cell(f"{off} off-path, {on} on-path", note, "bad" if off else "")
