"""The lab's directories: one for each run, and none is left behind for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deadpeer.lab import sites
from deadpeer.lab.options import LabError
from deadpeer.lab.sites import PREFIX, lab_directory

HOLDER = """
import signal, sys
from deadpeer.lab.sites import lab_directory
with lab_directory() as place:
    (place / "state").mkdir()
    print(place, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def _elsewhere(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def gone_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_directory_of_mode_0700_that_vanishes() -> None:
    with lab_directory() as place:
        assert place.stat().st_mode & 0o777 == 0o700
        assert place.name.startswith(f"{PREFIX}{os.getpid()}-")
    assert not place.exists()


def test_what_a_killed_lab_left_is_removed_by_the_next_one_and_not_before() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        with lab_directory():
            assert (left / "state").is_dir(), "its process lives"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert left.is_dir()
        with lab_directory():
            assert not left.exists()


def test_what_is_not_surely_ours_is_left_alone(short_path: Path) -> None:
    pid = gone_pid()
    others = [short_path / f"{PREFIX}abc-x", short_path / f"{PREFIX}old", short_path / f"other-{pid}-x"]
    for each in others:
        each.mkdir()
    target = short_path / "precious"
    target.mkdir()
    link = short_path / f"{PREFIX}{pid}-link"
    link.symlink_to(target)
    file = short_path / f"{PREFIX}{pid}-file"
    file.touch()
    ours = short_path / f"{PREFIX}{pid}-ours"
    ours.mkdir()
    with lab_directory():
        assert not ours.exists()
    assert all(each.is_dir() for each in (*others, target))
    assert link.is_symlink() and file.exists()


def test_one_that_is_held_without_a_process_that_we_see_is_left_alone(short_path: Path) -> None:
    import fcntl

    held = short_path / f"{PREFIX}{gone_pid()}-held"
    held.mkdir()
    handle = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with lab_directory():
            assert held.is_dir()
    finally:
        os.close(handle)
    with lab_directory():
        assert not held.exists()


def test_a_long_tmpdir_is_no_place_for_sockets(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = short_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with lab_directory() as directory:
        assert not directory.is_relative_to(long)
        assert directory.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(sites, "SHORT_PLACE", str(short_path / "nowhere"))
    with pytest.raises(LabError, match="too long for UNIX sockets"), lab_directory():
        pass
