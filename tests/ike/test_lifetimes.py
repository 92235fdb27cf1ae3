"""When SAs are replaced, end, or are taken to be dead: jittered timers, limits of the data plane, silence."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from tests.support.invariants import check_no_leaks, check_one_tunnel
from tests.support.pair import Pair, Sent, child_config

from deadpeer.crash.options import Method, PolicyOptions
from deadpeer.crypto import SeededEntropy
from deadpeer.ike.connection import Lifetime
from deadpeer.ike.io import Initiate
from deadpeer.ike.lifetimes import rekey_delay_s
from deadpeer.ike.retransmission import DELETE_TIMEOUT_S
from deadpeer.ike.sa import IkeSa
from deadpeer.plane.engine import EspEngine

NEVER = Lifetime(0, 0, 0)
LIVENESS_ONLY = (PolicyOptions((Method.LIVENESS,)),)
"""Unanswered retransmissions alone condemn; nobody builds a new SA beside the silent one meanwhile."""


def sa_of(pair: Pair, name: str) -> IkeSa:
    return next(iter(pair.side(name).ike.views()))


def test_the_moment_of_rekeying_is_spread_over_its_window() -> None:
    entropy = SeededEntropy(b"jitter")
    lifetime = Lifetime(rekey_s=3600.0, life_s=3960.0, jitter_s=360.0)
    delays = [rekey_delay_s(lifetime, entropy) for _ in range(2000)]
    assert min(delays) >= 3240.0
    assert max(delays) <= 3600.0
    assert min(delays) < 3260.0
    assert max(delays) > 3580.0
    wide = Lifetime(rekey_s=10.0, life_s=0, jitter_s=100.0)
    assert min(rekey_delay_s(wide, entropy) for _ in range(100)) == 1.0, "never at once, and again and again"


@pytest.mark.parametrize("seed", range(5))
def test_a_child_is_rekeyed_within_its_window_again_and_again(seed: int) -> None:
    lifetime = Lifetime(rekey_s=60.0, life_s=90.0, jitter_s=10.0)
    pair = Pair.with_psk(children=[child_config(lifetime=lifetime)], seed=seed)
    pair.up()
    pair.run(300.0)
    times = [at for at, e in pair.alice.events if e.kind in ("child_up", "child_rekeyed")]
    gaps = [(b - a) / 1e9 for a, b in pairwise(times)]
    assert 5 <= len(gaps) <= 6
    assert all(49.9 <= gap <= 60.1 for gap in gaps), gaps
    assert "child_down" not in pair.alice.kinds()
    check_one_tunnel(pair)


def test_the_ike_sa_is_rekeyed_within_its_window_and_keeps_its_child() -> None:
    pair = Pair.with_psk(both={"lifetime": Lifetime(rekey_s=100.0, life_s=150.0, jitter_s=20.0)})
    pair.up()
    pair.run(1000.0)
    rekeyed = pair.alice.kinds().count("ike_sa_rekeyed")
    assert 10 <= rekeyed <= 13
    assert "ike_sa_down" not in pair.alice.kinds()
    assert pair.alice.kinds().count("child_up") == 1
    check_one_tunnel(pair)


@pytest.mark.parametrize(("action", "children"), [("none", 0), ("trap", 0), ("start", 1)])
def test_a_child_that_can_not_be_rekeyed_ends(action: str, children: int) -> None:
    lifetime = Lifetime(rekey_s=0, life_s=30.0, jitter_s=0)
    mine = child_config(lifetime=lifetime, close_action=action)
    pair = Pair.with_psk(children=[mine], bob={"children": ()})
    his = replace(mine, local_ts=mine.remote_ts, remote_ts=mine.local_ts, lifetime=NEVER, close_action="none")
    pair.bob.connections[0] = replace(pair.bob.connections[0], children=(his,))
    pair.crash("bob")
    pair.boot("bob")
    pair.up()
    pair.run(31.0)
    assert pair.alice.last("child_down").fields["reason"] == "end of life"
    assert pair.ike_children() == (children, children)
    assert pair.ike_sas() == (1, 1)
    assert pair.ping() == (action != "none"), "a trapped policy comes back with the first packet"


@pytest.mark.parametrize(("action", "sas"), [("none", 0), ("start", 1)])
def test_an_ike_sa_that_can_not_be_rekeyed_ends(action: str, sas: int) -> None:
    pair = Pair.with_psk(
        children=[child_config(close_action="none")],
        alice={
            "lifetime": Lifetime(rekey_s=0, life_s=30.0, jitter_s=0),
            "children": (child_config(close_action=action),),
        },
    )
    pair.up()
    pair.run(31.0)
    assert pair.alice.last("ike_sa_down").fields["reason"] == "end of life"
    assert pair.ike_sas() == (sas, sas)
    assert pair.ping() == bool(sas)


def test_the_end_of_life_of_a_replaced_ike_sa_does_not_reach_its_successor() -> None:
    """It falls due while the rekeying is under way, and waits behind it."""
    lifetime = Lifetime(rekey_s=29.0, life_s=30.0, jitter_s=0)
    pair = Pair.with_psk(alice={"lifetime": lifetime}, both={"dpd_delay_s": 0.0, "extensions": LIVENESS_ONLY})
    pair.up()
    pair.hold("CREATE_CHILD_SA response", "response again")
    pair.run(31.5)
    pair.release()
    pair.run(5.0)
    assert pair.alice.kinds().count("ike_sa_rekeyed") == 1
    assert "ike_sa_down" not in pair.alice.kinds()
    check_one_tunnel(pair)


@pytest.mark.parametrize("limit", [{"packets": 100}, {"octets": 5000}])
def test_limits_of_the_data_plane_cause_a_rekeying(limit: dict[str, int]) -> None:
    pair = Pair.with_psk(children=[child_config(lifetime=Lifetime(0, 0, 0, **limit))])
    pair.up()
    for seq in range(150):
        pair.send("alice", seq=seq)
        pair.run(0.01)
    assert pair.alice.kinds().count("child_rekeyed") >= 1
    pair.run(10.0)
    check_one_tunnel(pair)


def test_the_end_of_the_sequence_numbers_is_met_by_a_rekeying_before_it() -> None:
    pair = Pair.with_psk()
    for side in (pair.alice, pair.bob):
        side.engine = EspEngine(SeededEntropy(side.name.encode()), first_sequence=2**32 - 2**30 - 20)
    pair.up()
    for seq in range(60):
        pair.send("alice", seq=seq)
        pair.run(0.01)
    assert pair.alice.kinds().count("child_rekeyed") >= 1
    assert pair.ping()


def test_used_up_sequence_numbers_end_the_child_and_a_new_one_follows() -> None:
    """The rekeying can't get through (its requests are lost); the last number is used; then it can."""
    pair = Pair.with_psk(both={"dpd_delay_s": 0.0, "silence_s": 0.0})
    for side in (pair.alice, pair.bob):
        side.engine = EspEngine(SeededEntropy(side.name.encode()), first_sequence=2**32 - 10)
    pair.up()
    pair.drop_rule = lambda sent: sent.reason != "ESP"
    for seq in range(20):
        pair.send("alice", seq=seq)
        pair.run(0.01)
    pair.drop_rule = lambda sent: False
    pair.run(10.0)
    for side in (pair.alice, pair.bob):
        assert side.engine is not None
        side.engine._first_sequence = 1
    assert pair.ike_sas() == (1, 1)
    pair.run(20.0)
    assert pair.ping()


# --- retransmission and liveness ---------------------------------------------------------------------


def probe_times(pair: Pair) -> list[float]:
    """When Alice sent her probe and its retransmissions, seconds after the first."""
    sent = [s for s in pair.trace if s.sender == "alice" and s.reason in ("test", "retransmission")]
    first = next(s for s in sent if s.reason == "test")
    same = [s for s in sent if s.datagram.payload == first.datagram.payload]
    assert len(same) == len([s for s in sent if s.at_ns >= first.at_ns]), "all are identical"
    return [(s.at_ns - first.at_ns) / 1e9 for s in same]


def silent_bob(latency_s: float = 0.01, **connection: object) -> Pair:
    options = {"dpd_delay_s": 0.0, "dpd_timeout_s": 30.0, "dpd_floor_s": 60.0, "extensions": LIVENESS_ONLY}
    options |= connection
    pair = Pair.with_psk(both=options, latency_s=latency_s)
    pair.up()
    pair.run(1.0)
    pair.crash("bob")
    pair.alice.ike.probe(pair.now, sa_of(pair, "alice"), "test")
    pair._drain(pair.alice)
    return pair


@pytest.mark.parametrize("latency_s", [0.005, 0.05, 0.2])
def test_retransmission_is_identical_exponential_and_scaled_to_the_round_trip(latency_s: float) -> None:
    pair = silent_bob(latency_s)
    rto = sa_of(pair, "alice").rto_s
    assert 2 * latency_s < rto <= max(6 * latency_s, 2 * latency_s + 0.05) + 1e-9
    pair.run(29.0)
    times = probe_times(pair)
    gaps = [b - a for a, b in pairwise(times)]
    expected = [min(rto * 2**n, 8.0) for n in range(len(gaps))]
    assert gaps == pytest.approx(expected, abs=1e-6)
    assert gaps[-1] <= 8.0


def test_a_dead_peer_is_condemned_after_the_timeout_and_the_floor_not_before() -> None:
    pair = silent_bob(dpd_timeout_s=30.0, dpd_floor_s=60.0)
    began = pair.mono_ns
    pair.run(58.0)
    assert "verdict" not in pair.alice.kinds()
    pair.run(12.0)
    at = next(at for at, e in pair.alice.events if e.kind == "verdict")
    assert 58.0 <= (at - began) / 1e9 <= 69.0


def test_the_timeout_bounds_a_request_where_the_floor_is_lower() -> None:
    pair = silent_bob(dpd_timeout_s=20.0, dpd_floor_s=5.0)
    began = pair.mono_ns
    pair.run(30.0)
    at = next(at for at, e in pair.alice.events if e.kind == "verdict")
    assert (at - began) / 1e9 == pytest.approx(20.0, abs=0.01)


def test_a_flap_shorter_than_the_floor_ends_nothing() -> None:
    options = {"dpd_delay_s": 5.0, "dpd_timeout_s": 10.0, "dpd_floor_s": 60.0, "extensions": LIVENESS_ONLY}
    pair = Pair.with_psk(both=options)
    pair.up()
    pair.drop_rule = lambda sent: True
    pair.run(50.0)
    pair.drop_rule = lambda sent: False
    pair.run(20.0)
    assert "verdict" not in pair.alice.kinds() + pair.bob.kinds()
    check_one_tunnel(pair)


def test_an_idle_peer_is_asked_after_dpd_delay_and_traffic_puts_it_off() -> None:
    pair = Pair.with_psk(alice={"dpd_delay_s": 10.0}, bob={"dpd_delay_s": 0.0})
    pair.up()
    pair.run(35.0)
    assert pair.reasons("alice").count("idle") == 3
    for _ in range(30):
        assert pair.ping()
    assert pair.reasons("alice").count("idle") == 3
    pair.run(12.0)
    assert pair.reasons("alice").count("idle") == 4


def test_dpd_delay_zero_asks_never() -> None:
    pair = Pair.with_psk(both={"dpd_delay_s": 0.0})
    pair.up()
    before = len(pair.trace)
    pair.run(3600.0)
    assert len(pair.trace) == before


def test_retransmission_while_recovering_is_at_most_a_second_apart() -> None:
    """Bob is down for long: Alice must not have backed off when he returns."""
    pair = silent_bob(dpd_timeout_s=5.0, dpd_floor_s=5.0)
    pair.run(10.0)
    assert "verdict" in pair.alice.kinds()
    mark = pair.mono_ns
    pair.run(600.0)
    times = [s.at_ns for s in pair.trace if s.sender == "alice" and s.at_ns > mark]
    gaps = [(b - a) / 1e9 for a, b in pairwise(times)]
    assert max(gaps) <= 2.0, "also from one round to the next"
    back = pair.mono_ns
    pair.boot("bob")
    pair.run(3.0)
    at = next(at for at, e in pair.alice.events if e.kind == "child_up" and at > back)
    assert (at - back) / 1e9 < 2.1


def test_a_recovered_sa_backs_off_like_any_other() -> None:
    pair = silent_bob(dpd_timeout_s=5.0, dpd_floor_s=5.0)
    pair.run(10.0)
    pair.boot("bob")
    pair.run(5.0)
    assert not sa_of(pair, "alice").recovering


def test_deletes_are_bounded_and_everything_ends() -> None:
    pair = silent_bob(dpd_timeout_s=20.0, dpd_floor_s=5.0)
    assert DELETE_TIMEOUT_S < 20.0
    pair.run(25.0)
    pair.boot("bob")
    pair.run(10.0)
    check_one_tunnel(pair)
    check_no_leaks(pair.alice)


def test_a_measured_round_trip_excludes_retransmitted_requests() -> None:
    pair = Pair.with_psk(latency_s=0.02, both={"dpd_delay_s": 0.0})
    dropped: list[Sent] = []

    def lose_first_auth(sent: Sent) -> bool:
        if sent.reason == "IKE_AUTH request" and not dropped:
            dropped.append(sent)
            return True
        return False

    pair.drop_rule = lose_first_auth
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(5.0)
    assert sa_of(pair, "alice").rtt_s == pytest.approx(0.04)
