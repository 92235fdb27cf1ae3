"""Two IKE SAs of one peer, one begun by each side at the same time: one of them goes.

After a crash both sides may have reason to begin: the one that lost its SAs has packets to send, and the
other has just proved the loss. RFC 7296 has no rule for that, and two SAs would stay for good.

    ours    ◀──────────────────▶    up
    theirs  ◀──────────────────▶    up within `RIVALS_S` of it, with the same children
    theirs  ──────────────────▶     is it alive, now?  (a liveness check, if nothing protected came since)
    ours    SK{DELETE}──────────▶   by the side that began the one with the higher SPIi, and only by that

If ours has children that theirs lacks, theirs goes; if each has some, theirs gets those of ours first. If the
peer does not take them, both stay. One side alone decides, by the SPIs of the first days, so that a rekey
changes nothing. The SA that stays has shown, after both were up, that the peer has it; so nobody is ever left
with the dead one of two.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from deadpeer.crash.agenda import Agenda
from deadpeer.crash.evidence import same_peer
from deadpeer.crash.rebuilds import Rebuilds
from deadpeer.ike.extension import Extension, SaClosed, SaEstablished, SaRekeyed, SaView, Signal
from deadpeer.values import NS_PER_S, Deadline, Now

RIVALS_S = 10.0
"""SAs that come up within such a time may have been begun for the same reason."""
MAX_MET = 256
"""New SAs that are remembered for so long."""
LOOK_S = 0.5
LOOKS = 40
"""How often it is looked whether one can go: all children are up, nothing is under way, the other lives."""
PATIENT_LOOKS = 6
"""The peer's own goes, or gets the children of ours, only after so many: it may be about to get more."""


class Rivals(Extension):
    """Gives up the SA that we began where the peer's own serves as well."""

    name = "rivals"
    observes = (SaEstablished, SaRekeyed, SaClosed)

    def __init__(self, rebuilds: Rebuilds) -> None:
        self._rebuilds = rebuilds
        self._met: deque[_Met] = deque(maxlen=MAX_MET)
        self._pairs: dict[int, _Pair] = {}
        self._agenda: Agenda[int] = Agenda("rival SAs")

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case SaEstablished(sa=sa):
                self._meet(now, _Met(now.mono_ns, sa, sa.spi_i, sa.initiator))
            case SaRekeyed(old=old, new=new):
                self._follow(old, new)
            case SaClosed(sa=sa):
                for number in [n for n, pair in self._pairs.items() if pair.ours is sa]:
                    self._forget(number)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {"rivals.pairs": len(self._pairs)}

    def deadline(self) -> Deadline | None:
        return self._agenda.deadline()

    def expire(self, now: Now) -> None:
        while (number := self._agenda.due(now.mono_ns)) is not None:
            self._look(now, number)

    # --- helpers ---------------------------------------------------------------------------------

    def _meet(self, now: Now, new: _Met) -> None:
        while self._met and now.mono_ns - self._met[0].at_ns > RIVALS_S * NS_PER_S:
            self._met.popleft()
        for other in self._met:
            ours, theirs = (new, other) if new.initiator else (other, new)
            # Each side sees the same two, so one of them says yes, whatever is rekeyed meanwhile.
            yields = ours.initiator and not theirs.initiator and theirs.spi_i < ours.spi_i
            if yields and _rivals(ours.sa, theirs.sa):
                self._pairs[ours.sa.number] = _Pair(ours.sa, theirs.sa, now.mono_ns)
                self._agenda.set(ours.sa.number, now.after(LOOK_S))
        self._met.append(new)

    def _follow(self, old: SaView, new: SaView) -> None:
        """A rekey changes nothing about who began what."""
        for met in self._met:
            met.sa = new if met.sa is old else met.sa
        for pair in self._pairs.values():
            pair.ours = new if pair.ours is old else pair.ours
            pair.theirs = new if pair.theirs is old else pair.theirs

    def _look(self, now: Now, number: int) -> None:
        pair = self._pairs[number]
        ours, theirs = pair.ours, pair.theirs
        pair.looks += 1
        if not _rivals(ours, theirs) or pair.looks > LOOKS:
            self._forget(number)
            return
        self._agenda.set(number, now.after(LOOK_S))
        if _has_all(theirs, ours):
            goes, stays = ours, theirs
        elif _has_all(ours, theirs) and pair.looks > PATIENT_LOOKS:
            goes, stays = theirs, ours
        else:
            self._carry_over(now, pair)
            return
        if goes.request_in_flight or self._rebuilds.beside(goes) is not None:
            return
        if stays.last_heard_ns <= pair.since_ns:
            if not stays.request_in_flight:
                self.core.probe(now, stays, "rival")
            return
        self._forget(number)
        self.core.count("rival.dismissed")
        self.core.dismiss(now, goes, "both sides began one")

    def _carry_over(self, now: Now, pair: _Pair) -> None:
        """Each has children that the other lacks, and none is about to get more: make before break, once."""
        if pair.carried or pair.looks <= PATIENT_LOOKS or _has_all(pair.ours, pair.theirs):
            return
        pair.carried = True
        self.core.count("rival.carried_over")
        self.core.carry_over(now, pair.ours, pair.theirs)

    def _forget(self, number: int) -> None:
        self._pairs.pop(number, None)
        self._agenda.cancel(number)


@dataclass(slots=True)
class _Met:
    """An SA that came up, as what: `sa` is replaced when it is rekeyed, its first SPIi and role stay."""

    at_ns: int
    sa: SaView
    spi_i: bytes
    initiator: bool


@dataclass(slots=True)
class _Pair:
    """An SA that we began, the peer's, and since when both are up: for us to decide."""

    ours: SaView
    theirs: SaView
    since_ns: int
    looks: int = 0
    carried: bool = False


def _has_all(one: SaView, other: SaView) -> bool:
    """Whether `one` has all children that `other` has."""
    return {child.name for child in other.child_views} <= {child.name for child in one.child_views}


def _rivals(ours: SaView, theirs: SaView) -> bool:
    """Whether both are up, with the same peer at the same place."""
    return ours.established and same_peer(ours, theirs) and ours.remote.host == theirs.remote.host
