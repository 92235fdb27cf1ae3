"""All that a report knows, as frozen values that become JSON; what is shown is computed from them. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deadpeer.lab.attacks.model import AttackResult
from deadpeer.lab.copies.result import CopiesResult
from deadpeer.lab.costs.model import Costs
from deadpeer.lab.ladder import Step, Tone, Who
from deadpeer.lab.report.cases import USES, Case
from deadpeer.lab.report.variants import Variant
from deadpeer.lab.result import STRONGSWAN_DEFAULT_S, RunResult


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a ladder; `t_ms` counts from the moment Bob could answer again."""

    t_ms: float
    who: Who
    what: str
    tone: Tone = "plain"
    lost: bool = False
    count: int = 1

    @classmethod
    def of(cls, step: Step, origin_ns: int) -> Rung:
        return cls(
            round((step.at_ns - origin_ns) / 1e6, 3), step.who, step.what, step.tone, step.lost, step.count
        )


@dataclass(frozen=True, slots=True)
class Wire:
    """IKE datagrams and their octets of UDP payload."""

    messages: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: `alice` and `bob` are the IKE messages that each sent from the moment Bob could answer
    again until traffic flowed. `case`: the same run as the use case of a reboot."""

    variant: Variant
    result: RunResult
    alice: Wire = Wire()
    bob: Wire = Wire()
    rungs: tuple[Rung, ...] = ()
    case: Case | None = None

    @property
    def resumed(self) -> bool:
        """Whether the new SA came from a ticket: a Bob who is away for long, or refuses, costs a full one."""
        heard = [rung.what for rung in self.rungs if rung.who == "bob>alice" and not rung.lost]
        return "IKE_SESSION_RESUME response" in heard and "IKE_SA_INIT response" not in heard

    def to_record(self) -> dict[str, Any]:
        return self.result.to_record() | {
            "variant": self.variant.key,
            "resumed": self.resumed,
            "ike_messages": {"alice": asdict(self.alice), "bob": asdict(self.bob)},
        }


@dataclass(frozen=True, slots=True)
class Reference:
    """strongSwan on both sides, default timers: seconds from Bob's return until traffic flowed again.

    `version` is strongSwan's, `measured` the date; `here`: in this very lab run.
    """

    recover_s: float
    measured: str
    version: str
    here: bool
    rtt_ms: float | None = None


EARLIER = Reference(STRONGSWAN_DEFAULT_S, "2026-11-23", "5.9.8", here=False)
"""What was measured before; docs/benchmarks.md says how."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and how it was measured. `packages` are names and versions."""

    made: str
    command: str
    commit: str
    machine: str
    kernel: str
    packages: tuple[tuple[str, str], ...]
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything. `rtt_ms` is the table's; `missing` says what can't be
    measured here, `failed` what was to be and could not even begin, and why."""

    environment: Environment
    quick: bool
    rtt_ms: float
    down_s: float
    variants: tuple[Variant, ...]
    runs: tuple[Measured, ...]
    cases: tuple[Case, ...] = ()
    copies: tuple[CopiesResult, ...] = ()
    attacks: tuple[AttackResult, ...] = ()
    costs: Costs | None = None
    reference: Reference = EARLIER
    missing: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all could begin, every run recovered by its method, and every attack's promise held."""
        return (
            not self.failed
            and all(run.result.ok for run in self.runs)
            and all(case.ok for case in self.cases)
            and all(copies.ok for copies in self.copies)
            and all(attack.ok for attack in self.attacks)
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs, each once."""
        return tuple(sorted({run.result.options.seed for run in self.runs}))

    @property
    def rtts_ms(self) -> tuple[float, ...]:
        """The round trip times of the runs, each once."""
        return tuple(sorted({run.result.options.rtt_ms for run in self.runs}))

    def of(self, variant: Variant, *, resume: bool, rtt_ms: float | None = None) -> tuple[Measured, ...]:
        """The runs of a variant, at the table's round trip time if no other one is named."""
        rtt = self.rtt_ms if rtt_ms is None else rtt_ms
        return tuple(
            run
            for run in self.runs
            if run.variant.key == variant.key
            and run.result.options.resume == resume
            and run.result.options.rtt_ms == rtt
        )

    @property
    def all_cases(self) -> tuple[Case, ...]:
        """The use cases, with a reboot of each method: its first run in the table."""
        reboots: dict[str, Case] = {}
        for run in self.runs:
            plain = run.variant.key == run.result.options.method and not run.result.options.resume
            if plain and run.case is not None and run.result.options.rtt_ms == self.rtt_ms:
                reboots.setdefault(run.variant.key, run.case)
        found = (*reboots.values(), *self.cases)
        return tuple(sorted(found, key=lambda case: USES.index(case.use)))

    def to_record(self) -> dict[str, Any]:
        """The whole report as JSON has it."""
        return {
            "environment": asdict(self.environment) | {"packages": dict(self.environment.packages)},
            "quick": self.quick,
            "ok": self.ok,
            "rtt_ms": self.rtt_ms,
            "down_s": self.down_s,
            "seeds": list(self.seeds),
            "variants": [variant.key for variant in self.variants],
            "reference": asdict(self.reference),
            "missing": list(self.missing),
            "failed": list(self.failed),
            "runs": [run.to_record() for run in self.runs],
            "cases": [case.to_record() for case in self.all_cases],
            "copies": [copies.to_record() for copies in self.copies],
            "attacks": [attack_record(attack) for attack in self.attacks],
            "costs": None if self.costs is None else self.costs.to_record(),
        }


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of some numbers."""

    median: float
    least: float
    greatest: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """None if there are no numbers; missing ones are left out."""
        numbers = [value for value in values if value is not None]
        if not numbers:
            return None
        return cls(statistics.median(numbers), min(numbers), max(numbers), len(numbers))


def spread(runs: Sequence[Measured], pick: Callable[[Measured], float | None]) -> Spread | None:
    """The spread of a number over those runs that recovered."""
    return Spread.of(pick(run) for run in runs if run.result.ok)


def attack_record(result: AttackResult) -> dict[str, Any]:
    """An attack and what came of it as JSON has it."""
    amplification = result.amplification
    return {
        "name": result.attack.name,
        "place": result.attack.place,
        "method": result.method,
        "does": result.attack.does,
        "promise": result.attack.promise,
        "seconds": round(result.seconds, 3),
        "seed": result.options.seed,
        "sent": result.sent,
        "sent_octets": result.sent_octets,
        "answered": result.answered,
        "answered_octets": result.answered_octets,
        "amplification": None if amplification is None else round(amplification, 3),
        "sas_lost": result.sas_lost,
        "rebuilt": result.rebuilt,
        "rebuilt_per_hour": round(result.rebuilt_per_hour, 3),
        "packets_sent": result.packets_sent,
        "packets_lost": result.packets_lost,
        "cpu": {"quiet": asdict(result.quiet), "attacked": asdict(result.attacked)},
        "counters": result.counters,
        "checks": [check.to_record() for check in result.checks],
        "failure": result.failure or None,
        "ok": result.ok,
    }
