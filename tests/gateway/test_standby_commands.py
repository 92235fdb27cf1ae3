"""One of two with one address that is told by a hook: on loopback, unprivileged, its partner silent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.processes import PATIENCE_S, SOON_S, Pair, two_gateways, until
from tests.support import signals

from deadpeer.cluster.standby import HOLD_S


@pytest.fixture
def pair(place: Path) -> Iterator[Pair]:
    """Bob is one of the two."""
    with two_gateways(place) as made:
        (place / "standby.key").touch(mode=0o600)
        (place / "standby.key").write_text("6b" * 32 + "\n")
        bob = made.documents["bob"]
        (address,) = bob["gateway"].pop("listen")
        bob["standby"] = {
            "number": 1,
            "address": address,
            "key_file": "standby.key",
            "listen": f"{address}1:15504",
            "partner": f"{address}2:15504",
            "by": "command",
        }
        made.bob.write(bob)
        home = made.documents["alice"]["connections"]["home"]
        home["crash_methods"] = ["qcd", "liveness"]
        made.alice.write(made.documents["alice"])
        yield made


def state(pair: Pair) -> dict[str, Any]:
    done = pair.bob.command("sas", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["standby"]
    return found


def test_it_serves_while_it_is_told_to(pair: Pair) -> None:
    pair.bob.start()
    pair.alice.start()
    assert (state(pair)["state"], state(pair)["epoch"]) == ("standby", 0)
    up = pair.bob.command("up", "home")
    address = pair.documents["bob"]["standby"]["address"]
    assert (up.returncode, f"stands by: it does not hold {address}" in up.stderr) == (1, True)
    assert not pair.ping(SOON_S)
    done = pair.bob.command("activate")
    assert (done.returncode, done.stdout) == (0, "active, epoch 1\n"), done.stderr
    pair.ping_until_it_works()
    assert pair.bob.command("activate").stdout == "active, epoch 1\n"
    assert pair.ping(), "told again, it goes on"
    done = pair.bob.command("standby")
    assert (done.returncode, done.stdout) == (0, "standby\n")
    assert pair.bob.sas() == []
    assert not pair.ping(SOON_S)
    pair.bob.command("activate")
    pair.ping_until_it_works()
    assert [e["proof"] for e in pair.alice.events() if e["event"] == "verdict"] == ["qcd-token"]


def test_a_new_process_stands_by_and_counts_on(pair: Pair) -> None:
    pair.bob.start()
    pair.alice.start()
    pair.bob.command("activate")
    pair.ping_until_it_works()
    pair.bob.kill()
    pair.bob.start()
    assert state(pair)["state"] == "standby"
    assert pair.bob.command("activate").stdout == "active, epoch 2\n"
    pair.ping_until_it_works()
    assert pair.bob.command("rotate").returncode == 1
    assert pair.bob.terminate() == 0
    pair.alice.wait_for("ike_sa_down")


def test_who_was_out_of_sight_begins_a_new_life(pair: Pair) -> None:
    """SIGSTOP for longer than the address may be out of sight: the partner may have spoken for its SAs."""
    pair.bob.start()
    pair.alice.start()
    pair.bob.command("activate")
    pair.ping_until_it_works()
    signals.freeze(pair.bob.process.pid)
    time.sleep(HOLD_S + 0.2)
    signals.thaw(pair.bob.process.pid)
    pair.bob.wait_for("active", epoch=2)
    assert "out of sight" in pair.bob.wait_for("standby")["why"]
    pair.ping_until_it_works()
    assert state(pair)["lives"] == 2


def test_no_life_before_its_epoch_is_on_disk(pair: Pair, place: Path) -> None:
    pair.bob.start()
    pair.alice.start()
    (place / "bob-state" / "epochs").mkdir()  # in the way of the file
    done = pair.bob.command("activate")
    assert (done.returncode, "can't be written" in done.stderr) == (1, True)
    assert state(pair)["state"] == "fenced"
    assert "can't begin to serve yet" in pair.bob.command("up", "home").stderr
    assert not pair.ping(SOON_S)
    (place / "bob-state" / "epochs").rmdir()
    pair.bob.wait_for("active", epoch=1)
    pair.ping_until_it_works()
    until(lambda: state(pair)["partner_lives"] is False, pair.bob.log)


def test_a_place_to_listen_that_is_not_ours(pair: Pair) -> None:
    standby = pair.documents["bob"]["standby"]
    pair.bob.write(pair.documents["bob"] | {"standby": standby | {"listen": "192.0.2.77:15504"}})
    pair.bob.spawn()
    assert pair.bob.process.wait(PATIENCE_S) == 2
    assert "standby.listen: 192.0.2.77:15504 can't be listened on" in pair.bob.log()
