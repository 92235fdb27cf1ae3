"""Where values that must survive a crash are kept, as seen by those who keep them.

A `Store` holds a few named values, each replaced as a whole. A `Ledger` holds tables of many small
records, each written by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Store(Protocol):
    """A durable map from a name to octets. `put` returns only when the value survives a power cut."""

    def get(self, name: str) -> bytes | None:
        """The value last put under `name`, or None."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Replace the value under `name`, atomically and durably. Raises OSError."""
        ...


class MemoryStore:
    """A store for tests and the simulator: it survives the endpoint, not the process."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self._values.get(name)

    def put(self, name: str, data: bytes) -> None:
        self._values[name] = data


class Ledger(Protocol):
    """Durable tables of records. Reading is for the start; writes go through the `Record` output."""

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) of a table, in the order of their keys."""
        ...

    def write(self, table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
        """Put a record, or delete it (`value` None). With `durable` it survives a power cut when this
        returns; without, it may be written a moment later, in a batch, but never half. Raises OSError.
        """
        ...


class MemoryLedger:
    """A ledger for tests and the simulator: it survives the endpoint, not the process."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[bytes, bytes]] = {}

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted(self._tables.get(table, {}).items()))

    def write(self, table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
        records = self._tables.setdefault(table, {})
        if value is None:
            records.pop(key, None)
        else:
            records[key] = value
