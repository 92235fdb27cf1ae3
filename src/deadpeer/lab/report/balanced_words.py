"""What a report says about standing behind a load balancer, with the numbers. Pure; for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Callable

from deadpeer.lab.report.balanced import Column, columns
from deadpeer.lab.report.compare import EMPTY, Cell, Row, Tone
from deadpeer.lab.report.model import Report
from deadpeer.lab.report.notation import NARROW, duration, octets, span

S = "\N{RIGHT SINGLE QUOTATION MARK}s"
SUPPORT: dict[str, tuple[str, str, Tone]] = {
    "yes": ("Yes", "nothing is told of a living SA", "good"),
    "no": ("No", "whoever knows the SPIs buys a token, and ends the SA with it", "bad"),
    "harmless": (
        "Yes, by the client alone",
        "gateways deny living SAs, and the client sees through it",
        "good",
    ),
    "": ("not measured", "", "muted"),
}
"""A column's verdict in words."""


def titles(report: Report) -> tuple[str, ...]:
    """The columns of the table."""
    return tuple(column.title for column in columns(report))


def rows(report: Report) -> tuple[Row, ...]:
    """The table: one row for each number."""
    found = columns(report)

    def row(label: str, how: str, cell: Callable[[Column], Cell]) -> Row:
        return Row(label, how, tuple(EMPTY if column.told is None else cell(column) for column in found))

    return (
        Row(
            "Support for load-balancer failover",
            "what follows from the rows below",
            tuple(Cell(*SUPPORT[column.verdict]) for column in found),
        ),
        row("How they stand", "by configuration", _stand),
        row(
            "Questions about living SAs",
            "strangers who know all SPIs ask every gateway, from addresses of their own and as the clients",
            lambda c: Cell(octets(c.asked or 0)),
        ),
        row(
            "Told that a living SA is lost",
            "tokens (QCD) or denials (SIR) in the clear while its owner could serve it",
            lambda c: Cell(str(c.told), "", "bad" if c.told else "good"),
        ),
        row(
            "Living SAs ended by that",
            f"what was told is presented to the SA{S} client, as its gateway",
            _ended,
        ),
        row("Traffic stood still for", "each time, from presenting to the next round trip", _stopped),
        row(
            "The balancer moves the clients of a member that lives",
            "it leads to that member no more, which goes on running",
            _moved,
        ),
        row("A member dies: its clients are back after", "killed; the slowest client, from its death", _back),
        row(
            f"Packets that the others{S[0]} clients lost",
            "while that member was dead, and came back",
            lambda c: EMPTY if c.others_lost is None else Cell(str(c.others_lost)),
        ),
    )


def sentences(report: Report) -> tuple[str, ...]:
    """The table in words."""
    found = {column.title: column for column in columns(report)}
    told = (
        _qcd_alone(found.get("QCD alone")),
        _qcd_owned(found.get("QCD with ownership")),
        _sir_alone(found.get("SIR alone")),
    )
    return tuple(text for text in told if text)


def _qcd_alone(column: Column | None) -> str:
    if column is None or column.told is None:
        return ""
    stand = (
        f"QCD alone: {column.gateways} gateways of ours with copies of one state directory, which is what"
        " somebody makes who only knows that the secret of the tokens has to be shared. Strangers asked"
        f" them {octets(column.asked or 0)} times about living SAs and were told {column.told} tokens"
    )
    if column.verdict != "no":
        return f"{stand}; no living SA ended."
    return (
        f"{stand}; {column.presented} times one was presented to the client of the SA, and {column.ended}"
        " living SAs were dropped. The table of the source says"
        " \N{LEFT DOUBLE QUOTATION MARK}No\N{RIGHT DOUBLE QUOTATION MARK} here, and this is why: RFC 6290"
        " section 9.2 allows it only where every member can tell whether an SA is alive anywhere in the"
        " cluster."
    )


def _qcd_owned(column: Column | None) -> str:
    if column is None or column.told is None:
        return ""
    return (
        f"With ownership: asked {octets(column.asked or 0)} times, the members of a cluster told"
        f" {column.told or 'no'} token{'' if column.told == 1 else 's'} of living SAs. The price is that the"
        " clients of a dead member wait for the end of its lease."
    )


def _sir_alone(column: Column | None) -> str:
    if column is None or not column.told:
        return ""
    noticed = f", {column.noticed} were reported as attacks" if column.noticed else ""
    return (
        f"SIR alone: the gateways denied living SAs {column.told} times. From beside the path that is worth"
        " nothing, since a client takes no denial without the cookie of its own question. On the path"
        " somebody can have that question denied by another gateway; but the owner contradicts within the"
        f" window, and the client keeps its SA: of {column.presented} attempts {column.ended} ended"
        f" one{noticed}."
    )


def _stand(column: Column) -> Cell:
    way = f"round trip {column.rtt_ms:g}{NARROW}ms" if column.rtt_ms else "on loopback"
    if column.owned:
        return Cell(f"{column.gateways} members of a cluster", f"[cluster], etcd, a lease each; {way}")
    return Cell(
        f"{column.gateways} copies of one gateway", f"the same files and secrets, no [cluster]; {way}"
    )


def _ended(column: Column) -> Cell:
    ended, asking = column.ended or 0, column.ended_besides
    tone: Tone = "bad" if ended or asking else "good"
    if column.presented is None:
        return Cell(str(ended), "nothing to present", tone)
    notes = [f"{column.noticed} reported as an attack"] if column.noticed else []
    notes += [f"{asking} more besides"] if asking else []
    return Cell(f"{ended} of {column.presented}", "; ".join(notes), tone)


def _stopped(column: Column) -> Cell:
    value = column.stopped_ms
    if value is None:
        return EMPTY if column.ended else Cell("not at all")
    return Cell(duration(value.median), span(duration(value.least), duration(value.greatest)))


def _moved(column: Column) -> Cell:
    moved = column.moved
    if moved is None:
        return EMPTY
    lost = f"{moved.lost} of {octets(moved.sent)} packets lost"
    if not moved.given_up:
        text = "handed on to it" if column.owned and not moved.lost else "their SAs stay"
        return Cell(text, lost, "" if moved.lost else "good")
    back = "not back" if moved.back_ms is None else f"traffic after {duration(moved.back_ms)}"
    return Cell(
        f"{moved.given_up} living SA{'' if moved.given_up == 1 else 's'} ended", f"{back}; {lost}", "bad"
    )


def _back(column: Column) -> Cell:
    if column.back_ms is None:
        return Cell("not", "", "bad")
    if column.lease_s is None:
        return Cell(duration(column.back_ms), "nobody waits to be sure that it is dead")
    rest = column.back_ms - 1000 * column.lease_s
    lease = f"within its lease of {column.lease_s:g}{NARROW}s"
    if rest > 0:
        lease = f"its lease of {column.lease_s:g}{NARROW}s, and {duration(rest)}"
    return Cell(duration(column.back_ms), lease)
