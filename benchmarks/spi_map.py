"""What the persistent SPI map costs an SA: octets on disk and in memory, microseconds when it comes and goes,
and at a boot. Run: .venv/bin/python benchmarks/spi_map.py [SAS]

Prints a table; nothing is judged. The disk is the one that holds the temporary directory.
"""

from __future__ import annotations

import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from deadpeer.cluster.spi import EpochSpis, SpiCodec
from deadpeer.crash import boot
from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.spi_map import SpiMap, dead_message
from deadpeer.crash.spi_records import (
    HEAD_KEY,
    HEAD_TABLE,
    TABLE,
    Header,
    SpiRecord,
    encode_header,
    encode_record,
    record_key,
)
from deadpeer.crash.tokens import MakerRole
from deadpeer.crypto import SystemEntropy
from deadpeer.gateway.ledger import LmdbLedger
from deadpeer.store import MemoryStore
from deadpeer.values import Address, Now
from deadpeer.wire import encode_message


@dataclass
class Rows:
    """Names and figures, printed as they come."""

    sas: int
    last_us: float = 0.0

    def show(self, name: str, figure: float, unit: str) -> None:
        print(f"{name:<58} {figure:>10,.1f} {unit}", flush=True)

    def timed(self, name: str, work: Callable[[], object]) -> object:
        begin = time.perf_counter()
        result = work()
        self.last_us = (time.perf_counter() - begin) / self.sas * 1e6
        self.show(name, self.last_us, "us/SA")
        return result


class NothingLives:
    """All that the map asks of the core to answer for an SA of an ended life."""

    def alive(self, spi: bytes) -> bool:
        return False

    def find_by_inbound(self, spi_in: int) -> None:
        return None

    def count(self, counter: str, amount: int = 1) -> None: ...

    def event(self, kind: str, level: str = "info", **fields: object) -> None: ...


def main(sas: int) -> None:
    rows = Rows(sas)
    print(f"{sas:,} SAs of one child each, IPv4\n")
    store, entropy, options = MemoryStore(), SystemEntropy(), CrashOptions()
    life = boot.start(store, entropy)
    codec = SpiCodec(life.spi_key)
    spis = EpochSpis(codec, life.epoch, 0, entropy)
    records = [_record(number, spis.ike_spi()) for number in range(sas)]
    rows.show("record and key, IPv4", len(encode_record(records[0])) + 4, "octets")
    v6 = replace(records[0], remote=Address("2001:db8::1", 4500), local=Address("2001:db8::2", 4500))
    rows.show("record and key, IPv6", len(encode_record(v6)) + 4, "octets")

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "ledger"
        ledger = LmdbLedger(path)
        rows.timed("making the record", lambda: [encode_record(record) for record in records])
        data = [(record_key(0x10000 + n), encode_record(r)) for n, r in enumerate(records)]
        rows.timed("an SA comes: write, and all commits", lambda: _write(ledger, data))
        rows.show("transactions", ledger.counters()["transactions"], "")
        rows.show("on disk", (path / "data.mdb").stat().st_size / sas, "octets/SA")
        header = encode_header(Header(life.epoch), life, b"machine")
        ledger.write(HEAD_TABLE, HEAD_KEY, header, durable=True)
        ledger.close()

        ledger = LmdbLedger(path)
        now = Now(time.monotonic_ns(), time.time())
        next_life = boot.start(store, entropy)
        maker = TokenMaker(next_life, entropy, options)

        def load() -> SpiMap:
            return SpiMap(now, next_life, codec, maker, ledger, options, machine_id=b"machine")

        spi_map = rows.timed("a boot: reading the map of the life before", load)
        assert isinstance(spi_map, SpiMap)
        assert spi_map.counters()["spi_map.ended"] == sas
        rows.show("the same, in all", rows.last_us * sas / 1e6, "s")
        rows.timed("finding a record, recomputing its token, making the answer", lambda: _answer(spi_map))
        rows.timed("an SA goes: delete, and all commits", lambda: _delete(ledger, data))
        ledger.write(HEAD_TABLE, HEAD_KEY, header, durable=True)
        _write(ledger, data)
        tracemalloc.start()
        kept = load()
        rows.show("in memory, of an ended life", tracemalloc.get_traced_memory()[0] / sas, "octets/SA")
        tracemalloc.stop()
        assert kept.counters()["spi_map.ended"] == sas
        ledger.close()
        living = {number: bytes(bytearray(value)) for number, (_, value) in enumerate(data)}
        octets = (
            sys.getsizeof(living) + sum(map(sys.getsizeof, living)) + sum(map(sys.getsizeof, living.values()))
        )
        rows.show("in memory, of a living SA", octets / sas, "octets/SA")


def _record(number: int, spi: bytes) -> SpiRecord:
    peer = Address(str(ip_address(0x0A000000 + number)), 4500)
    ours = Address("198.51.100.2", 4500)
    return SpiRecord(MakerRole.RESPONDER, "spi", (number + 1).to_bytes(8, "big"), spi, 1, b"pp", peer, ours)


def _write(ledger: LmdbLedger, data: list[tuple[bytes, bytes]]) -> None:
    for key, value in data:
        ledger.write(TABLE, key, value, durable=False)
    ledger.flush()


def _delete(ledger: LmdbLedger, data: list[tuple[bytes, bytes]]) -> None:
    for key, _ in data:
        ledger.write(TABLE, key, None, durable=False)
    ledger.flush()


def _answer(spi_map: SpiMap) -> None:
    spi_map.core = NothingLives()  # type: ignore[assignment]
    for spi, _ in list(spi_map.ended()):
        record = spi_map.dead(spi)
        assert record is not None
        encode_message(dead_message(spi, record, spi_map.tokens(record, record.remote.host, 2)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
