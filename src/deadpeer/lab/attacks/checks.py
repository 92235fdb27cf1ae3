"""What must hold under attack, and whether it held: from what was observed to `Check`s. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from deadpeer.crash.options import CrashOptions
from deadpeer.lab.attacks.catalogue import Scenario
from deadpeer.lab.attacks.model import Check
from deadpeer.lab.attacks.observed import Counters, Observed, Recovery
from deadpeer.lab.options import LIVENESS_S, LabOptions, Side
from deadpeer.rates import AMPLIFICATION

LIMITS = CrashOptions()
"""The lab's gateways run with the defaults."""

MEMORY_MB = 20.0
CPU_MS_PER_SHOT = 1.0
LOST_SHARE = 0.01
LOST_AT_LEAST = 2
RECOVERY_S = 2.0
SLOW_RECOVERY_S = 4.0
HALF_OPEN = 8
"""half_open_per_source without a cookie, and a few of the peer's own."""
HALF_OPEN_S = 30.0 + 1.0
"""half_open_timeout, and the time until his addresses were crowded."""
CROWDED = 8 * 5
"""His addresses, and half_open_per_source."""
REPLACING = ("sir", "replaced", "resumed")
"""Proofs that rest on a new SA of the same peer, which stands before the old one goes."""


def judge(scenario: Scenario, options: LabOptions, seen: Observed) -> tuple[Check, ...]:
    """Every promise, whether it was kept, and by what measure."""
    checks = [*_verdicts(scenario, options, seen), *_rebuilds(scenario, options, seen)]
    if scenario.per_s:
        checks += [*_beside(scenario, seen), *_cost(seen)]
    else:
        checks += _in_the_middle(seen)
    checks += _special(scenario, seen)
    if scenario.crash:
        checks += _crash(options, seen.crash)
    return (*checks, *_health(seen))


# --- what holds always ---------------------------------------------------------------------------


def _verdicts(scenario: Scenario, options: LabOptions, seen: Observed) -> Iterator[Check]:
    """Living SAs that somebody condemned. Where a new SA may be forced, one may replace them."""
    abandoned = [v for v in seen.verdicts if v.fields.get("proof") not in REPLACING]
    forced = scenario.attack.place == "on-path" and options.method in ("sir", "reconnect")
    if not forced:
        yield _at_most("living SAs condemned", len(seen.verdicts), 0)
    yield _at_most("living SAs lost without a replacement", len(abandoned), 0)
    if scenario.per_s:
        gone = seen.living - seen.lived
        yield Check("the SAs from before are there after", "all", f"{seen.lived} of {seen.living}", not gone)


def _rebuilds(scenario: Scenario, options: LabOptions, seen: Observed) -> Iterator[Check]:
    yield _at_most("new SAs forced", seen.rebuilt, budget(scenario, options, seen.attack.seconds))


def budget(scenario: Scenario, options: LabOptions, seconds: float) -> int:
    """How many new SAs an attacker may force in that time: `rebuilds_per_hour` at once, and as many in each
    hour after. QCD and liveness build none beside a living SA, and no stranger can forge SIR's answers."""
    if options.method == "reconnect" or (options.method == "sir" and scenario.attack.place == "on-path"):
        return int(LIMITS.rebuilds_per_hour * (1 + seconds / 3600))
    return 0


def _health(seen: Observed) -> Iterator[Check]:
    for side, (before, after) in seen.memory_mb.items():
        what = f"growth of {side.capitalize()}'s memory"
        yield Check(
            what, f"at most {MEMORY_MB:g} MB", f"{after - before:+.1f} MB", after - before <= MEMORY_MB
        )
    yield _at_most("internal errors", seen.internal_errors, 0)
    yield Check("traffic flows afterwards", "yes", "yes" if seen.flows_after else "no", seen.flows_after)


# --- beside the link -----------------------------------------------------------------------------


def _beside(scenario: Scenario, seen: Observed) -> Iterator[Check]:
    packets, octets = seen.sent
    yield _at_least("shots", packets, 100)
    if scenario.blind:
        sent = seen.blind_shots.number("sent")
        believed = sum(_counted(seen.blind_counters, side, name) for side in _SIDES for name in _TAKEN_UP)
        what = "shots that concerned an SA, without knowing any SPI"
        yield Check(what, "none", f"{believed} of {sent}", sent > 0 and not believed)
    answers, answered = seen.answered
    yield _ratio("packets sent back for each of his", answers, packets)
    yield _ratio("octets sent back for each of his", answered, octets)
    if scenario.sources > 1:
        worst = seen.shots.worst
        yield Check(
            "the largest answer to his own address, by its question",
            f"at most {AMPLIFICATION} times",
            f"{worst:.2f} times",
            worst <= AMPLIFICATION,
        )
    yield from _liveness_checks(seen)
    yield _lost(seen, 0)


_TAKEN_UP = (
    "hint.invalid-spi",
    "hint.invalid-ike-spi",
    "hint.sir-nack",
    "token_mismatch",
    "check.bad_cookie",
    "news.no_request",
    "orphan.alive",
)
"""What a gateway counts when something from outside is about one of its SAs."""


def _counted(counters: Mapping[Side, Counters], side: Side, name: str) -> int:
    return counters.get(side, {}).get("endpoint", {}).get(name, 0)


def _liveness_checks(seen: Observed) -> Iterator[Check]:
    """`probe_burst` at once and `probe_rate` a second for each SA; one more may fall on the edge."""
    share = seen.attack.seconds / seen.quiet.seconds if seen.quiet.seconds else 0.0
    for side in _SIDES:
        usual = seen.quiet_ike.checks.get(side, 0) * share
        most = LIMITS.probe_burst + LIMITS.probe_rate * seen.attack.seconds + usual + 1
        found = seen.attack_ike.checks.get(side, 0)
        rate = found / seen.attack.seconds if seen.attack.seconds else 0.0
        yield Check(
            f"{side.capitalize()}'s protected INFORMATIONAL requests",
            f"at most {most:.0f}",
            f"{found} ({rate:.1f} a second)",
            found <= most,
        )


def _cost(seen: Observed) -> Iterator[Check]:
    shots = seen.sent[0]
    for side, quiet, attacked in (
        ("Alice", seen.quiet_cost.alice_cpu_s, seen.attack_cost.alice_cpu_s),
        ("Bob", seen.quiet_cost.bob_cpu_s, seen.attack_cost.bob_cpu_s),
    ):
        usual = quiet * seen.attack_cost.seconds / seen.quiet_cost.seconds if seen.quiet_cost.seconds else 0.0
        each_ms = 1000 * max(0.0, attacked - usual) / shots if shots else 0.0
        yield Check(
            f"{side}'s CPU for each of his packets",
            f"at most {CPU_MS_PER_SHOT:g} ms",
            f"{each_ms:.3f} ms",
            each_ms <= CPU_MS_PER_SHOT,
            timed=True,
        )


# --- in the middle -------------------------------------------------------------------------------


def _in_the_middle(seen: Observed) -> Iterator[Check]:
    packets, _ = seen.sent
    yield _at_least("datagrams forged, dropped or delayed", packets)
    dropped = seen.mischief.get("dropped ESP", 0) + seen.mischief.get("dropped everything", 0)
    yield _lost(seen, dropped)


# --- what one attack is about ----------------------------------------------------------------------


def _special(scenario: Scenario, seen: Observed) -> Iterator[Check]:
    alice = seen.counters.get("alice", {}).get("endpoint", {})
    match scenario.attack.name:
        case "enumerate":
            yield from _enumerated(seen)
        case "forge-token":
            guesses = alice.get("token_mismatch", 0)
            yield _at_least("guesses that were compared with the real token", guesses)
        case "forge-check-spi":
            refused = alice.get("check.bad_cookie", 0)
            yield _at_least("denials refused for their cookie", refused)
        case "replay-token":
            compared = alice.get("token_mismatch", 0)
            yield _at_least("old tokens that were compared", compared)
        case "cookie-replay":
            yield from _cookies(seen, alice.get("check.bad_cookie", 0) + alice.get("check.too_late", 0))
        case "steal-ticket":
            yield from _theft(seen)
        case "forge-init":
            yield _at_most("half-open SAs", seen.half_open, HALF_OPEN)
        case "mitm-deny":
            lies = seen.mischief.get("forged denial", 0)
            yield _at_least("liveness checks that were denied", lies)
            yield _at_most("living SAs replaced", len(seen.verdicts), seen.rebuilt)
        case "mitm-nack":
            yield from _contradicted(alice.get("attack_suspected", 0), seen)
        case "mitm-nack-drop-ack":
            yield _at_most("living SAs replaced", len(seen.verdicts), seen.rebuilt)


def _enumerated(seen: Observed) -> Iterator[Check]:
    seconds = seen.attack.seconds + seen.blind.seconds
    garbage = 2 * (LIMITS.garbage_burst + LIMITS.garbage_rate * seconds)
    yield _at_most("datagrams with a token of a living SA", seen.leaks, 0)
    yield _at_most("answers with tokens while all SAs live", seen.token_answers, 0)
    yield _at_most(
        "answers to requests with made-up SPIs", seen.shots.number("answers: INVALID_IKE_SPI"), int(garbage)
    )


def _cookies(seen: Observed, refused: int) -> Iterator[Check]:
    notes = seen.shots.notes
    home = notes.get("cookies accepted from where they belong", 0)
    yield _at_least("CHECK_SPI answers refused", refused)
    # When half-open SAs die, an address may begin a few without a cookie, whatever it shows.
    free = CROWDED * int(seen.attack.seconds / HALF_OPEN_S)
    elsewhere = notes.get("cookies accepted from elsewhere", 0)
    yield _at_most("cookies of IKE_SA_INIT accepted from elsewhere", elsewhere, free)
    yield _at_least("cookies accepted from where they belong", home)


def _theft(seen: Observed) -> Iterator[Check]:
    yield _at_most("half-open SAs at Bob", seen.half_open, HALF_OPEN)
    resumed = seen.counters.get("bob", {}).get("endpoint", {}).get("ticket.redeemed", 0)
    yield _at_most("tickets redeemed while their owner did not resume", resumed, 0)
    after = seen.bob_after_crash.get("endpoint", {})
    shown = after.get("ticket.shown", 0)
    yield _at_least("half-open SAs of a ticket shown before its owner's", shown)
    yield _at_most("tickets redeemed in the owner's recovery", after.get("ticket.redeemed", 0), 1)


def _contradicted(noticed: int, seen: Observed) -> Iterator[Check]:
    yield _at_most("living SAs condemned", len(seen.verdicts), 0)
    lies = seen.mischief.get("forged NACK", 0)
    yield _at_least("contradictions that were noticed", noticed, more=f"of {lies} lies")


def _crash(options: LabOptions, crash: Recovery | None) -> Iterator[Check]:
    bound = {"qcd": RECOVERY_S, "sir": RECOVERY_S, "reconnect": SLOW_RECOVERY_S}.get(
        options.method, 2 * LIVENESS_S + SLOW_RECOVERY_S
    )
    bound += 10 * options.rtt_ms / 1000
    seconds = None if crash is None else crash.seconds
    yield Check(
        "a real crash under attack: traffic again after Bob could answer",
        f"within {bound:.1f} s",
        "never" if seconds is None else f"{seconds:.2f} s",
        seconds is not None and seconds <= bound,
        timed=seconds is not None,
    )


def _lost(seen: Observed, dropped: int) -> Check:
    """Inner packets: what he dropped may be lost, and what this machine had no time for."""
    bound = dropped + seen.starved + max(LOST_AT_LEAST, int(seen.inner_sent * LOST_SHARE))
    why = [f"{dropped} dropped by him"] * bool(dropped) + [f"{seen.starved} starved"] * bool(seen.starved)
    more = ", ".join([f"of {seen.inner_sent}", *why])
    return replace(_at_most("inner packets lost", seen.inner_lost, bound, more), timed=True)


def _at_most(what: str, measured: int, bound: int, more: str = "") -> Check:
    return Check(
        what, "none" if bound == 0 else f"at most {bound}", f"{measured} {more}".strip(), measured <= bound
    )


def _at_least(what: str, measured: int, bound: int = 1, more: str = "") -> Check:
    """Something that the attacker had time for, without which nothing would have been shown."""
    return Check(what, f"at least {bound}", f"{measured} {more}".strip(), measured >= bound, timed=True)


def _ratio(what: str, back: int, sent: int) -> Check:
    ratio = back / sent if sent else 0.0
    return Check(what, f"at most {AMPLIFICATION}", f"{ratio:.3f}", ratio <= AMPLIFICATION)


_SIDES: tuple[Side, Side] = ("alice", "bob")
