"""SIR end to end under virtual time: a crash found by a NACK, and what attackers can make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.crash.stories import (
    BOB,
    LATENCY_S,
    MALLORY,
    RTT_S,
    SIR,
    Mallory,
    check_of,
    crash_and_recover,
    invalid_spi,
    methods,
    nack,
    nack_blind,
    pair_of,
    rebuilds,
    sent,
    suspect,
    to_alice,
    traffic,
    unharmed,
    verdicts,
)

from deadpeer.crash.options import Method
from deadpeer.crash.sir_judgement import WINDOW_FLOOR_S, window_s
from deadpeer.crash.sir_wire import COOKIE_VALID_S
from deadpeer.ike.io import Rekey

RESPONSES = ("INFORMATIONAL response", "response again", "ESP")


def test_a_nack_brings_the_tunnel_back() -> None:
    """
    Alice                                        Bob (crashed, one second later he is back)
      ESP                        ──────────▶
                                 ◀──────────     N(INVALID_SPI)                        0.5 RTT
      N(CHECK_SPI, QUERY)        ──────────▶
                                 ◀──────────     N(CHECK_SPI, NACK)                    1.5
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶     the window is open meanwhile          3.5: verdict
      ESP                        ◀─────────▶                                           4.5: traffic
    """
    pair = pair_of(SIR)
    old = next(iter(pair.alice.ike.views())).number
    recovery = crash_and_recover(pair)
    assert recovery.proof == "sir"
    assert recovery.detect_s <= 3.6 * RTT_S
    assert recovery.recover_s <= 4.8 * RTT_S
    assert recovery.verdict.fields["sa"] == old
    evidence = recovery.verdict.fields["evidence"]
    assert isinstance(evidence, list)
    assert any(line.startswith("sir-nack") for line in evidence)
    assert pair.ike_sas() == (1, 1)
    assert "farewell DELETE" in pair.reasons("alice")


def test_the_old_sa_goes_only_after_the_window() -> None:
    pair = pair_of(SIR)
    crash_and_recover(pair)
    times = {e.kind: at for at, e in pair.alice.events}
    up = [at for at, e in pair.alice.events if e.kind == "ike_sa_up"]
    assert len(up) == 2
    assert times["verdict"] >= up[1]
    assert times["verdict"] - times["sir_window"] >= 2 * RTT_S * 1e9


@pytest.mark.parametrize("latency_ms", [0.5, 5, 15, 75, 150])
def test_near_and_far(latency_ms: float) -> None:
    """Near, the floor of the window is what counts for the verdict; traffic does not wait for it."""
    latency_s = latency_ms / 1000
    pair = pair_of(SIR, latency_s=latency_s)
    recovery = crash_and_recover(pair)
    assert recovery.proof == "sir"
    assert recovery.detect_s <= 3.6 * 2 * latency_s + max(0, WINDOW_FLOOR_S - 4 * latency_s) + 0.010
    assert recovery.recover_s <= 4.8 * 2 * latency_s + 0.010


def test_it_works_the_other_way_round() -> None:
    """Alice, who initiated, crashes; Bob asks her."""
    pair = pair_of(SIR)
    pair.crash("alice")
    for seq in range(100):
        pair.send("bob", "10.10.2.1", "10.10.1.1", seq=seq)
        pair.run(0.010)
    pair.boot("alice")
    for seq in range(300):
        pair.send("bob", "10.10.2.1", "10.10.1.1", seq=seq)
        pair.run(0.010)
    assert [e.fields["proof"] for _, e in pair.bob.events if e.kind == "verdict"] == ["sir"]
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")


def test_after_a_rekey_the_peer_still_speaks_sir() -> None:
    pair = pair_of(SIR)
    pair.feed("alice", Rekey("home"))
    pair.run(1.0)
    recovery = crash_and_recover(pair)
    assert recovery.proof == "sir"
    assert recovery.recover_s <= 4.8 * RTT_S


@pytest.mark.parametrize(("role", "asked"), [("auto", False), ("force", True), ("off", False)])
def test_who_does_not_say_that_he_speaks_sir_is_asked_only_if_forced(role: str, asked: bool) -> None:
    """A peer whose responder is a process of its own sends no Vendor ID."""
    his = methods(Method.LIVENESS, sir="off")
    hers = methods(Method.SIR, Method.LIVENESS, sir=role)  # type: ignore[arg-type]
    pair = pair_of({}, alice=hers, bob=his)
    pair.crash("bob")
    traffic(pair, 2.0)
    assert (sent(pair, "CHECK_SPI query") > 0) is asked


def test_queries_are_repeated_no_faster_than_the_backoff_says() -> None:
    pair = pair_of(SIR)
    pair.crash("bob")
    traffic(pair, 20.0)
    assert 15 <= sent(pair, "CHECK_SPI query") <= 30


def test_where_a_token_is_held_it_is_asked_for_first() -> None:
    pair = pair_of(methods(Method.QCD, Method.SIR, Method.LIVENESS))
    recovery = crash_and_recover(pair, down_s=0.2)
    assert recovery.proof == "qcd-token"
    assert sent(pair, "CHECK_SPI query") == 0


def test_a_peer_that_lost_its_secrets_too_is_found_by_sir() -> None:
    """
    Alice holds a token                          Bob (his disk is new)
      SK{}                       ──────────▶
                                 ◀──────────     N(INVALID_IKE_SPI), and no token
      N(CHECK_SPI, QUERY)        ──────────▶     after two round trips
                                 ◀──────────     N(CHECK_SPI, NACK)
    """
    pair = pair_of(methods(Method.QCD, Method.SIR, Method.LIVENESS))
    pair.bob.store = type(pair.bob.store)()
    recovery = crash_and_recover(pair)
    assert recovery.proof == "sir"
    assert recovery.recover_s <= 8 * RTT_S


def test_if_the_new_sa_fails_the_old_one_stays() -> None:
    """Bob is back without Alice's connection: he denies the SA, and refuses a new one."""
    pair = pair_of(SIR)
    pair.crash("bob")
    [his] = pair.bob.connections
    pair.bob.connections = [replace(his, remote=replace(his.remote, secret=b"another secret altogether"))]
    pair.boot("bob")
    traffic(pair, 10.0)
    assert verdicts(pair) == []
    assert "rebuild" in pair.alice.kinds()
    assert pair.alice.ike.sizes()["child_sas"] == 1
    # One at a time, with a pause that doubles: 1, 2, 4 s.
    assert rebuilds(pair) <= 4


def test_a_child_that_bob_lost_is_found_by_its_own_spi() -> None:
    """
    Alice                                        Bob (lost the child, has the IKE SA)
                                 ◀──────────     N(INVALID_SPI)            somebody says so, unprotected
      SK{}, QUERY(IKE SPIs)      ◀─────────▶     SK{}, ACK                 the IKE SA lives
                                 ◀──────────     N(INVALID_SPI)            again
      QUERY(ESP SPI)             ──────────▶
                                 ◀──────────     NACK
      SK{ REKEY_SA }             ──────────▶
                                 ◀──────────     SK{ CHILD_SA_NOT_FOUND }  under protection: it is made anew
    """
    pair = pair_of(SIR)
    [his] = pair.bob.ike.views()
    his.drop_child(pair.now, his.child_views[0], "lost")
    pair._drain(pair.bob)
    suspect(pair)
    pair.run(1.0)
    suspect(pair)
    pair.run(1.0)
    assert "child_denied" in pair.alice.kinds()
    assert verdicts(pair) == []
    assert rebuilds(pair) == 0
    assert pair.ike_children() == (1, 1)
    assert pair.ping()


def test_a_forged_denial_of_a_child_costs_one_rekey() -> None:
    pair = pair_of(SIR)
    mallory = Mallory(pair)
    for _ in range(5):
        suspect(pair)
        pair.run(0.3)
    assert any(check_of(d).subject.protocol == 3 for d in mallory.seen)
    pair.run(5.0)
    assert verdicts(pair) == []
    assert pair.ike_children() == (1, 1)
    assert pair.ping()


# --- attackers --------------------------------------------------------------------------------------


def test_off_path_a_denial_without_the_cookie_is_nothing() -> None:
    """
    Mallory (knows SPIs, addresses)              Alice
      N(INVALID_SPI)             ──────────▶     asks Bob: SK{}, N(CHECK_SPI, QUERY)
      N(CHECK_SPI, NACK), guess  ──────────▶     no cookie of hers
    """
    pair = pair_of(SIR)
    number = next(iter(pair.alice.ike.views())).number
    for guess in range(200):
        suspect(pair)
        cookie = bytes(5) + guess.to_bytes(16, "big")
        for source in (BOB, MALLORY):
            pair.inject(to_alice(nack_blind(pair, cookie), source))
        pair.run(0.002)
    pair.run(2.0)
    assert pair.alice.ike.counters["check.bad_cookie"] == 200
    assert pair.alice.ike.counters["check.no_sa"] == 200
    assert rebuilds(pair) == 0
    unharmed(pair, number)


def test_a_cookie_counts_only_from_where_the_query_went() -> None:
    pair = pair_of(SIR)
    number = next(iter(pair.alice.ike.views())).number
    mallory = Mallory(pair, forges=False)
    suspect(pair)
    pair.inject(to_alice(nack(check_of(mallory.seen[0])), MALLORY))
    pair.inject(to_alice(nack(check_of(mallory.seen[0])), BOB._replace(port=500)))
    pair.run(1.0)
    assert rebuilds(pair) == 0
    unharmed(pair, number)


def test_a_cookie_is_worthless_once_the_peer_has_spoken_and_soon_in_any_case() -> None:
    """The query's cookie is shown again after Bob's protected answer, and in a later suspicion."""
    pair = pair_of(SIR)
    number = next(iter(pair.alice.ike.views())).number
    mallory = Mallory(pair, forges=False)
    suspect(pair)
    denial = to_alice(nack(check_of(mallory.seen[0])))
    pair.run(0.5)
    # Bob's own ACK came after his protected answer.
    assert pair.alice.ike.counters["check.too_late"] == 1
    pair.inject(denial)
    assert pair.alice.ike.counters["check.too_late"] == 2
    pair.run(COOKIE_VALID_S)
    suspect(pair)
    pair.inject(denial)
    assert pair.alice.ike.counters["check.bad_cookie"] == 1
    pair.run(1.0)
    assert rebuilds(pair) == 0
    unharmed(pair, number)


def test_the_cookie_of_one_sa_is_worthless_for_another() -> None:
    pair = pair_of(SIR)
    mallory = Mallory(pair, forges=False)
    suspect(pair)
    seen = check_of(mallory.seen[0])
    blind = check_of(to_alice(nack_blind(pair, seen.cookie)))
    assert blind.subject == seen.subject
    pair.feed("alice", Rekey("home"))
    pair.run(0.5)
    suspect(pair)
    pair.inject(to_alice(nack_blind(pair, seen.cookie)))
    assert pair.alice.ike.counters["check.bad_cookie"] == 1
    pair.run(1.0)
    assert rebuilds(pair) == 0
    assert verdicts(pair) == []


def test_a_man_in_the_middle_who_denies_for_bob_is_contradicted() -> None:
    """
    Alice                        Mallory         Bob
      N(CHECK_SPI, QUERY)        ──────────▶
                  NACK ◀──────── (forged)
                                 ◀──────────     N(CHECK_SPI, ACK)       both were seen
    """
    pair = pair_of(SIR)
    number = next(iter(pair.alice.ike.views())).number
    Mallory(pair)
    suspect(pair)
    pair.run(3.0)
    assert "attack_suspected" in pair.alice.kinds()
    unharmed(pair, number)


def test_who_keeps_back_the_protected_answer_but_not_the_ack_is_contradicted() -> None:
    pair = pair_of(SIR)
    number = next(iter(pair.alice.ike.views())).number
    Mallory(pair, drops=RESPONSES)
    suspect(pair)
    pair.run(0.15)
    assert "attack_suspected" in pair.alice.kinds()
    pair.drop_rule = lambda sent: False
    pair.run(3.0)
    unharmed(pair, number)


def test_ack_first_then_nack_is_a_contradiction_too() -> None:
    """Bob's ACK is faster than Mallory's NACK, his protected answer is kept back."""
    pair = pair_of(SIR)
    number = next(iter(pair.alice.ike.views())).number
    mallory = Mallory(pair, drops=RESPONSES, forges=False)
    suspect(pair)
    pair.run(RTT_S + 0.01)
    pair.inject(to_alice(nack(check_of(mallory.seen[0]))))
    assert pair.alice.last("attack_suspected").fields["detail"] == "NACK after ACK"
    assert rebuilds(pair) == 0
    pair.drop_rule = lambda sent: False
    pair.run(3.0)
    unharmed(pair, number)


def test_a_man_in_the_middle_forces_a_bounded_number_of_rekeys_and_no_loss() -> None:
    """
    He denies for Bob and keeps back ACK, liveness answers and traffic: Alice builds a new SA, Bob
    authenticates it, the old one is deleted on both sides. Six times, then the budget is spent.
    """
    pair = pair_of(SIR)
    Mallory(pair, drops=(*RESPONSES, "CHECK_SPI ACK"))
    for _ in range(40):
        if verdicts(pair)[6:]:
            break
        suspect(pair)
        pair.run(1.0)
    assert verdicts(pair) == ["sir"] * 6
    assert "rebuild_refused" in pair.alice.kinds()
    pair.drop_rule = lambda sent: False
    pair.run(3.0)
    assert pair.ike_sas() == (1, 1)
    assert pair.ping()
    assert [e.fields["proof"] for _, e in pair.bob.events if e.kind == "verdict"] == []


def test_a_flood_of_hints_costs_a_bounded_number_of_packets() -> None:
    """Ten thousand forged INVALID_SPI in ten seconds; Bob lives and answers."""
    pair = pair_of(methods(Method.SIR, Method.RECONNECT, Method.LIVENESS))
    number = next(iter(pair.alice.ike.views())).number
    before = len([s for s in pair.trace if s.sender == "alice"])
    hint = to_alice(invalid_spi(pair))
    for _ in range(10_000):
        pair.inject(hint)
        pair.run(0.001)
    pair.run(1.0)
    packets = len([s for s in pair.trace if s.sender == "alice"]) - before
    # Liveness checks, queries about the IKE SA and about the child: three at once, then one per second, each.
    assert 10 <= packets <= 3 * (3 + 11)
    assert rebuilds(pair) == 0
    unharmed(pair, number)


def test_the_window_is_two_round_trips_and_has_a_floor() -> None:
    assert window_s(0.3) == pytest.approx(0.6)
    assert window_s(0.001) == WINDOW_FLOOR_S
    assert LATENCY_S * 2 == RTT_S
