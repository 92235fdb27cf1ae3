"""The ledger on disk: what it promises, what it survives, and what happens when it is full or damaged."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from deadpeer.gateway.ledger import LmdbLedger
from deadpeer.gateway.machine import machine_id

WRITER = """
import sys
from pathlib import Path
from deadpeer.gateway.ledger import LmdbLedger

ledger = LmdbLedger(Path(sys.argv[1]), batch_s=0.002)
number = max([int.from_bytes(k, "big") for k, _ in ledger.items("durable")], default=0)
while True:
    number += 1
    key = number.to_bytes(8, "big")
    # Pairs that belong together: both halves of a value, and what was written before what is durable.
    ledger.write("batched", key, key * 7, durable=False)
    if number % 3 == 0:
        ledger.write("batched", (number - 2).to_bytes(8, "big"), None, durable=False)
    if number % 5 == 0:
        ledger.write("durable", key, key * 7, durable=True)
        print(number, flush=True)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def test_what_is_written_is_there_after_a_restart(place: Path) -> None:
    ledger = LmdbLedger(place)
    ledger.write("a", b"2", b"two", durable=False)
    ledger.write("a", b"1", b"one", durable=True)
    ledger.write("b", b"1", b"other", durable=False)
    ledger.write("a", b"2", b"three", durable=False)
    assert list(ledger.items("a")) == [(b"1", b"one"), (b"2", b"three")]
    ledger.write("a", b"1", None, durable=False)
    ledger.close()
    again = LmdbLedger(place)
    assert list(again.items("a")) == [(b"2", b"three")]
    assert list(again.items("b")) == [(b"1", b"other")]
    assert list(again.items("ab")) == []
    again.close()


def test_nobody_else_can_read_it(place: Path) -> None:
    ledger = LmdbLedger(place)
    ledger.write("a", b"1", b"one", durable=True)
    ledger.close()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in place.iterdir()} == {0o600}


def test_records_that_can_wait_share_a_transaction(place: Path) -> None:
    ledger = LmdbLedger(place, batch_s=60)
    for number in range(1000):
        ledger.write("a", number.to_bytes(4, "big"), b"value", durable=False)
    ledger.flush()
    assert ledger.counters()["transactions"] == 1
    assert ledger.counters()["written"] == 1000
    ledger.close()


def test_a_batch_is_committed_without_being_asked(place: Path) -> None:
    ledger = LmdbLedger(place, batch_s=0.001)
    ledger.write("a", b"1", b"one", durable=False)
    deadline = time.monotonic() + 30
    while not ledger.counters().get("transactions") and time.monotonic() < deadline:
        time.sleep(0.005)
    assert ledger.counters()["transactions"] == 1
    ledger.close()


def test_a_full_ledger_says_so_and_goes_on(place: Path) -> None:
    told: list[str] = []
    heard = Event()

    def on_trouble(reason: str) -> None:
        told.append(reason)
        heard.set()

    ledger = LmdbLedger(place, map_size=128 * 1024, batch_s=0.001, on_trouble=on_trouble)
    ledger.write("a", b"small", b"kept", durable=True)
    for number in range(200):
        ledger.write("a", number.to_bytes(4, "big"), bytes(1000), durable=False)
    assert heard.wait(30)
    assert told[0] == "the ledger is full"
    with pytest.raises(OSError, match="full"):
        ledger.write("b", b"1", bytes(200_000), durable=True)
    assert ledger.counters()["lost"] > 0
    assert (b"small", b"kept") in list(ledger.items("a"))
    for number in range(200):
        ledger.write("a", number.to_bytes(4, "big"), None, durable=False)
    ledger.write("a", b"room", b"again", durable=True)
    assert list(ledger.items("a")) == [(b"room", b"again"), (b"small", b"kept")]
    ledger.close()


@pytest.mark.parametrize("damage", ["garbage", "cut off", "empty"])
def test_a_damaged_file_is_set_aside(place: Path, damage: str) -> None:
    ledger = LmdbLedger(place)
    for number in range(1000):
        ledger.write("a", number.to_bytes(4, "big"), bytes(100), durable=False)
    ledger.close()
    data = place / "data.mdb"
    octets = data.read_bytes()
    data.write_bytes({"garbage": os.urandom(len(octets)), "cut off": octets[:8192], "empty": b""}[damage])
    ledger = LmdbLedger(place)
    assert (ledger.discarded is None) == (damage == "empty")
    assert list(ledger.items("a")) == []
    ledger.write("a", b"1", b"one", durable=True)
    ledger.close()
    again = LmdbLedger(place)
    assert again.discarded is None
    assert list(again.items("a")) == [(b"1", b"one")]
    again.close()


def test_nothing_is_taken_after_the_end(place: Path) -> None:
    ledger = LmdbLedger(place)
    ledger.close()
    ledger.close()
    with pytest.raises(OSError, match="closed"):
        ledger.write("a", b"1", b"one", durable=False)


def test_a_writer_that_is_killed_leaves_whole_records(place: Path) -> None:
    """Ten lives, each ended by SIGKILL at a random moment: what was durable is there, nothing is half."""
    chance = random.Random(6290)
    promised = 0
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(place)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            promised = max(promised, int(writer.stdout.readline()))
            time.sleep(chance.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
            promised = max([promised, *map(int, writer.stdout.read().split("\n")[:-1])])
        ledger = LmdbLedger(place)
        assert ledger.discarded is None
        durable, batched = dict(ledger.items("durable")), dict(ledger.items("batched"))
        ledger.close()
        assert all(value == key * 7 for table in (durable, batched) for key, value in table.items())
        numbers = [int.from_bytes(key, "big") for key in durable]
        assert sorted(numbers) == list(range(5, max(numbers) + 1, 5))
        assert max(numbers) >= promised
        # What was written before a durable record is there too, and what was deleted is not.
        for number in range(1, promised - 1):
            assert (number.to_bytes(8, "big") in batched) == (number % 3 != 1)


def test_a_machine_is_known_by_its_identities(tmp_path: Path) -> None:
    first, second = tmp_path / "machine-id", tmp_path / "product_uuid"
    first.write_text("4f1c\n")
    assert machine_id(tmp_path, (first, second)) == b"machine-id=4f1c"
    second.write_text("uuid")
    assert machine_id(tmp_path, (first, second)) == b"machine-id=4f1c\nproduct_uuid=uuid"
    first.write_text("uninitialized\n")
    assert machine_id(tmp_path, (first, second)) == b"product_uuid=uuid"


def test_without_an_identity_a_machine_is_known_by_its_directory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert machine_id(tmp_path / "a", ()) == machine_id(tmp_path / "a", ()) != machine_id(tmp_path / "b", ())
