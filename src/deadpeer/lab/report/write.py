"""From what was asked for to three files in a directory."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from deadpeer.lab.options import LabError
from deadpeer.lab.report.collect import Collected, collect
from deadpeer.lab.report.model import Report
from deadpeer.lab.report.plan import ReferenceTask, Wanted, plan, variants
from deadpeer.lab.report.progress import Estimate, tracker
from deadpeer.lab.report.surroundings import surroundings

NEEDED = ("jinja2", "matplotlib")
FILES = ("report.html", "report.json", "report.md")


def require(directory: Path) -> None:
    """Raise LabError (usage) if a report can't be written there: better now than in half an hour."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise LabError(
            f"--report needs {' and '.join(missing)}: pip install 'deadpeer[report]', or use make lab",
            usage=True,
        )
    # Whatever may be wrong with what draws the page shows now.
    importlib.import_module("deadpeer.lab.report.page")
    importlib.import_module("deadpeer.lab.report.markdown")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"--report {directory}: {error.strerror}: name another directory", usage=True
        ) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise LabError(f"--report {directory}: not writable: name another directory", usage=True)


async def run_all(wanted: Wanted, out: TextIO) -> Collected:
    """Do all that was asked for, with progress on `out`. Raises LabError."""
    tasks = plan(wanted)
    planned = [(t.title, 0.0 if isinstance(t, ReferenceTask) else t.seconds) for t in tasks]
    with tracker(Estimate(planned), out) as shown:
        return await collect(tasks, shown)


async def make_report(wanted: Wanted, command: str, missing: tuple[str, ...], out: TextIO) -> Report:
    """Measure everything for a page. `missing`: what can't be measured here, and why. Raises LabError."""
    begun = time.monotonic()
    environment = surroundings(command)
    collected = await run_all(wanted, out)
    return Report(
        environment=replace(environment, took_s=round(time.monotonic() - begun, 1)),
        quick=wanted.sizes.quick,
        rtt_ms=wanted.base.rtt_ms,
        down_s=wanted.base.down_s,
        variants=variants(wanted),
        runs=tuple(collected.runs),
        cases=tuple(collected.cases),
        copies=tuple(collected.copies),
        attacks=tuple(collected.attacks),
        costs=collected.costs,
        reference=collected.reference,
        missing=missing,
        failed=tuple(collected.failed),
    )


def write_report(report: Report, directory: Path) -> list[Path]:
    """Write the three files; their paths. Raises LabError."""
    from deadpeer.lab.report.markdown import render_markdown
    from deadpeer.lab.report.page import render_html

    texts = (
        render_html(report),
        json.dumps(report.to_record(), indent=1) + "\n",
        render_markdown(report),
    )
    paths = [directory / name for name in FILES]
    for path, text in zip(paths, texts, strict=True):
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise LabError(f"{path}: {error.strerror}") from error
    return paths


def typed() -> str:
    """The command line as it was typed, the program by its name."""
    return " ".join(["deadpeer", *sys.argv[1:]])
