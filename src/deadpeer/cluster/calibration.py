"""Whether our clock keeps up with the store's: the one thing that the fence relies on and can't see. Sans-IO.

A second lease of ours, to which no key is bound, is granted and never renewed; from time to time the store is
asked how much of it is left. It counts leases by its leader's clock, and never takes from one:

  it has counted at least  granted - left - 1   since the grant was carried out (it tells whole seconds)
  it has counted at most   granted - left       if the leader is still the same (a new one begins anew)

and by our clock there have been less than from the grant's sending to the answer's coming, and more than from
the grant's answer to the question's sending. So each answer bounds our clock's rate from above, and an answer
of the same leader from below:

  ours by the answer + margin  <  (1 - drift) x least of the store's    our clock is slow, for certain
  ours at the question / most of the store's                            so fast it is at least

The margin is for a machine that is paused together with its clock for no longer than that: a live migration.
Slowness is never found where there is none: a late answer, an election or a process that was stopped make
the first bound weaker, and nothing makes it wrong. A lease that somebody revoked says nothing at all.

The question is sent so that the answer of a clock that is slower than `drift` allows comes just after a whole
second of the store's, and ours is counted just before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.cluster.fence import Margin
from deadpeer.cluster.store import Failed, Grant, GrantReply, Reply, Revoke, TimeToLive, TimeToLiveReply
from deadpeer.values import NS_PER_S

SPANS_S = (2, *range(5, 61, 5))
"""Seconds after the grant about which it is measured; then a new lease is granted."""
TTL_S = SPANS_S[-1] + 10
"""It is still there when it is asked about for the last time."""
UNMEASURED = 0.75
"""No clock is taken to be slower than this share of the store's while nothing is known of it."""
KEPT_S = 180.0
"""What was measured counts for so long."""
PAUSE_S = 2.0
"""After a failure, or a lease that is gone, before a new one is granted."""
FIRST_S = 5
"""A clock that was slow is believed again when it was good for so long, seconds; for four times as long if it
is found out again soon, as one is that is so little too slow that it takes a minute to see it."""
SOON_S = 600.0
ENOUGH_S = 0.75
"""So far may that which is known of it, and is the less the longer answers take, be below what is wanted."""
_IMPLAUSIBLE = 1.25
"""A leader that was elected a moment ago, and does not yet say so, makes our clock look fast."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Our clock counted `ours_s` seconds at most while the store counted `theirs_s` at least."""

    ours_s: float
    theirs_s: int

    @property
    def ratio(self) -> float:
        """Our clock's rate in the store's, at most."""
        return self.ours_s / self.theirs_s


@dataclass(frozen=True, slots=True)
class _Granted:
    """Our second lease: when it was asked for and when the answer came (ns, our clock), and for how long."""

    lease: int
    asked_ns: int
    answered_ns: int
    ttl_s: float
    term: int


class Calibration:
    """Measures again and again. Times are nanoseconds of the clock that the fence uses."""

    def __init__(self, margin: Margin) -> None:
        self.slow: Slow | None = None
        """What shows that our clock is slower than `margin` allows for; None: nothing does."""
        self._share = 1 - margin.drift
        self._slack_s = margin.slack_s
        # For our question and its answer, and for the margin that is allowed for when it has come.
        self._lead_s = margin.slack_s + max(margin.slack_s, 0.1) / 2
        self._granted: _Granted | None = None
        self._spans: list[int] = []
        self._due_ns = 0
        self._asked = False
        self._done_with = 0
        """A lease of ours to be given back."""
        self._known: list[tuple[int, float]] = []
        """When (ns) it was seen that our clock has at least which rate."""
        self._found_ns: int | None = None
        """When it was last found to be slow."""
        self._convincing_s = FIRST_S

    @property
    def lease(self) -> int:
        """The lease by which it is measured now; 0: none."""
        return 0 if self._granted is None else self._granted.lease

    @property
    def due_ns(self) -> int | None:
        """When `poll` has a request; None: an answer is awaited."""
        return None if self._asked else self._due_ns

    def rate(self, now_ns: int) -> float:
        """How fast our clock is at least, as a share of the store's, by all that is known."""
        oldest_ns = now_ns - int(KEPT_S * NS_PER_S)
        return max((rate for at_ns, rate in self._known if at_ns >= oldest_ns), default=UNMEASURED)

    def poll(self, now_ns: int) -> Grant | TimeToLive | Revoke | None:
        """What to ask the store at this moment."""
        if self._asked or now_ns < self._due_ns:
            return None
        self._asked = True
        if self._done_with:
            lease, self._done_with = self._done_with, 0
            return Revoke(lease)
        return Grant(TTL_S) if self._granted is None else TimeToLive(self._granted.lease)

    def replied(self, asked_ns: int, now_ns: int, reply: Reply) -> None:
        """The answer to what `poll` gave at `asked_ns`."""
        self._asked = False
        granted = self._granted
        match reply:
            case GrantReply():
                self._granted = _Granted(reply.lease, asked_ns, now_ns, reply.ttl_s, reply.term)
                self._spans = list(SPANS_S)
                self._plan(now_ns)
            case TimeToLiveReply() if granted is not None and granted.lease == reply.lease:
                self._measure(granted, asked_ns, now_ns, reply)
            case Failed():
                self._due_ns = now_ns + int(PAUSE_S * NS_PER_S)
            case _:  # a lease is given back
                pass

    # --- helpers ---------------------------------------------------------------------------------

    def _measure(self, granted: _Granted, asked_ns: int, now_ns: int, reply: TimeToLiveReply) -> None:
        if reply.term != granted.term:
            # Another leader has another clock, and has given the lease its whole time again.
            self._known.clear()
            self._anew(now_ns)
            return
        if reply.ttl_s < 0:
            self._granted = None
            self._due_ns = now_ns + int(PAUSE_S * NS_PER_S)
            return
        most_s = int(granted.ttl_s) - reply.ttl_s
        longest_s = (now_ns - granted.asked_ns) / NS_PER_S
        shortest_s = (asked_ns - granted.answered_ns) / NS_PER_S
        span_s = self._spans.pop(0)
        if most_s > 1 and longest_s + self._slack_s < self._share * (most_s - 1):
            self._found(now_ns, Slow(longest_s, most_s - 1))
            return
        if most_s > 0 and 0 < shortest_s / most_s < _IMPLAUSIBLE:
            rate = shortest_s / most_s
            self._know(now_ns, rate)
            if span_s >= self._convincing_s and rate >= self._share - ENOUGH_S / span_s:
                self.slow = None
        if self._spans:
            self._plan(now_ns)
        else:
            self._anew(now_ns)

    def _found(self, now_ns: int, slow: Slow) -> None:
        if self.slow is None:
            again = self._found_ns is not None and now_ns - self._found_ns < SOON_S * NS_PER_S
            self._convincing_s = min(SPANS_S[-1], 4 * self._convincing_s) if again else FIRST_S
        self.slow, self._found_ns = slow, now_ns
        self._known.clear()
        self._anew(now_ns)

    def _know(self, now_ns: int, rate: float) -> None:
        oldest_ns = now_ns - int(KEPT_S * NS_PER_S)
        self._known = [(at_ns, known) for at_ns, known in self._known if at_ns >= oldest_ns and known > rate]
        self._known.append((now_ns, min(1.0, rate)))

    def _plan(self, now_ns: int) -> None:
        granted = self._granted
        while granted is not None and self._spans:
            due_s = self._spans[0] * self._share - self._lead_s
            self._due_ns = granted.asked_ns + int(due_s * NS_PER_S)
            if self._due_ns >= now_ns:
                return
            self._spans.pop(0)
        self._anew(now_ns)

    def _anew(self, now_ns: int) -> None:
        self._done_with, self._granted = self.lease, None
        self._due_ns = now_ns
