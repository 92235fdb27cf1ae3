"""The pump with a scripted core: order, durability, timers, and that no exception ends it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.test_routes import ts

from deadpeer.crypto import SeededEntropy
from deadpeer.gateway.ledger import LmdbLedger
from deadpeer.gateway.process import KeyLogFiles
from deadpeer.gateway.routes import RouteKeeper
from deadpeer.gateway.runtime import Runtime
from deadpeer.gateway.sockets import UdpSocket, UdpSockets
from deadpeer.ike.io import (
    CommandDone,
    Event,
    Initiate,
    Input,
    KeyLog,
    Output,
    Persist,
    Plane,
    Record,
    Reload,
    Shutdown,
    Timeout,
    Transmit,
)
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.memory import MemoryHost
from deadpeer.plane.model import InstallTrap, UnknownSpi
from deadpeer.plane.unix import UnixHost
from deadpeer.values import Address, Datagram, Deadline, Now
from deadpeer.wire import KEEPALIVE

Script = Callable[["ScriptedCore", Now, Input], None]


class ScriptedCore:
    """An endpoint that does what a test says."""

    def __init__(self, script: Script = lambda core, now, item: None) -> None:
        self.script = script
        self.inputs: list[Input] = []
        self.outputs: deque[Output] = deque()
        self.due: Deadline | None = None
        self._counters: Counter[str] = Counter()

    @property
    def counters(self) -> Counter[str]:
        return self._counters

    def sizes(self) -> dict[str, int]:
        return {"ike_sas": 0}

    def handle(self, now: Now, item: Input) -> None:
        self.inputs.append(item)
        self.script(self, now, item)

    @property
    def quiet(self) -> bool:
        return not self.outputs

    def poll(self) -> Output | None:
        return self.outputs.popleft() if self.outputs else None

    def deadline(self) -> Deadline | None:
        return self.due

    def snapshot(self, now: Now) -> list[dict[str, object]]:
        return [{"sa": 1, "children": [{"number": 9}]}]


class RecordingStore:
    """Notes when something was written; may be full."""

    def __init__(self, journal: list[Any]) -> None:
        self.full = False
        self.values: dict[str, bytes] = {}
        self._journal = journal

    def get(self, name: str) -> bytes | None:
        return self.values.get(name)

    def put(self, name: str, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self._journal.append(("put", name))
        self.values[name] = data


class RecordingSockets(UdpSockets):
    """Sends for real and notes it."""

    def __init__(self, sockets: list[UdpSocket], journal: list[Any]) -> None:
        super().__init__(sockets)
        self._journal = journal

    def send(self, datagram: Datagram) -> bool:
        self._journal.append(("send", datagram.payload))
        return super().send(datagram)


class Bench:
    """A runtime on two loopback sockets, and a stranger who sends to them."""

    def __init__(
        self, core: ScriptedCore, place: Path, host: Any = None, keylog: bool = False, gate: Any = None
    ) -> None:
        self.journal: list[Any] = []
        self.events: list[Event] = []
        self.ike = UdpSocket(ip_address("127.0.0.1"), 0, 1 << 20)
        self.nat = UdpSocket(ip_address("127.0.0.1"), 0, 1 << 20)
        self.core = core
        self.host = host or MemoryHost()
        self.engine = EspEngine(SeededEntropy(1))
        self.store = RecordingStore(self.journal)
        self.ledger = LmdbLedger(place / "ledger")
        self.runtime = Runtime(
            sockets=RecordingSockets([self.ike, self.nat], self.journal),
            port_nat_t=self.nat.local.port,
            engine=self.engine,
            host=self.host,
            routes=RouteKeeper(self.host, []),
            store=self.store,
            ledger=self.ledger,
            keylog=KeyLogFiles(place / "keys") if keylog else None,
            report=self._report,
            core_clock=gate,
        )
        self.stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.stranger.bind(("127.0.0.1", 0))
        self.stranger.settimeout(60)

    @property
    def stranger_address(self) -> Address:
        return Address(*self.stranger.getsockname())

    def _report(self, now: Now, event: Event) -> None:
        self.journal.append(("event", event.kind))
        self.events.append(event)

    def transmit(self, payload: bytes) -> Transmit:
        return Transmit(Datagram(payload, self.ike.local, self.stranger_address), "test")

    def send(self, payload: bytes, to: UdpSocket | None = None) -> None:
        self.stranger.sendto(payload, (to or self.ike).local)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(12_000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"not within 60 s: {self.core.inputs} {self.journal}")

    def close(self) -> None:
        self.runtime.stop()
        self.ledger.close()
        self.ike.close()
        self.nat.close()
        self.stranger.close()
        self.host.close()


def run(place: Path, core: ScriptedCore, work: Callable[[Bench], Awaitable[None]], **options: Any) -> Bench:
    async def main() -> Bench:
        bench = Bench(core, place, **options)
        try:
            bench.runtime.attach(core)
            await work(bench)
        finally:
            bench.close()
        return bench

    return asyncio.run(main())


def test_outputs_of_the_constructor_are_obeyed_in_order(place: Path) -> None:
    core = ScriptedCore()

    async def main() -> None:
        bench = Bench(core, place)
        first = bench.transmit(b"first")
        core.outputs.extend([Persist("boot", b"1"), first, Event("boot"), Persist("map", b"2")])
        bench.runtime.attach(core)
        assert bench.stranger.recv(100) == b"first"
        assert bench.journal == [("put", "boot"), ("send", b"first"), ("event", "boot"), ("put", "map")]
        bench.close()

    asyncio.run(main())


def test_datagrams_reach_the_core_with_both_addresses(place: Path) -> None:
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        bench.send(b"to ike")
        bench.send(b"\0\0\0\0" + bytes(28), bench.nat)
        await bench.until(lambda: len(core.inputs) == 2)
        assert set(core.inputs) == {
            Datagram(b"to ike", bench.ike.local, bench.stranger_address),
            Datagram(b"\0\0\0\0" + bytes(28), bench.nat.local, bench.stranger_address),
        }

    run(place, core, work)


def test_esp_goes_to_the_plane_whose_reports_go_to_the_core(place: Path) -> None:
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        bench.send(b"\x12\x34\x56\x78" + bytes(40), bench.nat)
        bench.send(KEEPALIVE, bench.nat)
        await bench.until(lambda: bool(core.inputs) and bool(bench.runtime.counters))
        assert core.inputs == [UnknownSpi(0x12345678, 44, bench.nat.local, bench.stranger_address)]
        counters = bench.runtime.all_counters()
        assert counters["esp_dropped"] == {"unknown_spi": 1}
        assert counters["gateway"] == {"nat_keepalive_received": 1}
        assert counters["tables"] == {"ike_sas": 0}

    run(place, core, work)


def test_esp_on_the_port_of_ike_goes_to_the_core(place: Path) -> None:
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        bench.send(b"\x12\x34\x56\x78" + bytes(40))
        await bench.until(lambda: bool(core.inputs))
        assert isinstance(core.inputs[0], Datagram)

    run(place, core, work)


def test_a_core_that_raises_is_reported_once_without_what_it_said(place: Path) -> None:
    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        if isinstance(item, Datagram) and item.payload.startswith(b"bad"):
            raise RuntimeError(f"secret {item.payload!r}")
        if isinstance(item, Datagram):
            core.outputs.append(Event("good"))

    async def work(bench: Bench) -> None:
        for number in range(5):
            bench.send(b"bad %d" % number)
        bench.send(b"good")
        await bench.until(lambda: any(e.kind == "good" for e in bench.events))

    bench = run(place, ScriptedCore(script), work)
    errors = [event for event in bench.events if event.kind == "internal_error"]
    assert len(errors) == 1
    assert errors[0].fields["error"] == "RuntimeError"
    assert any("test_runtime.py" in place for place in errors[0].fields["at"])
    assert "secret" not in repr(errors) and "bad" not in repr(errors)
    assert bench.runtime.counters["exception_datagram"] == 5


def test_an_output_that_can_not_be_obeyed_does_not_stop_the_next(place: Path) -> None:
    core = ScriptedCore()

    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        core.outputs.append(Plane("nonsense"))
        core.outputs.append(Persist("../escape", b""))
        core.outputs.append(Event("after"))

    core.script = script

    async def work(bench: Bench) -> None:
        bench.store.put = lambda name, data: (_ for _ in ()).throw(ValueError("x"))
        bench.send(b"x")
        await bench.until(lambda: any(e.kind == "after" for e in bench.events))

    bench = run(place, core, work)
    assert bench.runtime.counters["exception_output"] >= 1


def test_nothing_is_sent_while_the_state_can_not_be_written(place: Path) -> None:
    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        core.outputs.append(Persist("boot", b"new"))
        core.outputs.append(core.reply)

    core = ScriptedCore(script)

    async def work(bench: Bench) -> None:
        core.reply = bench.transmit(b"reply")
        bench.store.full = True
        bench.send(b"x")
        await bench.until(lambda: bench.runtime.counters["transmit_held_by_state"] == 1)
        assert not any(entry[0] == "send" for entry in bench.journal)
        assert bench.events[0].kind == "state_write_failed"
        assert bench.events[0].fields == {"name": "boot", "reason": "No space left on device"}
        bench.store.full = False
        bench.send(b"x")
        await bench.until(lambda: ("send", b"reply") in bench.journal)
        assert bench.store.values == {"boot": b"new"}

    run(place, core, work)


def test_a_durable_record_is_on_disk_before_what_follows_is_sent(place: Path) -> None:
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        write = bench.ledger.write

        def recording(table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
            write(table, key, value, durable=durable)
            bench.journal.append(("record", key, durable, bench.ledger.counters().get("transactions", 0)))

        bench.ledger.write = recording  # type: ignore[method-assign]
        core.outputs.append(Record("t", b"1", b"a", durable=True))
        core.outputs.append(bench.transmit(b"x"))
        bench.runtime.reload(Reload(()))
        assert bench.journal == [("record", b"1", True, 1), ("send", b"x")]
        core.outputs.append(Record("t", b"2", b"b"))
        bench.runtime.reload(Reload(()))

    run(place, core, work)
    ledger = LmdbLedger(place / "ledger")
    assert list(ledger.items("t")) == [(b"1", b"a"), (b"2", b"b")]
    ledger.close()


def test_a_ledger_that_is_full_holds_up_only_what_rests_on_it(place: Path) -> None:
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        def full(table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
            raise OSError(28, "the ledger is full")

        bench.ledger.write = full  # type: ignore[method-assign]
        for number in range(3):
            core.outputs.append(Record("t", b"1", b"a", durable=True))
            core.outputs.append(bench.transmit(b"rests on it %d" % number))
            bench.runtime.reload(Reload(()))
            core.outputs.append(bench.transmit(b"other %d" % number))
            bench.runtime.reload(Reload(()))

    bench = run(place, core, work)
    assert [e[1] for e in bench.journal if e[0] == "send"] == [b"other 0", b"other 1", b"other 2"]
    assert [e.kind for e in bench.events] == ["ledger_write_failed"]
    assert bench.runtime.counters["ledger_write_failed"] == 3
    assert bench.runtime.counters["transmit_held_by_state"] == 3


def test_a_value_that_could_not_be_written_is_written_before_the_next_transmission(place: Path) -> None:
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        bench.store.full = True
        core.outputs.append(Persist("boot", b"late"))
        bench.runtime.reload(Reload(()))
        bench.store.full = False
        core.outputs.append(bench.transmit(b"x"))
        bench.runtime.reload(Reload(()))
        assert [e for e in bench.journal if e[0] != "event"] == [("put", "boot"), ("send", b"x")]

    run(place, core, work)


def test_the_timer_comes_at_the_earliest_deadline_and_not_before(place: Path) -> None:
    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        if isinstance(item, Timeout):
            assert core.due is not None
            assert now.mono_ns >= core.due.at_ns - 1000
            core.due = None

    core = ScriptedCore(script)

    async def work(bench: Bench) -> None:
        core.due = Deadline(time.monotonic_ns() + 20_000_000, "test")
        bench.runtime.reload(Reload(()))
        await bench.until(lambda: Timeout() in core.inputs)
        assert core.due is None

    run(place, core, work)


def test_a_deadline_that_an_error_leaves_in_the_past_does_not_spin(place: Path) -> None:
    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        if isinstance(item, Timeout):
            raise RuntimeError

    core = ScriptedCore(script)

    async def work(bench: Bench) -> None:
        core.due = Deadline(0, "stuck")
        bench.runtime.reload(Reload(()))
        began = time.monotonic()
        await asyncio.sleep(0.35)
        assert 1 <= core.inputs.count(Timeout()) <= 2 + (time.monotonic() - began) / 0.1

    run(place, core, work)


def test_commands_wait_for_their_own_outcome(place: Path) -> None:
    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        if isinstance(item, Initiate) and item.connection == "slow":
            core.slow = item.tag
        elif isinstance(item, Initiate):
            core.outputs.append(CommandDone(item.tag, ok=True, text=item.connection))
            core.outputs.append(CommandDone(core.slow, ok=False, text="slow failed"))

    async def work(bench: Bench) -> None:
        slow = asyncio.create_task(bench.runtime.command(lambda tag: Initiate("slow", None, tag)))
        await asyncio.sleep(0)
        fast = await bench.runtime.command(lambda tag: Initiate("fast", None, tag))
        assert (fast.ok, fast.text) == (True, "fast")
        assert (await slow).text == "slow failed"

    run(place, ScriptedCore(script), work)


def test_shutdown_is_done_when_the_core_says_so(place: Path) -> None:
    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        if isinstance(item, Shutdown):
            core.outputs.append(Event("shutdown_done"))

    async def work(bench: Bench) -> None:
        assert not bench.runtime.down.is_set()
        bench.runtime.shutdown()
        assert bench.runtime.down.is_set()

    run(place, ScriptedCore(script), work)


def test_key_log_lines_go_to_their_files_only_if_asked_for(place: Path) -> None:
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        core.outputs.extend(
            [KeyLog("esp_sa", "one"), KeyLog("esp_sa", "two"), KeyLog("ikev2_decryption_table", "k")]
        )
        bench.runtime.reload(Reload(()))

    run(place, core, work)
    assert not (place / "keys").exists()
    run(place, core, work, keylog=True)
    assert (place / "keys" / "esp_sa").read_text() == "one\ntwo\n"
    assert (place / "keys" / "ikev2_decryption_table").read_text() == "k\n"
    assert (place / "keys" / "esp_sa").stat().st_mode & 0o777 == 0o600


def test_operations_reach_the_plane_and_the_routes(place: Path) -> None:
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        core.outputs.append(Plane(InstallTrap(1, ts("10.0.0.0/24"), ts("10.0.1.0/24"))))
        bench.runtime.reload(Reload(()))
        assert [str(net) for net in bench.host.routes] == ["10.0.1.0/24"]

    run(place, core, work)


def test_packets_of_the_host_reach_the_plane(place: Path) -> None:
    core = ScriptedCore()
    packet = bytes.fromhex("4500001c00000000400100000a0000010a000101") + bytes(8)

    async def work(bench: Bench) -> None:
        core.outputs.append(Plane(InstallTrap(7, ts("10.0.0.0/24"), ts("10.0.1.0/24"))))
        bench.runtime.reload(Reload(()))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
            host.bind(str(place / "host"))
            host.sendto(packet, str(place / "gw"))
            await bench.until(lambda: len(core.inputs) == 2)
        assert core.inputs[1].policy == 7

    run(place, core, work, host=UnixHost(place / "gw", place / "host"))


def test_sas_are_joined_with_what_children_carried(place: Path) -> None:
    async def work(bench: Bench) -> None:
        assert bench.runtime.sas(Now(0, 0.0)) == [{"sa": 1, "children": [{"number": 9}]}]

    run(place, ScriptedCore(), work)


@pytest.mark.parametrize("mode", [0o755, 0o750])
def test_the_key_log_wants_a_private_directory(place: Path, mode: int) -> None:
    (place / "keys").mkdir()
    (place / "keys").chmod(mode)
    with pytest.raises(Exception, match="run: chmod 700"):
        KeyLogFiles(place / "keys")
