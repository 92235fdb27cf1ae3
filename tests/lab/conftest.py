"""Directories whose paths are short enough for UNIX sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory directly under /tmp, for TMPDIR: the lab goes elsewhere from one with a long path."""
    with tempfile.TemporaryDirectory(prefix="dp", dir="/tmp") as name:
        yield Path(name)
