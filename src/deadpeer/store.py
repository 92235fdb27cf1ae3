"""Where small named values that must survive a crash are kept, as seen by those who keep them."""

from __future__ import annotations

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
