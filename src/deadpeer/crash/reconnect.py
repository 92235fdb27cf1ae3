"""Reconnect: what finds out about any peer of RFC 7296, with no help from it.

A suspected SA whose liveness check stays unanswered gets a new SA beside it; when that one is up as the
same connection and identity, the old one is condemned, with one DELETE in case the peer lives. Make before
break: after a flap the old SA either answered first, and the new one is given up, or is replaced without
a gap.

The bound on what forged hints cause: a hint alone never begins a new SA, since a peer that lives answers
the check; who can stop that answer as well causes what `Rebuilds` allows, and nothing is lost by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.crash.agenda import Agenda
from deadpeer.crash.evidence import Replaced
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import Method
from deadpeer.crash.policy import Evidence, Policy
from deadpeer.crash.rebuilds import LONGEST_PAUSE_S, Rebuilds
from deadpeer.ike.evidence import Hint
from deadpeer.ike.extension import (
    Extension,
    RebuildFailed,
    Rebuilt,
    RequestAnswered,
    SaClosed,
    SaRekeyed,
    SaView,
    Signal,
    TrafficHeard,
)
from deadpeer.values import Deadline, Now

AGAIN_S = 1.0
"""When another method builds a new SA already, or none can be begun: how long until the next look."""

SIBLING_S = 0.2
"""How often, at most, it is looked whether the peer has answered on a newer SA."""


class Reconnect(Extension):
    """Replaces SAs whose liveness check stays unanswered."""

    name = "reconnect"
    observes = (SaRekeyed, SaClosed, Rebuilt, RebuildFailed, RequestAnswered, TrafficHeard)

    def __init__(self, monitor: Monitor, policy: Policy, rebuilds: Rebuilds) -> None:
        self._monitor = monitor
        self._policy = policy
        self._rebuilds = rebuilds
        self._doubts: dict[int, _Doubt] = {}
        self._agenda: Agenda[int] = Agenda("reconnect")
        monitor.listen(self._suspected)

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case RequestAnswered(sa=sa) | TrafficHeard(sa=sa):
                self._alive(now, sa)
            case Rebuilt(old=old, new=new) if self._rebuilds.owner(old) == self.name:
                self._rebuilt(now, old, new)
            case RebuildFailed(old=old) if self._rebuilds.owner(old) == self.name:
                again_ns = self._rebuilds.failed(now, old)
                if old.number in self._doubts:
                    self._agenda.set(old.number, again_ns)
            case SaRekeyed(old=sa):
                self._alive(now, sa)
            case SaClosed(sa=sa):
                self._forget(sa)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {"reconnect.doubts": len(self._doubts)}

    def deadline(self) -> Deadline | None:
        return self._agenda.deadline()

    def expire(self, now: Now) -> None:
        while (number := self._agenda.due(now.mono_ns)) is not None:
            self._due(now, self._doubts[number])

    # --- suspicion -------------------------------------------------------------------------------

    def _suspected(self, now: Now, sa: SaView, hint: Hint) -> None:
        if not sa.established or not sa.request_in_flight:
            return
        evidence = Evidence.of(hint.kind)
        doubt = self._doubts.get(sa.number) or _Doubt(sa, now.mono_ns)
        due = self._policy.act_ns(sa, Method.RECONNECT, evidence, doubt.asked_ns)
        if due is None:
            return
        begun = sa.number not in self._doubts
        self._doubts[sa.number] = doubt
        if begun and evidence is not Evidence.SILENCE and self._monitor.probed_ns(sa) != now.mono_ns:
            # What is in flight may be waiting for a long backoff: the check begins now.
            self.core.probe(now, sa, hint.kind)
        if self._rebuilds.owner(sa) is not None:
            if evidence is not Evidence.SILENCE:
                self._rebuilds.hurry(now, sa, hint.kind)
        elif not doubt.waits:
            self._agenda.hasten(sa.number, max(due, now.mono_ns))
            self.expire(now)

    def _due(self, now: Now, doubt: _Doubt) -> None:
        sa = doubt.sa
        if not sa.established or not sa.request_in_flight or sa.last_heard_ns > doubt.asked_ns:
            self._forget(sa)
        elif self._rebuilds.owner(sa) is None and (other := self._rebuilds.sibling(sa)) is not None:
            self._compare(now, doubt, other)
        elif not self._rebuilds.begin(now, sa, self.name):
            doubt.waits = True
            doubt.pause_s = min(2 * doubt.pause_s, LONGEST_PAUSE_S)
            self._agenda.set(sa.number, now.after(doubt.pause_s))

    def _compare(self, now: Now, doubt: _Doubt, other: SaView) -> None:
        """A newer SA of this peer serves the same children (we missed the old one's DELETE, or both sides
        built one): if the peer answers there and not here, that one has replaced this one."""
        proof = Replaced.check(at_ns=now.mono_ns, old=doubt.sa, new=other, asked_ns=doubt.asked_ns)
        if proof is not None and other.last_heard_ns > doubt.asked_ns:
            verdict = self._monitor.verdict(doubt.sa, proof)
            self.core.condemn(now, doubt.sa, verdict, farewell=True)
            return
        if not other.request_in_flight:
            self.core.probe(now, other, "sibling")
        doubt.waits = True
        self._agenda.set(doubt.sa.number, now.after(max(other.rto_s, SIBLING_S)))

    def _alive(self, now: Now, sa: SaView) -> None:
        if self._doubts.get(sa.number) is None:
            return
        if self._rebuilds.owner(sa) == self.name:
            self._rebuilds.call_off(now, sa, "the peer lives")
        self._forget(sa)

    # --- the new SA ------------------------------------------------------------------------------

    def _rebuilt(self, now: Now, old: SaView, new: SaView) -> None:
        self._rebuilds.done(now, old)
        doubt = self._doubts.get(old.number)
        proof = (
            Replaced.check(at_ns=now.mono_ns, old=old, new=new, asked_ns=doubt.asked_ns)
            if doubt is not None
            else None
        )
        if proof is None:
            self.core.count("reconnect.not_proved")
            self.core.dismiss(now, new, "the old SA lives")
            return
        self.core.condemn(now, old, self._monitor.verdict(old, proof), farewell=True)

    def _forget(self, sa: SaView) -> None:
        self._doubts.pop(sa.number, None)
        self._agenda.cancel(sa.number)


@dataclass(slots=True)
class _Doubt:
    """An SA under suspicion. `asked_ns`: when its liveness check went out, after the first hint."""

    sa: SaView
    asked_ns: int
    waits: bool = False
    """A new SA could not be begun; the next try is at its time, whatever hints say."""
    pause_s: float = AGAIN_S
