"""Safe IKE Recovery, the side that asks: suspicion becomes a query, a NACK opens a window.

Queries go unprotected from the SA's own address to its peer's, and are repeated while the suspicion lasts.
An answer counts if it comes from there with a cookie of ours; nothing is kept about a query.
"""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.crash.agenda import Agenda
from deadpeer.crash.evidence import SirReplaced
from deadpeer.crash.limiter import Bucket, Rate
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import CrashOptions, Method
from deadpeer.crash.policy import Evidence, Policy
from deadpeer.crash.rebuilds import Rebuilds
from deadpeer.crash.sir_judgement import Action, News, Phase, judge, window_s
from deadpeer.crash.sir_wire import Check, CookieMint, Subject, Verb, decode, encode, is_check
from deadpeer.crypto import Entropy
from deadpeer.ike.evidence import Hint
from deadpeer.ike.extension import (
    Core,
    Extension,
    Orphan,
    RebuildFailed,
    Rebuilt,
    RequestAnswered,
    SaClosed,
    SaRekeyed,
    SaView,
    Signal,
    TrafficHeard,
    UnprotectedNews,
)
from deadpeer.values import NS_PER_S, Datagram, Deadline, Now
from deadpeer.wire import Protocol

QUERY_CAP_S = 1.0
PATIENT_CAP_S = 8.0
PATIENT_AFTER = 60
"""Queries about an SA are repeated with an interval that doubles to one second; after so many, to eight."""


class Sir(Extension):
    """Asks peers that speak SIR about suspected SAs, and judges what they say."""

    name = "sir"

    def __init__(
        self, monitor: Monitor, policy: Policy, rebuilds: Rebuilds, entropy: Entropy, options: CrashOptions
    ) -> None:
        self._monitor = monitor
        self._policy = policy
        self._rebuilds = rebuilds
        self._entropy = entropy
        self._rate = Rate(options.query_rate, options.query_burst)
        self._cases: dict[int, _Case] = {}
        self._queries: Agenda[int] = Agenda("CHECK_SPI query")
        self._windows: Agenda[int] = Agenda("CHECK_SPI window")
        monitor.listen(self._suspected)

    def attach(self, now: Now, core: Core) -> None:
        super().attach(now, core)
        self._mint = CookieMint(now.mono_ns, self._entropy)

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case RequestAnswered(sa=sa) | TrafficHeard(sa=sa):
                self._alive(now, sa)
            case Rebuilt(old=old, new=new) if self._rebuilds.owner(old) == self.name:
                self._rebuilds.done(now, old)
                self._cases[old.number].new = new
                self._step(now, self._cases[old.number], News.REBUILT)
            case RebuildFailed(old=old) if self._rebuilds.owner(old) == self.name:
                self._queries.set(old.number, self._rebuilds.failed(now, old))
                self._step(now, self._cases[old.number], News.FAILED)
            case SaRekeyed(old=sa):
                self._alive(now, sa)
            case SaClosed(sa=sa):
                self._forget(sa)
            case _:
                pass

    def orphan(self, now: Now, orphan: Orphan) -> bool:
        if not isinstance(orphan, UnprotectedNews) or not orphan.message.is_response:
            return False
        if not is_check(orphan.message):
            return False
        self._answered(now, decode(orphan.message), orphan.datagram)
        return True

    def counters(self) -> dict[str, int]:
        open_windows = sum(c.phase is not Phase.QUIET for c in self._cases.values())
        return {"sir.cases": len(self._cases), "sir.windows": open_windows}

    def deadline(self) -> Deadline | None:
        found = [d for d in (self._queries.deadline(), self._windows.deadline()) if d is not None]
        return min(found, key=lambda d: d.at_ns, default=None)

    def expire(self, now: Now) -> None:
        while (number := self._queries.due(now.mono_ns)) is not None:
            self._query_due(now, self._cases[number])
        while (number := self._windows.due(now.mono_ns)) is not None:
            self._step(now, self._cases[number], News.CLOSED)

    # --- asking ----------------------------------------------------------------------------------

    def _suspected(self, now: Now, sa: SaView, hint: Hint) -> None:
        case = self._cases.get(sa.number)
        asked_ns = case.asked_ns if case is not None else now.mono_ns
        due = self._policy.act_ns(sa, Method.SIR, Evidence.of(hint.kind), asked_ns)
        if due is None or not sa.established:
            return
        if case is None:
            case = self._cases[sa.number] = _Case(sa, now.mono_ns, Bucket(now.mono_ns, self._rate))
        if case.phase is Phase.QUIET:
            self._queries.hasten(sa.number, max(due, now.mono_ns))
            told = Evidence.of(hint.kind) is not Evidence.SILENCE
            if told and case.sent and self._may_repeat(now, case):
                self._queries.hasten(sa.number, now.mono_ns)
            self.expire(now)

    def _may_repeat(self, now: Now, case: _Case) -> bool:
        """A hint has the query repeated at once, not within a round trip, and not often."""
        spacing_ns = int(case.rtt_s * NS_PER_S)
        return now.mono_ns - case.sent_ns >= spacing_ns and case.bucket.take(now.mono_ns, self._rate)

    def _query_due(self, now: Now, case: _Case) -> None:
        sa = case.sa
        if not sa.established or case.phase not in (Phase.QUIET, Phase.ACKED):
            return
        self._ask(now, sa, Subject.ike(sa.spi_i, sa.spi_r))
        case.sent += 1
        case.sent_ns = now.mono_ns
        cap = QUERY_CAP_S if case.sent < PATIENT_AFTER else PATIENT_CAP_S
        self._queries.set(sa.number, now.after(min(cap, sa.rto_s * 2.0 ** min(case.sent - 1, 16))))

    def _ask(self, now: Now, sa: SaView, subject: Subject) -> None:
        cookie = self._mint.make(now.mono_ns, subject, sa.remote)
        message = encode(Check(Verb.QUERY, subject, cookie, sa.initiator))
        self.core.answer(Datagram(b"", sa.local, sa.remote), message, "CHECK_SPI query")
        self.core.count("check.query_sent")

    # --- answers ---------------------------------------------------------------------------------

    def _answered(self, now: Now, check: Check | None, datagram: Datagram) -> None:
        """An ACK or a NACK, from whomever."""
        if check is None:
            self.core.count("check.malformed")
            return
        sa = self._sa_of(check, datagram)
        if sa is None or not sa.established or datagram.remote != sa.remote:
            self.core.count("check.no_sa")
            return
        made_ns = self._mint.made_ns(now.mono_ns, check.cookie, check.subject, datagram.remote)
        if made_ns is None:
            self.core.count("check.bad_cookie")
            return
        case = self._cases.get(sa.number)
        if case is None:
            # The suspicion is over: the peer has proved, since that query, that it lives.
            self.core.count("check.too_late")
            return
        self.core.count(f"check.{check.verb.name.lower()}_received")
        if check.subject.protocol == Protocol.IKE:
            self._step(now, case, News.ACK if check.verb is Verb.ACK else News.NACK)

    def _sa_of(self, check: Check, datagram: Datagram) -> SaView | None:
        if check.subject.protocol == Protocol.IKE:
            return self.core.find(*check.subject.header_spis)
        return self.core.find_by_outbound(int.from_bytes(check.subject.spi, "big"), datagram.remote)

    def _alive(self, now: Now, sa: SaView) -> None:
        """A protected word: the suspicion is over, and a NACK was a lie."""
        case = self._cases.get(sa.number)
        if case is None:
            return
        self._step(now, case, News.ALIVE)
        self._forget(sa)

    # --- judgement -------------------------------------------------------------------------------

    def _step(self, now: Now, case: _Case, news: News) -> None:
        before = case.phase
        case.phase, action = judge(before, news)
        match action:
            case Action.OPEN:
                self._open(now, case)
            case Action.REMEMBER:
                self._windows.set(case.sa.number, now.after(window_s(case.rtt_s)))
            case Action.ATTACK:
                self._attack(now, case, before, news)
            case Action.CONDEMN:
                self._condemn(now, case)
            case Action.NONE:
                pass

    def _open(self, now: Now, case: _Case) -> None:
        """The first NACK: the window opens, and the new SA is begun."""
        sa = case.sa
        if not self._rebuilds.begin(now, sa, self.name):
            # No budget; or another method builds already, which has a proof of its own.
            case.phase = Phase.QUIET
        else:
            case.nack_ns, case.window_s, case.new = now.mono_ns, window_s(case.rtt_s), None
            self._windows.set(sa.number, now.after(case.window_s))
            self._queries.cancel(sa.number)
            self.core.event(
                "sir_window", connection=sa.connection.name, sa=sa.number, seconds=round(case.window_s, 3)
            )
        self._monitor.hint(now, sa, Hint("sir-nack", now.mono_ns, str(sa.remote)), probe=False)

    def _attack(self, now: Now, case: _Case, before: Phase, news: News) -> None:
        """Both were seen: somebody lies. The old SA stays, the new one goes."""
        sa = case.sa
        self.core.count("attack_suspected")
        self.core.event(
            "attack_suspected",
            "warning",
            connection=sa.connection.name,
            sa=sa.number,
            source=str(sa.remote),
            detail=f"NACK, and {news.value}" if news is not News.NACK else "NACK after ACK",
        )
        if before is Phase.EARLY and case.new is not None:
            self.core.dismiss(now, case.new, "the old SA lives")
        self._rebuilds.call_off(now, sa, "the old SA lives")
        case.new = None
        self._windows.set(sa.number, now.after(window_s(case.rtt_s)))
        self._queries.hasten(sa.number, now.after(window_s(case.rtt_s)))

    def _condemn(self, now: Now, case: _Case) -> None:
        """The window closed on NACK alone and the new SA is up; it is the proof.

        One DELETE is sent all the same: if the NACK was a lie, the peer forgets the old SA too.
        """
        proof = (
            SirReplaced.check(
                at_ns=now.mono_ns,
                old=case.sa,
                new=case.new,
                nack_ns=case.nack_ns,
                window_s=case.window_s,
                contradicted=False,
            )
            if case.new is not None
            else None
        )
        if proof is None:
            # Either of the two has changed since: the peer spoke on the old SA, or the new one is gone.
            self.core.count("sir.not_proved")
            if case.new is not None:
                self.core.dismiss(now, case.new, "the old SA lives")
            self._forget(case.sa)
            return
        self.core.condemn(now, case.sa, self._monitor.verdict(case.sa, proof), farewell=True)

    def _forget(self, sa: SaView) -> None:
        self._cases.pop(sa.number, None)
        self._queries.cancel(sa.number)
        self._windows.cancel(sa.number)


@dataclass(slots=True)
class _Case:
    """What is kept about a suspected SA."""

    sa: SaView
    asked_ns: int
    """When its liveness check was asked for."""
    bucket: Bucket
    phase: Phase = Phase.QUIET
    sent: int = 0
    sent_ns: int = 0
    nack_ns: int = 0
    window_s: float = 0.0
    new: SaView | None = None

    @property
    def rtt_s(self) -> float:
        return self.sa.rtt_s if self.sa.rtt_s is not None else self.sa.rto_s
