"""A member that leaves waits for its own lease to be taken back, and for nothing else."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from tests.gateway.test_cluster_mistakes import Bench, Idle, Nowhere

from deadpeer.cluster.store import Asked, Done, Replied, Revoke
from deadpeer.gateway import cluster as module
from deadpeer.gateway.runtime import Runtime

PATIENCE_S = 60.0
ENDLESS_S = 10 * PATIENCE_S
MEASURED_BY, OURS = 7001, 7002


class Remembering(Nowhere):
    """An etcd that never answers, and knows what it was asked."""

    def __init__(self, *_: object) -> None:
        self.asked: list[Asked] = []

    def ask(self, asked: object) -> None:
        if isinstance(asked, Asked):
            self.asked.append(asked)


@pytest.fixture(autouse=True)
def no_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EtcdStore", Remembering)
    monkeypatch.setattr(module, "LEAVE_S", ENDLESS_S)


def begun(place: Path, stack: AsyncExitStack) -> Bench:
    """A member that has given back a lease by which its clock was measured."""
    bench = Bench(place)
    bench.member.start(cast(Runtime, Idle()), stack)
    bench.member._membership._outputs.append(Asked(900, Revoke(MEASURED_BY)))
    bench.member._drain()
    return bench


def test_without_a_lease_it_waits_for_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            bench = begun(tmp_path, stack)
            await asyncio.wait_for(bench.member.leave(), PATIENCE_S)

    asyncio.run(main())


def test_with_one_it_waits_for_that(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            bench = begun(tmp_path, stack)
            member, inner = bench.member, bench.member._membership
            inner._me = replace(inner._me, lease=OURS)
            leaving = asyncio.create_task(member.leave())
            await asyncio.sleep(0)
            store = cast(Remembering, member._etcd)
            [number] = [asked.number for asked in store.asked if asked.request == Revoke(OURS)]
            member._step(Replied(900, Done()))
            await asyncio.sleep(0)
            assert not leaving.done()
            member._step(Replied(number, Done()))
            await asyncio.wait_for(leaving, PATIENCE_S)

    asyncio.run(main())
