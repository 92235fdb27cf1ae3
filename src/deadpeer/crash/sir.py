"""Safe IKE Recovery, the side that asks: suspicion becomes a query, a NACK opens a window.

Queries go unprotected from the SA's own address to its peer's, and are repeated while the suspicion lasts.
An answer counts if it comes from there with a cookie of ours; nothing is kept about a query.
"""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.crash.agenda import Agenda
from deadpeer.crash.evidence import SirReplaced
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import CrashOptions, Method
from deadpeer.crash.policy import Evidence, Policy
from deadpeer.crash.rebuilds import Rebuilds
from deadpeer.crash.sir_judgement import Action, News, Phase, judge, window_s
from deadpeer.crash.sir_wire import TICK_NS, Check, CookieMint, Subject, Verb, decode, encode, is_check
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
from deadpeer.rates import Bucket, Rate
from deadpeer.values import NS_PER_S, Datagram, Deadline, Now
from deadpeer.wire import Protocol

QUERY_CAP_S = 1.0
PATIENT_CAP_S = 8.0
PATIENT_AFTER = 60
"""Queries about an SA are repeated with an interval that doubles to one second; after so many, to eight."""

CHILD_DOUBT_S = 10.0
"""A hint about a child so soon after the peer proved that it lives is about the child alone."""
_LATER_NS = NS_PER_S


class Sir(Extension):
    """Asks peers that speak SIR about suspected SAs, and judges what they say."""

    name = "sir"
    observes = (SaRekeyed, SaClosed, Rebuilt, RebuildFailed, RequestAnswered, TrafficHeard)

    def __init__(
        self, monitor: Monitor, policy: Policy, rebuilds: Rebuilds, entropy: Entropy, options: CrashOptions
    ) -> None:
        self._monitor = monitor
        self._policy = policy
        self._rebuilds = rebuilds
        self._entropy = entropy
        self._rate = Rate(options.query_rate, options.query_burst)
        self._child_rate = Rate(options.lost_child_rate, options.lost_child_burst)
        self._cases: dict[int, _Case] = {}
        self._limits: dict[int, _Limits] = {}
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
            case SaRekeyed(old=old, new=new):
                self._alive(now, old)
                if old.number in self._limits:
                    self._limits[new.number] = self._limits.pop(old.number)
            case SaClosed(sa=sa):
                self._forget(sa)
                self._limits.pop(sa.number, None)
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
            self._closed(now, self._cases[number])

    # --- asking ----------------------------------------------------------------------------------

    def _suspected(self, now: Now, sa: SaView, hint: Hint) -> None:
        case = self._cases.get(sa.number)
        asked_ns = case.asked_ns if case is not None else now.mono_ns
        due = self._policy.act_ns(sa, Method.SIR, Evidence.of(hint.kind), asked_ns)
        if due is None or not sa.established:
            return
        if case is None:
            case = self._cases[sa.number] = _Case(sa, now.mono_ns)
        limits = self._limits.setdefault(sa.number, _Limits(now.mono_ns, self._rate, self._child_rate))
        if hint.kind == "invalid-spi":
            self._doubt_child(now, sa, limits, int(hint.detail, 16))
        if case.phase is not Phase.QUIET:
            return
        if not case.sent:
            self._queries.hasten(sa.number, self._first_ns(now, case, limits, max(due, now.mono_ns)))
        elif Evidence.of(hint.kind) is not Evidence.SILENCE and self._may_repeat(now, case, limits):
            self._queries.hasten(sa.number, now.mono_ns)
        self.expire(now)

    def _first_ns(self, now: Now, case: _Case, limits: _Limits, due_ns: int) -> int:
        """When the first query goes out: later if answered suspicions have used up what hints may cause."""
        if not case.granted:
            case.granted = limits.queries.take(now.mono_ns, self._rate)
        return due_ns if case.granted else max(due_ns, case.asked_ns + _LATER_NS)

    def _may_repeat(self, now: Now, case: _Case, limits: _Limits) -> bool:
        """A hint has the query repeated at once, not within a round trip, and not often."""
        spacing_ns = int(case.rtt_s * NS_PER_S)
        return now.mono_ns - case.sent_ns >= spacing_ns and limits.queries.take(now.mono_ns, self._rate)

    def _query_due(self, now: Now, case: _Case) -> None:
        sa = case.sa
        if not sa.established or case.phase not in (Phase.QUIET, Phase.ACKED):
            return
        self._ask(now, sa, Subject.ike(sa.spi_i, sa.spi_r))
        if not case.sent:
            case.first_sent_ns = now.mono_ns
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
        if check.subject.protocol == Protocol.ESP:
            self._child_answered(now, sa, check)
            return
        case = self._cases.get(sa.number)
        if case is None or not case.sent or made_ns + TICK_NS <= case.first_sent_ns:
            # That suspicion is over: the peer has proved, since that query, that it lives.
            self.core.count("check.too_late")
            return
        self.core.count(f"check.{check.verb.name.lower()}_received")
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
        if sa.number in self._limits:
            self._limits[sa.number].alive_ns = now.mono_ns

    # --- children --------------------------------------------------------------------------------

    def _doubt_child(self, now: Now, sa: SaView, limits: _Limits, spi: int) -> None:
        """Somebody does not know a child of ours, again, after the peer has proved that it lives: then it is
        the child that may be lost, and the question is about its SPI."""
        if limits.alive_ns is None or now.mono_ns - limits.alive_ns > CHILD_DOUBT_S * NS_PER_S:
            return
        if limits.rekeyed != spi and limits.child_queries.take(now.mono_ns, self._rate):
            self._ask(now, sa, Subject.esp(spi))

    def _child_answered(self, now: Now, sa: SaView, check: Check) -> None:
        """A child that is denied is rekeyed under protection: a peer that has it rekeys it, one that does not
        says CHILD_SA_NOT_FOUND (RFC 7296 section 2.25), and only that makes the core drop it. So the NACK
        of a child needs no window, and a forged one costs one rekey."""
        limits = self._limits.get(sa.number)
        spi = int.from_bytes(check.subject.spi, "big")
        if check.verb is not Verb.NACK or limits is None or limits.rekeyed == spi:
            self.core.count(f"check.child_{check.verb.name.lower()}")
        elif not limits.rekeys.take(now.mono_ns, self._child_rate):
            self.core.count("check.child_limited")
        elif self.core.rekey_child(now, sa, spi, "denied by CHECK_SPI"):
            limits.rekeyed = spi
            self.core.event(
                "child_denied", "notice", connection=sa.connection.name, sa=sa.number, spi=f"{spi:08x}"
            )

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
        """The first NACK: the window opens, and the new SA is begun, unless there is one."""
        sa = case.sa
        sibling = self._rebuilds.sibling(sa) if self._rebuilds.owner(sa) is None else None
        case.compares = sibling is not None
        if sibling is not None and not sibling.request_in_flight:
            self.core.probe(now, sibling, "sibling")
        if sibling is None and not self._rebuilds.begin(now, sa, self.name):
            # No budget; or another method builds already, which has a proof of its own.
            case.phase = Phase.QUIET
        else:
            case.nack_ns, case.window_s = now.mono_ns, window_s(case.rtt_s)
            case.new, case.borrowed = None, False
            self._windows.set(sa.number, now.after(case.window_s))
            self._queries.cancel(sa.number)
            # A peer that lives can contradict within the window under protection, whatever limits there are
            # for hints and for answers to strangers.
            self.core.probe(now, sa, "sir-nack")
            self.core.event(
                "sir_window", connection=sa.connection.name, sa=sa.number, seconds=round(case.window_s, 3)
            )
        self._monitor.hint(now, sa, Hint("sir-nack", now.mono_ns, str(sa.remote)), probe=False)

    def _closed(self, now: Now, case: _Case) -> None:
        """The time of the window, or of the ACK, is over.

        A newer SA that has the same children replaces this one if the peer has spoken on it since the NACK.
        If it has not, that one may be lost as well: then a new one is built now.
        """
        if case.phase is Phase.WINDOW and case.compares:
            case.compares = False
            sibling = self._rebuilds.sibling(case.sa)
            if sibling is not None and sibling.last_heard_ns > case.nack_ns:
                case.new, case.borrowed = sibling, True
                self._step(now, case, News.REBUILT)
            elif not self._rebuilds.begin(now, case.sa, self.name):
                self._step(now, case, News.FAILED)
                self._queries.set(case.sa.number, now.after(QUERY_CAP_S))
                return
        self._step(now, case, News.CLOSED)

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
        case.new, case.compares = None, False
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
            if case.new is not None and not case.borrowed:
                self.core.dismiss(now, case.new, "the old SA lives")
            self._forget(case.sa)
            return
        self.core.condemn(now, case.sa, self._monitor.verdict(case.sa, proof), farewell=True)

    def _forget(self, sa: SaView) -> None:
        self._cases.pop(sa.number, None)
        self._queries.cancel(sa.number)
        self._windows.cancel(sa.number)


class _Limits:
    """What outlasts the suspicions of one IKE SA: what they may cause, and when the last was answered."""

    __slots__ = ("alive_ns", "child_queries", "queries", "rekeyed", "rekeys")

    def __init__(self, now_ns: int, queries: Rate, rekeys: Rate) -> None:
        self.queries = Bucket(now_ns, queries)
        self.child_queries = Bucket(now_ns, queries)
        self.rekeys = Bucket(now_ns, rekeys)
        self.alive_ns: int | None = None
        self.rekeyed: int | None = None
        """The SPI of the child that was denied and rekeyed last."""


@dataclass(slots=True)
class _Case:
    """What is kept about a suspected SA."""

    sa: SaView
    asked_ns: int
    """When its liveness check was asked for."""
    granted: bool = False
    """The first query is paid for."""
    phase: Phase = Phase.QUIET
    sent: int = 0
    first_sent_ns: int = 0
    sent_ns: int = 0
    nack_ns: int = 0
    window_s: float = 0.0
    new: SaView | None = None
    """The SA that came up beside it; `borrowed`: it was there before."""
    borrowed: bool = False
    compares: bool = False
    """There is a newer SA with the same children; the window shows whether the peer answers on it."""

    @property
    def rtt_s(self) -> float:
        return self.sa.rtt_s if self.sa.rtt_s is not None else self.sa.rto_s
