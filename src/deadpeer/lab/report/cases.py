"""The four use cases as they were measured, and what became of the inner packets. Pure.

Robustness: a gateway lives and has lost SAs. Reboot: it died and is back. Failover: another one takes its
place. Cluster: one of several dies, and the balancer sends its clients to the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from deadpeer.lab.options import Method
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.result import RunResult
from deadpeer.lab.scenarios.outcome import Outcome
from deadpeer.lab.trace import IkeSeen, Sighting, Way
from deadpeer.lab.traffic import TrafficLog

Use = Literal["robustness", "reboot", "failover", "cluster"]
USES: tuple[Use, ...] = ("robustness", "reboot", "failover", "cluster")

Fate = Literal["answered", "late", "lost"]
"""Of an inner packet: its answer came, it came late because the packet waited for a new SA, or never."""

DENIALS = frozenset({"QCD_TOKEN", "CHECK_SPI NACK"})
"""What must never be said in the clear of a living SA."""
NO_PAIR = "00" * 8
"""The SPIs in the header of an answer that is about no IKE SA."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The inner packets that left from one moment to another, milliseconds from the strip's zero, had one
    fate."""

    from_ms: float
    to_ms: float
    fate: Fate


@dataclass(frozen=True, slots=True)
class Strip:
    """What became of one client's inner packets, around the moment from which times count.

    `knows_ms`: when the client held the proof, `flows_ms` when traffic flowed again. None: nothing was lost.
    """

    name: str
    stretches: tuple[Stretch, ...]
    knows_ms: float | None = None
    flows_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A use case, tried with one method. `lost`: the event ("ike", "all", "process", "kill", ...).

    Times in milliseconds, of the slowest client, from the moment that `Strip`s count from: the loss, Bob's
    return, the other gateway's activation, the death. `living_lost`: SAs that lived and were given up.
    `tokens`: tokens or denials of living SAs in the clear. `asked`: how often attackers asked for one; None:
    there were none. `others_lost`: packets of clients that were not concerned; None: there are no others.
    """

    use: Use
    lost: str
    method: Method
    detect_ms: float | None
    recover_ms: float | None
    packets_sent: int
    packets_lost: int
    living_lost: int
    tokens: int
    verdict: str | None = None
    asked: int | None = None
    others_lost: int | None = None
    strips: tuple[Strip, ...] = ()
    failure: str | None = None
    record: dict[str, Any] = field(default_factory=dict, repr=False)
    """The run's own record, as `deadpeer lab --json` prints it."""

    @property
    def ok(self) -> bool:
        """Whether it recovered as it should, and nothing was done to what lived."""
        return self.failure is None and not self.tokens and not self.living_lost

    @property
    def title(self) -> str:
        """Which it is, in a line of text."""
        return f"{self.use} ({self.lost}) by {self.method}"

    def to_record(self) -> dict[str, Any]:
        """As JSON has it: the run's own record, and what was found about it here."""
        return {
            "use_case": self.use,
            "lost": self.lost,
            "method": self.method,
            "detect_ms": self.detect_ms,
            "recover_ms": self.recover_ms,
            "packets_sent": self.packets_sent,
            "packets_lost": self.packets_lost,
            "living_sas_lost": self.living_lost,
            "tokens_for_living_sas": self.tokens,
            "verdict": self.verdict,
            "asked_by_attackers": self.asked,
            "others_packets_lost": self.others_lost,
            "ok": self.ok,
            "failure": self.failure,
            "strips": [asdict(strip) for strip in self.strips],
            "run": {key: value for key, value in self.record.items() if key != "timeline"},
        }


def of_run(result: RunResult, strip: Strip | None, living_lost: int, tokens: int) -> Case:
    """Robustness, or a reboot."""
    options = result.options
    return Case(
        use="reboot" if options.lost is None else "robustness",
        lost=options.lost or "process",
        method=options.method,
        detect_ms=result.detect_ms,
        recover_ms=result.recover_ms,
        packets_sent=result.packets_sent,
        packets_lost=result.packets_lost,
        living_lost=living_lost,
        tokens=tokens,
        verdict=result.verdict,
        strips=() if strip is None else (strip,),
        failure=result.failure,
        record=result.to_record(),
    )


def of_outcome(outcome: Outcome, strips: tuple[Strip, ...], living_lost: int) -> Case:
    """Failover, or a cluster."""
    record = outcome.to_record()
    return Case(
        use="failover" if outcome.plan.standby else "cluster",
        lost=outcome.happening,
        method=outcome.plan.method,
        detect_ms=record["detect_ms"],
        recover_ms=record["recover_ms"],
        packets_sent=outcome.sent,
        packets_lost=outcome.lost,
        living_lost=living_lost,
        tokens=outcome.told_of_living,
        verdict=record["verdict"],
        asked=sum(outcome.asked.values()),
        others_lost=outcome.others_lost if outcome.others else None,
        strips=strips,
        failure=outcome.failure,
        record=record,
    )


def strip_of(
    name: str,
    log: TrafficLog,
    zero_ns: int,
    span_ms: tuple[float, float],
    late_ms: float,
    knows_ms: float | None = None,
    flows_ms: float | None = None,
) -> Strip:
    """The packets that left within `span_ms` of a moment, those alike and next to each other in one stretch.

    Late: the answer took longer than `late_ms`. What this machine had no room for is left out.
    """
    sent = sorted((at_ns, seq) for seq, at_ns in log.sent.items() if seq not in log.no_room)
    fates = [((at_ns - zero_ns) / 1e6, _fate(log, seq, at_ns, late_ms)) for at_ns, seq in sent]
    within = [(at_ms, fate) for at_ms, fate in fates if span_ms[0] <= at_ms < span_ms[1]]
    stretches: list[Stretch] = []
    for number, (at_ms, fate) in enumerate(within):
        # A packet stands for the time until the next one leaves.
        until_ms = within[number + 1][0] if number + 1 < len(within) else min(at_ms + 20, span_ms[1])
        if stretches and stretches[-1].fate == fate:
            at_ms = stretches.pop().from_ms
        stretches.append(Stretch(round(at_ms, 1), round(until_ms, 1), fate))
    return Strip(name, tuple(stretches), knows_ms, flows_ms)


def tokens_of_living(sightings: Iterable[Sighting], lost_ns: int, lost_pair: tuple[str, str] | None) -> int:
    """How many tokens or denials Bob sent in the clear for an IKE SA that he had. `lost_pair`: the one that
    he lost at that moment; None: he kept it, and lost a child."""
    found = 0
    for sighting in sightings:
        seen = sighting.seen
        if sighting.way is not Way.TO_ALICE or not isinstance(seen, IkeSeen) or seen.protected:
            continue
        pair = (seen.spi_i, seen.spi_r)
        if DENIALS & set(seen.notifies) and pair != (NO_PAIR, NO_PAIR):
            found += sighting.arrived_ns < lost_ns or pair != lost_pair
    return found


def pair_before(sightings: Iterable[Sighting], lost_ns: int) -> tuple[str, str] | None:
    """The IKE SA that the two last used before a moment."""
    found = None
    for sighting in sightings:
        if isinstance(sighting.seen, IkeSeen) and sighting.seen.protected and sighting.arrived_ns < lost_ns:
            found = (sighting.seen.spi_i, sighting.seen.spi_r)
    return found


def given_up_alive(events: Sequence[SideEvent], lost_ns: int, *, child_only: bool) -> int:
    """How many living SAs Alice gave up, by her verdicts: all but the first one about an SA that Bob lost."""
    verdicts = [event for event in events if event.kind == "verdict"]
    about = next((event.fields.get("sa") for event in verdicts if event.at_ns >= lost_ns), None)
    return sum(child_only or event.at_ns < lost_ns or event.fields.get("sa") != about for event in verdicts)


def _fate(log: TrafficLog, seq: int, sent_ns: int, late_ms: float) -> Fate:
    reply_ns = log.replies.get(seq)
    if reply_ns is None:
        return "lost"
    return "late" if reply_ns - sent_ns > late_ms * 1e6 else "answered"
