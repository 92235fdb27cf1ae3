"""The report as Markdown: the same sentences and tables, without the pictures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from deadpeer.lab.report import balanced_words, words
from deadpeer.lab.report.compare import Cell, comparison
from deadpeer.lab.report.model import Report, spread
from deadpeer.lab.report.notation import NONE, duration
from deadpeer.lab.report.progress import clock_text
from deadpeer.lab.report.small import Grid, small
from deadpeer.lab.report.use_words import USE_COLUMNS, use_stories


def render_markdown(report: Report) -> str:
    """The text of report.md."""
    parts = (
        _head(report),
        _comparison(report),
        _uses(report),
        _balanced(report),
        _times(report),
        _ladders(report),
        _attacks(report),
        _small(report),
        _repeat(report),
    )
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _head(report: Report) -> Iterator[str]:
    yield from ("# How does one end of a tunnel find out that the other end has crashed?", "")
    quick = ", quick run: few seeds, short attacks" if report.quick else ""
    yield from (f"deadpeer lab report, {report.environment.made}{quick}.", "")
    if failed := words.failures(report):
        yield from ("**Not everything held in this run:**", "", *(f"- {_text(one)}" for one in failed), "")
    if report.missing:
        yield from ("**Not measured here:**", "", *(f"- {_text(one)}" for one in report.missing), "")
    yield from ("## The problem", "", *_paragraphs(words.problem(report)))
    yield from ("## The answer", "", *_paragraphs((*words.answer(report), words.reference_note(report))))
    rows = [(name, duration(ms)) for name, ms, _ in words.bars(report)]
    yield from _table(("until traffic flows again", f"round trip {report.rtt_ms:g} ms, median"), rows)


def _comparison(report: Report) -> Iterator[str]:
    table = comparison(report)
    yield from ("## The comparison", "")
    for section in table.sections:
        yield from (f"### {section.title}", "")
        rows = [(f"**{_text(row.label)}**", *map(_cell, row.cells)) for row in section.rows]
        yield from _table(("", *map(_text, table.columns)), rows, escaped=True)
        yield from (*(f"- {_text(row.label)}: {_text(row.how)}." for row in section.rows), "")


def _uses(report: Report) -> Iterator[str]:
    yield from ("## Four use cases", "")
    stories = use_stories(report)
    if not stories:
        yield from ("No use case was part of this run.", "")
    for story in stories:
        yield from (f"### {_text(story.title)}", "", _text(story.says), "")
        yield from _table(USE_COLUMNS, [tuple(map(_cell, row)) for row in story.rows], escaped=True)
        yield from (_text(story.note), "")


def _balanced(report: Report) -> Iterator[str]:
    yield from ("## Support for load-balancer failover", "", *_paragraphs(balanced_words.sentences(report)))
    if titles := balanced_words.titles(report):
        rows = balanced_words.rows(report)
        cells = [(f"**{_text(row.label)}**", *map(_cell, row.cells)) for row in rows]
        yield from _table(("", *titles), cells, escaped=True)
        yield from (*(f"- {_text(row.label)}: {_text(row.how)}." for row in rows), "")


def _times(report: Report) -> Iterator[str]:
    yield from ("## Recovery time against the length of the way", "")
    yield from ("Median time until traffic flows again, without resumption.", "")
    rows = []
    for v in report.variants:
        values = [
            spread(report.of(v, resume=False, rtt_ms=rtt), lambda m: m.result.recover_ms)
            for rtt in report.rtts_ms
        ]
        rows.append((v.title, *(NONE if one is None else duration(one.median) for one in values)))
    yield from _table(("", *(f"{rtt:g} ms" for rtt in report.rtts_ms)), rows)


def _ladders(report: Report) -> Iterator[str]:
    yield from ("## Step by step", "", "Times count from the moment Bob can answer again.", "")
    arrows = {
        "alice": "Alice",
        "bob": "Bob",
        "alice>bob": "Alice \u2192 Bob",
        "bob>alice": "Bob \u2192 Alice",
    }
    for one in words.ladders(report):
        yield from (f"### {one.title}", "", _text(one.says), "")
        rows = [
            (
                duration(rung.t_ms),
                arrows[rung.who],
                rung.what
                + (f" \N{MULTIPLICATION SIGN}{rung.count}" if rung.count > 1 else "")
                + (" (lost)" if rung.lost else ""),
            )
            for rung in one.rungs
        ]
        yield from _table(("time", "who", "what"), rows)


def _attacks(report: Report) -> Iterator[str]:
    yield from ("## Under attack", "")
    if not report.attacks:
        yield from ("No attack was part of this run.", "")
        return
    held = sum(result.ok for result in report.attacks)
    yield from (f"{held} of {len(report.attacks)} kept to every bound.", "")
    for story in words.attack_stories(report.attacks):
        attack = story.attack
        yield from (f"### {attack.name} ({attack.place})", "")
        yield from (f"What he does: {_text(attack.does)}", "", f"What must hold: {_text(attack.promise)}", "")
        for line in story.lines:
            yield (
                f"- against {line.method}: {line.sent} packets sent in {line.seconds} s, {line.answered}"
                f" answered, {line.amplification} octets back for each; {line.sas_lost} living SAs dropped,"
                f" {line.rebuilt} new SAs forced; CPU of Alice, Bob {line.cpu},"
                f" without him {line.cpu_quiet}" + (f"; **{_text(line.failure)}**" if line.failure else "")
            )
        yield ""
        head = ("checked", "bound", *(line.method for line in story.lines))
        rows = [(_text(c.what), _text(c.bound), *map(_checked, c.measured)) for c in story.checks]
        yield from _table(head, rows, escaped=True)


def _checked(measured: tuple[str, bool] | None) -> str:
    if measured is None:
        return NONE
    text, holds = measured
    return _text(text) if holds else f"**FAILS: {_text(text)}**"


def _small(report: Report) -> Iterator[str]:
    yield from ("## For makers of small devices", "")
    if report.costs is None:
        yield from ("The costs of each role were not measured in this run.", "")
        return
    tables = small(report.costs)
    for grid in (tables.roles, tables.recoveries, tables.kept):
        yield from _grid(grid)
    yield from (f"Measured on {_text(report.costs.machine)}, over {report.costs.sas} SAs.", "")


def _repeat(report: Report) -> Iterator[str]:
    one = report.environment
    yield from ("## Repeat it", "", f"    {one.command}", "")
    facts = [
        ("took", clock_text(one.took_s)),
        ("machine", one.machine),
        ("kernel", one.kernel),
        *one.packages,
        ("commit", one.commit),
        ("seeds", ", ".join(map(str, report.seeds))),
    ]
    yield from _table(("", ""), facts)
    yield from (*(f"    {line}" for line in words.commands(report)), "")


def _grid(grid: Grid) -> Iterator[str]:
    yield from (f"{_text(grid.caption)}.", "")
    yield from _table(
        tuple(map(_text, grid.columns)), [tuple(map(_cell, row)) for row in grid.rows], escaped=True
    )


def _paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    for sentence in sentences:
        yield from (_text(sentence), "")


def _cell(cell: Cell) -> str:
    return _text(cell.text) + (f"<br>{_text(cell.note)}" if cell.note else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, escaped: bool = False) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row if escaped else map(_text, row))} |"
    yield ""


def _text(text: str) -> str:
    """Text that Markdown takes as text."""
    for special in "\\`*_[]<>|":
        text = text.replace(special, "\\" + special)
    return text.replace("\n", " ")
