"""The pump with a clock that stands still: nothing goes in or comes out, and nothing of ours is lost."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

from tests.gateway.test_routes import ts
from tests.gateway.test_runtime import Bench, RecordingStore, ScriptedCore, run

from deadpeer.crypto import SeededEntropy
from deadpeer.ike.io import CommandDone, Event, Initiate, Input, Persist, Plane, Reload, Timeout
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.model import InstallTrap
from deadpeer.plane.unix import UnixHost
from deadpeer.values import Datagram, Deadline, Now


class Gate:
    """A clock that a test opens and closes. Its time is an hour behind that of the loop."""

    BEHIND_NS = 3600 * 10**9

    def __init__(self) -> None:
        self.open = True
        self.closes_after: int | None = None
        self.asked = 0

    def enter(self) -> Now | None:
        self.asked += 1
        if self.closes_after is not None and self.asked > self.closes_after:
            self.open = False
        return Now(time.monotonic_ns() - self.BEHIND_NS, time.time()) if self.open else None

    def loop_s(self, core_ns: int) -> float:
        return (core_ns + self.BEHIND_NS) / 1e9


def test_while_the_clock_stands_still_what_arrives_is_dropped_and_counted(place: Path) -> None:
    core, gate = ScriptedCore(), Gate()

    async def work(bench: Bench) -> None:
        gate.open = False
        bench.send(b"one")
        bench.send(b"\x12\x34\x56\x78" + bytes(40), bench.nat)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
            host.bind(str(place / "host"))
            host.sendto(bytes(28), str(place / "gw"))
            await bench.until(lambda: sum(bench.runtime.counters.values()) == 4)
        assert bench.runtime.counters == {"datagrams_fenced": 2, "host_received": 1, "packets_fenced": 1}
        gate.open = True
        bench.runtime.resume()
        assert core.inputs == [] and bench.engine.drops == {}
        bench.send(b"two")
        await bench.until(lambda: len(core.inputs) == 1)
        assert isinstance(core.inputs[0], Datagram) and core.inputs[0].payload == b"two"

    run(place, core, work, host=UnixHost(place / "gw", place / "host"), gate=gate)


def test_no_timer_runs_meanwhile_and_it_comes_late_afterwards(place: Path) -> None:
    gate = Gate()

    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        assert isinstance(item, Reload) or (core.due is not None and now.mono_ns >= core.due.at_ns - 1000)
        if isinstance(item, Timeout):
            core.due = None

    core = ScriptedCore(script)

    async def work(bench: Bench) -> None:
        core.due = Deadline(time.monotonic_ns() - gate.BEHIND_NS + 50_000_000, "test")
        bench.runtime.reload(Reload(()))
        gate.open = False
        await asyncio.sleep(0.15)
        assert core.inputs == [Reload(())]
        gate.open = True
        bench.runtime.resume()
        await bench.until(lambda: Timeout() in core.inputs)

    bench = run(place, core, work, gate=gate)
    assert bench.events == []


def test_outputs_wait_from_the_moment_at_which_it_closes(place: Path) -> None:
    """Also in the middle of a batch."""
    core, gate = ScriptedCore(), Gate()

    async def work(bench: Bench) -> None:
        core.outputs.extend(bench.transmit(b"%d" % number) for number in range(10))
        gate.closes_after = gate.asked + 5
        bench.runtime.reload(Reload(()))
        sent = [entry for entry in bench.journal if entry[0] == "send"]
        assert 0 < len(sent) < 10
        assert len(sent) + len(core.outputs) == 10
        gate.closes_after, gate.open = None, True
        bench.runtime.resume()
        assert [entry[1] for entry in bench.journal] == [b"%d" % number for number in range(10)]

    run(place, core, work, gate=gate)


class FullEngine(EspEngine):
    """Has much to send, and to hand to the host behind us."""

    def __init__(self, datagrams: list[Datagram], packets: list[bytes]) -> None:
        super().__init__(SeededEntropy(4))
        self.datagrams, self.packets = datagrams, packets

    @property
    def sends(self) -> bool:
        return bool(self.datagrams)

    @property
    def delivers(self) -> bool:
        return bool(self.packets)

    def poll_datagram(self) -> Datagram | None:
        return self.datagrams.pop(0) if self.datagrams else None

    def poll_packet(self) -> bytes | None:
        return self.packets.pop(0) if self.packets else None


def test_esp_waits_from_the_moment_at_which_it_closes_too(place: Path) -> None:
    """The data plane had many packets ready: a process that is stopped among them sends no more of them."""
    core, gate = ScriptedCore(), Gate()

    async def work(bench: Bench) -> None:
        wire = [Datagram(b"%d" % n, bench.nat.local, bench.stranger_address) for n in range(10)]
        engine = FullEngine(wire, [bytes(28)] * 10)
        gate.closes_after = gate.asked + 5
        bench.runtime.attach(core, engine)
        sent = [entry for entry in bench.journal if entry[0] == "send"]
        assert 0 < len(sent) < 10 and len(sent) + len(engine.datagrams) == 10
        assert len(engine.packets) == 10
        gate.open, gate.closes_after = True, gate.asked + 12
        bench.runtime.resume()
        assert engine.datagrams == [] and 0 < len(engine.packets) < 10

    run(place, core, work, gate=gate)


def test_what_waited_for_the_disk_until_it_closed_is_not_sent(place: Path) -> None:
    """A disk may take longer than a lease: the look at the clock before it was written to is an old one."""
    core, gate = ScriptedCore(), Gate()

    async def work(bench: Bench) -> None:
        class Slow(list[Any]):
            def append(self, entry: Any) -> None:
                super().append(entry)
                gate.open = gate.open and entry[0] != "put"

        bench.store.full = True
        core.outputs.append(Persist("boot", b"1"))
        bench.runtime.reload(Reload(()))
        bench.store = RecordingStore(journal := Slow())
        bench.runtime._store = bench.store
        core.outputs.append(bench.transmit(b"rests on it"))
        bench.runtime.reload(Reload(()))
        assert journal == [("put", "boot")]
        assert "send" not in [entry[0] for entry in bench.journal]
        assert bench.runtime.counters["transmit_held_by_state"] == 1

    run(place, core, work, gate=gate)


def test_what_persists_waits_with_what_rests_on_it(place: Path) -> None:
    core, gate = ScriptedCore(), Gate()

    async def work(bench: Bench) -> None:
        gate.open = False
        core.outputs.append(Event("later"))
        bench.runtime.reload(Reload(()))
        assert bench.events == [] and core.inputs == []
        gate.open = True
        bench.runtime.resume()
        assert core.inputs == [Reload(())]
        assert [event.kind for event in bench.events] == ["later"]

    run(place, core, work, gate=gate)


def test_commands_are_refused_and_say_why(place: Path) -> None:
    core, gate = ScriptedCore(), Gate()

    async def work(bench: Bench) -> None:
        assert bench.runtime.serves
        gate.open = False
        assert not bench.runtime.serves
        done = await bench.runtime.command(lambda tag: Initiate("home", None, tag))
        assert not done.ok and "is fenced" in done.text
        assert core.inputs == []
        before = bench.runtime.now()
        await asyncio.sleep(0.01)
        assert bench.runtime.now() == before

    run(place, core, work, gate=gate)


def test_after_a_life_nothing_of_it_is_left(place: Path) -> None:
    core, gate = ScriptedCore(), Gate()

    async def work(bench: Bench) -> None:
        core.outputs.append(Plane(InstallTrap(1, ts("10.0.0.0/24"), ts("10.0.1.0/24"))))
        bench.runtime.reload(Reload(()))
        assert [str(net) for net in bench.host.routes] == ["10.0.1.0/24"]
        waiting = asyncio.create_task(bench.runtime.command(lambda tag: Initiate("home", None, tag)))
        await asyncio.sleep(0)
        bench.runtime.detach(EspEngine(SeededEntropy(2)))
        assert bench.host.routes == {}
        done = await waiting
        assert isinstance(done, CommandDone) and not done.ok and "life is over" in done.text
        seen = len(core.inputs)
        core.outputs.append(bench.transmit(b"from the grave"))
        bench.send(b"late")
        await bench.until(lambda: bench.runtime.counters["datagrams_between_lives"] == 1)
        assert len(core.inputs) == seen and not bench.runtime.serves
        assert bench.runtime.sas(bench.runtime.now()) == []
        new = ScriptedCore()
        new.outputs.append(bench.transmit(b"anew"))
        bench.runtime.attach(new, EspEngine(SeededEntropy(3)))
        assert [entry for entry in bench.journal if entry[0] == "send"] == [("send", b"anew")]
        bench.send(b"hello")
        await bench.until(lambda: len(new.inputs) == 1)

    run(place, core, work, gate=gate)


def test_a_datagram_of_another_members_sa_goes_no_further(place: Path) -> None:
    core = ScriptedCore()
    seen: list[Datagram] = []

    async def work(bench: Bench) -> None:
        def route(now: Now, datagram: Datagram) -> bool:
            seen.append(datagram)
            return datagram.payload.startswith(b"theirs")

        bench.runtime.router = route
        bench.send(b"theirs")
        bench.send(b"ours")
        await bench.until(lambda: len(core.inputs) == 1)
        assert [datagram.payload for datagram in seen] == [b"theirs", b"ours"]
        # What another member received for us is never asked about again.
        bench.runtime.take(Datagram(b"theirs too", bench.ike.local, bench.stranger_address))
        assert [d.payload for d in core.inputs if isinstance(d, Datagram)] == [b"ours", b"theirs too"]
        assert len(seen) == 2

    run(place, core, work)
