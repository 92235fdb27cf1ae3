"""An endpoint and its data plane in virtual time, and a ledger that a crash takes something from."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from deadpeer.ike.endpoint import Endpoint
from deadpeer.ike.io import CommandDone, Event, Persist, Plane, Record, Timeout, Transmit
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.memory import MemoryHost
from deadpeer.store import MemoryLedger, MemoryStore
from deadpeer.values import Datagram, Now
from deadpeer.wire import UdpKind, classify


def nothing(name: str) -> None:
    """Nobody is killed here."""


class CrashLedger(MemoryLedger):
    """What was not written durably may be lost in a crash: the newest records first."""

    def __init__(self) -> None:
        super().__init__()
        self._undo: list[tuple[str, bytes, bytes | None]] = []

    def write(self, table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
        if durable:
            self._undo.clear()
        else:
            self._undo.append((table, key, self._tables.get(table, {}).get(key)))
        super().write(table, key, value, durable=durable)

    def crash(self, dice: random.Random) -> None:
        """Some of the last records were not on disk."""
        for _ in range(dice.randint(0, len(self._undo))):
            table, key, before = self._undo.pop()
            super().write(table, key, before, durable=True)
        self._undo.clear()


@dataclass
class Node:
    """An endpoint and its data plane, whatever it is part of."""

    endpoint: Endpoint
    engine: EspEngine
    behind: MemoryHost
    store: MemoryStore
    ledger: MemoryLedger
    point: Callable[[str], None] = nothing
    """Told where the process that this is in may be killed."""
    on_event: Callable[[Event], None] | None = None
    events: list[tuple[int, Event]] = field(default_factory=list)
    done: dict[int, CommandDone] = field(default_factory=dict)

    def take(self, now: Now, datagram: Datagram) -> None:
        """A datagram arrives."""
        if datagram.local.port == 4500 and classify(datagram.payload, True) is UdpKind.ESP:
            self.engine.inbound(now.mono_ns, datagram.payload, datagram.local, datagram.remote)
        else:
            self.endpoint.handle(now, datagram)

    def due(self, now: Now) -> None:
        """Do what is due."""
        if (due := self.engine.deadline()) is not None and due.at_ns <= now.mono_ns:
            self.engine.expire(now.mono_ns)
        if (due := self.endpoint.deadline()) is not None and due.at_ns <= now.mono_ns:
            self.endpoint.handle(now, Timeout())

    def deadline_ns(self) -> int | None:
        """When something is due, by the core's clock."""
        due = [d.at_ns for d in (self.endpoint.deadline(), self.engine.deadline()) if d is not None]
        return min(due, default=None)

    def drain(self, now: Now, send: Callable[[Datagram], None]) -> None:
        """Obey all outputs."""
        busy = True
        while busy:
            busy = False
            while (output := self.endpoint.poll()) is not None:
                busy = True
                match output:
                    case Transmit():
                        send(output.datagram)
                    case Plane():
                        self.engine.apply(now.mono_ns, output.op)
                    case Event():
                        self.events.append((now.mono_ns, output))
                        if self.on_event is not None:
                            self.on_event(output)
                    case CommandDone():
                        self.done[output.tag] = output
                    case Persist():
                        self.point("before something is on disk")
                        self.store.put(output.name, output.data)
                        self.point("after something is on disk")
                    case Record():
                        self.point("before something is on disk")
                        self.ledger.write(output.table, output.key, output.value, durable=output.durable)
                        self.point("after something is on disk")
                    case _:
                        pass
            while (datagram := self.engine.poll_datagram()) is not None:
                busy = True
                send(datagram)
            while (packet := self.engine.poll_packet()) is not None:
                busy = True
                self.behind.write(packet)
            while (report := self.engine.poll_report()) is not None:
                busy = True
                self.endpoint.handle(now, report)
            while (packet := self.behind.read()) is not None:
                busy = True
                self.engine.outbound(now.mono_ns, packet)
