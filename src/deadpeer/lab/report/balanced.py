"""Support for load-balancer failover, as measured: QCD alone, QCD with ownership, SIR with and without. Pure.

"Alone": copies of one gateway, each of which answers by its own table of SAs (`lab.copies`). "With
ownership": members of a cluster that know whose an SA is (`lab.scenarios`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deadpeer.lab.copies.result import CopiesResult, Moved
from deadpeer.lab.options import Method
from deadpeer.lab.report.cases import Case
from deadpeer.lab.report.model import Report, Spread

Verdict = Literal["yes", "no", "harmless", ""]
"""`harmless`: gateways say what is not so, but no client believes it. Empty: not measured."""


@dataclass(frozen=True, slots=True)
class Column:
    """One way to stand behind a balancer. None: not measured, or there is no such thing there.

    `asked`: how often attackers asked about living SAs, `told`: how often they, or the client, were told that
    such an SA is lost. `presented`: how often what was bought was presented to the client of the SA, `ended`:
    how many living SAs that ended, `noticed`: attacks that clients reported; `ended_besides`: how many ended
    at other moments, as while they asked. `stopped_ms`: for how long that stopped traffic. `back_ms`: when
    the slowest client of a member that died was back, `lease_s`: how long it takes until anybody may speak
    for that member. `others_lost`: packets of the other members' clients. `rtt_ms`: of the clients' way.
    """

    title: str
    method: Method
    owned: bool
    gateways: int | None = None
    asked: int | None = None
    told: int | None = None
    presented: int | None = None
    ended: int | None = None
    ended_besides: int = 0
    noticed: int | None = None
    stopped_ms: Spread | None = None
    back_ms: float | None = None
    lease_s: float | None = None
    others_lost: int | None = None
    rtt_ms: float = 0.0
    moved: Moved | None = None
    """What came of it when the balancer led the clients of a member that lives to others."""

    @property
    def verdict(self) -> Verdict:
        """Whether it may stand behind a load balancer."""
        if self.told is None:
            return ""
        if self.told == 0:
            return "yes" if self.back_ms is not None else "no"
        return "no" if self.ended or self.ended_besides else "harmless"


TITLES: tuple[tuple[Method, bool, str], ...] = (
    ("qcd", False, "QCD alone"),
    ("qcd", True, "QCD with ownership"),
    ("sir", False, "SIR alone"),
    ("sir", True, "SIR with ownership"),
)


def columns(report: Report) -> tuple[Column, ...]:
    """All that the report was to measure, whether it could or not."""
    methods = {variant.method for variant in report.variants}
    return tuple(
        _owned(title, method, [case for case in report.cases if _fits(case, method)])
        if owned
        else _alone(title, method, [one for one in report.copies if one.plan.method == method])
        for method, owned, title in TITLES
        if method in methods
    )


def _fits(case: Case, method: Method) -> bool:
    return case.use == "cluster" and case.method == method


def _alone(title: str, method: Method, found: Sequence[CopiesResult]) -> Column:
    if not found:
        return Column(title, method, owned=False)
    one = found[0]
    return Column(
        title,
        method,
        owned=False,
        gateways=one.plan.gateways,
        asked=one.asked + len(one.presented),
        told=one.sold + len(one.presented),
        presented=len(one.presented),
        ended=one.died,
        ended_besides=one.died_besides,
        noticed=one.noticed,
        stopped_ms=Spread.of(each.back_ms for each in one.presented),
        back_ms=one.back_ms,
        rtt_ms=one.plan.rtt_ms,
        moved=one.moved,
    )


def _owned(title: str, method: Method, found: Sequence[Case]) -> Column:
    if not found:
        return Column(title, method, owned=True)
    death = next((case for case in found if case.lost == "kill"), None)
    moved = next((case for case in found if case.lost == "moved"), None)
    record = next((case.record for case in found if case.record), {})
    return Column(
        title,
        method,
        owned=True,
        gateways=record.get("members"),
        asked=sum(case.asked or 0 for case in found),
        told=sum(case.tokens for case in found),
        ended=sum(case.living_lost for case in found),
        back_ms=None if death is None else death.recover_ms,
        lease_s=record.get("lease_s"),
        others_lost=None if death is None else death.others_lost,
        moved=None
        if moved is None
        else Moved(moved.living_lost, moved.packets_sent, moved.packets_lost, None),
    )
