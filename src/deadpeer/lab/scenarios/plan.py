"""What a run of the cluster is asked to do, and where everything in it lives: addresses, ports, paths. Pure,
but for the search for addresses that are free.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deadpeer.cluster.steps import LEAST_LEASE_S, ttl_of
from deadpeer.lab.options import LabError, Method
from deadpeer.lab.sites import is_free
from deadpeer.values import Address

Happening = Literal[
    "kill", "freeze", "cut", "split", "drain", "drift", "skew", "etcd", "blink", "takeover", "stall", "both"
]
HAPPENINGS: tuple[Happening, ...] = (
    "kill", "freeze", "cut", "split", "drain", "drift", "skew", "etcd", "blink",
)  # fmt: skip
"""A member is killed; stopped for longer than its lease; cut off from etcd for as long; all are cut off from
each other; members are taken out on purpose; one with a clock that is slow within the margin is cut off from
etcd; a clock is slow far beyond the margin; etcd is gone for longer than the leases; it is gone for less."""
NO_VERDICT: frozenset[Happening] = frozenset({"split", "drain", "etcd"})
"""In these no client has anything to find out: its SA goes on, or its gateway tells it."""
SKEWED: frozenset[Happening] = frozenset({"drift", "skew"})
"""In these clocks run wrong."""
NEED_FORWARD: frozenset[Happening] = frozenset({"split", "drain"})
"""In these the balancer moves clients of a member that lives."""
BLINK_LEASE_S = 5
"""With shorter leases etcd takes too long to start for nobody to notice; then that is not in what is run by
default."""
STANDBY_HAPPENINGS: tuple[Happening, ...] = ("takeover", "stall", "both")
"""The active gateway is killed, and the other takes over; it is stopped, the other takes over, it goes on;
both are told that they are active."""

MAX_MEMBERS, MAX_CLIENTS = 8, 32
SERVER_INNER = "10.20.0.1"
"""The host behind every member."""

BACK_S = 3.0
"""Seconds beyond the lease within which the clients of a member that is gone must be back. When it has passed
the others have written down that the life is over, and then it is a few round trips."""

RESUME_S = 3.0
"""Seconds within which all traffic must be back after etcd is."""


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """`lease_s`: seconds, whole. `beyond_s`: what is stopped is stopped for the lease and so long.

    `interval_ms`: each client's host sends an inner packet so often. Without `forward` members do not hand
    packets to each other, and the balancer keeps a client where it is until its member leaves.
    """

    members: int = 4
    clients: int = 4
    lease_s: int = 5
    beyond_s: float = 2.0
    happenings: tuple[Happening, ...] = HAPPENINGS
    interval_ms: float = 20.0
    seed: int = 0
    forward: bool = True
    standby: bool = False
    """Instead of a cluster two gateways of which one is active: no etcd, no lease."""
    method: Method = "qcd"
    """How clients find out: by a token, or by SIR."""
    blink_s: float | None = None
    """How long etcd is gone for less than a lease, besides the time that it needs to start; None: an eighth
    of what etcd was asked for, of which a fifth may have passed when it goes."""

    @classmethod
    def of_standby(
        cls, clients: int, happenings: tuple[Happening, ...], seed: int, method: Method = "qcd"
    ) -> ClusterPlan:
        """Two gateways and a balancer that leads to the active one."""
        return cls(2, clients, 0, 0.0, happenings, seed=seed, forward=False, standby=True, method=method)

    def check(self) -> None:
        """Raise LabError (usage) for values that can't be run."""
        for name, value, least, most in (
            ("members", self.members, 2, MAX_MEMBERS),
            ("clients", self.clients, 1, MAX_CLIENTS),
            ("lease", self.lease_s, 0 if self.standby else LEAST_LEASE_S, 3600),
        ):
            if not least <= value <= most:
                raise LabError(f"--{name} {value}: must be between {least} and {most}", usage=True)
        if not self.standby and not (math.isfinite(self.beyond_s) and 0.5 <= self.beyond_s <= 600):
            raise LabError(f"--down {self.beyond_s:g}: must be between 0.5 and 600 seconds", usage=True)
        for happening in self.happenings:
            self.check_event(happening)

    def check_event(self, happening: Happening) -> None:
        """Raise LabError (usage) if this can't happen to such a cluster."""
        if happening in NEED_FORWARD and not self.forward:
            raise LabError(
                f"--event {happening} needs members that hand packets on: leave --no-forward out", usage=True
            )

    @property
    def short_s(self) -> float:
        """How long etcd is gone where nobody is to notice."""
        return ttl_of(self.lease_s) / 8 if self.blink_s is None else self.blink_s

    @property
    def stopped_s(self) -> float:
        """How long something is stopped, cut off or frozen."""
        return self.lease_s + self.beyond_s


@dataclass(frozen=True, slots=True)
class ClientPlace:
    """One client: its gateway's address, the one that the balancer has for it towards the members, and the
    address of the host behind it. `home`: the member to which the balancer brings it while all serve."""

    number: int
    host: str
    inside: str
    inner: str
    home: int

    @property
    def follows(self) -> bool:
        """Whether it goes where it is sent by RFC 5685: every other one does, as in a crowd of makes."""
        return self.number % 2 == 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole place. Every address of it is on the loopback interface."""

    directory: Path
    port: int
    address: str
    members: tuple[str, ...]
    clients: tuple[ClientPlace, ...]
    stranger: str
    own: tuple[str, ...]
    """An address of each member's own, beside the one that clients are brought to."""

    @property
    def port_nat_t(self) -> int:
        return self.port + 1

    @property
    def forward_port(self) -> int:
        """Where members take what other members hand to them."""
        return self.port + 2

    def path(self, name: str) -> str:
        """A file of this run."""
        return str(self.directory / name)


def home_of(host: str, members: Sequence[int]) -> int:
    """The member to which a client's packets go: the highest of the hashes of client and member.

    When a member leaves only its clients move, and they move back when it returns.
    """
    return max(members, key=lambda member: hashlib.sha256(f"{host}|{member}".encode()).digest())


def layout(directory: Path, plan: ClusterPlan) -> Layout:
    """Addresses of 127.77.0.0/16 and ports that nobody uses. Raises LabError if none are free."""
    choice = random.SystemRandom()
    for _ in range(50):
        net, port = f"127.77.{choice.randrange(256)}", choice.randrange(20_000, 30_000, 4)
        found = _layout(directory, plan, net, port)
        hosts = [
            found.address,
            found.stranger,
            *found.members,
            *found.own,
            *(c.inside for c in found.clients),
        ]
        hosts += [c.host for c in found.clients]
        if all(is_free(Address(host, p)) for host in hosts for p in (port, port + 1, port + 2)):
            return found
    raise LabError("no free UDP ports on 127.77.0.0/16: is the loopback interface up?")


def _layout(directory: Path, plan: ClusterPlan, net: str, port: int) -> Layout:
    members = tuple(f"{net}.{2 + number}" for number in range(plan.members))
    own = tuple(f"{net}.{240 + number}" for number in range(plan.members))
    candidates = [f"{net}.{last}" for last in range(20, 150)]
    clients = []
    for number in range(plan.clients):
        # As many clients at each member as at any other: with few of them chance would leave some empty.
        home = number % plan.members
        host = next(host for host in candidates if home_of(host, range(plan.members)) == home)
        candidates.remove(host)
        clients.append(ClientPlace(number, host, f"{net}.{150 + number}", f"10.21.0.{1 + number}", home))
    return Layout(directory, port, f"{net}.1", members, tuple(clients), f"{net}.250", own)
