"""What a run has shown so far: events of both sides, sightings of the relay, inner traffic, and marks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from deadpeer.lab.link import Passing
from deadpeer.lab.options import Side
from deadpeer.lab.process import Record
from deadpeer.lab.trace import Lane, Sighting, Way
from deadpeer.lab.traffic import TrafficLog

KEPT_EVENTS = 50_000
KEPT_SIGHTINGS = 100_000
KEPT_TAPPED = 20_000


@dataclass(frozen=True, slots=True)
class SideEvent:
    """An event that a gateway logged, at its monotonic time (one clock for all processes of a machine)."""

    side: Side
    kind: str
    at_ns: int
    fields: Record


class Observer(Protocol):
    """Is told what happens as it happens. Nothing it does may take long."""

    def phase(self, name: str, at_ns: int) -> None:
        """The run reached: building, flowing, killed, started, ready, verdict, recovered, done."""
        ...

    def event(self, event: SideEvent) -> None: ...

    def sighting(self, sighting: Sighting) -> None: ...

    def traffic(self, record: Record) -> None: ...


class Silent:
    """An observer that shows nothing."""

    def phase(self, name: str, at_ns: int) -> None: ...

    def event(self, event: SideEvent) -> None: ...

    def sighting(self, sighting: Sighting) -> None: ...

    def traffic(self, record: Record) -> None: ...


@dataclass
class Recording:
    """Collects, tells the observer, and wakes up whoever waits for something (`on_change`)."""

    observer: Observer
    on_change: Callable[[], None] = lambda: None
    events: deque[SideEvent] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    sightings: deque[Sighting] = field(default_factory=lambda: deque(maxlen=KEPT_SIGHTINGS))
    traffic: TrafficLog = field(default_factory=TrafficLog)
    captured: list[tuple[Lane, bytes]] = field(default_factory=list)
    tapped: deque[Passing] = field(default_factory=lambda: deque(maxlen=KEPT_TAPPED))
    relay_stats: Record = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)

    def take_phase(self, name: str, at_ns: int) -> None:
        self.phases[name] = at_ns
        self.observer.phase(name, at_ns)

    def take_event(self, side: Side, record: Record) -> None:
        """A JSON line of a gateway; one without an event's name and time is ignored."""
        match record:
            case {"event": str(kind), "mono_ns": int(at_ns)}:
                event = SideEvent(side, kind, at_ns, record)
                self.events.append(event)
                self.observer.event(event)
                self.on_change()

    def take_relay(self, record: Record) -> None:
        """A JSON line of the relay."""
        if "stats" in record:
            self.relay_stats = record["stats"]
        elif "tapped" in record:
            way, lane = Way(record["way"]), Lane(record["lane"])
            self.tapped.append(Passing(way, lane, bytes.fromhex(record["tapped"]), record["mono_ns"]))
            self.on_change()
        elif "captured" in record:
            self.captured.append((Lane(record["lane"]), bytes.fromhex(record["captured"])))
        elif "way" in record:
            sighting = Sighting.from_record(record)
            self.sightings.append(sighting)
            self.observer.sighting(sighting)

    def take_traffic(self, record: Record) -> None:
        self.traffic.take(record)
        self.observer.traffic(record)
        self.on_change()

    def first(self, side: Side, kind: str, after_ns: int) -> SideEvent | None:
        """The first event of a kind at or after a moment."""
        return next(
            (e for e in self.events if e.side == side and e.kind == kind and e.at_ns >= after_ns), None
        )
