"""Waiting for what somebody else reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from deadpeer.lab.options import LabError

T = TypeVar("T")


class Changes:
    """`note` says that something happened; who waits then looks again."""

    def __init__(self) -> None:
        self._noted = asyncio.Event()

    def note(self) -> None:
        """Something happened."""
        self._noted.set()

    async def next(self) -> None:
        """Wait until something happens."""
        self._noted.clear()
        await self._noted.wait()

    async def until(self, look: Callable[[], T | None], timeout_s: float) -> T | None:
        """Wait until `look` finds something; None if it does not in that time."""
        deadline = time.monotonic() + timeout_s
        while (found := look()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._noted.clear()  # now, and not in a task that runs after somebody noted something
            try:
                await asyncio.wait_for(self._noted.wait(), left)
            except TimeoutError:
                continue
        return found

    async def wait_for(self, what: str, look: Callable[[], T | None], timeout_s: float) -> T:
        """The same. Raises LabError, naming `what`, after `timeout_s`."""
        found = await self.until(look, timeout_s)
        if found is None:
            raise LabError(f"{what} did not happen within {timeout_s:g} s")
        return found
