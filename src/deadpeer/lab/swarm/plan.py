"""What a run with a swarm of clients is asked to do, and where everything in it lives. Pure, but for the
search for addresses that are free.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deadpeer.cluster.steps import LEAST_LEASE_S
from deadpeer.lab.options import LabError, Method
from deadpeer.lab.sites import is_free
from deadpeer.values import Address

Event = Literal["takeover", "kill", "state"]
EVENTS: dict[str, tuple[Event, ...]] = {"failover": ("takeover",), "cluster": ("kill", "state")}
"""What can happen to a swarm, by scenario; the first is what happens unless another is named."""

CLIENTS = 500
MIN_CLIENTS, MAX_CLIENTS = 10, 15_000
MAX_MEMBERS = 8
FEW = 10
"""With so few SAs the shared state is read first."""
RATE_PER_S = 500.0
"""Inner packets of the whole swarm in a second, at most: with more Python would be what is measured."""
INTERVAL_S = 1.0
"""A client's host sends no less often."""
RATIO = 1.5
"""All clients must be back within so many times what as many cold connects took in the same run."""
SMALL_SWARM_S = 2.0
"""Added to that with fewer than `CLIENTS` at once: what a client alone needs to notice does not shrink with
the swarm, and few cold connects take no longer than that."""

_BLOCK = 250
"""Clients whose addresses share their first three octets."""


@dataclass(frozen=True, slots=True)
class SwarmPlan:
    """`lease_s`: whole seconds, of a cluster. `processes`: the clients are spread over so many.

    `resume`: clients resume their sessions, so that coming back costs no key exchange (connecting does).
    `method`: how clients find out. `seed`: which member is killed. `slack`: so many times the bound of time
    is allowed; with more than 1 it is not speed that is judged, nor what a busy machine may lose.
    """

    event: Event
    clients: int = CLIENTS
    members: int = 4
    lease_s: int = 5
    processes: int = 2
    resume: bool = False
    method: Method = "qcd"
    seed: int = 0
    slack: float = 1.0

    @property
    def standby(self) -> bool:
        """Two gateways with one address instead of a cluster."""
        return self.event == "takeover"

    @property
    def direct(self) -> bool:
        """Clients talk to the members themselves: nobody is to fail, so nobody has to lead them elsewhere."""
        return self.event == "state"

    @property
    def interval_s(self) -> float:
        """A client's host sends an inner packet so often."""
        return min(INTERVAL_S, max(0.1, self.clients / RATE_PER_S))

    def check(self) -> None:
        """Raise LabError (usage) for values that can't be run."""
        for name, value, least, most in (
            ("swarm", self.clients, MIN_CLIENTS, MAX_CLIENTS),
            ("members", self.members, 2, MAX_MEMBERS),
            ("lease", self.lease_s, LEAST_LEASE_S, 3600),
        ):
            if not least <= value <= most:
                raise LabError(f"--{name} {value}: must be between {least} and {most}", usage=True)

    def bound_s(self, cold_s: float) -> float:
        """Within what time clients must be back if as many connected within `cold_s`, seconds."""
        lease_s = 0 if self.standby else self.lease_s
        small_s = SMALL_SWARM_S if self.clients < CLIENTS else 0.0
        return self.slack * (lease_s + RATIO * cold_s + small_s)


@dataclass(frozen=True, slots=True)
class SwarmPlace:
    """Every address of a run, all of them on the loopback interface, in 127.77.0.0/16.

    Each client has an address of its own, and one by which the balancer stands for it towards the members.
    """

    directory: Path
    net: str
    port: int
    members: tuple[str, ...]
    own: tuple[str, ...]
    """An address of each member's own, beside the one that clients are brought to."""
    clients: int

    @property
    def port_nat_t(self) -> int:
        return self.port + 1

    @property
    def forward_port(self) -> int:
        """Where members take what other members, or the partner, send them."""
        return self.port + 2

    @property
    def address(self) -> str:
        """The balancer's: the one that clients know."""
        return f"{self.net}.1"

    def path(self, name: str) -> str:
        """A file of this run."""
        return str(self.directory / name)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> SwarmPlace:
        """The inverse of `dataclasses.asdict`, by way of JSON."""
        lists = {name: tuple(record[name]) for name in ("members", "own")}
        return cls(**{**record, **lists, "directory": Path(record["directory"])})

    def host(self, client: int) -> str:
        """A client's own address."""
        return f"127.77.{64 + client // _BLOCK}.{1 + client % _BLOCK}"

    def inside(self, client: int) -> str:
        """The address that stands for a client towards the members."""
        return f"127.77.{128 + client // _BLOCK}.{1 + client % _BLOCK}"

    def inner(self, client: int) -> str:
        """The address of the host behind a client."""
        return f"10.21.{client // _BLOCK}.{1 + client % _BLOCK}"


def find_place(directory: Path, plan: SwarmPlan) -> SwarmPlace:
    """Addresses and ports that nobody uses. Raises LabError if none are free."""
    choice = random.SystemRandom()
    for _ in range(50):
        net, port = f"127.77.{choice.randrange(60)}", choice.randrange(20_000, 30_000, 4)
        members = tuple(f"{net}.{2 + number}" for number in range(plan.members))
        own = tuple(f"{net}.{240 + number}" for number in range(plan.members))
        place = SwarmPlace(directory, net, port, members, own, plan.clients)
        hosts = [place.address, *members, *own]
        for client in range(plan.clients):
            hosts += [place.host(client), place.inside(client)]
        if all(is_free(Address(host, p)) for host in hosts for p in (port, port + 1, port + 2)):
            return place
    raise LabError("no free UDP ports on 127.77.0.0/16: is the loopback interface up?")
