"""What a report runs, in which order, and about how long each part takes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.cluster.steps import ttl_of
from deadpeer.lab.attacks.model import Attack
from deadpeer.lab.copies.place import CopiesPlan
from deadpeer.lab.options import IDLE_PROBE_S, LIVENESS_S, LOSSES, METHODS, LabError, LabOptions, Lost, Method
from deadpeer.lab.report.variants import VARIANTS, Variant
from deadpeer.lab.scenarios.plan import ClusterPlan, Happening

AROUND_S = 3.2
"""Seconds that a run takes besides what its options say: four processes start, a tunnel is built."""
AROUND_ATTACK_S = 5.0
COSTS_S, QUICK_COSTS_S = 90.0, 40.0
REFERENCE_S = 200.0
AROUND_FAILOVER_S, FAILOVER_S = 4.0, 5.0
"""Two gateways and their clients start; one thing happens to them."""
AROUND_CLUSTER_S, CLUSTER_S = 8.5, 4.5
"""The same of a cluster, besides a lease to begin with and one for what happens; clients are moved, too."""
COPIES_S = 9.0

SEVERAL: tuple[Method, ...] = ("qcd", "sir")
"""Methods that need several gateways to know of each other."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long a report is: runs for the table, runs for each point of the plot and where these are,
    seconds of each attack, recoveries for each figure of the costs; `reference`: strongSwan on both sides
    too, which takes three minutes; `all_methods`: attacks against each method that they concern; `quick`:
    the numbers say little, and the page says so; then what mostly waits runs at the same time, too.

    `lease_s`: of the members of a cluster, seconds, `members`: how many, with as many clients.
    """

    runs: int
    points: int
    rtts_ms: tuple[float, ...]
    attack_s: float
    recoveries: int
    reference: bool
    all_methods: bool
    quick: bool = False
    lease_s: int = 5
    members: int = 4


FULL = Sizes(5, 3, (0.0, 20.0, 50.0, 100.0, 200.0, 300.0), 10.0, 20, reference=True, all_methods=True)
QUICK = Sizes(
    1, 1, (0.0, 100.0, 300.0), 4.0, 5, reference=False, all_methods=False, quick=True, lease_s=4, members=2
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for. `method` None: all; `attacks` are those to run; `strongswan`: root and a strongSwan
    are there; `etcd`: an etcd is. `base` has the round trip time of the table, the first seed, the loss, the
    place. `runs`: crashes, not attacks alone; `report`: everything for a page, not one of each alone."""

    method: Method | None
    attacks: tuple[Attack, ...]
    base: LabOptions
    sizes: Sizes
    strongswan: bool = False
    etcd: bool = False
    runs: bool = True
    report: bool = True
    resume: tuple[bool, ...] = (False, True)


@dataclass(frozen=True, slots=True)
class RunTask:
    """One crash."""

    variant: Variant
    options: LabOptions

    @property
    def title(self) -> str:
        options = self.options
        resumed = ", resumed" if options.resume else ""
        return f"{self.variant.title}{resumed}, round trip {options.rtt_ms:g} ms, seed {options.seed}"

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        options = self.options
        recovery = 5 * options.rtt_ms / 1000 + (LIVENESS_S if options.method == "liveness" else 0)
        idle = IDLE_PROBE_S if options.idle and not options.announce else 0
        return AROUND_S + options.down_s + recovery + options.patience_s + idle


@dataclass(frozen=True, slots=True)
class AttackTask:
    """One attack on one method."""

    attack: Attack
    options: LabOptions
    duration_s: float

    @property
    def title(self) -> str:
        return f"attack {self.attack.name} on {self.options.method}"

    @property
    def seconds(self) -> float:
        """About how long it takes: it begins with half of the time in peace."""
        return 1.5 * self.duration_s + AROUND_ATTACK_S


@dataclass(frozen=True, slots=True)
class CaseTask:
    """A use case of two gateways that no crash of the table is: Bob lives, and has lost something."""

    options: LabOptions

    @property
    def title(self) -> str:
        return f"robustness: {self.options.lost or 'process'} lost, {self.options.method}"

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        waits = LIVENESS_S if self.options.method == "liveness" else 0
        return AROUND_S + 5 * self.options.rtt_ms / 1000 + self.options.patience_s + waits


@dataclass(frozen=True, slots=True)
class ScenarioTask:
    """Use cases of several gateways; the plans run at the same time."""

    plans: tuple[ClusterPlan, ...]

    @property
    def title(self) -> str:
        name = "failover" if self.plans[0].standby else "cluster"
        return f"{name}: {', '.join(self.plans[0].happenings)}, {' and '.join(p.method for p in self.plans)}"

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        plan = self.plans[0]
        if plan.standby:
            return AROUND_FAILOVER_S + FAILOVER_S * len(plan.happenings)
        return AROUND_CLUSTER_S + 2 * ttl_of(plan.lease_s) + (CLUSTER_S + plan.lease_s) * len(plan.happenings)


@dataclass(frozen=True, slots=True)
class CopiesTask:
    """Gateways behind a balancer that know nothing of each other; the plans run at the same time."""

    plans: tuple[CopiesPlan, ...]

    @property
    def title(self) -> str:
        return f"copies of a gateway behind a balancer, {' and '.join(p.method for p in self.plans)}"

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        each = {"qcd": 1.6, "sir": 4.0}
        return COPIES_S + max(each[plan.method] * plan.rounds * plan.clients for plan in self.plans)


@dataclass(frozen=True, slots=True)
class CostsTask:
    """CPU, octets and messages, measured in memory."""

    recoveries: int
    seconds: float
    title: str = "what each role costs"


@dataclass(frozen=True, slots=True)
class ReferenceTask:
    """strongSwan on both sides with default timers. Runs beside the others: it is idle for three minutes."""

    options: LabOptions
    seconds: float = REFERENCE_S
    title: str = "strongSwan on both sides, default timers"


Task = RunTask | CaseTask | ScenarioTask | CopiesTask | AttackTask | CostsTask | ReferenceTask


def plan(wanted: Wanted) -> tuple[Task, ...]:
    """All that is to be done. The reference comes first: it is to run beside the rest.

    Raises LabError if nothing is left of what was asked for.
    """
    sizes, base = wanted.sizes, wanted.base
    tasks: list[Task] = []
    if wanted.report and sizes.reference and wanted.strongswan and wanted.method is None:
        tasks.append(ReferenceTask(base))
    tasks += _runs(wanted) if wanted.runs else []
    tasks += _cases(wanted) if wanted.report else []
    tasks += [
        AttackTask(attack, _attacked(wanted, method), sizes.attack_s)
        for attack in wanted.attacks
        for method in _methods(attack, wanted)
    ]
    if wanted.report:
        tasks.append(CostsTask(sizes.recoveries, COSTS_S if sizes.recoveries > 10 else QUICK_COSTS_S))
    if not tasks:
        raise LabError("nothing to run: no method, and no attack that concerns it", usage=True)
    return tuple(tasks)


def variants(wanted: Wanted) -> tuple[Variant, ...]:
    """The columns that can be measured here."""
    return tuple(
        v
        for v in VARIANTS
        if (wanted.method is None or v.method == wanted.method)
        and (v.peer == "deadpeer" or wanted.strongswan)
    )


def _runs(wanted: Wanted) -> list[RunTask]:
    """For the table every variant at one round trip time, full and resumed, then the points of the plot.

    Seeds go round: what else the machine does at a time must not fall on one method alone.
    """
    sizes, base = wanted.sizes, wanted.base
    chosen = variants(wanted)
    table = [
        RunTask(v, v.options(base, rtt_ms=base.rtt_ms, resume=resume, seed=base.seed + n))
        for n in range(sizes.runs)
        for v in chosen
        for resume in wanted.resume
        if v.resumable or not resume
    ]
    if not wanted.report:
        return table
    points = [
        RunTask(v, v.options(base, rtt_ms=rtt, resume=False, seed=base.seed + n))
        for n in range(sizes.points)
        for rtt in sizes.rtts_ms
        if rtt != base.rtt_ms
        for v in chosen
    ]
    return table + points


def _cases(wanted: Wanted) -> list[Task]:
    """The use cases beside the reboot, which the runs are."""
    sizes, base = wanted.sizes, wanted.base
    tasks: list[Task] = [
        CaseTask(LabOptions(method, base.rtt_ms, base.loss, netns=base.netns, seed=base.seed, lost=lost))
        for method, lost in _losses(wanted)
    ]
    methods = tuple(method for method in SEVERAL if wanted.method in (None, method))
    for together in (methods,) if sizes.quick and methods else [(method,) for method in methods]:
        # What happens to a token's maker is tried in full; of SIR, that it finds out as well.
        every = not sizes.quick and together == ("qcd",)
        standby: tuple[Happening, ...] = ("takeover", "stall", "both") if every else ("takeover",)
        happen: tuple[Happening, ...] = (
            ("kill", "freeze", "cut", "split", "drain", "etcd") if every else ("kill",)
        )
        two = [ClusterPlan.of_standby(sizes.members, standby, base.seed, method) for method in together]
        tasks.append(ScenarioTask(tuple(two)))
        tasks.append(CopiesTask(tuple(_copies(wanted, method) for method in together)))
        if wanted.etcd:
            many = [_cluster(wanted, method, happen) for method in together]
            tasks.append(ScenarioTask(tuple(many)))
    return tasks


def _losses(wanted: Wanted) -> list[tuple[Method, Lost]]:
    """By which method Alice is to find out that Bob lost what. (That a child is lost he says himself.)"""
    quick: tuple[Method, ...] = ("qcd", "sir", "liveness")
    methods = (wanted.method,) if wanted.method else quick if wanted.sizes.quick else METHODS
    some: tuple[Lost, ...] = ("child", "all") if wanted.sizes.quick else LOSSES
    return [(method, lost) for method in methods for lost in (some if method == methods[0] else ("all",))]


def _cluster(wanted: Wanted, method: Method, happenings: tuple[Happening, ...]) -> ClusterPlan:
    sizes = wanted.sizes
    return ClusterPlan(
        sizes.members,
        sizes.members,
        sizes.lease_s,
        happenings=happenings,
        seed=wanted.base.seed,
        method=method,
    )


def _copies(wanted: Wanted, method: Method) -> CopiesPlan:
    sizes, base = wanted.sizes, wanted.base
    # With SIR most of the time is spent waiting for nothing to happen.
    clients = 1 if sizes.quick and method == "sir" else sizes.members
    rounds = 1 if sizes.quick else 3
    return CopiesPlan(method, sizes.members, clients, base.rtt_ms, rounds=rounds, seed=base.seed)


def _methods(attack: Attack, wanted: Wanted) -> tuple[Method, ...]:
    if wanted.method is not None:
        return (wanted.method,) if wanted.method in attack.methods else ()
    return attack.methods if wanted.sizes.all_methods else attack.methods[:1]


def _attacked(wanted: Wanted, method: Method) -> LabOptions:
    base = wanted.base
    if wanted.report:
        # A short way: what an attacker can do in a second is what is asked.
        return LabOptions(method=method, seed=base.seed)
    return LabOptions(method=method, rtt_ms=base.rtt_ms, loss=base.loss, netns=base.netns, seed=base.seed)
