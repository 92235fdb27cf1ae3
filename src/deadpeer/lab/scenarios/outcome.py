"""What became of a cluster to which something happened: numbers, checks, the record, a sentence. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deadpeer.lab.process import Record
from deadpeer.lab.scenarios.plan import ClusterPlan, Happening
from deadpeer.lab.traffic import TrafficLog

WORDS: dict[Happening, str] = {
    "kill": "member {member} was killed",
    "freeze": "member {member} was stopped for {stopped:g} s, and went on",
    "cut": "member {member} was cut off from etcd for {stopped:g} s",
    "split": "members were cut off from each other for {stopped:g} s, and the balancer moved the clients of"
    " member {member}, which lives",
    "drain": "members were taken out on purpose (deadpeer drain), one after the other",
    "drift": "member {member}'s clock was as slow as the margin allows, and it was cut off from etcd for"
    " {stopped:g} s",
    "skew": "member {member}'s clock was far slower than the margin allows; it found out, and gave its lease"
    " back",
    "etcd": "etcd was down for {stopped:g} s",
    "blink": "etcd was down for {stopped:g} s, for less than a lease",
    "takeover": "gateway {member}, which was active, was killed, and the other took over",
    "stall": "gateway {member}, which was active, was stopped for {stopped:g} s, and the other took over",
    "both": "gateway {member} was active, and the other was told to be, too",
}


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold: what, the bound, what was measured."""

    what: str
    bound: str
    measured: str
    holds: bool

    def to_record(self) -> dict[str, Any]:
        return {"what": self.what, "bound": self.bound, "measured": self.measured, "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Client:
    """One client that was concerned. Times in milliseconds from what happened (from etcd's return)."""

    number: int
    detect_ms: float | None
    recover_ms: float | None
    verdict: str | None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that happened, and what came of it."""

    plan: ClusterPlan
    happening: Happening
    member: int | None
    clients: tuple[Client, ...]
    checks: tuple[Check, ...]
    sent: int
    lost: int
    others: int
    others_lost: int
    told_of_living: int
    asked: dict[str, int]
    stopped_s: float | None = None

    @property
    def ok(self) -> bool:
        return all(check.holds for check in self.checks)

    @property
    def failure(self) -> str | None:
        """The first check that does not hold."""
        broken = next((check for check in self.checks if not check.holds), None)
        return None if broken is None else f"{broken.what}: {broken.measured}, not {broken.bound}"

    def to_record(self) -> dict[str, Any]:
        """The run as `deadpeer lab --json` prints it: the keys of every run, then those of a cluster.

        Times count from what happened (for `etcd` and `split` from its end), those of the slowest client.
        `verdict` is null where none was needed, or clients came to different ones.
        """
        verdicts = {client.verdict for client in self.clients}
        first = self.clients[0] if self.clients else None
        return {
            "scenario": "failover" if self.plan.standby else "cluster",
            "lost": self.happening,
            "method": self.plan.method,
            "rtt_ms": 0.0,
            "resume": False,
            "peer_down_s": self.stopped_s,
            "detect_ms": _slowest([client.detect_ms for client in self.clients]),
            "recover_ms": _slowest([client.recover_ms for client in self.clients]),
            "detect_rtts": None,
            "recover_rtts": None,
            "packets_sent": self.sent,
            "packets_lost": self.lost,
            "verdict": verdicts.pop() if len(verdicts) == 1 else None,
            "evidence": [] if first is None else list(first.evidence),
            "ok": self.ok,
            "failure": self.failure,
            "members": self.plan.members,
            "clients": self.plan.clients,
            "lease_s": self.plan.lease_s,
            "forward": self.plan.forward,
            "member": self.member,
            "concerned": [
                {
                    "client": c.number,
                    "detect_ms": c.detect_ms,
                    "recover_ms": c.recover_ms,
                    "verdict": c.verdict,
                }
                for c in self.clients
            ],
            "others": self.others,
            "others_packets_lost": self.others_lost,
            "tokens_for_living_sas": self.told_of_living,
            "asked_by_attackers": dict(sorted(self.asked.items())),
            "checks": [check.to_record() for check in self.checks],
            "seed": self.plan.seed,
        }

    def summary(self) -> str:
        """What happened, in sentences."""
        stopped = self.stopped_s or 0.0
        what = WORDS[self.happening].format(member=self.member, stopped=stopped)
        slowest = _slowest([client.recover_ms for client in self.clients])
        whose = {"etcd": "all clients", "drain": f"their {len(self.clients)} client(s)"}.get(
            self.happening, f"its {len(self.clients)} client(s)"
        )
        since = {"etcd": "after its return", "split": "after that"}.get(self.happening, "later")
        back = "did not all come back" if slowest is None else f"were back {slowest / 1000:.1f} s {since}"
        sentences = [f"{what[0].upper()}{what[1:]}{f'; {whose} {back}' if self.clients else ''}."]
        if self.others:
            sentences.append(f"The {self.others} other client(s) lost {self.others_lost} packet(s).")
        asked = sum(self.asked.values())
        sentences.append(
            f"{asked} times somebody tried to buy a token; of living SAs {self.told_of_living} were sold."
        )
        if self.failure is not None:
            sentences.append(f"But {self.failure}.")
        return " ".join(sentences)


def client_of(number: int, events: Sequence[Record], from_ns: int, back_ns: int | None) -> Client:
    """What a client's log says of a loss at `from_ns`."""
    verdict = next((e for e in events if e["event"] == "verdict" and e["mono_ns"] >= from_ns), None)
    return Client(
        number,
        None if verdict is None else _ms(verdict["mono_ns"] - from_ns),
        None if back_ns is None else _ms(back_ns - from_ns),
        None if verdict is None else str(verdict["proof"]),
        () if verdict is None else tuple(map(str, verdict.get("evidence", ()))),
    )


def losses(logs: Sequence[TrafficLog], from_ns: int, until_ns: int) -> tuple[int, int]:
    """(sent, lost) of what left in a span of time. What this machine had no room for is not counted."""
    sent = [
        seq in log.replies
        for log in logs
        for seq, at_ns in log.sent.items()
        if from_ns <= at_ns < until_ns and seq not in log.no_room
    ]
    return len(sent), sent.count(False)


def within(what: str, measured_ms: float, bound_s: float) -> Check:
    """A check that something took at most so long; infinity: it never happened."""
    measured = f"{measured_ms / 1000:.2f} s" if math.isfinite(measured_ms) else "never"
    return Check(what, f"at most {bound_s:g} s", measured, measured_ms <= bound_s * 1000)


def none(what: str, count: int) -> Check:
    """A check that something did not happen."""
    return Check(what, "0", str(count), count == 0)


def _slowest(times: Sequence[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
