"""Reconnect end to end under virtual time: any peer of RFC 7296, with hints and without, and forged hints."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tests.crash.stories import (
    LATENCY_S,
    RECONNECT,
    RTT_S,
    check_of,
    crash_and_recover,
    denial,
    invalid_spi,
    methods,
    nack,
    pair_of,
    rebuilds,
    sent,
    suspect,
    to_alice,
    traffic,
    verdicts,
)
from tests.support.pair import Pair, Sent

from deadpeer.crash.options import Method
from deadpeer.wire import NON_ESP_MARKER, ExchangeType

HINTS = ("invalid spi", "invalid ike spi")
LIVENESS_ANSWERS = ("INFORMATIONAL response", "response again")


def silent(*reasons: str) -> Callable[[Sent], bool]:
    """Bob says nothing of this kind: like strongSwan and libreswan with HINTS."""
    return lambda sent: sent.sender == "bob" and sent.reason in reasons


def test_a_hint_and_an_unanswered_check_bring_the_tunnel_back() -> None:
    """
    Alice                                        Bob (crashed, back before she noticed)
      ESP                        ──────────▶
                                 ◀──────────     N(INVALID_SPI)                        0.5 RTT
      SK{} (liveness check)      ──────────▶
                                 ◀──────────     N(INVALID_IKE_SPI), nothing protected 1.5
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶     no INITIAL_CONTACT                    3.5: verdict
      ESP, DELETE of the old SA  ◀─────────▶                                           4.5: traffic
    """
    pair = pair_of(RECONNECT)
    recovery = crash_and_recover(pair, down_s=0.05)
    assert recovery.proof == "replaced"
    assert recovery.detect_s <= 3.7 * RTT_S
    assert recovery.recover_s <= 4.8 * RTT_S
    assert pair.ike_sas() == (1, 1)
    assert "farewell DELETE" in pair.reasons("alice")


@pytest.mark.parametrize("down_s", [0.3, 0.5, 0.7, 1.0, 1.7, 3.3, 10.0, 45.0])
@pytest.mark.parametrize("latency_s", [0.001, LATENCY_S, 0.150])
def test_however_long_bob_was_down(down_s: float, latency_s: float) -> None:
    """With the new SA begun while he was down, a hint has its IKE_SA_INIT sent again at once."""
    pair = pair_of(RECONNECT, latency_s=latency_s)
    recovery = crash_and_recover(pair, down_s=down_s)
    assert recovery.proof == "replaced"
    assert recovery.recover_s <= 4.8 * 2 * latency_s + 0.015


@pytest.mark.parametrize("down_s", [0.0, 0.05, 0.3, 1.0, 2.5, 7.1, 30.0])
def test_a_bob_that_gives_no_hint_at_all(down_s: float) -> None:
    pair = pair_of(RECONNECT)
    pair.drop_rule = silent(*HINTS)
    recovery = crash_and_recover(pair, down_s=down_s)
    assert recovery.proof == "replaced"
    assert recovery.recover_s <= 4.0


def test_a_bob_that_refuses_while_he_loads_his_configuration() -> None:
    """charon answers NO_PROPOSAL_CHOSEN for a while after its start: a hint to try again, not a verdict."""
    pair = pair_of(RECONNECT)
    pair.drop_rule = silent(*HINTS)
    his, pair.bob.connections = pair.bob.connections, []
    pair.crash("bob")
    traffic(pair, 1.0)
    pair.boot("bob")
    traffic(pair, 0.8)
    assert any(e.fields.get("detail") == "NO_PROPOSAL_CHOSEN" for _, e in pair.alice.events)
    pair.crash("bob")
    pair.bob.connections = his
    pair.boot("bob")
    traffic(pair, 2.0)
    assert verdicts(pair) == ["replaced"]
    assert pair.ping()


def test_an_idle_tunnel_is_replaced_after_its_idle_check() -> None:
    """No traffic and no hint: the check of `dpd_delay` stays unanswered."""
    pair = pair_of({**RECONNECT, "dpd_delay_s": 10.0})
    pair.drop_rule = silent(*HINTS)
    pair.crash("bob")
    pair.run(0.1)
    pair.boot("bob")
    pair.run(12.0)
    assert verdicts(pair) == ["replaced"]
    assert pair.ping()


def test_the_new_sa_carries_no_initial_contact() -> None:
    """charon would destroy the old SA at once: break before make."""
    pair = pair_of({**RECONNECT, "initial_contact": True})
    crash_and_recover(pair)
    assert verdicts(pair) == ["replaced"]
    assert not any(
        e.fields.get("proof") == "initial-contact" for _, e in pair.bob.events if e.kind == "verdict"
    )


# --- flaps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap_s", [0.1, 0.3, 0.6, 0.8, 1.0, 1.5, 3.0, 8.0])
def test_a_flap_loses_no_tunnel(gap_s: float) -> None:
    """The network is gone and comes back, Bob lived all the time: whichever SA wins, there is one, and no
    moment at which Alice has none."""
    pair = pair_of(RECONNECT)
    pair.drop_rule = lambda sent: True
    traffic(pair, gap_s)
    assert len(list(pair.alice.ike.views())) >= 1
    pair.drop_rule = lambda sent: False
    heard = len(pair.alice.behind.received)
    traffic(pair, 1.5)
    assert len(pair.alice.behind.received) > heard
    traffic(pair, 35.0, every_s=0.1)
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (1, 1)
    assert rebuilds(pair) <= 2


def test_a_peer_that_answers_once_it_has_our_ike_auth() -> None:
    """
    A stall, then Bob answers all at once; he has the new SA and sends on its child from now on:

      liveness request           ──────────▶     held up
      IKE_SA_INIT                ◀─────────▶
      IKE_AUTH                   ──────────▶     a new child SA
      (lost)                               ◀──   IKE_AUTH response
      liveness response          ◀──────────     the old SA lives: too late to take the new one back
      IKE_AUTH again             ◀─────────▶     the newer SA stays
      DELETE of the old SA       ◀─────────▶
    """
    pair = pair_of(RECONNECT)
    lost: list[str] = []

    def rule(packet: Sent) -> bool:
        if packet.sender != "bob" or packet.reason == "IKE_SA_INIT response":
            return False
        if packet.reason == "IKE_AUTH response" and not lost:
            lost.append(packet.reason)
            return True
        return not lost

    pair.drop_rule = rule
    traffic(pair, 4.0)
    assert lost == ["IKE_AUTH response"]
    assert "rebuild_goes_on" in pair.alice.kinds()
    assert verdicts(pair) == []
    heard = len(pair.alice.behind.received)
    traffic(pair, 1.0)
    assert len(pair.alice.behind.received) - heard >= 190
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (1, 1)


def test_a_short_flap_replaces_nothing() -> None:
    pair = pair_of(RECONNECT)
    number = next(iter(pair.alice.ike.views())).number
    pair.drop_rule = lambda sent: True
    traffic(pair, 0.5)
    pair.drop_rule = lambda sent: False
    traffic(pair, 3.0)
    assert rebuilds(pair) == 0
    assert [sa.number for sa in pair.alice.ike.views()] == [number]


def test_the_new_sa_is_given_up_when_the_old_one_answers() -> None:
    """
    Alice                                        Bob (the path is gone for a second)
      SK{}, ESP                  ──────────▶ x
      IKE_SA_INIT (beside)       ──────────▶ x
                                                 the path is back
      SK{} again                 ──────────▶
                                 ◀──────────     SK{}                     the old SA lives
    """
    pair = pair_of(RECONNECT)
    number = next(iter(pair.alice.ike.views())).number
    pair.drop_rule = lambda sent: True
    traffic(pair, 2.0, until=lambda: rebuilds(pair) > 0)
    pair.drop_rule = lambda sent: sent.reason.startswith("IKE_SA_INIT")
    traffic(pair, 3.0)
    assert "rebuild_called_off" in pair.alice.kinds()
    assert [sa.number for sa in pair.alice.ike.views()] == [number]
    assert verdicts(pair) == []


def sets_up(sent: Sent) -> bool:
    """IKE_SA_INIT and IKE_AUTH."""
    octets = sent.datagram.payload.removeprefix(NON_ESP_MARKER)
    return sent.reason != "ESP" and octets[18] in (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH)


def both_ways(pair: Pair, seconds: float) -> None:
    """Hosts behind both gateways send."""
    for _ in range(int(seconds / 0.02)):
        pair.send("alice")
        pair.send("bob", "10.10.2.1", "10.10.1.1")
        pair.run(0.02)


@pytest.mark.parametrize("seed", range(6))
def test_when_both_sides_build_a_new_sa_one_is_left(seed: int) -> None:
    """
    Alice                                        Bob (the path is gone, both suspect the other)
      IKE_SA_INIT                ──────▶◀──────  IKE_SA_INIT
      IKE_AUTH                   ──────▶◀──────  IKE_AUTH                 two new SAs
      DELETE                     ──────▶         hers has the larger SPI of the initiator (or his)
    """
    pair = pair_of(RECONNECT, seed=seed)
    pair.drop_rule = lambda sent: True
    both_ways(pair, 4.0)  # Bob, who only answered so far, knows no round trip time yet
    assert rebuilds(pair) == pair.bob.kinds().count("rebuild") == 1
    pair.drop_rule = lambda sent: not sets_up(sent)
    both_ways(pair, 1.5)
    pair.drop_rule = lambda sent: False
    both_ways(pair, 3.0)
    pair.run(30.0)
    rivals = [side.ike.counters["rival.dismissed"] for side in (pair.alice, pair.bob)]
    assert sorted(rivals) == [0, 1]
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (1, 1)
    assert pair.ping()
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")


def test_an_old_sa_whose_delete_was_lost_goes_once_the_newer_one_answers() -> None:
    """
    Alice                                        Bob
      (replaced her SA, the DELETE is lost) ─▶ x
      (new SA)                   ◀─────────▶
                                 ◀──────────     SK{} in the old SA, unanswered
                                 ◀──────────     SK{} in the new one, answered: no third SA is built
    """
    pair = pair_of({**RECONNECT, "dpd_delay_s": 20.0})
    pair.drop_rule = lambda sent: sent.sender == "bob" or sent.reason == "farewell DELETE"
    traffic(pair, 2.0, until=lambda: rebuilds(pair) > 0)
    pair.drop_rule = lambda sent: not sets_up(sent)
    traffic(pair, 2.0, until=lambda: verdicts(pair) != [])
    pair.drop_rule = lambda sent: sent.reason in HINTS
    traffic(pair, 1.0)
    assert pair.ike_sas() == (1, 2)
    pair.run(60.0)
    assert pair.ike_sas() == (1, 1)
    assert rebuilds(pair) == 1
    assert "rebuild" not in pair.bob.kinds()
    assert pair.ping()


@pytest.mark.parametrize("seed", range(10))
def test_cuts_in_either_direction_leave_one_tunnel(seed: int) -> None:
    """Hosts on both sides send; the path is cut three times, one way or both, for up to six seconds."""
    rng = random.Random(seed)
    chosen = RECONNECT if seed % 2 else methods(*Method)
    pair = pair_of(chosen, seed=seed, latency_s=rng.choice([0.005, 0.05, 0.15]))
    for _ in range(3):
        cut = rng.choice([("alice",), ("bob",), ("alice", "bob")])
        pair.drop_rule = lambda sent, cut=cut: sent.sender in cut  # type: ignore[misc]
        both_ways(pair, rng.uniform(0.3, 6.0))
        pair.drop_rule = lambda sent: False
        both_ways(pair, rng.uniform(0.1, 2.0))
    both_ways(pair, 3.0)
    pair.run(30.0)
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (1, 1)
    assert pair.ping()
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")


# --- forged hints -----------------------------------------------------------------------------------


def test_a_forged_hint_alone_never_begins_a_new_sa() -> None:
    """Ten thousand hints and denials of both kinds; the check is answered each time."""
    pair = pair_of(RECONNECT)
    number = next(iter(pair.alice.ike.views())).number
    hint, error = to_alice(invalid_spi(pair)), to_alice(denial(pair))
    before = len(pair.reasons("alice"))
    for _ in range(10_000):
        pair.inject(hint)
        pair.inject(error)
        pair.run(0.001)
    pair.run(1.0)
    assert len(pair.reasons("alice")) - before <= 3 + 11
    assert rebuilds(pair) == 0
    assert verdicts(pair) == []
    assert [sa.number for sa in pair.alice.ike.views()] == [number]
    assert pair.ping()


def test_who_also_keeps_back_the_answers_forces_a_bounded_number_of_new_sas() -> None:
    """Six, then one every ten minutes; each is Bob's own, and traffic goes on."""
    pair = pair_of(RECONNECT)
    pair.drop_rule = silent(*LIVENESS_ANSWERS)
    for _ in range(30):
        if not pair.alice.ike.views():
            break
        suspect(pair)
        pair.inject(to_alice(denial(pair)))
        pair.run(2.0)
    assert verdicts(pair) == ["replaced"] * 6
    assert "rebuild_refused" in pair.alice.kinds()
    pair.drop_rule = lambda sent: False
    pair.run(20.0)
    assert pair.ping()
    assert pair.ike_sas() == (1, 1)


def test_a_rebuild_that_bob_does_not_answer_costs_no_budget_and_is_paced() -> None:
    """Bob is gone for good. The old SA falls to liveness after a minute; until then one attempt goes on."""
    pair = pair_of(RECONNECT)
    pair.crash("bob")
    traffic(pair, 50.0, every_s=0.1)
    assert rebuilds(pair) == 1
    assert 45 <= sent(pair, "IKE_SA_INIT request") + sent(pair, "retransmission") <= 120


def test_the_peer_of_a_flapping_link_is_not_condemned_by_it() -> None:
    """Random loss of one half of all packets for a minute: there is a tunnel in the end, one."""
    for seed in range(5):
        rng = random.Random(seed)
        pair = pair_of(methods(*Method), seed=seed)
        pair.drop_rule = lambda sent, rng=rng: rng.random() < 0.5  # type: ignore[misc]
        traffic(pair, 60.0, every_s=0.05)
        pair.drop_rule = lambda sent: False
        traffic(pair, 40.0, every_s=0.1)
        assert pair.ping(), seed
        assert pair.ike_sas() == (1, 1), seed
        assert rebuilds(pair) <= 7, seed


@pytest.mark.parametrize("seed", range(12))
def test_no_forged_packets_lose_a_living_sa(seed: int) -> None:
    """
    Mallory sees everything and can send anything at any time, but stop nothing: forged hints, denials,
    NACKs with the cookies he saw, captured datagrams of both sides again. The SA stays, alone.
    """
    rng = random.Random(seed)
    pair = pair_of(methods(*Method), seed=seed)
    number = next(iter(pair.alice.ike.views())).number
    for _ in range(400):
        choice = rng.randrange(5)
        if choice == 0:
            suspect(pair)
        elif choice == 1:
            pair.inject(to_alice(denial(pair)))
        elif choice == 2:
            forge_nack(pair, rng)
        elif choice == 3:
            pair.inject(rng.choice(pair.trace).datagram)
        else:
            pair.send("alice")
        pair.run(rng.choice([0.001, 0.02, 0.2]))
    pair.run(5.0)
    assert verdicts(pair) == []
    assert [sa.number for sa in pair.alice.ike.views()] == [number]
    assert pair.ping()
    assert "verdict" not in pair.bob.kinds()


def forge_nack(pair: Pair, rng: random.Random) -> None:
    queries = [s.datagram for s in pair.trace if s.reason == "CHECK_SPI query"]
    if queries:
        pair.inject(to_alice(nack(check_of(rng.choice(queries[-3:])))))
