"""What became of a swarm: numbers, checks, the record, a sentence. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deadpeer.lab.scenarios.outcome import Check
from deadpeer.lab.swarm.plan import SwarmPlan


@dataclass(frozen=True, slots=True)
class Spans:
    """Times in milliseconds. `cold`: `together` clients connect at once, until the last had an answer through
    its tunnel. `recover`: from the standby's activation (or the member's death) until the last had one
    through its new tunnel; `detect`: until the last knew. None: not all did."""

    together: int
    cold: float | None = None
    detect: float | None = None
    detect_first: float | None = None
    recover: float | None = None
    recover_median: float | None = None

    @property
    def ratio(self) -> float | None:
        """Coming back against connecting, where no lease has to run out in between."""
        return self.recover / self.cold if self.recover is not None and self.cold else None


@dataclass(frozen=True, slots=True)
class Shared:
    """What etcd held at a moment: all its keys, octets of keys and values together, its revision (which
    counts all that was ever written); and how many IKE SAs the members held."""

    ike_sas: int
    keys: int
    octets: int
    revision: int


@dataclass(frozen=True, slots=True)
class SwarmOutcome:
    """One run with a swarm. `member`: who was killed. `bound_ms`: within what the clients had to be back."""

    plan: SwarmPlan
    checks: tuple[Check, ...]
    member: int | None = None
    spans: Spans | None = None
    bound_ms: float | None = None
    back: int = 0
    verdicts: Mapping[str, int] = field(default_factory=dict)
    sent: int = 0
    lost: int = 0
    others: int = 0
    others_lost: int = 0
    told_of_living: int = 0
    shared: tuple[Shared, ...] = ()

    @property
    def ok(self) -> bool:
        return all(check.holds for check in self.checks)

    @property
    def failure(self) -> str | None:
        """The first check that does not hold, as a sentence."""
        for check in self.checks:
            if not check.holds:
                return f"{check.what}: {check.measured}, wanted {check.bound}"
        return None

    def to_record(self) -> dict[str, Any]:
        """One entry of `runs`; the keys of the other scenarios' runs, where they have a meaning here."""
        spans = self.spans or Spans(0)
        return {
            "scenario": "failover" if self.plan.standby else "cluster",
            "lost": self.plan.event,
            "method": self.plan.method,
            "resume": self.plan.resume,
            "detect_ms": spans.detect,
            "recover_ms": spans.recover,
            "packets_sent": self.sent,
            "packets_lost": self.lost,
            "verdict": next(iter(self.verdicts)) if len(self.verdicts) == 1 else None,
            "ok": self.ok,
            "failure": self.failure,
            "members": self.plan.members,
            "swarm": self.plan.clients,
            "processes": self.plan.processes,
            "interval_ms": None if self.plan.direct else round(self.plan.interval_s * 1000, 3),
            "lease_s": None if self.plan.standby else self.plan.lease_s,
            "member": self.member,
            "together": spans.together,
            "cold_ms": spans.cold,
            "detect_first_ms": spans.detect_first,
            "recover_median_ms": spans.recover_median,
            "bound_ms": self.bound_ms,
            "ratio": None if spans.ratio is None or not self.plan.standby else round(spans.ratio, 3),
            "back": self.back,
            "verdicts": dict(sorted(self.verdicts.items())),
            "others": self.others,
            "others_packets_lost": self.others_lost,
            "tokens_for_living_sas": self.told_of_living,
            "shared_state": [
                {"ike_sas": s.ike_sas, "keys": s.keys, "octets": s.octets, "revision": s.revision}
                for s in self.shared
            ],
            "checks": [check.to_record() for check in self.checks],
            "seed": self.plan.seed,
        }

    def summary(self) -> str:
        """What happened, in sentences."""
        text = self._of_state() if self.plan.event == "state" else self._of_death()
        return text if self.failure is None else f"{text} But {self.failure}."

    def _of_death(self) -> str:
        spans = self.spans or Spans(0)
        connecting = f"{spans.together} cold connects took {_s(spans.cold)}"
        if spans.recover is None:
            what = f"Only {self.back} of {spans.together} clients came back"
        else:
            what = f"All {spans.together} clients were back after {_s(spans.recover)}"
        if self.plan.standby:
            ratio = "" if spans.ratio is None else f", {spans.ratio:.2f} times as long"
            first = f"The active gateway died. {what} (from the standby's activation){ratio}; {connecting}."
        else:
            first = (
                f"Member {self.member} of {self.plan.members} died. {what}; {connecting}, and its lease was"
                f" {self.plan.lease_s} s. The other {self.others} clients lost {self.others_lost} packet(s)."
            )
        return f"{first} Tokens told of living SAs: {self.told_of_living}."

    def _of_state(self) -> str:
        held = "; ".join(f"{s.keys} keys, {s.octets} octets at {s.ike_sas:,} IKE SAs" for s in self.shared)
        return f"What the members share in etcd: {held}."


def _s(ms: float | None) -> str:
    return "too long" if ms is None else f"{ms / 1000:.2f} s"
