"""The ledger in the state directory: tables of small records in one LMDB file.

LMDB commits by copying pages and then writing one small meta page, each fsynced: after a crash or a power
cut at any moment the last committed transaction is there, whole. A thread commits, so that the fsync of a
batch does not hold up packets; who wants durability waits for it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Condition, Thread

import lmdb

MAP_SIZE = 256 * 1024 * 1024
"""Octets that the file can grow to: several times what all bounded tables together need."""

BATCH_S = 0.02
"""How long a record that need not be durable waits for others."""


class LmdbLedger:
    """A `deadpeer.store.Ledger` in `directory`, which is created with mode 0700, its files with 0600.

    A file that is damaged is set aside, and `discarded` says why. What can't be committed is counted and,
    if nobody waits for it, reported to `on_trouble` when it begins: called by the ledger's own thread.
    Raises OSError if the directory can't be used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        map_size: int = MAP_SIZE,
        batch_s: float = BATCH_S,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.discarded: str | None = None
        self._counters: Counter[str] = Counter()
        self._batch_s = batch_s
        self._on_trouble = on_trouble
        self._environment = self._open(directory, map_size)
        self._changed = Condition()
        self._pending = _Batch()
        self._closing = False
        self._in_trouble = False
        self._thread = Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) of a table, in the order of their keys. Raises OSError."""
        self.flush()
        prefix = _prefix(table)
        try:
            with self._environment.begin() as transaction, transaction.cursor() as cursor:
                there = cursor.set_range(prefix)
                while there and (key := cursor.key()).startswith(prefix):
                    yield key[len(prefix) :], cursor.value()
                    there = cursor.next()
        except lmdb.Error as error:
            raise _os_error(error) from None

    def write(self, table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
        """Put a record, or delete it (`value` None). With `durable` it is on disk when this returns, and
        so is all that was written before; else it is within a moment, in a batch.

        Raises OSError: with `durable` if it could not be committed, and always after `close`.
        """
        with self._changed:
            if self._closing:
                raise OSError(errno.EBADF, "the ledger is closed")
            batch = self._pending
            first = not batch.records
            batch.records[_prefix(table) + key] = value
            batch.urgent |= durable
            batch.waited_for |= durable
            if first or durable:  # else the thread knows already that there is something
                self._changed.notify_all()
            if durable:
                self._wait(batch)

    def flush(self) -> None:
        """Return when all that was written before is on disk. Raises OSError if it could not be."""
        with self._changed:
            batch = self._pending
            if batch.records:
                batch.urgent = True
                self._changed.notify_all()
                self._wait(batch)
            elif self._committing is not None:
                self._wait(self._committing)

    def close(self) -> None:
        """Commit what is left and close the file."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._environment.close()

    def counters(self) -> dict[str, int]:
        """Records written and lost, transactions, and how much of the file is used, in octets."""
        counters = dict(self._counters)
        with self._changed:
            if not self._closing:
                info = self._environment.info()
                counters["octets"] = (info["last_pgno"] + 1) * self._environment.stat()["psize"]
                counters["octets_limit"] = info["map_size"]
        return counters

    # --- opening ---------------------------------------------------------------------------------

    def _open(self, directory: Path, map_size: int) -> lmdb.Environment:
        try:
            return _opened(directory, map_size)
        except lmdb.Error as error:
            self.discarded = str(error)
        # It is a help, not the only copy of anything: better without it than not at all.
        aside = directory.with_name(directory.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
        try:
            return _opened(directory, map_size)
        except lmdb.Error as error:
            raise _os_error(error) from None

    # --- the thread ------------------------------------------------------------------------------

    _committing: _Batch | None = None

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            error = self._commit(batch.records)
            with self._changed:
                batch.error, batch.done = error, True
                self._committing = None
                self._changed.notify_all()
            self._tell(batch)

    def _next(self) -> _Batch | None:
        """The next batch, when somebody waits for it or it is old enough; None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending.records or self._closing)
            self._changed.wait_for(lambda: self._pending.urgent or self._closing, self._batch_s)
            batch = self._pending
            if not batch.records:
                return None
            self._pending, self._committing = _Batch(), batch
            return batch

    def _wait(self, batch: _Batch) -> None:
        self._changed.wait_for(lambda: batch.done)
        if batch.error is not None:
            raise OSError(batch.error.errno, batch.error.strerror)

    def _commit(self, records: dict[bytes, bytes | None]) -> OSError | None:
        """One transaction; if there is no room, first the deletions, then the rest once more."""
        gone = {key: None for key, value in records.items() if value is None}
        try:
            try:
                self._transaction(records)
            except lmdb.MapFullError:
                if not gone:
                    raise
                self._transaction(gone)
                records = {key: value for key, value in records.items() if value is not None}
                self._transaction(records)
        except lmdb.Error as error:
            self._counters["lost"] += len(records)
            self._counters["failed"] += 1
            return _os_error(error)
        return None

    def _transaction(
        self, records: dict[bytes, bytes] | dict[bytes, None] | dict[bytes, bytes | None]
    ) -> None:
        with self._environment.begin(write=True) as transaction:
            for key in sorted(records):
                value = records[key]
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)
        self._counters["transactions"] += 1
        self._counters["written"] += len(records)

    def _tell(self, batch: _Batch) -> None:
        begins = batch.error is not None and not self._in_trouble
        self._in_trouble = batch.error is not None
        if begins and not batch.waited_for and self._on_trouble is not None:
            self._on_trouble(str(batch.error.strerror if batch.error is not None else ""))


class _Batch:
    """Records of one transaction, the last value for each key."""

    __slots__ = ("done", "error", "records", "urgent", "waited_for")

    def __init__(self) -> None:
        self.records: dict[bytes, bytes | None] = {}
        self.urgent = False
        self.waited_for = False
        self.done = False
        self.error: OSError | None = None


lmdb.enable_drop_gil()


def _opened(directory: Path, map_size: int) -> lmdb.Environment:
    directory.mkdir(mode=0o700, exist_ok=True)
    environment = lmdb.open(str(directory), map_size=map_size, mode=0o600, readahead=False, max_readers=8)
    # A page beyond the end of a file that was cut off would end the process (SIGBUS), not raise.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    there = (directory / "data.mdb").stat().st_size
    if there < needed:
        environment.close()
        raise lmdb.CorruptedError(f"data.mdb has {there} octets, not {needed}")
    for path in (directory, directory.parent):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return environment


def _prefix(table: str) -> bytes:
    return table.encode() + b"\0"


def _os_error(error: lmdb.Error) -> OSError:
    if isinstance(error, lmdb.MapFullError):
        return OSError(errno.ENOSPC, "the ledger is full")
    return OSError(errno.EIO, f"the ledger can't be written: {error}")
