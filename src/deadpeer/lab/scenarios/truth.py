"""Which SA lived at which member and when, and what was said of it: the judge of the cluster's runs. Pure.

All times are monotonic nanoseconds, one clock for all processes of a machine.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

Pair = tuple[str, str]
"""The SPIs of an IKE SA, the original initiator's first, in hexadecimal."""

NEVER = 1 << 63


@dataclass(slots=True)
class Holding:
    """An IKE SA at a member: from when until when, and the ESP SPIs with which it sends to the client."""

    member: int
    number: int
    client: str
    """The client's address and port as the member sees it."""
    from_ns: int
    until_ns: int = NEVER
    outbound: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Said:
    """A token (or a denial of SIR's) for a pair of SPIs, in the clear. `member` None: the forger heard it."""

    pair: Pair
    at_ns: int
    member: int | None = None


class Truth:
    """Told what members log and what is done to them; knows what lived when."""

    def __init__(self, members: int) -> None:
        self.said: list[Said] = []
        self._held: dict[Pair, Holding] = {}
        self._numbers: dict[tuple[int, int], Holding] = {}
        """The last one that a member has called by a number."""
        self._open_since: list[int | None] = [None] * members
        self._serving: list[list[tuple[int, int]]] = [[] for _ in range(members)]

    # --- what happens ----------------------------------------------------------------------------

    def event(self, member: int, record: dict[str, Any]) -> None:
        """A line of a member's log."""
        match record:
            case {"event": "life_begins" | "unfenced" | "active", "mono_ns": int(at_ns)}:
                self._opens(member, at_ns)
            case {"event": "fenced", "mono_ns": int(at_ns)}:
                self._closes(member, at_ns)
            case {"event": "epoch_ended" | "standby", "mono_ns": int(at_ns)}:
                self._closes(member, at_ns)
                self._all_gone(member, at_ns)
            case {"event": "ike_sa_up", "mono_ns": int(at_ns), "sa": int(number), "remote": str(remote)}:
                pair = (record["spi_i"], record["spi_r"])
                self._held[pair] = self._numbers[member, number] = Holding(member, number, remote, at_ns)
            case {"event": "ike_sa_down", "mono_ns": int(at_ns), "sa": int(number)}:
                if (holding := self._by_number(member, number)) is not None:
                    holding.until_ns = at_ns
            case {"event": "child_up" | "child_rekeyed", "sa": int(number), "spi_out": str(spi)}:
                if (holding := self._by_number(member, number)) is not None:
                    holding.outbound.add(spi)

    def stopped(self, member: int, at_ns: int, *, dead: bool) -> None:
        """The process does nothing any more: it is frozen, or `dead`."""
        self._closes(member, at_ns)
        if dead:
            self._all_gone(member, at_ns)

    def say(self, said: Said) -> None:
        """Somebody heard this."""
        self.said.append(said)

    # --- what is known ---------------------------------------------------------------------------

    def serving(self, member: int, at_ns: int) -> bool:
        """Whether the member could send at that moment: a life, a lease, a process that runs."""
        since = self._open_since[member]
        if since is not None and since <= at_ns:
            return True
        return any(begin <= at_ns < end for begin, end in self._serving[member])

    def owner(self, pair: Pair, at_ns: int) -> int | None:
        """The member that had this SA at that moment, whether or not it could serve."""
        holding = self._held.get(pair)
        if holding is None or not holding.from_ns <= at_ns < holding.until_ns:
            return None
        return holding.member

    def pairs(self, at_ns: int) -> dict[Pair, int]:
        """All SAs that some member has at that moment, and which."""
        return {pair: owner for pair in self._held if (owner := self.owner(pair, at_ns)) is not None}

    def holdings(self, member: int, at_ns: int) -> dict[Pair, Holding]:
        """The SAs of a member at that moment."""
        return {pair: self._held[pair] for pair, owner in self.pairs(at_ns).items() if owner == member}

    def made_since(self, at_ns: int) -> int:
        """How many IKE SAs came up at any member since then."""
        return sum(holding.from_ns >= at_ns for holding in self._held.values())

    def told_of(self, pairs: Container[Pair], from_ns: int) -> list[Said]:
        """What was said since then of some SAs, living or not."""
        return [said for said in self.said if said.at_ns >= from_ns and said.pair in pairs]

    # --- the judgement ---------------------------------------------------------------------------

    def told_of_living(self, from_ns: int = 0) -> list[Said]:
        """What was said since then of an SA whose owner could serve it at that moment."""
        return [
            said
            for said in self.said
            if said.at_ns >= from_ns
            and (owner := self.owner(said.pair, said.at_ns)) is not None
            and self.serving(owner, said.at_ns)
        ]

    def told_of_unheard(self, had: Container[Pair], from_ns: int = 0) -> list[Said]:
        """What was said since then of SAs that clients `had` up, and of which no member has told.

        A client is up only after its member is. So a line was lost, and nobody can say whether it lived.
        """
        return [
            said
            for said in self.said
            if said.at_ns >= from_ns and said.pair in had and said.pair not in self._held
        ]

    def used_after(self, spoken: list[tuple[int, str, int]], from_ns: int = 0) -> list[Said]:
        """What was said of an SA that its owner used again afterwards: (member, SPI, when last) in `spoken`.

        The SPI is that of the ESP packets to the client, or "spi_i:spi_r".
        """
        last = {(member, spi): at_ns for member, spi, at_ns in spoken}
        found = []
        for said in self.said:
            holding = self._held.get(said.pair)
            if holding is None or said.at_ns < from_ns:
                continue
            spis = [*holding.outbound, ":".join(said.pair)]
            if any(last.get((holding.member, spi), 0) > said.at_ns for spi in spis):
                found.append(said)
        return found

    # --- helpers ---------------------------------------------------------------------------------

    def _opens(self, member: int, at_ns: int) -> None:
        if self._open_since[member] is None:
            self._open_since[member] = at_ns

    def _closes(self, member: int, at_ns: int) -> None:
        since = self._open_since[member]
        if since is not None:
            self._serving[member].append((since, at_ns))
            self._open_since[member] = None

    def _all_gone(self, member: int, at_ns: int) -> None:
        for holding in self._held.values():
            if holding.member == member and holding.until_ns == NEVER:
                holding.until_ns = at_ns

    def _by_number(self, member: int, number: int) -> Holding | None:
        found = self._numbers.get((member, number))
        return found if found is not None and found.until_ns == NEVER else None
