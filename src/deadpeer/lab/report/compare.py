"""The comparison: one column for each way to find out, one row for each thing to know, computed. Pure.

Each row says how its numbers came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from deadpeer.lab.costs.model import Authentication, Costs, End, RecoveryCost, Role
from deadpeer.lab.options import LIVENESS_S
from deadpeer.lab.report.model import Measured, Report, Spread, spread
from deadpeer.lab.report.notation import NARROW, NONE, cpu, duration, number, octets, round_trips, span
from deadpeer.lab.report.variants import Variant

Tone = Literal["", "good", "bad", "muted"]
Side = Literal["alice", "bob"]


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
            Cell("165 s of retransmissions unanswered"),
        ),
    )


# --- times -------------------------------------------------------------------------------------------


def _times(report: Report) -> tuple[Row, ...]:
    count = max((len(report.of(v, resume=False)) for v in report.variants), default=0)
    how = f"median of {count} runs, least to greatest; round trip {report.rtt_ms:g} ms"
    if count == 1:
        how = f"one run; round trip {report.rtt_ms:g} ms"
    reference = report.reference
    earlier = f"measured {reference.measured}" + ("" if reference.here else ", earlier")
    return (
        _row(
            report,
            "Detect",
            f"{how}; from Bob\N{RIGHT SINGLE QUOTATION MARK}s return until Alice holds the verdict",
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
            Cell(
                f"some {round(reference.recover_s * 100):,}".replace(",", NARROW), "at the same rate", "bad"
            ),
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
    runs = report.of(v, resume=resume)
    value = spread(runs, pick)
    if value is None:
        return EMPTY if not runs else Cell("did not recover", _failures(runs), "bad")
    note = _spread_text(value)
    if which is not None and v.theory is not None:
        note += f"; theory {v.theory[which]:g} round trips"
    if v.method == "liveness" and which == 0:
        note += f"; silence counted {LIVENESS_S:g} s here, 60 s by default"
    trips = round_trips(value.median, report.rtt_ms)
    if v.theory is None or not trips:
        return Cell(duration(value.median), note)
    return Cell(f"{trips} round trips", f"{duration(value.median)}; {note}" if note else "")


def _spread_text(value: Spread) -> str:
    return "" if value.count == 1 else span(duration(value.least), duration(value.greatest))


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
    sides: tuple[tuple[Side, str], ...] = (("alice", "Alice"), ("bob", "Bob"))
    authentications: tuple[tuple[Authentication, str], ...] = (
        ("psk", "shared key"),
        ("rsa-3072", "RSA-3072"),
    )
    rows += [
        _row(
            report,
            f"CPU per recovery, {name}, {auth}",
            "median; the real endpoints driven in memory, no sockets; in brackets the part within OpenSSL"
            + (", and with a session resumed" if auth else ""),
            _cpu_of(costs, side, authentication),
        )
        for authentication, auth in authentications
        for side, name in sides
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


def _cpu_of(costs: Costs, side: Side, authentication: Authentication) -> Callable[[Variant], Cell]:
    def cell(v: Variant) -> Cell:
        if v.peer != "deadpeer" and side == "bob":
            return Cell(NONE, "not ours", "muted")
        full = recovery_cost(costs, v, authentication, resumed=False)
        if full is None:
            return EMPTY
        one = full.alice if side == "alice" else full.bob
        resumed = recovery_cost(costs, v, authentication, resumed=True) if v.resumable else None
        note = f"({one.primitives_share:.0%} OpenSSL)"
        if resumed is not None:
            other = resumed.alice if side == "alice" else resumed.bob
            note += f" resumed {cpu(other.cpu_us)}"
        return Cell(cpu(one.cpu_us), note)

    return cell


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
    how = f"over the same gateway without it, measured over {costs.sas:,} SAs".replace(",", NARROW)
    sides: tuple[tuple[Side, str, End], ...] = (("alice", "Alice", INITIATOR), ("bob", "Bob", RESPONDER))
    nothing = Cell("0", "nothing added")
    return (
        *(
            _row(
                report,
                f"Octets in memory per SA, {name}",
                f"{how}; a ticket comes on top",
                lambda v, side=side, end=end: _memory(costs, v, side, end),  # type: ignore[misc]
                nothing,
            )
            for side, name, end in sides
        ),
        *(
            _row(
                report,
                f"Octets on disk per SA, {name}",
                "size of the records; once per gateway: what there is however many SAs it has",
                lambda v, side=side, end=end: _disk(costs, v, side, end),  # type: ignore[misc]
                nothing,
            )
            for side, name, end in sides
        ),
        keys,
    )


def _roles(v: Variant, side: Side) -> tuple[Role, ...]:
    return v.alice if side == "alice" else v.bob


def _memory(costs: Costs, v: Variant, side: Side, end: End) -> Cell:
    if v.peer != "deadpeer" and side == "bob":
        return Cell("0", "unmodified")
    total = sum(_cost(costs, role, end)[0] for role in _roles(v, side))
    ticket: Role = "ticket-client" if side == "alice" else "ticket-gateway"
    note = f"+ {octets(_cost(costs, ticket, end)[0])} with resumption" if v.resumable else ""
    return Cell(octets(total), note)


def _disk(costs: Costs, v: Variant, side: Side, end: End) -> Cell:
    if v.peer != "deadpeer" and side == "bob":
        return Cell("0", "unmodified")
    per_sa = sum(_cost(costs, role, end)[1] for role in _roles(v, side))
    fixed = sum(_cost(costs, role, end)[2] for role in _roles(v, side))
    return Cell(octets(per_sa), f"{octets(fixed)} once per gateway" if fixed else "")


def _cost(costs: Costs, role: Role, end: End) -> tuple[float, float, float]:
    """(memory and disk per SA, disk once) of a role at one end; zeros if it has nothing there."""
    try:
        cost = costs.role(role, end)
    except KeyError:
        return 0.0, 0.0, 0.0
    return cost.memory_octets, cost.disk_octets, float(cost.disk_fixed_octets)


# --- safety ------------------------------------------------------------------------------------------

_MIDDLE = {
    "qcd": Cell("stops packets, forges no verdict", "the token never crosses the link in the clear before"),
    "sir": Cell("a bounded number of new SAs", "the old one goes only when Bob authenticated a new one"),
    "reconnect": Cell(
        "a bounded number of new SAs", "the old one goes only when Bob authenticated a new one"
    ),
    "liveness": Cell("cuts the line", "for longer than the floor of time: then the SA is rebuilt"),
}
_BALANCED = {
    "qcd": Cell("if members share the secret and know each other\N{RIGHT SINGLE QUOTATION MARK}s living SAs"),
    "sir": Cell("if the member that is asked knows all living SAs; else ACK and NACK contradict each other"),
    "reconnect": Cell("yes: the proof is a new SA, whichever member builds it"),
    "liveness": Cell("yes: nothing is asked of Bob"),
}


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
            "Living SAs lost to attackers",
            "measured in those attacks",
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
            "Behind a load balancer",
            "by design, not measured here: deadpeer has no cluster yet",
            lambda v: _BALANCED[v.method],
            Cell("yes: nothing is asked of Bob"),
        ),
    )


def _attacks(report: Report, v: Variant) -> Cell:
    results = [attack for attack in report.attacks if attack.method == v.method]
    if not results:
        return EMPTY
    held = sum(result.ok for result in results)
    return Cell(f"{held} of {len(results)}", "", "good" if held == len(results) else "bad")


def _sas_lost(report: Report, v: Variant) -> Cell:
    results = [attack for attack in report.attacks if attack.method == v.method]
    if not results:
        return EMPTY
    return Cell(str(sum(result.sas_lost for result in results)))
