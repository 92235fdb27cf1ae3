"""The bounds of long series, and whether results keep them. Pure.

`slack`: so many times a bound of time is allowed. 1 judges; more asks whether it works at all, on a machine
of which nothing is known, and leaves how fast it is to a run that measures.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import ceil

from deadpeer.lab.attacks.model import AttackResult
from deadpeer.lab.costs.model import AUTHENTICATION_TITLES, RecoveryCost
from deadpeer.lab.costs.recoveries import ratios
from deadpeer.lab.kills import KillOutcome, worst
from deadpeer.lab.options import LIVENESS_S
from deadpeer.lab.result import RunResult

LOSSY_S = 3.0
"""Nine recoveries in ten are to be faster in spite of the losses."""
LIVENESS_BOUND_S = LIVENESS_S + 2.5
"""From the kill: the silence before the first question, the configured time without an answer, the new SA."""
WINDOW_RTTS = 2.0
"""SIR: so long after the first NACK the old SA must still be there."""
RSA_RATIO = 0.5
"""CPU on Bob with RSA-3072: resumed, divided by full."""

Judgement = tuple[str, bool]
"""What was measured, in words, and whether it is good enough."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of medians; None: reported, not judged. `recover_s` is for times that are not made of round trips."""

    detect_rtts: float | None = None
    recover_rtts: float | None = None
    recover_s: float | None = None

    def __str__(self) -> str:
        parts = [
            f"detect {self.detect_rtts:g} round trips" if self.detect_rtts is not None else "",
            f"recover {self.recover_rtts:g} round trips" if self.recover_rtts is not None else "",
            f"recover {self.recover_s:g} s" if self.recover_s is not None else "",
        ]
        return "medians at most: " + ", ".join(filter(None, parts))

    def times(self, slack: float) -> Bounds:
        """So many times these."""
        return Bounds(*(None if b is None else b * slack for b in astuple(self)))


@dataclass(frozen=True, slots=True)
class Window:
    """SIR in one run: how long after the first NACK the old SA was condemned, milliseconds; None: it was not,
    or there was no NACK. `rtt_ms` is the link's."""

    held_ms: float | None
    rtt_ms: float


def judge_medians(results: Sequence[RunResult], bounds: Bounds, slack: float = 1.0) -> Judgement:
    """Medians of detection and recovery; every run recovered."""
    bounds = bounds.times(slack)
    detect = median([r.detect_rtts for r in results])
    recover = median([r.recover_rtts for r in results])
    seconds = median([r.recover_ms for r in results]) / 1000
    text = f"median detect {detect:.2f}, recover {recover:.2f} round trips"
    if bounds.recover_s is not None:
        text = f"median recover {seconds:.2f} s"
    kept = (
        (bounds.detect_rtts is None or detect <= bounds.detect_rtts)
        and (bounds.recover_rtts is None or recover <= bounds.recover_rtts)
        and (bounds.recover_s is None or seconds <= bounds.recover_s)
    )
    return f"{text}; {_share_ok(results)}", bool(results) and all(r.ok for r in results) and kept


def judge_windows(windows: Sequence[Window]) -> Judgement:
    """The old SA never went before its window was over, in any run."""
    held = [w.held_ms / w.rtt_ms for w in windows if w.held_ms is not None]
    if len(held) < len(windows) or not held:
        return f"{len(held)} of {len(windows)} had a window", False
    return f"{len(held)} of {len(windows)}, shortest {min(held):.2f} round trips", min(held) >= WINDOW_RTTS


def judge_lossy(results: Sequence[RunResult], slack: float = 1.0) -> Judgement:
    """Every run recovered, nine in ten fast."""
    bound_s = LOSSY_S * slack
    fast = sum(1 for r in results if r.ok and r.recover_ms is not None and r.recover_ms <= bound_s * 1000)
    slowest = max((r.recover_ms or 0 for r in results), default=0)
    text = f"{_share_ok(results)}, {fast} within {bound_s:g} s, slowest {slowest / 1000:.2f} s"
    return text, all(r.ok for r in results) and fast >= ceil(len(results) * 0.9)


def judge_liveness(results: Sequence[RunResult], slack: float = 1.0) -> Judgement:
    """Every run recovered within the bound that the configuration implies, counted from the kill."""
    after_kill = [(r.peer_down_s or 0) + (r.recover_ms or 0) / 1000 for r in results]
    text = f"{_share_ok(results)}, slowest {max(after_kill, default=0):.2f} s after the kill"
    return text, all(r.ok for r in results) and all(t <= LIVENESS_BOUND_S * slack for t in after_kill)


def judge_recovered(results: Sequence[RunResult]) -> Judgement:
    """Every run recovered."""
    times = [r.recover_ms for r in results if r.recover_ms is not None]
    slowest = f", slowest {max(times):.0f} ms" if times else ""
    return f"{_share_ok(results)}{slowest}", bool(results) and all(r.ok for r in results)


def judge_kills(outcomes: Sequence[KillOutcome], failure: str | None) -> Judgement:
    """Traffic flowed again after every kill that was waited for, without a hand."""
    times = [o.recovery_s for o in outcomes if o.recovery_s is not None]
    if failure is not None:
        return f"{len(outcomes)} kills, then: {failure}", False
    slowest = worst(list(outcomes))
    which = "" if slowest is None else f" (kill {slowest.kill.number}, {slowest.kill.side})"
    middle = f"median {statistics.median(times):.2f} s, " if times else ""
    longest = f"slowest {max(times, default=0):.1f} s{which}"
    text = f"{len(outcomes)} kills, {len(times)} recoveries: {middle}{longest}"
    return text, bool(times)


def judge_costs(costs: Sequence[RecoveryCost], slack: float = 1.0) -> Judgement:
    """CPU on Bob of recoveries by one method: resumed against full, for each kind of authentication.

    Whatever the slack, the resumed one must cost less.
    """
    bound = min(1.0, RSA_RATIO * slack)
    by_auth = {ratio.authentication: ratio.bob for ratio in ratios(costs)}
    share = {(c.authentication, c.resumed): c.bob.primitives_share for c in costs}
    parts = [
        f"{AUTHENTICATION_TITLES[auth]} {ratio:.2f}"
        f" (OpenSSL {share[auth, False]:.0%} of full, {share[auth, True]:.0%} of resumed)"
        for auth, ratio in by_auth.items()
    ]
    return "; ".join(parts) or "nothing", by_auth.get("rsa-3072", float("inf")) <= bound


def judge_attack(result: AttackResult, slack: float = 1.0) -> Judgement:
    """All that the attack's checks say must hold; with slack, what does not depend on the machine."""
    if result.failure:
        return result.failure, False
    amplification = result.amplification
    back = "" if amplification is None else f", amplification {amplification:.2f}"
    text = f"{result.sas_lost} SAs lost, {result.rebuilt} rebuilt{back}"
    judged = [check for check in result.broken if slack == 1.0 or not check.timed]
    told = [f"{c.what}: {c.measured}, wanted {c.bound}" for c in result.broken]
    told = [
        words if c in judged else f"not judged: {words}" for c, words in zip(result.broken, told, strict=True)
    ]
    told.append(f"{len(result.checks) - len(result.broken)} checks hold")
    return f"{text}; " + "; ".join(told), bool(result.checks) and not judged


def median(values: Sequence[float | None]) -> float:
    """The median; a missing value counts as infinitely long."""
    return statistics.median([float("inf") if v is None else v for v in values] or [float("inf")])


def _share_ok(results: Sequence[RunResult]) -> str:
    return f"{sum(r.ok for r in results)} of {len(results)} recovered"
