"""A directory whose path is short enough for UNIX sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of mode 0700 directly under /tmp."""
    with tempfile.TemporaryDirectory(prefix="dp", dir="/tmp") as name:
        yield Path(name)
