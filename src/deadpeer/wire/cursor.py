"""A strict reader over octets, and its counterpart for fixed layouts."""

import struct
from typing import Any

from deadpeer.wire.errors import WireError


class Cursor:
    """Reads `octets[start:end]` front to back, in network order, never past the end.

    Every error names `where` (the structure) and the octet offset from the start of `octets`, also in
    a cursor made by `sub`.
    """

    __slots__ = ("_end", "_octets", "_position", "where")

    def __init__(self, octets: bytes, where: str, start: int = 0, end: int | None = None) -> None:
        self._octets = octets
        self._position = start
        self._end = len(octets) if end is None else end
        self.where = where

    @property
    def offset(self) -> int:
        """Offset of the next octet from the start of the whole buffer."""
        return self._position

    @property
    def remaining(self) -> int:
        """Octets not read yet."""
        return self._end - self._position

    def u8(self) -> int:
        return self._octets[self._advance(1)]

    def u16(self) -> int:
        return int.from_bytes(self.take(2))

    def u32(self) -> int:
        return int.from_bytes(self.take(4))

    def take(self, count: int) -> bytes:
        start = self._advance(count)
        return self._octets[start : start + count]

    def rest(self) -> bytes:
        """All that is left, perhaps nothing."""
        return self.take(self.remaining)

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The fields of a fixed layout."""
        return layout.unpack_from(self._octets, self._advance(layout.size))

    def sub(self, count: int, name: str) -> "Cursor":
        """A cursor over the next `count` octets, which this one skips; `name` is added to `where`."""
        start = self._advance(count)
        return Cursor(self._octets, f"{self.where}/{name}", start, start + count)

    def expect_end(self) -> None:
        """Raises WireError if octets are left."""
        if self._position != self._end:
            raise self.error(f"{self.remaining} trailing octets")

    @property
    def place(self) -> str:
        """`where` and the current offset, for error messages."""
        return f"{self.where} at octet {self._position}"

    def error(self, what: str) -> WireError:
        """An error at the current offset, for the caller to raise."""
        return WireError(self.place, what)

    def _advance(self, count: int) -> int:
        """Skip `count` octets and return the offset of the first of them."""
        start = self._position
        if not 0 <= count <= self._end - start:
            raise self.error(f"needs {count} octets, {self._end - start} are left")
        self._position = start + count
        return start


def pack(where: str, layout: struct.Struct, *values: int | bytes) -> bytes:
    """`layout.pack`, with a WireError for a value that does not fit its field."""
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise WireError(where, str(error)) from None
