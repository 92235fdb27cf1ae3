"""Suspicion: hints cause checks at a limited rate and nothing else; silence is watched by the round trip."""

from dataclasses import replace

import pytest
from tests.crash.fakes import ALICE, BOB, FakeSa, Gateway, at, connection

from deadpeer.crash.evidence import LivenessExhausted
from deadpeer.crash.monitor import MAX_HINTS, silence_after_ns
from deadpeer.ike.evidence import Hint
from deadpeer.ike.extension import (
    ChildUp,
    IdleTimeout,
    RequestAnswered,
    RequestExhausted,
    SaClosed,
    SaRekeyed,
    TrafficHeard,
    TrafficSilence,
)
from deadpeer.plane.model import WatchSilence
from deadpeer.store import MemoryStore

MS = 1_000_000


def gateway(**options: float | str) -> tuple[Gateway, FakeSa]:
    config = connection(**options)  # type: ignore[arg-type]
    alice = Gateway(MemoryStore(), config)
    sa = FakeSa(1, config, True, b"i" * 8, b"r" * 8, ALICE, BOB)
    alice.core.sas.append(sa)
    return alice, sa


def hint(seconds: float, kind: str = "invalid-spi", source: str = "bob") -> Hint:
    return Hint(kind, at(seconds).mono_ns, source)


def silence(alice: Gateway, sa: FakeSa, seconds: float) -> None:
    since_ns = at(seconds).mono_ns - 400 * MS
    alice.signal(at(seconds), TrafficSilence(sa, sa.child_views[0], since_ns))


def answered(alice: Gateway, sa: FakeSa, seconds: float) -> None:
    sa.request_in_flight = False
    alice.signal(at(seconds), RequestAnswered(sa, 100 * MS, False, "invalid-spi"))


def watched(alice: Gateway) -> list[int]:
    return [op.after_ns // MS for op in alice.core.ops if isinstance(op, WatchSilence)]


# --- hints ----------------------------------------------------------------------------------------


def test_a_hint_causes_one_check_at_once() -> None:
    alice, sa = gateway()
    alice.monitor.hint(at(0), sa, hint(0))
    assert alice.core.probes == [(1, "invalid-spi")]
    assert alice.core.kinds() == ["boot", "hint"]
    assert alice.core.condemned == []


# Mallory                      Alice
#   1000 forged hints/s   -->    3 checks, then 1 per second, for 20 s
def test_hints_cause_three_checks_and_then_one_per_second() -> None:
    alice, sa = gateway()
    for n in range(20_000):
        alice.monitor.hint(at(n / 1000), sa, hint(n / 1000))
    assert 20 <= len(alice.core.probes) <= 3 + 20
    assert alice.core.counts["hint.invalid-spi"] == 20_000
    assert alice.core.counts["hint.not_probed"] == 20_000 - len(alice.core.probes)
    assert alice.core.kinds().count("hint") == 1


def test_no_second_check_within_a_round_trip() -> None:
    alice, sa = gateway()  # 100 ms
    for ms in range(0, 100, 10):
        alice.monitor.hint(at(ms / 1000), sa, hint(ms / 1000))
    assert len(alice.core.probes) == 1
    alice.monitor.hint(at(0.1), sa, hint(0.1))
    assert len(alice.core.probes) == 2


def test_an_answered_check_does_not_buy_a_stranger_more_checks() -> None:
    alice, sa = gateway()
    for n in range(100):
        alice.monitor.hint(at(n / 10), sa, hint(n / 10))
        answered(alice, sa, n / 10 + 0.05)
    assert len(alice.core.probes) <= 3 + 10


def test_each_sa_has_its_own_limit() -> None:
    alice, sa = gateway()
    other = replace(sa, number=2)
    for n in range(20):
        alice.monitor.hint(at(n), sa, hint(n))
    alice.monitor.hint(at(19), other, hint(19))
    assert alice.core.probes[-1] == (2, "invalid-spi")


def test_the_episode_s_hints_are_the_evidence_bounded_and_without_repeats() -> None:
    alice, sa = gateway()
    for n in range(100):
        alice.monitor.hint(at(n), sa, hint(n, source="bob"))
        alice.monitor.hint(at(n), sa, hint(n, source=f"10.0.0.{n}"))
    proof = LivenessExhausted.check(
        at_ns=at(200).mono_ns, first_sent_ns=0, last_heard_ns=0, attempts=3, floor_s=1
    )
    assert proof is not None
    verdict = alice.monitor.verdict(sa, proof)
    assert len(verdict.hints) == MAX_HINTS
    assert len({h.source for h in verdict.hints}) == MAX_HINTS
    assert verdict.first_suspicion_ns == at(0).mono_ns
    assert verdict.took_s == pytest.approx(200)


@pytest.mark.parametrize("end", ["answered", "closed"])
def test_an_answer_or_the_end_of_the_sa_ends_the_episode(end: str) -> None:
    alice, sa = gateway()
    alice.monitor.hint(at(0), sa, hint(0))
    if end == "answered":
        answered(alice, sa, 1)
    else:
        alice.signal(at(1), SaClosed(sa, "deleted"))
        assert alice.monitor.counters() == {"monitor.sas": 0}
    proof = LivenessExhausted.check(
        at_ns=at(2).mono_ns, first_sent_ns=0, last_heard_ns=0, attempts=3, floor_s=1
    )
    assert proof is not None
    assert alice.monitor.verdict(sa, proof).hints == ()
    assert alice.monitor.verdict(sa, proof).took_s == 0


def test_signals_about_sas_without_suspicion_leave_no_trace() -> None:
    alice, sa = gateway(silence_s=0)
    answered(alice, sa, 0)
    alice.signal(at(0), TrafficHeard(sa, sa.child_views[0], at(0).mono_ns))
    alice.signal(at(0), ChildUp(sa, sa.child_views[0], None))
    assert alice.monitor.counters() == {"monitor.sas": 0}


# --- silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rtt_s", "silence_s", "expected_ms"),
    [
        (None, 1.5, 1500),
        (0.001, 1.5, 250),
        (0.1, 1.5, 400),
        (0.3, 1.5, 1200),
        (2.0, 1.5, 1500),
        (0.1, 0.3, 300),
    ],
)
def test_the_threshold_follows_the_round_trip_time(
    rtt_s: float | None, silence_s: float, expected_ms: int
) -> None:
    alice, sa = gateway(silence_s=silence_s)
    sa.rtt_s = rtt_s
    alice.signal(at(0), ChildUp(sa, sa.child_views[0], None))
    assert watched(alice) == [expected_ms]


def test_the_default_is_under_two_seconds_and_zero_is_off() -> None:
    assert silence_after_ns(connection().silence_s, None, 0, 30) < 2_000 * MS
    alice, sa = gateway(silence_s=0)
    alice.signal(at(0), ChildUp(sa, sa.child_views[0], None))
    answered(alice, sa, 1)
    assert alice.core.ops == []


def test_the_threshold_moves_only_when_the_round_trip_time_moved_much() -> None:
    alice, sa = gateway()
    alice.signal(at(0), ChildUp(sa, sa.child_views[0], None))
    for rtt_s in (0.11, 0.12, 0.09):
        sa.rtt_s = rtt_s
        answered(alice, sa, 1)
    assert watched(alice) == [400]
    sa.rtt_s = 0.2
    answered(alice, sa, 2)
    assert watched(alice) == [400, 800]


def test_silence_checks_the_peer() -> None:
    alice, sa = gateway()
    alice.signal(at(0), ChildUp(sa, sa.child_views[0], None))
    silence(alice, sa, 1)
    assert alice.core.probes == [(1, "silence")]


def test_silence_does_not_hurry_a_request_in_flight() -> None:
    """Else the data plane's reports would undo the backoff while the peer is down."""
    alice, sa = gateway()
    sa.request_in_flight = True
    for n in range(10):
        silence(alice, sa, n)
    assert alice.core.probes == []


# Alice                          Bob: a sink, never sends
#   ESP, ESP, ESP ...       -->
#   (400 ms) INFORMATIONAL  -->
#                           <--    answer      next check after 800 ms, 1.6 s, ... near 30 s
def test_traffic_that_goes_one_way_is_checked_ever_less() -> None:
    alice, sa = gateway()
    alice.signal(at(0), ChildUp(sa, sa.child_views[0], None))
    for n in range(9):
        silence(alice, sa, 100 * n)
        answered(alice, sa, 100 * n + 0.1)
    assert watched(alice) == [400, 800, 1600, 3200, 6400, 12800, 25600]


def test_traffic_that_comes_back_restores_the_threshold() -> None:
    alice, sa = gateway()
    alice.signal(at(0), ChildUp(sa, sa.child_views[0], None))
    silence(alice, sa, 1)
    answered(alice, sa, 1.1)
    alice.signal(at(2), TrafficHeard(sa, sa.child_views[0], at(2).mono_ns))
    assert watched(alice) == [400, 800, 400]


def test_a_rekey_hands_the_watch_and_the_limit_over() -> None:
    alice, sa = gateway()
    alice.signal(at(0), ChildUp(sa, sa.child_views[0], None))
    for n in range(3):
        alice.monitor.hint(at(n / 10), sa, hint(n / 10))
    new = replace(sa, number=2)
    alice.signal(at(0.5), SaRekeyed(sa, new, True))
    alice.signal(at(0.5), SaClosed(sa, "rekeyed"))
    alice.monitor.hint(at(0.6), new, hint(0.6))
    assert len(alice.core.probes) == 3
    silence(alice, new, 1)
    answered(alice, new, 1.1)
    assert watched(alice) == [400, 800]


# --- liveness -------------------------------------------------------------------------------------


def test_an_idle_sa_is_checked_unless_a_request_is_out() -> None:
    alice, sa = gateway()
    alice.signal(at(30), IdleTimeout(sa))
    assert alice.core.probes == [(1, "idle")]
    sa.request_in_flight = True
    alice.signal(at(60), IdleTimeout(sa))
    assert len(alice.core.probes) == 1


# Alice                     Bob: unplugged for 40 s
#   request  x 6      -->     |
#   all spent at 20 s: no verdict, below the floor of 60 s; she goes on
#   request           -->   plugged in again
#                     <--   answer
def test_a_flap_does_not_end_a_tunnel() -> None:
    alice, sa = gateway()
    sa.last_heard_ns = at(0).mono_ns
    for seconds in (20, 30, 40, 59):
        alice.signal(at(seconds), RequestExhausted(sa, at(0.5).mono_ns, 6))
    answered(alice, sa, 60)
    assert alice.core.condemned == []
    assert alice.core.counts["liveness.below_floor"] == 4


def test_exhausted_liveness_after_the_floor_condemns_with_its_evidence() -> None:
    alice, sa = gateway()
    sa.last_heard_ns = at(0).mono_ns
    silence(alice, sa, 2)
    alice.signal(at(61), RequestExhausted(sa, at(1).mono_ns, 7))
    [(number, verdict)] = alice.core.condemned
    assert number == 1
    assert isinstance(verdict.proof, LivenessExhausted)
    assert [h.kind for h in verdict.hints] == ["silence"]
    assert verdict.took_s == pytest.approx(60)
    assert verdict.evidence()[-1].startswith("liveness: 7 attempts in 60.0 s")


def test_traffic_of_a_child_counts_as_a_word_of_the_peer() -> None:
    """IKE is filtered on the way, ESP is not: the peer lives."""
    alice, sa = gateway()
    alice.signal(at(50), TrafficHeard(sa, sa.child_views[0], at(50).mono_ns))
    new = replace(sa, number=2)
    alice.signal(at(51), SaRekeyed(sa, new, False))
    alice.signal(at(100), RequestExhausted(new, at(1).mono_ns, 9))
    assert alice.core.condemned == []
    alice.core.sas.append(new)
    alice.signal(at(111), RequestExhausted(new, at(1).mono_ns, 9))
    assert [number for number, _ in alice.core.condemned] == [2]
    alice.signal(at(111), SaClosed(new, "dead"))
    assert alice.liveness.counters() == {"liveness.sas": 0}


def test_the_floor_is_the_connection_s() -> None:
    alice, sa = gateway(dpd_floor_s=2.0)
    alice.signal(at(3), RequestExhausted(sa, at(0).mono_ns, 3))
    assert len(alice.core.condemned) == 1
