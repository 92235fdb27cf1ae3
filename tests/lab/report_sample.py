"""A made-up report with something of everything, for tests of how it is shown."""

from __future__ import annotations

from dataclasses import replace

from deadpeer.lab.attacks.model import Attack, AttackResult, Check, Cost
from deadpeer.lab.copies.place import CopiesPlan
from deadpeer.lab.copies.result import CopiesResult, Moved, Presented
from deadpeer.lab.costs.model import (
    Baseline,
    Costs,
    Kept,
    Operations,
    Ratio,
    RecoveryCost,
    RoleCost,
    SideCost,
)
from deadpeer.lab.costs.model import Wire as CostWire
from deadpeer.lab.options import LabOptions, Lost, Method
from deadpeer.lab.report.cases import Case, Stretch, Strip, of_outcome, of_run
from deadpeer.lab.report.model import Environment, Measured, Report, Rung, Wire
from deadpeer.lab.report.variants import VARIANTS, Variant, variant
from deadpeer.lab.result import PROOF_OF, RunResult
from deadpeer.lab.scenarios.outcome import Client, Outcome, none
from deadpeer.lab.scenarios.plan import ClusterPlan, Happening

NASTY = '<script>alert("x & y")</script>'
RTTS_MS = (0.0, 100.0, 300.0)
BASE = LabOptions(rtt_ms=100.0)

RUNGS = (
    Rung(-1500.0, "bob", "killed (SIGKILL)", "bad"),
    Rung(-900.0, "alice>bob", "INFORMATIONAL request", count=4),
    Rung(0.0, "bob", "can answer again", "good"),
    Rung(5.0, "alice>bob", "ESP, old SA (0efdc339)", count=4),
    Rung(55.0, "bob>alice", "INVALID_SPI 0efdc339"),
    Rung(60.0, "alice>bob", "INFORMATIONAL request", lost=True),
    Rung(150.0, "bob>alice", "INVALID_IKE_SPI + QCD_TOKEN", "good"),
    Rung(151.0, "alice", "VERDICT: qcd-token", "good"),
)


STRIP = Strip(
    "Alice",
    (
        Stretch(-900.0, 0.0, "answered"),
        Stretch(0.0, 300.0, "lost"),
        Stretch(300.0, 400.0, "late"),
        Stretch(400.0, 1400.0, "answered"),
    ),
    150.0,
    470.0,
)


def lost_case(method: Method = "qcd", lost: Lost = "all", *, tokens: int = 0) -> Case:
    """Robustness."""
    proof = None if lost == "child" else PROOF_OF[method]
    options = LabOptions(method=method, rtt_ms=100.0, seed=1, lost=lost)
    result = RunResult(options, True, 0.0, 150.0, 470.0, 150, 30, 0, proof)
    return of_run(result, STRIP, 0, tokens)


def several_case(
    method: Method = "qcd", happening: Happening = "kill", *, tokens: int = 0, back: bool = True
) -> Case:
    """Failover or a cluster: one client of two was concerned."""
    standby = happening == "takeover"
    plan = (
        ClusterPlan.of_standby(2, (happening,), 1, method) if standby else ClusterPlan(2, 2, 2, method=method)
    )
    client = Client(0, 2010.0, 2100.0 if back else None, PROOF_OF[method])
    checks = (none("tokens for living SAs", tokens), none("clients that are not back", int(not back)))
    outcome = Outcome(plan, happening, 0, (client,), checks, 600, 90, 1, 0, tokens, {"own address": 800})
    return of_outcome(outcome, (STRIP, Strip("another member's client", STRIP.stretches[:1])), 0)


def moved_case(method: Method = "qcd", *, packets_lost: int = 0) -> Case:
    """A cluster whose balancer leads the clients of a member that lives to others."""
    record = {"members": 2, "clients": 2, "lease_s": 2}
    case = Case("cluster", "moved", method, None, None, 100, packets_lost, 0, 0, asked=50, record=record)
    return replace(case, strips=(STRIP,))


def copied(method: Method = "qcd", *, told: int = 16, died: bool = True) -> CopiesResult:
    """Copies of a gateway: two things presented, if anything was told."""
    back_ms = 120.0 if died else None
    presented = tuple(Presented(n, "a token", died, not died, back_ms) for n in range(2 if told else 0))
    plan = CopiesPlan(method, rtt_ms=100.0)
    proofs, moved = (PROOF_OF[method],), Moved(1, 60, 13, 480.0)
    return CopiesResult(plan, 320, told, told // 2, 0, presented, 180.0, proofs, moved=moved)


def measured(
    one: Variant,
    *,
    resume: bool = False,
    rtt_ms: float = 100.0,
    seed: int = 1,
    refused: bool = False,
    failure: str | None = None,
) -> Measured:
    """A run that recovered after four round trips and something, or failed."""
    options = one.options(BASE, rtt_ms=rtt_ms, resume=resume, seed=seed)
    result = RunResult(
        options,
        ok=failure is None,
        peer_down_s=1.4,
        detect_ms=1.5 * rtt_ms + seed,
        recover_ms=None if failure else 4.5 * rtt_ms + 10 * seed,
        packets_sent=300,
        packets_lost=180,
        lost_while_down=140,
        verdict=PROOF_OF[one.method],
        evidence=("hint invalid-spi", "qcd-token"),
        failure=failure,
    )
    first = "IKE_SESSION_RESUME response" if resume and not refused else "IKE_SA_INIT response"
    rungs = (*RUNGS, Rung(260.0, "bob>alice", first))
    case = of_run(result, STRIP, 0, 0)
    return Measured(one, result, Wire(3, 560), Wire(4, 580), rungs, case)


def attacked(
    name: str = "forge-invalid-spi", method: Method = "qcd", *, holds: bool = True, sas_lost: int = 0
) -> AttackResult:
    attack = Attack(name, "off-path", ("qcd", "sir"), f"sends {NASTY}", "nothing is deleted")
    return AttackResult(
        attack=attack,
        method=method,
        options=LabOptions(method=method),
        seconds=10.0,
        sent=4000,
        sent_octets=160_000,
        answered=40,
        answered_octets=4000,
        sas_lost=sas_lost,
        rebuilt=1,
        packets_sent=1000,
        packets_lost=0,
        quiet=Cost(5.0, 0.2, 0.1),
        attacked=Cost(10.0, 1.0, 0.5),
        checks=(
            Check("living SAs condemned", "none", str(sas_lost), holds),
            Check("octets sent back for each of his", "at most 3", "0.025", holds=True),
        ),
        counters={"alice": {"hint": 3}, "bob": {}},
    )


def costs() -> Costs:
    side = SideCost(1200.0, (1100.0, 1300.0), 300.0, Operations(exchanges=1), CostWire(3, 562))
    recoveries = tuple(
        RecoveryCost("qcd", "rsa-3072", resumed, 20, 100.0, 150.0, 450.0, side, side)
        for resumed in (False, True)
    )
    nothing = CostWire(0, 0)
    return Costs(
        "x86_64, a machine",
        64,
        recoveries,
        (Ratio("qcd", "rsa-3072", 0.5, 0.42),),
        (Baseline("initiator", 12_000.0, CostWire(2, 477), CostWire(2, 254), 1000.0),),
        (
            RoleCost(
                "token-taker",
                "initiator",
                378.0,
                0.0,
                0,
                nothing,
                CostWire(0, 24),
                nothing,
                nothing,
                -20.0,
                53.0,
            ),
            RoleCost(
                "token-maker",
                "responder",
                868.0,
                0.0,
                0,
                CostWire(0, 24),
                nothing,
                nothing,
                nothing,
                90.0,
                9.0,
            ),
            RoleCost("spi-map", "responder", 109.0, 47.0, 68, nothing, nothing, nothing, nothing, 38.0, 30.0),
        ),
        (Kept("boot counter, SPI key, secret of the tokens", 120.0, "gateway"),),
    )


def report(**changes: object) -> Report:
    """The whole: three seeds at the table's round trip time, one at the others, one attack on two methods."""
    runs = [
        measured(one, resume=resume, rtt_ms=rtt, seed=seed)
        for one in VARIANTS
        for rtt in RTTS_MS
        for resume in ((False, True) if rtt == 100.0 and one.resumable else (False,))
        for seed in ((1, 2, 3) if rtt == 100.0 else (1,))
    ]
    fields: dict[str, object] = {
        "environment": Environment(
            "2026-11-23 12:00 UTC",
            f"deadpeer lab --report {NASTY}",
            "abc1234",
            "a processor, 2 cores, 4 GB",
            "Linux 6.18",
            (("Python", "CPython 3.11"), ("OpenSSL of cryptography", "OpenSSL 4")),
            812.0,
        ),
        "quick": False,
        "rtt_ms": 100.0,
        "down_s": 1.0,
        "variants": VARIANTS,
        "runs": tuple(runs),
        "cases": (
            lost_case(lost="child"),
            lost_case("sir"),
            lost_case("liveness"),
            several_case(happening="takeover"),
            moved_case(),
            several_case(),
            several_case("sir"),
        ),
        "copies": (copied(), copied("sir", died=False)),
        "attacks": (attacked(), attacked(method="sir")),
        "costs": costs(),
        **changes,
    }
    return Report(**fields)  # type: ignore[arg-type]


__all__ = [
    "BASE",
    "NASTY",
    "RTTS_MS",
    "RUNGS",
    "STRIP",
    "attacked",
    "copied",
    "costs",
    "lost_case",
    "measured",
    "moved_case",
    "report",
    "several_case",
    "variant",
]
