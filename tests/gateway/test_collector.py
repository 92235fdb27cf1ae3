"""What Python's collector of cycles is kept from, and why that leaks nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from tests.gateway.test_runtime import Bench, ScriptedCore, run
from tests.support.pair import Pair

from deadpeer.cluster.secrets import Sealer
from deadpeer.cluster.standby import shared_secrets
from deadpeer.crash.options import CrashOptions
from deadpeer.crypto import SeededEntropy
from deadpeer.gateway import collector
from deadpeer.gateway.lives import Lives, Site
from deadpeer.ike.connection import EndpointConfig
from deadpeer.ike.io import Rekey, Terminate
from deadpeer.store import MemoryLedger, MemoryStore

KEY = bytes(range(32))


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The collector is this whole process's."""
    thresholds, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.callbacks[:] = callbacks
    gc.enable()


def test_what_was_looked_at_once_and_stays_is_not_looked_at_again() -> None:
    collector.spare()
    before = gc.get_freeze_count()
    stays = [[] for _ in range(1000)]
    gc.collect()
    assert gc.get_freeze_count() >= before + len(stays)
    assert len(gc.get_objects()) < before


def test_what_goes_before_that_is_found() -> None:
    collector.spare()
    knot = Knot()
    gone = weakref.ref(knot)
    del knot
    gc.collect()
    assert gone() is None


def test_when_a_life_is_over_all_is_looked_at_again() -> None:
    collector.spare()
    life = Knot()
    gone = weakref.ref(life)
    gc.collect()
    del life
    gc.collect()
    assert gone() is not None
    collector.look_again()
    assert gone() is None
    assert gc.get_freeze_count() > 0


def test_a_life_that_is_over_is_gone_at_once(place: Path) -> None:
    """Its endpoint is one knot. A member that loses life after life must not keep them all."""
    collector.spare()

    async def work(bench: Bench) -> None:
        site = Site(
            place / "gateway.toml", place, EndpointConfig(local_hosts=("127.0.0.1",)), (), CrashOptions(),
            MemoryStore(), MemoryLedger(), SeededEntropy(2), b"machine", 8,
        )  # fmt: skip
        lives = Lives(site, bench.runtime, Sealer(KEY, "standby"), 0)
        bench.runtime.detach(site.engine())
        for epoch in (1, 2, 3):
            lives.begin(epoch, shared_secrets([KEY]), None)
            gc.collect()
            gone = weakref.ref(cast(object, lives.endpoint))
            assert gone() is not None
            lives.over()
            await asyncio.sleep(0)
            assert gone() is None

    run(place, ScriptedCore(), work)


def test_closed_sas_are_in_no_cycle() -> None:
    """Alice and Bob set up, rekey, delete, and recover from Bob's crash: none of it leaves anything behind
    that only the collector would find.

        alice -- IKE_SA_INIT, IKE_AUTH ------> bob
        alice -- CREATE_CHILD_SA (both) -----> bob
        alice -- DELETE ---------------------> bob
        alice -- (silence) ------------------> bob crashes, boots; token; a new SA
    """
    pair = Pair.with_psk()
    pair.up()
    gc.collect()
    gc.disable()
    lives = []
    for _ in range(3):
        for command in (Rekey("home"), Rekey("home", "net"), Terminate("home")):
            pair.feed("alice", command)
            pair.run(3.0)
        pair.up()
        lives.append((pair.bob.endpoint, pair.bob.engine))  # the whole of a life is another matter
        pair.crash("bob")
        pair.boot("bob")
        pair.ping()
        pair.run(10.0)
    assert pair.alice.kinds().count("verdict") == 3
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        ours = [thing for thing in gc.garbage if type(thing).__module__.startswith("deadpeer")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert ours == []
