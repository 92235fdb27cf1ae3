"""What an attacker beside the link is: he shoots, learns what he is told, hears answers to himself. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deadpeer.lab.attacks.forgery import KnownSa
from deadpeer.lab.garbage import Dice
from deadpeer.lab.link import Passing
from deadpeer.lab.trace import Lane, Way


@dataclass(frozen=True, slots=True)
class Shot:
    """A datagram to send at whom `way` points at. `source` None: as if it came from that one's peer;
    else the number of one of the attacker's own addresses. `what` names it in the counts."""

    source: int | None
    way: Way
    lane: Lane
    payload: bytes = field(repr=False)
    what: str


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the scenario lets him know: SAs that live, SAs that are dead, datagrams that somebody captured."""

    living: tuple[KnownSa, ...] = ()
    dead: tuple[KnownSa, ...] = ()
    tape: tuple[Passing, ...] = ()

    def to_record(self) -> dict[str, Any]:
        return {
            "living": [_sa_record(sa) for sa in self.living],
            "dead": [_sa_record(sa) for sa in self.dead],
            "tape": [(p.way, p.lane, p.payload.hex(), p.arrived_ns) for p in self.tape],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Knowledge:
        return cls(
            tuple(map(_sa, record["living"])),
            tuple(map(_sa, record["dead"])),
            tuple(
                Passing(Way(way), Lane(lane), bytes.fromhex(text), at_ns)
                for way, lane, text, at_ns in record["tape"]
            ),
        )


class Attacker(Protocol):
    """Made with a `Dice`, so that the same seed does the same again. `notes`: what he found out."""

    @property
    def notes(self) -> Mapping[str, int]: ...

    def learn(self, knowledge: Knowledge) -> None:
        """Go on with this knowledge; before the first time, without any."""
        ...

    def shot(self) -> Shot | None:
        """The next datagram, if he has one to send now."""
        ...

    def heard(self, source: int, way: Way, lane: Lane, payload: bytes) -> None:
        """The one whom shots of this `way` are aimed at has sent this to our own address `source`."""
        ...


class Stranger:
    """What attackers have in common: dice, knowledge, and a round of tricks played one after the other.

    A trick returns None where he lacks what it takes. `notes` count what came of it.
    """

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.known = Knowledge()
        self.notes: Counter[str] = Counter()
        self.round = 0
        self.tricks: Sequence[Callable[[], Shot | None]] = ()

    def learn(self, knowledge: Knowledge) -> None:
        self.known = knowledge

    def shot(self) -> Shot | None:
        for _ in self.tricks:
            trick = self.tricks[self.round % len(self.tricks)]
            self.round += 1
            if (shot := trick()) is not None:
                return shot
        return None

    def heard(self, source: int, way: Way, lane: Lane, payload: bytes) -> None:
        """Nothing to learn from it."""

    def target(self) -> KnownSa:
        """A living SA that he knows of, else one that he makes up."""
        return self.dice_of(self.known.living) or KnownSa.made_up(self.dice)

    def dice_of(self, sas: Sequence[KnownSa]) -> KnownSa | None:
        """One of them by chance."""
        return sas[self.dice.below(len(sas))] if sas else None

    def one_of(self, spis: Sequence[bytes]) -> bytes:
        """One of these SPIs by chance, else zeros."""
        return spis[self.dice.below(len(spis))] if spis else bytes(4)

    def way(self) -> Way:
        """Whom to hit: Alice three times out of four."""
        return Way.TO_BOB if self.dice.below(4) == 0 else Way.TO_ALICE

    def lane(self) -> Lane:
        """The lane that our gateways use after IKE_SA_INIT, mostly."""
        return Lane.IKE if self.dice.below(8) == 0 else Lane.NAT_T


class Tally:
    """Counts of datagrams and octets by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, what: str, octets: int) -> None:
        self.counts[what] += 1
        self.counts[f"{what} octets"] += octets


def _sa_record(sa: KnownSa) -> dict[str, Any]:
    return {
        "spi_i": sa.spi_i.hex(),
        "spi_r": sa.spi_r.hex(),
        "alice_began": sa.alice_began,
        "to_bob": [spi.hex() for spi in sa.to_bob],
        "to_alice": [spi.hex() for spi in sa.to_alice],
    }


def _sa(record: Mapping[str, Any]) -> KnownSa:
    return KnownSa(
        bytes.fromhex(record["spi_i"]),
        bytes.fromhex(record["spi_r"]),
        bool(record["alice_began"]),
        tuple(map(bytes.fromhex, record["to_bob"])),
        tuple(map(bytes.fromhex, record["to_alice"])),
    )
