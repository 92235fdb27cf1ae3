"""What was seen during an attack, as values; the numbers that follow from a recording. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from deadpeer.lab.attacks.model import Cost
from deadpeer.lab.options import Side
from deadpeer.lab.recording import Recording, SideEvent
from deadpeer.lab.trace import IkeSeen, Sighting, Way
from deadpeer.wire import ExchangeType

Counters = Mapping[str, Mapping[str, int]]
SENDER: Mapping[Way, Side] = {Way.TO_BOB: "alice", Way.TO_ALICE: "bob"}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, monotonic ns."""

    begin_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e9

    def has(self, at_ns: int) -> bool:
        return self.begin_ns <= at_ns < self.end_ns


@dataclass(frozen=True, slots=True)
class Shots:
    """What an attacker sent and what came back to his own addresses. `worst`: the largest answer as a
    multiple of its question. `notes`: what he found out."""

    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    worst: float = 0.0

    def number(self, what: str) -> int:
        return self.counts.get(what, 0)


@dataclass(frozen=True, slots=True)
class IkeTraffic:
    """IKE messages that both gateways sent: how many, how large, and how many different liveness checks or
    other protected INFORMATIONAL requests each sent."""

    messages: int
    octets: int
    checks: Mapping[Side, int]


@dataclass(frozen=True, slots=True)
class Recovery:
    """A real crash: Bob was killed, could answer again, and, if it came to that, traffic flowed again."""

    killed_ns: int
    ready_ns: int
    recovered_ns: int | None

    @property
    def seconds(self) -> float | None:
        return None if self.recovered_ns is None else (self.recovered_ns - self.ready_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Observed:
    """All that the checks judge.

    `starved`: datagrams and packets that this machine's sockets had no room for, since a process had no time
    to read. `leaks`: datagrams with a token of a living SA in them. `living`: Alice's IKE SAs before,
    `lived`: those of them that were there after the attack.
    """

    quiet: Span
    blind: Span
    attack: Span
    quiet_cost: Cost
    attack_cost: Cost
    quiet_ike: IkeTraffic
    attack_ike: IkeTraffic
    blind_shots: Shots
    blind_counters: Mapping[Side, Counters]
    shots: Shots
    mischief: Mapping[str, int]
    verdicts: tuple[SideEvent, ...]
    rebuilt: int
    inner_sent: int
    inner_lost: int
    starved: int
    memory_mb: Mapping[Side, tuple[float, float]]
    counters: Mapping[Side, Counters]
    internal_errors: int
    living: int
    lived: int
    leaks: int = 0
    token_answers: int = 0
    half_open: int = 0
    crash: Recovery | None = None
    bob_after_crash: Counters = field(default_factory=dict)
    flows_after: bool = True

    @property
    def sent(self) -> tuple[int, int]:
        """Packets and octets of the attacker: forged, replayed or held back."""
        kinds = ("dropped ", "forged ", "delayed")
        packets = sum(
            n for what, n in self.mischief.items() if what.startswith(kinds) and "octets" not in what
        )
        octets = sum(n for what, n in self.mischief.items() if what.endswith("octets"))
        return packets + self.shots.number("sent"), octets + self.shots.number("sent octets")

    @property
    def answered(self) -> tuple[int, int]:
        """Packets and octets that he provoked: at his own addresses, and on the link what is more than in
        the quiet time."""
        share = self.attack.seconds / self.quiet.seconds if self.quiet.seconds else 0.0
        more = self.attack_ike.messages - self.quiet_ike.messages * share
        octets = self.attack_ike.octets - self.quiet_ike.octets * share
        return (
            self.shots.number("answers") + max(0, round(more)),
            self.shots.number("answers octets") + max(0, round(octets)),
        )


def ike_traffic(sightings: Iterable[Sighting], span: Span) -> IkeTraffic:
    """The gateways' IKE messages of that time, dropped or not. Forgeries are no sightings."""
    messages = octets = 0
    checks: set[tuple[Side, str, int]] = set()
    for sighting in sightings:
        seen = sighting.seen
        if not isinstance(seen, IkeSeen) or not span.has(sighting.arrived_ns):
            continue
        messages += 1
        octets += sighting.size
        if seen.protected and not seen.response and seen.exchange == ExchangeType.INFORMATIONAL:
            checks.add((SENDER[sighting.way], seen.spi_i, seen.message_id))
    return IkeTraffic(messages, octets, Counter(side for side, _, _ in checks))


def inner_traffic(recording: Recording, span: Span) -> tuple[int, int]:
    """Inner packets sent in that time, and those of them that were never answered.

    Those that never came into a gateway, since it had no time to take them, are not counted at all.
    """
    traffic = recording.traffic
    sent = [seq for seq, at in traffic.sent.items() if span.has(at) and seq not in traffic.no_room]
    return len(sent), sum(1 for seq in sent if seq not in traffic.replies)


def events_of(recording: Recording, kind: str, span: Span) -> list[SideEvent]:
    """The events of that kind in that time."""
    return [event for event in recording.events if event.kind == kind and span.has(event.at_ns)]


def grown(before: Counters, after: Counters) -> dict[str, dict[str, int]]:
    """What was counted meanwhile; the sizes of tables as they are."""
    return {
        group: {
            name: value if group == "tables" else value - before.get(group, {}).get(name, 0)
            for name, value in counters.items()
            if group == "tables" or value != before.get(group, {}).get(name, 0)
        }
        for group, counters in after.items()
    }
