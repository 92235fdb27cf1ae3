"""What a report says about the use cases, with their numbers. Pure; for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deadpeer.lab.options import LIVENESS_S
from deadpeer.lab.report.cases import USES, Case, Use
from deadpeer.lab.report.compare import EMPTY, Cell
from deadpeer.lab.report.model import Report
from deadpeer.lab.report.notation import NONE, duration, octets
from deadpeer.lab.report.use_drawing import Line
from deadpeer.lab.result import PROOF_OF

S = "\N{RIGHT SINGLE QUOTATION MARK}s"
TITLES: dict[Use, str] = {
    "robustness": "Protocol robustness: the gateway lives, and has lost an SA",
    "reboot": "Reboot: the gateway dies and starts again",
    "failover": "Hot-standby failover: another gateway gets the address",
    "cluster": "Load-balanced cluster: one of several members dies",
}
SAYS: dict[Use, str] = {
    "robustness": f"Bob{S} process runs on, but SAs are gone from its memory, by a fault that the lab puts"
    " there on purpose, and nobody is told. While his IKE SA lives he says under its protection which"
    " child he does not know, and the child is replaced: no proof is needed, no token is told. When the"
    " IKE SA is gone, it is as after a crash.",
    "reboot": f"Bob{S} process is killed and started again. What survives is his state directory: one"
    " secret.",
    "failover": "Two gateways have the same keys and one address, and one of them holds it. It is killed, and"
    " whatever moves the address gives it to the other one, which has no SA but the secrets. Holding the"
    " address is what lets it speak for the other.",
    "cluster": "A balancer spreads clients over members, which share secrets, and in etcd a lease and a"
    " number each, but no SA. One is killed, and the balancer sends its clients to others. These know"
    f" from the SPI whose the SA was, and are silent until that member{S} lease has run out; then they"
    " tell. All the while attackers try to buy the token of every SA from every member.",
}
ZERO: dict[Use, str] = {
    "robustness": "he loses it",
    "reboot": "he can answer again",
    "failover": "the other one has the address",
    "cluster": "it happens",
}
LOST = {
    "child": "a child SA lost",
    "ike": "the IKE SA lost",
    "all": "all SAs lost",
    "process": "killed, restarted",
    "kill": "a member killed",
    "freeze": "a member stopped for longer than its lease",
    "cut": "a member cut off from etcd",
    "split": "members cut off from each other (times from the end of that)",
    "drain": "a member drained",
    "moved": "clients led to another member",
    "etcd": "etcd down for longer than the leases (times from its return)",
    "takeover": "the active one killed",
    "stall": "the active one stopped, goes on later",
    "both": "both told that they hold it",
}
METHODS = {"qcd": "QCD", "sir": "SIR", "reconnect": "reconnect", "liveness": f"liveness, {LIVENESS_S:g} s"}


@dataclass(frozen=True, slots=True)
class UseStory:
    """A use case: what happens, what became of the packets, and the numbers."""

    use: Use
    title: str
    says: str
    zero: str
    lines: tuple[Line, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str
    ok: bool


USE_COLUMNS = (
    "what happened",
    "method",
    "proof after",
    "traffic after",
    "packets lost",
    "living SAs lost",
    "tokens of living SAs told",
    "of other clients: packets lost",
)


def use_stories(report: Report) -> tuple[UseStory, ...]:
    """The use cases that were tried, in their order."""
    found = report.all_cases
    return tuple(
        _story(report, use, cases) for use in USES if (cases := [case for case in found if case.use == use])
    )


def _story(report: Report, use: Use, cases: Sequence[Case]) -> UseStory:
    return UseStory(
        use,
        TITLES[use],
        SAYS[use],
        ZERO[use],
        tuple(line for case in cases for line in _lines(case)),
        tuple(map(_row, cases)),
        _note(report, use, cases),
        all(case.ok for case in cases),
    )


def _note(report: Report, use: Use, cases: Sequence[Case]) -> str:
    if use in ("robustness", "reboot"):
        return f"Round trip time {report.rtt_ms:g} ms, a packet every 10 ms; one run of each."
    first = next((case.record for case in cases if case.record), {})
    if not first:
        return ""
    where = "a packet every 20 ms from each client, on loopback without a delay"
    timer = "Liveness was not run: whatever happens here, it takes its timer, by default a minute."
    if use == "failover":
        return f"{first['clients']} clients, {where}; times are those of the slowest. {timer}"
    return (
        f"{first['members']} members with a lease of {first['lease_s']:g} s, {first['clients']} clients,"
        f" {where}; times are those of the slowest client. {timer}"
    )


def _lines(case: Case) -> list[Line]:
    name = f"{METHODS[case.method]}: {LOST[case.lost]}"
    return [
        Line(
            name if number == 0 else f"{METHODS[case.method]}: {strip.name}",
            strip,
            _flows(case) if number == 0 else f"{case.others_lost or 0} packets lost",
        )
        for number, strip in enumerate(case.strips)
    ]


def _flows(case: Case) -> str:
    if case.recover_ms is None and case.failure is None:
        return f"{case.packets_lost} packets lost"
    return "did not recover" if case.recover_ms is None else duration(case.recover_ms)


def _row(case: Case) -> tuple[Cell, ...]:
    asked = "" if case.asked is None else f"of {octets(case.asked)} questions"
    nothing = case.failure is None and case.recover_ms is None
    return (
        Cell(LOST[case.lost], case.failure or "", "bad" if case.failure else ""),
        Cell(METHODS[case.method]),
        Cell(NONE if case.detect_ms is None else duration(case.detect_ms), _proof(case)),
        Cell("its SA goes on" if case.packets_lost else "nothing was lost")
        if nothing
        else Cell(_flows(case), "", "" if case.recover_ms else "bad"),
        Cell(octets(case.packets_lost), f"of {octets(case.packets_sent)}"),
        Cell(str(case.living_lost), "", "bad" if case.living_lost else "good"),
        Cell(str(case.tokens), asked, "bad" if case.tokens else "good"),
        EMPTY if case.others_lost is None else Cell(str(case.others_lost)),
    )


def _proof(case: Case) -> str:
    if case.lost == "child":
        return f"Bob{S} word under protection"
    if case.verdict is None:
        return "" if case.detect_ms is not None else "none was needed"
    return case.verdict if case.verdict != PROOF_OF[case.method] else ""
