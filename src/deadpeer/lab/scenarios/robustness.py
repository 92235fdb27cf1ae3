"""Robustness: Bob lives, loses a child SA, an IKE SA or all that he has, and says nothing to anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deadpeer.lab.options import LOSSES, LabOptions


def plan(options: LabOptions) -> Sequence[LabOptions]:
    """One run for each thing that can be lost. Raises LabError if they can't be run."""
    runs = [replace(options, lost=lost) for lost in LOSSES]
    for run in runs:
        run.check()
    return runs
