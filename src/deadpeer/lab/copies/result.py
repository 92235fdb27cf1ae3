"""What came of copies of one gateway behind a balancer: numbers, and the judgement of what was seen. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deadpeer.lab.copies.place import CopiesPlan
from deadpeer.lab.process import Record
from deadpeer.lab.scenarios.truth import Pair, Said, Truth


@dataclass(frozen=True, slots=True)
class Presented:
    """What was bought once for a living SA and presented to its client.

    `died`: the client gave the SA up. `noticed`: it reported an attack. `back_ms`: from when it was presented
    until the client's traffic flowed again; None: nothing had to come back, or it did not. `lost`: packets.
    """

    client: int
    how: str
    died: bool
    noticed: bool
    back_ms: float | None = None
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of it when the balancer led clients away from a gateway that lives: living SAs that they gave
    up, packets lost of those sent, and when the slowest had traffic again; None: it did not."""

    given_up: int
    sent: int
    lost: int
    back_ms: float | None


@dataclass(frozen=True, slots=True)
class CopiesResult:
    """One run. `sold`: tokens (with SIR denials) of SAs that lived at their owner when it was said, of which
    `to_asker` went to the asker's own address. `died_besides`: living SAs that clients gave up, and not
    for what was presented: while attackers asked, for one.

    `back_ms`: from a gateway's death until the slowest of its clients was back.
    """

    plan: CopiesPlan
    asked: int
    sold: int
    to_asker: int
    died_besides: int
    presented: tuple[Presented, ...]
    back_ms: float | None = None
    verdicts: tuple[str, ...] = ()
    failure: str | None = None
    moved: Moved | None = None

    @property
    def died(self) -> int:
        """Living SAs that clients gave up because of what was presented to them."""
        return sum(one.died for one in self.presented)

    @property
    def noticed(self) -> int:
        """Attacks that clients reported."""
        return sum(one.noticed for one in self.presented)

    @property
    def ok(self) -> bool:
        """Whether it could be measured, whatever came of it."""
        return self.failure is None

    def to_record(self) -> dict[str, Any]:
        """As JSON has it."""
        plan = asdict(self.plan)
        return {
            "scenario": "copies",
            **plan,
            "asked_by_attackers": self.asked,
            "said_of_living_sas": self.sold,
            "said_to_the_asker": self.to_asker,
            "living_sas_given_up_besides": self.died_besides,
            "living_sas_given_up_for_what_was_presented": self.died,
            "attacks_noticed": self.noticed,
            "presented": [asdict(one) for one in self.presented],
            "moved": None if self.moved is None else asdict(self.moved),
            "back_after_a_death_ms": self.back_ms,
            "verdicts": list(self.verdicts),
            "ok": self.ok,
            "failure": self.failure,
        }


def pair_of(events: Iterable[Record], sa: int, until_ns: int) -> Pair | None:
    """The SPIs of the IKE SA to which a client's log gave this number."""
    found = [
        (str(event["spi_i"]), str(event["spi_r"]))
        for event in events
        if event["event"] == "ike_sa_up" and event.get("sa") == sa and event["mono_ns"] <= until_ns
    ]
    return found[-1] if found else None


def given_up(events: Sequence[Record], truth: Truth, from_ns: int, until_ns: int) -> list[Pair]:
    """The SAs that a client gave up in a span of time though their owner had them, and served."""
    found = []
    for event in events:
        at_ns = event["mono_ns"]
        if event["event"] != "verdict" or not from_ns <= at_ns < until_ns:
            continue
        pair = pair_of(events, int(event["sa"]), at_ns)
        owner = None if pair is None else truth.owner(pair, at_ns)
        if pair is not None and owner is not None and truth.serving(owner, at_ns):
            found.append(pair)
    return found


def count_said(truth: Truth, said: Sequence[Said]) -> tuple[int, int]:
    """(all, to the asker's own address) of what was said of SAs that lived when it was said."""
    living = [
        one
        for one in said
        if (owner := truth.owner(one.pair, one.at_ns)) is not None and truth.serving(owner, one.at_ns)
    ]
    return len(living), sum(one.member is None for one in living)
