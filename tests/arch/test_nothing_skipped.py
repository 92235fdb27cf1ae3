"""In CI a test that skips itself is a failure; elsewhere it says why it was skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SKIPS = {
    "by mark": '@pytest.mark.skipif(True, reason="no such thing here")\ndef test_it():\n    pass\n',
    "by call": 'def test_it():\n    pytest.skip("no such thing here")\n',
    "by fixture": "@pytest.fixture\ndef it():\n    pytest.skip('no such thing here')\ndef test_it(it): ...\n",
    "as module": 'pytest.skip("no such thing here", allow_module_level=True)\n',
}


BESIDE = ["-n", "2", "--dist", "loadfile"]
"""As `make test` runs them."""


def run(place: Path, test: str, ci: str, *more: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "tests/conftest.py", place)
    (place / "test_it.py").write_text("import pytest\n\n" + test)
    (place / "pytest.ini").write_text("[pytest]\naddopts = -ra -p no:cacheprovider\n")
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(place), str(place), *more]
    environment = {**os.environ, "CI": ci}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("how", "more"), [*((how, []) for how in SKIPS), ("by call", BESIDE), ("as module", BESIDE)]
)
def test_a_skip_fails_in_ci_and_says_why(tmp_path: Path, how: str, more: list[str]) -> None:
    done = run(tmp_path, SKIPS[how], "true", *more)
    assert done.returncode != 0
    assert "in CI nothing is skipped: " in done.stdout
    assert "no such thing here" in done.stdout


@pytest.mark.parametrize("how", ["by mark", "by call", "by fixture"])
def test_elsewhere_a_skip_is_reported_with_its_reason(tmp_path: Path, how: str) -> None:
    done = run(tmp_path, SKIPS[how], "")
    assert done.returncode == 0
    assert "1 skipped" in done.stdout
    assert "no such thing here" in done.stdout


def test_an_expected_failure_is_not_a_skip(tmp_path: Path) -> None:
    test = '@pytest.mark.xfail(strict=True, reason="known")\ndef test_it():\n    assert False\n'
    assert run(tmp_path, test, "true").returncode == 0


def test_a_test_that_hangs_ends_with_a_trace(tmp_path: Path) -> None:
    """Also beside others: it is a failure, and what follows is run."""
    hangs = "import threading\n\ndef test_it():\n    threading.Event().wait()\n\ndef test_next(): ...\n"
    done = run(tmp_path, hangs, "true", *BESIDE, "--timeout", "1")
    assert done.returncode == 1
    assert "threading.Event().wait()" in done.stdout
    assert "Timeout" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
