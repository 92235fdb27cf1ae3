"""An attack and what came of it, as values. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from deadpeer.crash.options import CrashOptions
from deadpeer.lab.options import LabOptions, Method

Place = Literal["off-path", "on-path"]


@dataclass(frozen=True, slots=True)
class Attack:
    """One entry of the catalogue.

    `place`: off-path attackers can send from any address and see nothing of the link; on-path ones see all
    and decide what passes. `methods`: those against which it says something, the first one by default.
    `does` and `promise` are sentences for people: what the attacker does, and what must hold.
    """

    name: str
    place: Place
    methods: tuple[Method, ...]
    does: str
    promise: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold: in words, its bound, what was measured.

    `timed`: whether it does depends also on how fast and how busy the machine is.
    """

    what: str
    bound: str
    measured: str
    holds: bool
    timed: bool = False

    def to_record(self) -> dict[str, Any]:
        return {"what": self.what, "bound": self.bound, "measured": self.measured, "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds that both gateways used within `seconds` of wall-clock time."""

    seconds: float
    alice_cpu_s: float
    bob_cpu_s: float


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack on living gateways under traffic. Counts of packets; octets are those of UDP payloads.

    `sent`: by the attacker (forged, replayed or held back); `answered`: what he provoked from both
    gateways. `sas_lost`: living IKE SAs that somebody condemned. `rebuilt`: new IKE SAs that he forced.
    `quiet` and `attacked` are the CPU without him and with him.
    """

    attack: Attack
    method: Method
    options: LabOptions
    seconds: float
    sent: int
    sent_octets: int
    answered: int
    answered_octets: int
    sas_lost: int
    rebuilt: int
    packets_sent: int
    packets_lost: int
    quiet: Cost
    attacked: Cost
    checks: tuple[Check, ...]
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of the gateways, by side: what the reasons say that they made of it."""
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether all that must hold held."""
        return not self.failure and bool(self.checks) and all(check.holds for check in self.checks)

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.holds)

    @property
    def kept(self) -> bool:
        """Whether all held that does not depend on the machine."""
        return not self.failure and bool(self.checks) and all(check.timed for check in self.broken)

    @property
    def amplification(self) -> float | None:
        """Octets sent back for each octet of the attacker's; None if he sent none.

        None, too, for one in the middle: nothing is sent to him or for him to anybody else. What the
        gateways say to each other because of him is bounded by their budgets, whatever he sends.
        """
        if self.attack.place == "on-path" or not self.sent_octets:
            return None
        return self.answered_octets / self.sent_octets

    @property
    def rebuilt_per_hour(self) -> float:
        """How many new SAs he could force in his first hour, going on like this.

        The budget is `rebuilds_per_hour` at once and as many in each hour: where the run kept to it, it
        bounds the hour too; where not, what was measured is extrapolated.
        """
        if not self.seconds:
            return 0.0
        hourly = CrashOptions().rebuilds_per_hour
        kept = self.rebuilt <= hourly * (1 + self.seconds / 3600)
        going_on = self.rebuilt * 3600 / self.seconds
        return min(going_on, 2 * hourly) if kept else going_on
