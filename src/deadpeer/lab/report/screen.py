"""What a terminal shows of many runs and of attacks when they are over."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deadpeer.lab.attacks.model import AttackResult
from deadpeer.lab.report.collect import Collected
from deadpeer.lab.report.notation import NONE, duration
from deadpeer.lab.report.words import attack_line


def show(collected: Collected, console: Console) -> None:
    """A table of the runs, and what each attack came to."""
    if collected.runs:
        console.print(_runs(collected))
    for result in collected.attacks:
        console.print(_attack(result))
    for text in collected.failed:
        console.print(Text(text, style="bold red"))


def _runs(collected: Collected) -> Table:
    table = _table(
        "Times count from the moment Bob can answer again", ("way", "", "detect", "recover", "lost")
    )
    for run in collected.runs:
        result = run.result
        outcome = "" if result.ok else f"FAILED: {result.failure}"
        table.add_row(
            run.variant.title,
            "resumed" if result.options.resume else "",
            _when(result.detect_ms),
            _when(result.recover_ms),
            Text(f"{result.packets_lost} {outcome}".strip(), style="" if result.ok else "bold red"),
        )
    return table


def _attack(result: AttackResult) -> Table:
    line = attack_line(result)
    title = f"{result.attack.name} against {line.method}: {line.sent} packets in {line.seconds} s"
    if line.failure:
        title += f"; {line.failure}"
    table = _table(title, ("checked", "bound", "measured", ""))
    for check in result.checks:
        holds = Text("holds", style="green") if check.holds else Text("FAILS", style="bold red")
        table.add_row(check.what, check.bound, check.measured, holds)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _when(ms: float | None) -> str:
    return NONE if ms is None else duration(ms)
