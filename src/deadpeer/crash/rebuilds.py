"""New SAs beside suspected ones: who asked for them, and how many unauthenticated evidence may cause.

The bound: with one peer at most `rebuilds_per_hour` at once, and as many per hour after that. What counts
is a new SA that came up, or that was called off because the peer lives. One that failed since the peer did
not answer counts nothing: it is begun again after a pause that doubles up to a minute, one at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from deadpeer.crash.evidence import same_peer
from deadpeer.crash.options import CrashOptions
from deadpeer.ike.extension import (
    Condemned,
    Extension,
    Rebuilt,
    SaClosed,
    SaEstablished,
    SaRekeyed,
    SaView,
    Signal,
)
from deadpeer.rates import Bucket, Rate
from deadpeer.values import NS_PER_S, Now

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
MAX_PEERS = 4096
"""Peers with a budget of their own that is not full; beyond, the one used least recently is forgotten."""


class Rebuilds(Extension):
    """Asks the core for new SAs on behalf of those who judge, within the budget of each peer."""

    name = "rebuilds"
    observes = (SaEstablished, SaRekeyed, SaClosed, Rebuilt, Condemned)

    def __init__(self, options: CrashOptions) -> None:
        self._rate = Rate(options.rebuilds_per_hour / 3600.0, options.rebuilds_per_hour)
        self._budgets: dict[str, Bucket] = {}
        self._under_way: dict[int, _Rebuild] = {}
        self._building: Counter[str] = Counter()
        """How many of those are with each peer: each may come to be charged."""
        self._pauses: dict[int, _Pause] = {}
        self._peers: dict[str, dict[int, SaView]] = {}
        """The SAs with each peer, by number."""
        self._ages: dict[int, int] = {}
        """Of SAs that a rekey made: the number of the SA that came up by itself."""
        self._new: dict[int, SaView] = {}
        """The new SA that came up beside an old one, by the old one's number, while both stand."""
        self._called_off: set[int] = set()
        """Old SAs whose peer lives, though the new SA may have been too far to be given up."""

    def begin(self, now: Now, sa: SaView, owner: str, host: str | None = None) -> bool:
        """Build a new SA beside `sa`; `owner` will be told by the core's signals. False: not now."""
        if sa.number in self._under_way:
            return False
        if not sa.child_views and not sa.children_due:
            # Nothing to carry on: one that waits to take over from a rekeyed SA, or is idle for good.
            self.core.count("rebuild.no_children")
            return False
        if _all_cleared(sa):
            self.core.count("rebuild.not_wanted")
            return False
        pause = self._pauses.get(sa.number)
        if pause is not None and now.mono_ns < pause.until_ns:
            return False
        budget = self._budget(now, sa)
        if not budget.has(now.mono_ns, self._rate, besides=self._building[_peer(sa)]):
            self.core.count("rebuild.no_budget")
            if pause is None or not pause.refused:
                self._pauses[sa.number] = _Pause(now.mono_ns, refused=True)
                self.core.event(
                    "rebuild_refused", "warning", connection=sa.connection.name, sa=sa.number, reason=owner
                )
            return False
        self._under_way[sa.number] = _Rebuild(owner, elsewhere=host is not None)
        self._building[_peer(sa)] += 1
        if not self.core.rebuild(now, sa, owner, host):
            self._end(sa)
            self.core.count("rebuild.impossible")
            return False
        self._called_off.discard(sa.number)
        self.core.count(f"rebuild.{owner}")
        return True

    def owner(self, sa: SaView) -> str | None:
        """Who asked for the new SA that is being built beside this one."""
        rebuild = self._under_way.get(sa.number)
        return rebuild.owner if rebuild is not None else None

    def sibling(self, sa: SaView) -> SaView | None:
        """The newest SA of the same peer that has all children of `sa`: nothing new need be built for it."""
        names = {*sa.children_due, *(child.name for child in sa.child_views)}
        newer = [
            other
            for other in self._peers.get(_peer(sa), {}).values()
            if self._age(other) > self._age(sa)
            and same_peer(sa, other)
            and names <= {child.name for child in other.child_views}
        ]
        return max(newer, key=self._age, default=None)

    def beside(self, new: SaView) -> int | None:
        """The number of the older SA that stands while this one came up beside it."""
        return next((number for number, sa in self._new.items() if sa.number == new.number), None)

    def hurry(self, now: Now, sa: SaView, reason: str) -> None:
        """The peer may be back: what the new SA waits for is sent again, at most once per round trip."""
        rebuild = self._under_way.get(sa.number)
        if rebuild is None:
            return
        spacing_ns = int((sa.rtt_s if sa.rtt_s is not None else sa.rto_s) * NS_PER_S)
        if rebuild.hurried_ns is not None and now.mono_ns - rebuild.hurried_ns < spacing_ns:
            return
        if rebuild.bucket is None:
            rebuild.bucket = Bucket(now.mono_ns, HURRY)
        if rebuild.bucket.take(now.mono_ns, HURRY):
            rebuild.hurried_ns = now.mono_ns
            self.core.hurry_rebuild(now, sa, reason)

    def done(self, now: Now, sa: SaView) -> None:
        """The new SA came up."""
        if self._end(sa):
            self._charge(now, sa)

    def failed(self, now: Now, sa: SaView) -> int:
        """It did not come up. Returns when (monotonic ns) to try again at the earliest."""
        self._end(sa)
        before = self._pauses.get(sa.number)
        length = FIRST_PAUSE_S if before is None else min(2 * before.length_s, LONGEST_PAUSE_S)
        length = max(length, FIRST_PAUSE_S)
        self._pauses[sa.number] = _Pause(now.after(length), length)
        return now.after(length)

    def call_off(self, now: Now, sa: SaView, reason: str) -> None:
        """The peer lives, or may live: the new SA is given up, or replaces the old one if it was too far."""
        if not self._end(sa):
            return
        self._charge(now, sa)
        self._called_off.add(sa.number)
        self.core.count("rebuild.called_off")
        self.core.abandon_rebuild(now, sa, reason)
        self.core.event("rebuild_called_off", connection=sa.connection.name, sa=sa.number, reason=reason)

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case Rebuilt(old=old, new=new):
                self._new[old.number] = new
                if old.number in self._called_off:
                    # Both live and the peer may send on either: one of them goes, the newer one stays.
                    self.core.dismiss(now, old, "replaced")
            case SaEstablished(sa=sa):
                self._peers.setdefault(_peer(sa), {})[sa.number] = sa
            case SaRekeyed(old=old, new=new):
                self._peers.setdefault(_peer(new), {})[new.number] = new
                self._ages[new.number] = self._age(old)
            case Condemned(sa=sa):
                # What is being built goes on: the core recovers with it.
                self._end(sa)
            case SaClosed(sa=sa):
                rebuild = self._under_way.get(sa.number)
                if self._end(sa) and rebuild is not None and not rebuild.elsewhere:
                    self.core.abandon_rebuild(now, sa, "the old SA is deleted")
                self._pauses.pop(sa.number, None)
                self._called_off.discard(sa.number)
                self._gone(sa)
                self._ages.pop(sa.number, None)
                self._new.pop(sa.number, None)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {
            "rebuilds.under_way": len(self._under_way),
            "rebuilds.budgets": len(self._budgets),
            "rebuilds.peers": len(self._peers),
            "rebuilds.pauses": len(self._pauses),
            "rebuilds.beside": len(self._new),
            "rebuilds.ages": len(self._ages),
        }

    def _end(self, sa: SaView) -> bool:
        """No new SA is being built beside this one any more. False: there was none."""
        if self._under_way.pop(sa.number, None) is None:
            return False
        self._building[_peer(sa)] -= 1
        if not self._building[_peer(sa)]:
            del self._building[_peer(sa)]
        return True

    def _age(self, sa: SaView) -> int:
        """Which of two SAs is the newer one: a rekey makes none younger."""
        return self._ages.get(sa.number, sa.number)

    def _gone(self, sa: SaView) -> None:
        sas = self._peers.get(_peer(sa), {})
        sas.pop(sa.number, None)
        if not sas:
            self._peers.pop(_peer(sa), None)

    def _charge(self, now: Now, sa: SaView) -> None:
        self._budget(now, sa).take(now.mono_ns, self._rate)

    def _budget(self, now: Now, sa: SaView) -> Bucket:
        """The budget of the peer: who it is, not where, so that a new SA begins with no new budget."""
        bucket = self._budgets.pop(_peer(sa), None) or Bucket(now.mono_ns, self._rate)
        self._budgets[_peer(sa)] = bucket
        while len(self._budgets) > MAX_PEERS:
            del self._budgets[next(iter(self._budgets))]
        return bucket


def _all_cleared(sa: SaView) -> bool:
    """Whether nothing of this SA is to come back: `dpd_action = "clear"`, and no trap for packets.

    Then no new SA can be the proof either; a token or liveness will be. If one child is wanted, the new SA
    gets them all: the peer may live, and the old SA goes with all that the new one has not.
    """
    names = {child.name for child in sa.child_views}
    configs = [child for child in sa.connection.children if child.name in names]
    return bool(configs) and all(c.dpd_action == "clear" and c.start_action != "trap" for c in configs)


def _peer(sa: SaView) -> str:
    return f"{sa.connection.name} {sa.remote_identity}"


HURRY = Rate(1.0, 3.0)
"""How often hints can have IKE_SA_INIT sent again, beside its retransmission."""


@dataclass(slots=True)
class _Rebuild:
    owner: str
    elsewhere: bool
    """With another gateway: the old SA's end is no reason to give it up."""
    hurried_ns: int | None = None
    bucket: Bucket | None = None


@dataclass(slots=True)
class _Pause:
    until_ns: int
    length_s: float = 0.0
    refused: bool = False
