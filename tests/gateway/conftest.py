"""Directories whose paths are short enough for UNIX sockets, and loopback addresses of a test's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.loopback import LoopbackNet


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of mode 0700 directly under /tmp."""
    with tempfile.TemporaryDirectory(prefix="dp", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def net() -> Iterator[LoopbackNet]:
    """Loopback addresses on which no port is taken."""
    made = LoopbackNet()
    yield made
    made.close()
