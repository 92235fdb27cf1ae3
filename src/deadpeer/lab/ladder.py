"""The steps of a recovery, from what the relay saw and what both sides logged. Pure.

Messages under protection are named by what a bystander can see: exchange, request or response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from deadpeer.lab.options import Side
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.trace import EspSeen, IkeSeen, OtherSeen, Sighting, Way

Who = Literal["alice", "bob", "alice>bob", "bob>alice"]
Tone = Literal["plain", "good", "bad"]

WIDTH = 74
"""Columns between Alice's lifeline and Bob's."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rung. `at_ns`: when it happened, for a message when it arrived (or was lost).

    `count` messages looked alike; the others came later.
    """

    at_ns: int
    who: Who
    what: str
    tone: Tone = "plain"
    lost: bool = False
    count: int = 1

    def to_record(self, origin_ns: int) -> dict[str, Any]:
        """An entry of the timeline in the JSON."""
        text = self.what + (f" (lost, {self.count} times)" if self.lost and self.count > 1 else "")
        if self.lost and self.count == 1:
            text += " (lost)"
        elif not self.lost and self.count > 1:
            text += f" ({self.count} times)"
        return {"t_ms": round((self.at_ns - origin_ns) / 1e6, 3), "who": self.who, "what": text}


def ladder(
    events: Iterable[SideEvent],
    sightings: Iterable[Sighting],
    *,
    killed_ns: int,
    started_ns: int,
    ready_ns: int,
    end_ns: int,
    lost: str | None = None,
) -> list[Step]:
    """The steps from Bob's death to `end_ns`, in order of time.

    With `lost` Bob is not killed: at `killed_ns` he loses that, and `ready_ns` is the same moment.
    Messages that look alike become one step with a count; ESP counts as alike if its SPI is the same.
    """
    steps = [
        Step(killed_ns, "bob", "killed (SIGKILL)", "bad"),
        Step(started_ns, "bob", "started again"),
        Step(ready_ns, "bob", "can answer again", "good"),
    ]
    if lost is not None:
        steps = [Step(killed_ns, "bob", f"loses {lost}, lives on", "bad")]
    old = _old_spis(sightings, killed_ns)
    messages = [_of_message(s, old, ready_ns) for s in sightings if killed_ns <= _when(s) <= end_ns]
    steps += _merged((step for step in messages if step is not None), ready_ns)
    steps += [step for e in events if killed_ns <= e.at_ns <= end_ns and (step := _of_event(e)) is not None]
    return sorted(steps, key=lambda step: step.at_ns)


def render(steps: Iterable[Step], origin_ns: int) -> list[tuple[str, Tone]]:
    """Lines of text for a terminal, with the tone of each; times relative to `origin_ns`."""
    head = f"{'':>11}  {'Alice':<{WIDTH - 3}}Bob"
    return [(head, "plain"), *((render_step(step, origin_ns), step.tone) for step in steps)]


def render_step(step: Step, origin_ns: int) -> str:
    """One line of the ladder."""
    return f"{_time(step.at_ns - origin_ns):>11}  {_drawn(step)}"


def name_of(seen: IkeSeen) -> str:
    """What a message is called: its exchange and direction, or the notifies that it carries in the clear."""
    if not seen.protected and seen.exchange_name == "INFORMATIONAL" and seen.notifies:
        return _notifies(seen)
    if not seen.protected and {"INVALID_IKE_SPI", "COOKIE", "NO_PROPOSAL_CHOSEN"} & set(seen.notifies):
        return f"{_notifies(seen)} (to {seen.exchange_name})"
    fragment = "" if seen.fragment is None else f", fragment {seen.fragment[0]} of {seen.fragment[1]}"
    return f"{seen.exchange_name} {'response' if seen.response else 'request'}{fragment}"


def _notifies(seen: IkeSeen) -> str:
    parts = []
    for name, count in Counter(seen.notifies).items():
        about = f" {seen.about}" if name == "INVALID_SPI" else ""
        parts.append(f"{name}{about}" + (f" x{count}" if count > 1 else ""))
    return " + ".join(parts)


def _when(sighting: Sighting) -> int:
    return sighting.arrived_ns if sighting.delivered_ns is None else sighting.delivered_ns


def _old_spis(sightings: Iterable[Sighting], killed_ns: int) -> frozenset[str]:
    return frozenset(
        s.seen.spi for s in sightings if isinstance(s.seen, EspSeen) and s.arrived_ns < killed_ns
    )


def _of_message(sighting: Sighting, old: frozenset[str], ready_ns: int) -> Step | None:
    seen, lost = sighting.seen, sighting.delivered_ns is None
    who: Who = "alice>bob" if sighting.way is Way.TO_BOB else "bob>alice"
    match seen:
        case OtherSeen():
            return None
        case EspSeen():
            if _when(sighting) < ready_ns:
                return None  # the strip of packets shows what is lost while Bob is down
            age = "old" if seen.spi in old else "new"
            return Step(_when(sighting), who, f"ESP, {age} SA ({seen.spi})", lost=lost)
        case IkeSeen():
            tone: Tone = "good" if "QCD_TOKEN" in seen.notifies else "plain"
            return Step(_when(sighting), who, name_of(seen), tone, lost)


def _merged(steps: Iterable[Step], ready_ns: int) -> list[Step]:
    # What Bob hears is another step than what was sent to a dead Bob, alike as they look.
    merged: dict[tuple[Who, str, bool, bool], Step] = {}
    for step in steps:
        key = (step.who, step.what, step.lost, step.at_ns < ready_ns)
        before = merged.get(key)
        merged[key] = step if before is None else replace(before, count=before.count + 1)
    return list(merged.values())


def _of_event(event: SideEvent) -> Step | None:
    fields = event.fields
    match event.side, event.kind:
        case "alice", "verdict":
            return Step(event.at_ns, "alice", f"VERDICT: {fields.get('proof', 'proof')}", "good")
        case "alice", "hint":
            return Step(event.at_ns, "alice", f"suspects: {fields.get('kind', fields.get('hint', 'a hint'))}")
        case _, "child_up":
            return Step(event.at_ns, _local(event.side), "new child SA up", "good")
        case "alice", "recovered":
            return Step(event.at_ns, "alice", str(fields.get("what", "recovered")), "good")
    return None


def _local(side: Side) -> Who:
    return side


def _drawn(step: Step) -> str:
    text = step.what + (f" x{step.count}" if step.count > 1 else "")
    if step.who == "alice":
        return f"\N{BLACK CIRCLE} {text}"
    if step.who == "bob":
        return f"{text + ' ' + chr(0x25CF):>{WIDTH}}"
    text = f" {text} "
    line = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    end = "\N{MULTIPLICATION SIGN}" if step.lost else None
    if step.who == "alice>bob":
        return text.center(WIDTH - 1, line) + (end or "\N{BLACK RIGHT-POINTING TRIANGLE}")
    return (end or "\N{BLACK LEFT-POINTING TRIANGLE}") + text.center(WIDTH - 1, line)


def _time(ns: int) -> str:
    ms = ns / 1e6
    return f"{ms:+.1f} ms" if abs(ms) < 1000 else f"{ms / 1000:+.3f} s"
