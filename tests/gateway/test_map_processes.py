"""The SPI map of real gateways, killed with SIGKILL at random moments."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from tests.gateway.processes import Pair, two_gateways, until

from deadpeer.crash.spi_records import TABLE, decode_record
from deadpeer.gateway.ledger import LmdbLedger


@pytest.fixture
def pair(place: Path) -> Iterator[Pair]:
    with two_gateways(place) as both:
        both.start()
        yield both


def kept(state: Path) -> dict[int, Any]:
    """The records in the ledger of a gateway that is not running."""
    ledger = LmdbLedger(state / "ledger")
    try:
        assert ledger.discarded is None
        found = {int.from_bytes(key, "big"): decode_record(data) for key, data in ledger.items(TABLE)}
    finally:
        ledger.close()
    assert None not in found.values()
    return found


def await_record(pair: Pair, spi: int) -> None:
    """Until Bob's ledger has the record: it is written in a batch, a moment after the child is up."""

    def look() -> bool:
        with (
            lmdb.open(str(state_of(pair, "bob") / "ledger"), readonly=True, max_dbs=0) as environment,
            environment.begin() as reading,
            reading.cursor() as cursor,
        ):
            return any(key.endswith(spi.to_bytes(4, "big")) for key in cursor.iternext(values=False))

    until(look, pair.bob.log)


def state_of(pair: Pair, name: str) -> Path:
    return pair.place / pair.documents[name]["gateway"]["state_dir"]


def tables(pair: Pair, name: str) -> dict[str, int]:
    done = getattr(pair, name).command("counters", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)["counters"]["tables"]
    return found


def test_an_idle_tunnel_is_announced_dead_and_comes_back(pair: Pair) -> None:
    [child] = pair.bob.children()
    assert tables(pair, "bob")["spi_map.living"] == 1
    await_record(pair, int(child["spi_in"], 16))
    pair.bob.kill()
    assert list(kept(state_of(pair, "bob"))) == [int(child["spi_in"], 16)]
    mark, at_alice = len(pair.bob.events()), len(pair.alice.events())
    pair.bob.start()
    verdict = pair.alice.wait_for("verdict", at_alice)
    assert verdict["proof"] == "qcd-token"
    ready = pair.bob.wait_for("ready", mark)
    # Long before Alice would have asked a silent peer by herself.
    assert (verdict["mono_ns"] - ready["mono_ns"]) / 1e9 < 20
    pair.alice.wait_for("child_up", at_alice)
    pair.bob.wait_for("child_up", mark)
    until(lambda: tables(pair, "bob")["spi_map.ended"] == 0, pair.bob.log)
    assert pair.bob.terminate() == 0
    assert kept(state_of(pair, "bob")) == {}


def test_the_map_is_whole_after_kills_at_random_moments(pair: Pair) -> None:
    """Bob is killed while he boots, while the tunnel comes up, and while it is rekeyed."""
    chance = random.Random(82)
    for number in range(8):
        if number % 2:
            pair.alice.command("rekey", "home")
        time.sleep(chance.uniform(0, 0.6))
        pair.bob.kill()
        assert len(kept(state_of(pair, "bob"))) <= 8
        mark = len(pair.bob.events())
        pair.bob.spawn()
    pair.bob.wait_for("ready", mark)
    until(lambda: len(pair.bob.children()) == 1 == len(pair.alice.children()), pair.bob.log)
    for gateway in (pair.alice, pair.bob):
        kinds = {event["event"] for event in gateway.events()}
        assert not kinds & {"internal_error", "ledger_discarded", "ledger_write_failed", "state_write_failed"}
    living = int(pair.bob.children()[0]["spi_in"], 16)
    await_record(pair, living)
    pair.bob.kill()
    assert living in kept(state_of(pair, "bob"))
