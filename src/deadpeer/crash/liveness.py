"""Liveness of RFC 7296 section 2.4: the proof of last resort, which any peer gives by not answering."""

from __future__ import annotations

from deadpeer.crash.evidence import LivenessExhausted
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import Method
from deadpeer.crash.policy import Policy
from deadpeer.ike.extension import (
    Extension,
    IdleTimeout,
    RequestExhausted,
    SaClosed,
    SaRekeyed,
    Signal,
    TrafficHeard,
)
from deadpeer.values import Now


class Liveness(Extension):
    """Checks idle SAs, and condemns those whose peer has been silent for longer than the floor.

    A flap must not end a tunnel: spent retransmissions alone are not enough, see `LivenessExhausted`.
    """

    name = "liveness"
    observes = (SaRekeyed, SaClosed, RequestExhausted, TrafficHeard, IdleTimeout)

    def __init__(self, monitor: Monitor, policy: Policy) -> None:
        self._monitor = monitor
        self._policy = policy
        self._traffic_ns: dict[int, int] = {}

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case IdleTimeout(sa=sa):
                if not sa.request_in_flight:
                    self.core.probe(now, sa, "idle")
            case TrafficHeard(sa=sa, at_ns=at_ns):
                self._traffic_ns[sa.number] = max(at_ns, self._traffic_ns.get(sa.number, at_ns))
            case RequestExhausted():
                self._exhausted(now, signal)
            case SaRekeyed(old=old, new=new):
                if old.number in self._traffic_ns:
                    self._traffic_ns[new.number] = self._traffic_ns.pop(old.number)
            case SaClosed(sa=sa):
                self._traffic_ns.pop(sa.number, None)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {"liveness.sas": len(self._traffic_ns)}

    def _exhausted(self, now: Now, signal: RequestExhausted) -> None:
        sa = signal.sa
        if not self._policy.uses(sa, Method.LIVENESS):
            self.core.count("liveness.off")
            return
        proof = LivenessExhausted.check(
            at_ns=now.mono_ns,
            first_sent_ns=signal.first_sent_ns,
            last_heard_ns=max(sa.last_heard_ns, self._traffic_ns.get(sa.number, sa.last_heard_ns)),
            attempts=signal.attempts,
            floor_s=sa.connection.dpd_floor_s,
        )
        if proof is None:
            self.core.count("liveness.below_floor")
            return
        self.core.condemn(now, sa, self._monitor.verdict(sa, proof, signal.first_sent_ns))
