"""A peer of a cluster in virtual time, with a tunnel to it (`tests.support.fleet`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.cluster import Alarm
from tests.support.node import Node
from tests.support.simstore import S
from tests.support.witness import Pair

from deadpeer.ike.io import Event, Input
from deadpeer.plane.packets import echo_request
from deadpeer.values import Datagram, Now

if TYPE_CHECKING:
    from tests.support.fleet import Fleet

INNER = "10.10.2.1"


@dataclass
class Client:
    """A peer of the cluster with a tunnel to it."""

    fleet: Fleet
    number: int
    node: Node
    pairs: dict[int, Pair] = field(default_factory=dict)
    """The IKE SPIs of its SAs, by their numbers."""

    def __post_init__(self) -> None:
        self.alarm = Alarm(self.fleet)
        self.node.on_event = self._told

    @property
    def host(self) -> str:
        return f"198.51.100.{self.number + 1}"

    @property
    def inner(self) -> str:
        return f"10.1.0.{self.number + 1}"

    def now(self) -> Now:
        return Now(self.fleet.now_ns + 5000 * S, self.fleet.unix_s)

    def work(self, item: Input | None = None) -> None:
        """A command, or what is due."""
        now = self.now()
        if item is not None:
            self.node.endpoint.handle(now, item)
        else:
            self.node.due(now)
        self._finish(now)

    def _finish(self, now: Now) -> None:
        for sa in self.node.endpoint.views():
            self.pairs[sa.number] = (sa.spi_i, sa.spi_r)
        self.node.drain(now, self.fleet.to_cluster)
        if (due := self.node.deadline_ns()) is not None:
            self.alarm.set(max(0, due - now.mono_ns) + 1000, self.work)

    def arrive(self, datagram: Datagram) -> None:
        now = self.now()
        self.node.take(now, datagram)
        self._finish(now)

    def send(self, seq: int = 0) -> None:
        """Its host sends an echo request to the one behind the cluster."""
        self.node.behind.send(echo_request(self.inner, INNER, 7, seq & 0xFFFF, b"deadpeer"))
        self._finish(self.now())

    @property
    def heard(self) -> int:
        return len(self.node.behind.received)

    def verdicts(self) -> list[object]:
        return [e.fields["proof"] for _, e in self.node.events if e.kind == "verdict"]

    def _told(self, event: Event) -> None:
        number = event.fields.get("sa")
        if event.kind == "verdict" and event.fields["proof"] == "qcd-token" and isinstance(number, int):
            self.fleet.witness.given_up(self.fleet.now_ns, self.pairs[number], self.fleet.everybody)
