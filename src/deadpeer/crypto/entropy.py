"""Randomness as an object, so that the protocol core never reaches for the operating system itself."""

import hashlib
import os
from typing import Protocol


class Entropy(Protocol):
    """A source of unpredictable octets."""

    def octets(self, n: int) -> bytes:
        """Return `n` fresh octets."""
        ...


class SystemEntropy:
    """The operating system's generator. The only one for real keys."""

    def octets(self, n: int) -> bytes:
        return os.urandom(n)


class SeededEntropy:
    """A stream fixed by its seed, for tests and the simulator only: whoever knows the seed knows every key.

    Two objects with the same seed give the same octets, however the calls are cut into pieces.
    """

    __slots__ = ("_block", "_counter", "_rest")

    def __init__(self, seed: int | bytes) -> None:
        material = seed if isinstance(seed, bytes) else b"int:%d" % seed
        self._block = hashlib.sha256(b"deadpeer seeded entropy" + material)
        self._counter = 0
        self._rest = b""

    def octets(self, n: int) -> bytes:
        pieces = [self._rest]
        have = len(self._rest)
        while have < n:
            block = self._block.copy()
            block.update(self._counter.to_bytes(8, "big"))
            self._counter += 1
            pieces.append(block.digest())
            have += 32
        stream = b"".join(pieces)
        self._rest = stream[n:]
        return stream[:n]

    def __repr__(self) -> str:
        return "SeededEntropy(...)"
