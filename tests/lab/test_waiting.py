"""Waiting for what somebody else reports."""

from __future__ import annotations

import asyncio

import pytest

from deadpeer.lab.options import LabError
from deadpeer.lab.waiting import Changes


def test_who_waits_looks_again_when_something_happened() -> None:

    async def story() -> None:
        changes, seen = Changes(), list[int]()
        waiting = asyncio.ensure_future(
            changes.wait_for("three", lambda: len(seen) if len(seen) >= 3 else None, 60.0)
        )
        for number in range(3):
            await asyncio.sleep(0)
            assert not waiting.done()
            seen.append(number)
            changes.note()
        assert await waiting == 3

    asyncio.run(story())


def test_what_happens_before_the_waiting_has_begun_is_not_missed() -> None:
    """`look` says no, and in the same turn of the loop it would say yes."""

    async def story() -> None:
        changes, seen = Changes(), list[int]()
        loop = asyncio.get_running_loop()

        def look() -> bool | None:
            loop.call_soon(seen.append, 1)
            loop.call_soon(changes.note)
            return bool(seen) or None

        assert await changes.wait_for("it", look, 60.0)

    asyncio.run(story())


def test_what_is_there_already_is_not_waited_for() -> None:

    async def story() -> None:
        assert await Changes().until(lambda: "here", 0.0) == "here"

    asyncio.run(story())


def test_what_does_not_happen_is_named() -> None:

    async def story() -> None:
        changes = Changes()
        assert await changes.until(lambda: None, 0.01) is None
        with pytest.raises(LabError, match=r"^the end did not happen within 0\.01 s$"):
            await changes.wait_for("the end", lambda: None, 0.01)

    asyncio.run(story())


def test_the_next_one_is_not_one_before() -> None:

    async def story() -> None:
        changes = Changes()
        changes.note()
        waiting = asyncio.ensure_future(changes.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        changes.note()
        await asyncio.wait_for(waiting, 60.0)

    asyncio.run(story())
