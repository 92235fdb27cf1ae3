"""What stops a gateway before it runs. Each text is one line that says where, what, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deadpeer.crypto import CryptoError

T = TypeVar("T")


class StartError(Exception):
    """The gateway can't start as configured: an address in use, a missing capability, a locked directory."""

    def __init__(self, text: str) -> None:
        line = " ".join(text.split())
        super().__init__("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line))


class ConfigError(StartError):
    """A configuration that can't be used.

    `file` is the file that was read, `key` the dotted path of the key ("" for the file as a whole),
    `problem` says what is wrong and how to mend it, `others` counts further errors that were found.
    """

    def __init__(self, file: Path | str, key: str, problem: str, others: int = 0) -> None:
        self.file = str(file)
        self.key = key
        self.problem = problem
        self.others = others
        more = "" if others == 0 else f" (and {others} more error{'s' if others > 1 else ''})"
        super().__init__(": ".join(part for part in (self.file, key, problem) if part) + more)


class Problem(Exception):  # noqa: N818 -- becomes a ConfigError where the file is known
    """What is wrong with the value of one key, remedy included."""


class Problems:
    """Collects what is wrong, key by key, in the order found: the judging goes on after a problem."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: list[tuple[str, str]] = []

    def get(self, key: str, make: Callable[[], T]) -> T | None:
        """What `make` returns, or None if it found a problem, which is noted under `key`."""
        try:
            return make()
        except (Problem, CryptoError, ValueError) as error:
            self._found.append((key, str(error)))
            return None

    def check(self, key: str, judge: Callable[[], None]) -> None:
        """Call `judge` and note the problem that it finds under `key`."""
        self.get(key, judge)

    def __len__(self) -> int:
        return len(self._found)

    def raise_first(self) -> None:
        """Raise ConfigError if there was any problem."""
        if self._found:
            key, problem = self._found[0]
            raise ConfigError(self._file, key, problem, len(self._found) - 1)
