"""The state directory: what must survive a crash, written atomically and durably, by one daemon at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import ConfigError

LOCK = "lock"
KEY = "gateway.state_dir"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)
_PREFIX = ".new."
_MAX_OCTETS = 64 * 1024 * 1024


class StateDirectory:
    """An exclusively locked directory of mode 0700 and the `FileStore` in it.

    The lock is the kernel's (flock): it ends with the process, however that ends. Raises ConfigError,
    with `file` the configuration that named the directory, if it can't be had.
    """

    def __init__(self, path: Path, file: Path | str = "") -> None:
        self.path = path
        self._file = file
        self._make()
        self._check()
        self._lock = self._take_lock()
        try:
            self.store = FileStore(path)
        except OSError as error:
            self.close()
            raise self._error(f"{path} can't be read: {_reason(error)}; check its file system") from None

    def close(self) -> None:
        """Give up the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        except OSError as error:
            raise self._error(
                f"{self.path} can't be created: {_reason(error)}; create it with mode 0700, owned by the user"
                " of the gateway"
            ) from None

    def _check(self) -> None:
        status = self.path.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise self._error(f"{self.path} is not a directory; name another one")
        if status.st_uid != os.geteuid():
            raise self._error(
                f"{self.path} belongs to user {status.st_uid}; run: chown {os.geteuid()} {self.path}"
            )
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise self._error(f"{self.path} is open to others (mode {mode:04o}); run: chmod 700 {self.path}")

    def _take_lock(self) -> int:
        path = self.path / LOCK
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._error(f"{path} can't be opened: {_reason(error)}; check its owner") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            if error.errno != errno.EWOULDBLOCK:
                raise self._error(f"{path} can't be locked: {_reason(error)}; use a local disk") from None
            raise self._error(
                f"{self.path} is in use by another gateway (pid {holder or 'unknown'}); stop that one,"
                " or name another directory"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(self._file, KEY, problem)


class FileStore:
    """A `Store` with one file per name, mode 0600.

    `put` writes another file, fsyncs it, renames it over the old one and fsyncs the directory: after a
    crash at any moment the old value or the new one is there, whole.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._remove_leftovers()

    def get(self, name: str) -> bytes | None:
        """The value under `name`, or None. Raises OSError, ValueError for a name that can't be."""
        path = self._path(name)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(handle, "rb") as file:
            data = file.read(_MAX_OCTETS + 1)
        if len(data) > _MAX_OCTETS:
            raise OSError(errno.EFBIG, "larger than anything written here", str(path))
        return data

    def put(self, name: str, data: bytes) -> None:
        """Replace the value under `name`. Raises OSError; the old value is then still there."""
        path = self._path(name)
        temporary = path.with_name(_PREFIX + name)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            handle = os.open(temporary, flags, 0o600)
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._sync_directory()

    def _path(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None or name == LOCK:
            raise ValueError(f"{name!r} can't be a name in the state directory")
        return self._directory / name

    def _sync_directory(self) -> None:
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _remove_leftovers(self) -> None:
        """Writes that a crash interrupted never took effect; their files are of no use to anybody."""
        for path in self._directory.iterdir():
            if path.name.startswith(_PREFIX):
                path.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
