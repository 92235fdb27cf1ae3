"""Two IKE SAs of one peer, one begun by each side at the same time: one of them goes.

After a crash both sides may have reason to begin: the one that lost its SAs has packets to send, and the
other has just proved the loss. RFC 7296 has no rule for that, and two SAs would stay for good.

    ours    ◀──────────────────▶    up
    theirs  ◀──────────────────▶    up within `RIVALS_S` of it, with the same children
    theirs  ──────────────────▶     is it alive, now?  (a liveness check, if nothing protected came since)
    ours    SK{DELETE}──────────▶   by the side that began the one with the higher SPIi, and only by that

The SA that stays has shown, after both were up, that the peer has it; so nobody is ever left with the dead
one of two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from deadpeer.crash.agenda import Agenda
from deadpeer.crash.evidence import same_peer
from deadpeer.crash.rebuilds import Rebuilds
from deadpeer.ike.extension import Extension, SaClosed, SaEstablished, SaView, Signal
from deadpeer.values import NS_PER_S, Deadline, Now

RIVALS_S = 10.0
"""SAs that come up within such a time may have been begun for the same reason."""
MAX_MET = 256
"""New SAs that are remembered for so long."""
LOOK_S = 0.5
LOOKS = 12
"""How often it is looked whether one can go: all children are up, nothing is under way, the other lives."""


class Rivals(Extension):
    """Gives up the SA that we began where the peer's own serves as well."""

    name = "rivals"

    def __init__(self, rebuilds: Rebuilds) -> None:
        self._rebuilds = rebuilds
        self._met: deque[_Met] = deque(maxlen=MAX_MET)
        self._pairs: dict[int, _Pair] = {}
        self._agenda: Agenda[int] = Agenda("rival SAs")

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case SaEstablished(sa=sa):
                self._meet(now, _Met(now.mono_ns, sa))
            case SaClosed(sa=sa):
                self._forget(sa.number)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {"rivals.pairs": len(self._pairs)}

    def deadline(self) -> Deadline | None:
        return self._agenda.deadline()

    def expire(self, now: Now) -> None:
        while (number := self._agenda.due(now.mono_ns)) is not None:
            self._look(now, self._pairs[number])

    # --- helpers ---------------------------------------------------------------------------------

    def _meet(self, now: Now, new: _Met) -> None:
        while self._met and now.mono_ns - self._met[0].at_ns > RIVALS_S * NS_PER_S:
            self._met.popleft()
        for other in self._met:
            ours, theirs = (new.sa, other.sa) if new.sa.initiator else (other.sa, new.sa)
            if ours.initiator and not theirs.initiator and _yields(ours, theirs):
                self._pairs[ours.number] = _Pair(ours, theirs, now.mono_ns)
                self._agenda.set(ours.number, now.after(LOOK_S))
        self._met.append(new)

    def _look(self, now: Now, pair: _Pair) -> None:
        ours, theirs = pair.ours, pair.theirs
        pair.looks += 1
        if not _yields(ours, theirs) or pair.looks > LOOKS:
            self._forget(ours.number)
            return
        self._agenda.set(ours.number, now.after(LOOK_S))
        names = {child.name for child in theirs.child_views}
        complete = all(child.name in names for child in ours.child_views)
        if not complete or ours.request_in_flight or self._rebuilds.beside(ours) is not None:
            return
        if theirs.last_heard_ns <= pair.since_ns:
            if not theirs.request_in_flight:
                self.core.probe(now, theirs, "rival")
            return
        self._forget(ours.number)
        self.core.count("rival.dismissed")
        self.core.dismiss(now, ours, "the peer began one too")

    def _forget(self, number: int) -> None:
        self._pairs.pop(number, None)
        self._agenda.cancel(number)


@dataclass(frozen=True, slots=True)
class _Met:
    """An SA that came up."""

    at_ns: int
    sa: SaView


@dataclass(slots=True)
class _Pair:
    """An SA that we began and shall give up, the one that shall stay, and since when both are up."""

    ours: SaView
    theirs: SaView
    since_ns: int
    looks: int = 0


def _yields(ours: SaView, theirs: SaView) -> bool:
    """Whether ours is the one that goes. Each side sees the same two, so one of them says yes."""
    return (
        ours.established
        and same_peer(ours, theirs)
        and ours.remote.host == theirs.remote.host
        and theirs.spi_i < ours.spi_i
    )
