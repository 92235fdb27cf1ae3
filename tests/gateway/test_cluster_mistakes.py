"""A mistake of ours in the glue of a member: told by its place, and no reason to be without a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from deadpeer.cluster.fence import Margin
from deadpeer.cluster.membership import PersistEpoch
from deadpeer.crypto import SeededEntropy
from deadpeer.gateway import cluster as module
from deadpeer.gateway.cluster import ClusterMember, Surroundings
from deadpeer.gateway.cluster_config import ClusterOptions, EtcdOptions
from deadpeer.gateway.errors import StartError
from deadpeer.gateway.lives import Site
from deadpeer.gateway.runtime import Runtime
from deadpeer.gateway.state import LOCK
from deadpeer.ike.io import Event
from deadpeer.rates import Rate
from deadpeer.store import MemoryStore

QUOTED = "what a record said"


class Idle:
    """A runtime that nothing comes to."""

    def listen(self) -> None: ...
    def resume(self) -> None: ...


class Nowhere:
    """An etcd that never answers."""

    def __init__(self, *_: object) -> None: ...
    def ask(self, _: object) -> None: ...
    def close(self) -> None: ...


class Bench:
    def __init__(self, place: Path) -> None:
        (place / LOCK).touch()
        self.events: list[Event] = []
        self.failures: list[StartError] = []
        site = cast(Any, Site)(
            file=place / "gateway.toml", state_dir=place, endpoint=None, connections=(), crash=None,
            store=MemoryStore(), ledger=None, entropy=SeededEntropy(1), machine_id=b"", hold_packets=0,
        )  # fmt: skip
        around = Surroundings(
            site=site, sockets=cast(Any, ()), receive_buffer=0,
            report=lambda now, event: self.events.append(event),
            fatal=self.failures.append, ready=lambda: None,
        )  # fmt: skip
        options = ClusterOptions(
            name="edge", member=0, key=bytes(32), etcd=EtcdOptions(("http://127.0.0.1:1",)), lease_s=5,
            margin=Margin(), forward=None, advertise=None, forward_rate=Rate(1, 1),
        )  # fmt: skip
        self.member = ClusterMember(options, around)

    def told(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def run(place: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Bench], Any]) -> Bench:
    monkeypatch.setattr(module, "EtcdStore", Nowhere)
    monkeypatch.setattr(module, "RETRY_S", 0.05)

    async def main() -> Bench:
        async with AsyncExitStack() as stack:
            bench = Bench(place)
            work(bench)
            bench.member.start(cast(Runtime, Idle()), stack)
            for _ in range(2000):
                if bench.told("done") or bench.failures:
                    break
                await asyncio.sleep(0.01)
            return bench

    return asyncio.run(main())


def test_a_member_goes_on_after_a_mistake_about_what_the_store_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(bench: Bench) -> None:
        inner = bench.member._membership
        handle, times = inner.handle, []

        def mistaken(now_ns: int, unix_s: float, item: Any) -> None:
            times.append(now_ns)
            if len(times) <= 3:
                raise OverflowError(QUOTED)
            handle(now_ns, unix_s, item)
            bench.events.append(Event("done"))

        monkeypatch.setattr(inner, "handle", mistaken)

    bench = run(tmp_path, monkeypatch, work)
    assert bench.told("done")
    assert len(bench.told("internal_error")) == 3
    assert QUOTED not in repr(bench.events)
    assert bench.failures == []


def test_a_member_that_can_t_do_what_it_must_ends_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it might hold its lease and serve nobody, and nobody would start it anew."""

    def work(bench: Bench) -> None:
        def mistaken(_: int) -> None:
            raise OverflowError(QUOTED)

        monkeypatch.setattr(bench.member._epochs, "put", mistaken)
        bench.member._membership._outputs.append(PersistEpoch(1))

    bench = run(tmp_path, monkeypatch, work)
    assert len(bench.told("internal_error")) == 1
    assert len(bench.failures) == 1 and "internal error" in str(bench.failures[0])
    assert QUOTED not in repr(bench.events) + str(bench.failures[0])
