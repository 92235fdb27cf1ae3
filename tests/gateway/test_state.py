"""The state directory: locked, private, and whole after a crash at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deadpeer.gateway.errors import ConfigError
from deadpeer.gateway.state import FileStore, StateDirectory

HOLDER = """
import sys, pathlib
from deadpeer.gateway.state import StateDirectory
state = StateDirectory(pathlib.Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


class PowerCut(BaseException):
    """The machine stops here."""


def test_it_is_made_private(place: Path) -> None:
    with StateDirectory(place / "a" / "state"):
        assert (place / "a" / "state").stat().st_mode & 0o777 == 0o700


def test_what_is_put_is_there_after_a_restart(place: Path) -> None:
    with StateDirectory(place / "state") as state:
        assert state.store.get("boot") is None
        state.store.put("boot", b"one")
        state.store.put("boot", b"two")
        assert state.store.get("boot") == b"two"
    with StateDirectory(place / "state") as state:
        assert state.store.get("boot") == b"two"
        assert (place / "state" / "boot").stat().st_mode & 0o777 == 0o600


def test_files_are_private_whatever_the_umask(place: Path) -> None:
    before = os.umask(0)
    try:
        FileStore(place).put("boot", b"x")
    finally:
        os.umask(before)
    assert (place / "boot").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_directory_that_is_open_to_others(place: Path, mode: int) -> None:
    (place / "state").mkdir()
    (place / "state").chmod(mode)
    with pytest.raises(ConfigError, match=f"gw.toml: gateway.state_dir: .*run: chmod 700 {place}/state"):
        StateDirectory(place / "state", "gw.toml")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_a_directory_of_another_user(place: Path) -> None:
    (place / "state").mkdir(mode=0o700)
    os.chown(place / "state", 12345, 12345)
    with pytest.raises(ConfigError, match="run: chown 0"):
        StateDirectory(place / "state")


def test_a_path_that_is_a_file(place: Path) -> None:
    (place / "state").touch()
    with pytest.raises(ConfigError, match="is not a directory; name another one"):
        StateDirectory(place / "state")


def test_a_path_below_a_file(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(ConfigError, match="can't be created"):
        StateDirectory(place / "file" / "state")


def test_a_second_daemon_is_refused_and_told_the_pid_of_the_first(place: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "src"},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match=rf"in use by another gateway \(pid {holder.pid}\)"):
            StateDirectory(place / "state", "gw.toml")
        holder.kill()
        holder.wait()
    with StateDirectory(place / "state"):
        assert (place / "state" / "lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("step", ["open", "fsync", "replace", "directory"])
def test_a_crash_at_any_step_leaves_the_old_value_or_the_new(
    place: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = FileStore(place)
    store.put("boot", b"old")
    syncs = 0

    def stop(*_: object, **__: object) -> None:
        raise PowerCut

    real_fsync = os.fsync

    def stop_at_second(handle: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == 2:
            raise PowerCut
        real_fsync(handle)

    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr(os, "open", stop)
        elif step == "fsync":
            patch.setattr(os, "fsync", stop)
        elif step == "replace":
            patch.setattr(Path, "replace", stop)
        else:
            patch.setattr(os, "fsync", stop_at_second)
        with pytest.raises(PowerCut):
            store.put("boot", b"new value")
    after = FileStore(place)
    assert after.get("boot") == (b"new value" if step == "directory" else b"old")
    assert [path.name for path in place.iterdir()] == ["boot"]


def test_the_order_is_write_sync_rename_sync(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        steps.append(f"sync {'directory' if name == place.name else name}")
        real_fsync(handle)

    def replace(self: Path, target: Path) -> Path:
        assert self.read_bytes() == b"value"
        steps.append(f"rename {self.name} to {target.name}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    FileStore(place).put("boot", b"value")
    assert steps == ["sync .new.boot", "rename .new.boot to boot", "sync directory"]


def test_a_full_disk_keeps_the_old_value_and_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(place)
    store.put("boot", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put("boot", b"new")
    assert store.get("boot") == b"old"
    assert [path.name for path in place.iterdir()] == ["boot"]


def test_leftovers_are_removed_and_nothing_else(place: Path) -> None:
    (place / ".new.boot").write_bytes(b"half a va")
    (place / "boot").write_bytes(b"whole")
    (place / "README").write_bytes(b"the administrator's")
    store = FileStore(place)
    assert sorted(path.name for path in place.iterdir()) == ["README", "boot"]
    assert store.get("boot") == b"whole"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "lock", ".new.x", "a\0b", "a" * 101, "ä", "a\n"]
)
def test_names_that_can_not_be(place: Path, name: str) -> None:
    store = FileStore(place)
    with pytest.raises(ValueError, match="can't be a name"):
        store.put(name, b"x")
    with pytest.raises(ValueError, match="can't be a name"):
        store.get(name)


def test_a_link_is_not_followed(place: Path) -> None:
    (place / "victim").write_bytes(b"untouched")
    store = FileStore(place)
    (place / ".new.boot").symlink_to(place / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        store.put("boot", b"x")
    assert (place / "victim").read_bytes() == b"untouched"
