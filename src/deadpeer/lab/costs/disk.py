"""A state directory and a ledger in memory that know how many octets they hold."""

from __future__ import annotations

from deadpeer.store import MemoryLedger, MemoryStore


class CountedStore(MemoryStore):
    """Named values; each is a copy, so that the disk keeps nothing of the gateway's memory alive."""

    def put(self, name: str, data: bytes) -> None:
        super().put(name, _copy(data))

    def octets(self) -> dict[str, int]:
        """How long each value is, by its name."""
        return {name: len(data) for name, data in self._values.items()}


class CountedLedger(MemoryLedger):
    """Tables of records, copies as well."""

    def write(self, table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
        super().write(table, _copy(key), None if value is None else _copy(value), durable=durable)

    def octets(self) -> dict[str, int]:
        """The octets of keys and values in each table, as the gateway's ledger stores them."""
        return {
            table: sum(len(table) + 1 + len(key) + len(value) for key, value in records.items())
            for table, records in self._tables.items()
        }

    def records(self) -> dict[str, int]:
        """How many records each table has."""
        return {table: len(records) for table, records in self._tables.items()}


def _copy(data: bytes) -> bytes:
    return bytes(bytearray(data))
