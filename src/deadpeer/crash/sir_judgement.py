"""The judgement of SIR as a table: what is known about one SA, what is learnt, what follows.

Nothing is deleted on a NACK alone: it takes a window that closed without an ACK and without a protected
word of the peer, and a new authenticated SA beside the old one.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

WINDOW_RTTS = 2.0
WINDOW_FLOOR_S = 0.1
"""So long an ACK may come after a NACK (or a NACK after an ACK), at least."""


class Phase(Enum):
    """Where the case of an SA stands."""

    QUIET = "no answer counts at the moment"
    ACKED = "an ACK came a moment ago: a NACK now contradicts it"
    WINDOW = "a NACK came, its window is open, the new SA is being built"
    EARLY = "the new SA is up, the window is still open"
    LATE = "the window closed on NACK alone, the new SA is still being built"


class News(Enum):
    """What happens to a case. The answers are those with a valid cookie from the peer's address."""

    NACK = "NACK"
    ACK = "ACK"
    ALIVE = "a protected word of the peer"
    CLOSED = "the time of the window, or of the ACK, is over"
    REBUILT = "the new SA is authenticated and up"
    FAILED = "the new SA did not come up"


class Action(Enum):
    """What is to be done. `ATTACK`: both were seen, somebody lies; nothing is deleted."""

    NONE = "nothing"
    OPEN = "open the window and begin to build a new SA (if the budget allows, else nothing)"
    REMEMBER = "remember the ACK for the time of a window"
    ATTACK = "report it; give up the new SA, if any"
    CONDEMN = "the old SA is condemned"


class Step(NamedTuple):
    """What follows."""

    phase: Phase
    action: Action


_TABLE: dict[tuple[Phase, News], Step] = {
    (Phase.QUIET, News.NACK): Step(Phase.WINDOW, Action.OPEN),
    (Phase.QUIET, News.ACK): Step(Phase.ACKED, Action.REMEMBER),
    (Phase.ACKED, News.NACK): Step(Phase.ACKED, Action.ATTACK),
    (Phase.ACKED, News.ACK): Step(Phase.ACKED, Action.REMEMBER),
    (Phase.ACKED, News.CLOSED): Step(Phase.QUIET, Action.NONE),
    (Phase.WINDOW, News.ACK): Step(Phase.ACKED, Action.ATTACK),
    (Phase.WINDOW, News.ALIVE): Step(Phase.QUIET, Action.ATTACK),
    (Phase.WINDOW, News.CLOSED): Step(Phase.LATE, Action.NONE),
    (Phase.WINDOW, News.REBUILT): Step(Phase.EARLY, Action.NONE),
    (Phase.WINDOW, News.FAILED): Step(Phase.QUIET, Action.NONE),
    (Phase.EARLY, News.ACK): Step(Phase.ACKED, Action.ATTACK),
    (Phase.EARLY, News.ALIVE): Step(Phase.QUIET, Action.ATTACK),
    (Phase.EARLY, News.CLOSED): Step(Phase.QUIET, Action.CONDEMN),
    (Phase.LATE, News.ACK): Step(Phase.ACKED, Action.ATTACK),
    (Phase.LATE, News.ALIVE): Step(Phase.QUIET, Action.ATTACK),
    (Phase.LATE, News.REBUILT): Step(Phase.QUIET, Action.CONDEMN),
    (Phase.LATE, News.FAILED): Step(Phase.QUIET, Action.NONE),
}


def judge(phase: Phase, news: News) -> Step:
    """What follows; what the table does not name changes nothing."""
    return _TABLE.get((phase, news), Step(phase, Action.NONE))


def window_s(rtt_s: float) -> float:
    """How long a window is open, seconds."""
    return max(WINDOW_FLOOR_S, WINDOW_RTTS * rtt_s)
