"""Suspicion: collects the hints about each SA, and asks for a liveness check at a limited rate.

The bound: hints cause at most `probe_burst` checks of an SA at once and then `probe_rate` per second
(three, then one per second), and never two within a round trip, since no answer to the first can be back.
Hints are evidence for a verdict that somebody else proves; they condemn nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deadpeer.crash.options import CrashOptions
from deadpeer.ike.evidence import Hint, Proof, Verdict
from deadpeer.ike.extension import (
    ChildUp,
    Extension,
    RequestAnswered,
    RequestRetransmitted,
    SaClosed,
    SaRekeyed,
    SaView,
    Signal,
    TrafficHeard,
    TrafficSilence,
)
from deadpeer.plane.model import WatchSilence
from deadpeer.rates import Bucket, Rate
from deadpeer.values import NS_PER_S, Now

SILENCE_FLOOR_S = 0.25
SILENCE_RTTS = 4.0
MAX_HINTS = 16
"""Hints kept per episode; of the same kind and source the first only."""
UNANSWERED_ATTEMPTS = 3
"""A request that went out so often without an answer is a hint, on an idle tunnel too."""

Listener = Callable[[Now, SaView, Hint], None]


class Monitor(Extension):
    """Suspicion per IKE SA, and the watch over traffic that gets no answer."""

    name = "monitor"
    observes = (
        SaRekeyed,
        SaClosed,
        ChildUp,
        RequestAnswered,
        RequestRetransmitted,
        TrafficSilence,
        TrafficHeard,
    )

    def __init__(self, options: CrashOptions) -> None:
        self._probe_rate = Rate(options.probe_rate, options.probe_burst)
        self._suspicions: dict[int, _Suspicion] = {}
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Have `listener` told of every hint about a living SA, after the liveness check that it causes.

        There is no limit to how often it is called.
        """
        self._listeners.append(listener)

    def hint(self, now: Now, sa: SaView, hint: Hint, *, probe: bool = True) -> None:
        """Take note of a hint about a living SA and, if `probe` and the limit allow, check its liveness.

        With a request in flight the core sends that one again at once, identically.
        """
        suspicion = self._of(now, sa)
        if suspicion.note(hint):
            self.core.event(
                "hint", connection=sa.connection.name, sa=sa.number, hint=hint.kind, source=hint.source
            )
        self.core.count(f"hint.{hint.kind}")
        if probe and suspicion.may_probe(now.mono_ns, sa, self._probe_rate):
            self.core.probe(now, sa, hint.kind)
        elif probe:
            self.core.count("hint.not_probed")
        for listener in self._listeners:
            listener(now, sa, hint)

    def probed_ns(self, sa: SaView) -> int | None:
        """When a hint last had the liveness of this SA checked, monotonic ns."""
        suspicion = self._suspicions.get(sa.number)
        return suspicion.probed_ns if suspicion is not None else None

    def verdict(self, sa: SaView, proof: Proof, suspected_ns: int | None = None) -> Verdict:
        """The verdict on `sa` with the hints of this episode. `suspected_ns`: an earlier first suspicion."""
        suspicion = self._suspicions.get(sa.number)
        hints = tuple(suspicion.hints) if suspicion is not None else ()
        first = [proof.at_ns, *(hint.at_ns for hint in hints)]
        if suspected_ns is not None:
            first.append(suspected_ns)
        return Verdict(proof, hints, min(first))

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case TrafficSilence():
                self._silence(now, signal)
            case TrafficHeard(sa=sa, child=child):
                self._heard(sa, child.policy)
            case ChildUp(sa=sa, child=child):
                self._watch(now, sa, child.policy)
            case RequestAnswered(sa=sa):
                self._answered(sa)
            case RequestRetransmitted(sa=sa, attempts=attempts) if attempts == UNANSWERED_ATTEMPTS:
                if sa.established:
                    detail = f"sent {attempts} times"
                    self.hint(now, sa, Hint("unanswered", now.mono_ns, str(sa.remote), detail), probe=False)
            case SaRekeyed(old=old, new=new):
                moved = self._suspicions.pop(old.number, None)
                if moved is not None:
                    moved.hints.clear()
                    self._suspicions[new.number] = moved
            case SaClosed(sa=sa):
                self._suspicions.pop(sa.number, None)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {"monitor.sas": len(self._suspicions)}

    # --- silence ---------------------------------------------------------------------------------

    def _silence(self, now: Now, signal: TrafficSilence) -> None:
        sa = signal.sa
        watch = self._of(now, sa).watches.get(signal.child.policy)
        if watch is not None:
            watch.fired = True
        seconds = (now.mono_ns - signal.since_ns) / NS_PER_S
        hint = Hint("silence", now.mono_ns, str(sa.remote), f"no traffic back for {seconds:.2f} s")
        # A request in flight already asks what silence wants to know, at its own pace.
        self.hint(now, sa, hint, probe=not sa.request_in_flight)

    def _answered(self, sa: SaView) -> None:
        """The peer lives: the episode ends. Traffic that goes one way by nature is checked ever less."""
        suspicion = self._suspicions.get(sa.number)
        if suspicion is None:
            return
        suspicion.hints.clear()
        for policy, watch in suspicion.watches.items():
            if watch.fired:
                watch.fired = False
                watch.doublings += 1
            self._set(sa, policy, watch)

    def _heard(self, sa: SaView, policy: int) -> None:
        suspicion = self._suspicions.get(sa.number)
        watch = suspicion.watches.get(policy) if suspicion is not None else None
        if watch is not None and (watch.fired or watch.doublings):
            watch.fired = False
            watch.doublings = 0
            self._set(sa, policy, watch)

    def _watch(self, now: Now, sa: SaView, policy: int) -> None:
        if sa.connection.silence_s > 0:
            watches = self._of(now, sa).watches
            self._set(sa, policy, watches.setdefault(policy, _Watch()), always=True)

    def _set(self, sa: SaView, policy: int, watch: _Watch, *, always: bool = False) -> None:
        after_ns = silence_after_ns(
            sa.connection.silence_s, sa.rtt_s, watch.doublings, sa.connection.dpd_delay_s
        )
        if always or not 2 / 3 <= after_ns / watch.after_ns <= 3 / 2:
            watch.after_ns = after_ns
            self.core.plane(WatchSilence(policy, after_ns))

    def _of(self, now: Now, sa: SaView) -> _Suspicion:
        suspicion = self._suspicions.get(sa.number)
        if suspicion is None:
            suspicion = _Suspicion(Bucket(now.mono_ns, self._probe_rate))
            self._suspicions[sa.number] = suspicion
        return suspicion


def silence_after_ns(silence_s: float, rtt_s: float | None, doublings: int, dpd_delay_s: float) -> int:
    """After how much silence to suspect: four round trips, at least 250 ms, at most `silence_s`.

    Doubled for each check in a row that was answered, up to `dpd_delay_s` (or 30 s where that is off).
    """
    base = silence_s if rtt_s is None else min(silence_s, max(SILENCE_FLOOR_S, SILENCE_RTTS * rtt_s))
    cap = max(base, dpd_delay_s if dpd_delay_s > 0 else 30.0)
    return max(1, int(min(cap, base * 2.0 ** min(doublings, 30)) * NS_PER_S))


@dataclass(slots=True)
class _Watch:
    """What the data plane was told about a policy. `fired`: silence was reported since the last answer."""

    after_ns: int = 1
    doublings: int = 0
    fired: bool = False


@dataclass(slots=True)
class _Suspicion:
    bucket: Bucket
    hints: list[Hint] = field(default_factory=list)
    watches: dict[int, _Watch] = field(default_factory=dict)
    probed_ns: int | None = None

    def note(self, hint: Hint) -> bool:
        """Keep the hint; False if the episode has one like it already, or is full."""
        if len(self.hints) >= MAX_HINTS:
            return False
        if any(h.kind == hint.kind and h.source == hint.source for h in self.hints):
            return False
        self.hints.append(hint)
        return True

    def may_probe(self, now_ns: int, sa: SaView, rate: Rate) -> bool:
        spacing_ns = int((sa.rtt_s if sa.rtt_s is not None else sa.rto_s) * NS_PER_S)
        if self.probed_ns is not None and now_ns - self.probed_ns < spacing_ns:
            return False
        if not self.bucket.take(now_ns, rate):
            return False
        self.probed_ns = now_ns
        return True
