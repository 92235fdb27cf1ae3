"""
On the path, between two gateways that live: a man in the middle who drops, delays, duplicates and reorders,
says INVALID_SPI, INVALID_IKE_SPI and NACK for Bob, and shows again whatever he saw.

    Alice                    Mallory                     Bob
      anything       ──▶     later, twice, never  ──▶
                     ◀──     errors of his own
                     ◀──     later, twice, never  ◀──      anything

What must hold. Where QCD (and liveness after its floor) alone judges: no SA is ever lost, whatever he does.
With the weaker methods he can force new SAs, within the budget, each of them Bob's own, and the old one never
goes before the new one is there. When he lets go, there is one tunnel.
"""

from __future__ import annotations

import random

import pytest
from tests.crash.stories import (
    LATENCY_S,
    check_of,
    denial,
    invalid_spi,
    methods,
    nack,
    pair_of,
    rebuilds,
    to_alice,
    traffic,
    unharmed,
    verdicts,
    with_tokens,
)
from tests.support.invariants import check_agreement, check_one_tunnel
from tests.support.pair import Pair, Sent

from deadpeer.crash.options import Method
from deadpeer.ike.io import Rekey

WAYS = {
    "qcd": (Method.QCD, Method.LIVENESS),
    "sir": (Method.SIR, Method.LIVENESS),
    "reconnect": (Method.RECONNECT, Method.LIVENESS),
    "all": tuple(Method),
}
BUDGET = 6


class Middle:
    """Mallory. Each of his habits is a probability; `fates` decides about each datagram."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.pair = pair
        self.rng = random.Random(seed)
        self.drop, self.delay, self.copy, self.lie = (self.rng.choice((0.0, 0.1, 0.4)) for _ in range(4))
        self.longest_s = self.rng.choice((0.1, 0.5, 2.0))
        self.only = self.rng.choice((None, "alice", "bob"))
        pair.delays_rule = self.fates

    def fates(self, sent: Sent) -> list[float]:
        """How long each copy is under way, seconds."""
        if self.only not in (None, sent.sender):
            return [LATENCY_S]
        if self.rng.random() < self.drop:
            return []
        copies = 1 + (self.rng.random() < self.copy)
        return [LATENCY_S + self.late() for _ in range(copies)]

    def late(self) -> float:
        return self.rng.uniform(0.0, self.longest_s) if self.rng.random() < self.delay else 0.0

    def says(self) -> None:
        """Something for Bob, about the SA that Alice has."""
        if (
            self.rng.random() >= self.lie
            or len([s for s in self.pair.alice.ike.views() if s.established]) != 1
        ):
            return
        queries = [s.datagram for s in self.pair.trace[-400:] if s.reason == "CHECK_SPI query"]
        choice = self.rng.randrange(5)
        if choice == 0:
            self.pair.inject(to_alice(invalid_spi(self.pair)))
        elif choice == 1:
            self.pair.inject(to_alice(denial(self.pair)))
        elif choice == 2:
            token = self.rng.randbytes(16)
            self.pair.inject(to_alice(with_tokens(denial(self.pair), token)))
        elif choice == 3 and queries:
            self.pair.inject(to_alice(nack(check_of(queries[-1]))))
        else:
            self.pair.inject(self.rng.choice(self.pair.trace[-200:]).datagram)

    def lets_go(self) -> None:
        self.pair.delays_rule = None


def act(pair: Pair, middle: Middle, seconds: float) -> None:
    """Alice's host sends, both rekey now and then, and Mallory does what he does."""
    for seq in range(int(seconds / 0.1)):
        pair.send("alice", seq=seq & 0xFFFF)
        if middle.rng.random() < 0.01:
            pair.feed(middle.rng.choice(("alice", "bob")), Rekey("home", middle.rng.choice((None, "net"))))
        middle.says()
        pair.run(0.1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("way", WAYS)
def test_whatever_he_does_one_tunnel_is_left(way: str, seed: int) -> None:
    pair = pair_of(methods(*WAYS[way]), seed=seed)
    middle = Middle(pair, seed)
    # Less than the floor of liveness: a link that is cut for longer is dead for anybody.
    act(pair, middle, 50.0)
    if way == "qcd":
        assert verdicts(pair) == []
        assert "verdict" not in pair.bob.kinds()
        assert rebuilds(pair) == 0
    for side in (pair.alice, pair.bob):
        assert side.kinds().count("rebuild") - side.kinds().count("rebuild_failed") <= 2 * BUDGET
    up = pair.alice.kinds().count("ike_sa_up")
    assert up <= 1 + 2 * BUDGET
    middle.lets_go()
    traffic(pair, 20.0, 0.2)
    pair.run(120.0)
    pair.settle()
    if pair.ike_sas() != (2, 2) or way != "sir":
        check_one_tunnel(pair)
        return
    # SIR alone, where he had both sides build new SAs more than a few seconds apart: two that live, and work.
    check_agreement(pair)
    assert pair.ping()


def late_from_bob(pair: Pair, reasons: tuple[str, ...], delay_s: float) -> None:
    """Bob's datagrams of these kinds come so much later."""
    pair.delays_rule = lambda sent: [
        LATENCY_S + (delay_s if sent.sender == "bob" and sent.reason in reasons else 0.0)
    ]


ANSWERS = ("INFORMATIONAL response", "response again")


@pytest.mark.parametrize("late_s", [0.05, 0.15, 0.25, 0.4])
def test_a_nack_and_then_the_ack_late(late_s: float) -> None:
    """
    Alice                        Mallory              Bob
      N(CHECK_SPI, QUERY)  ──▶                ──▶
                           ◀──   NACK
                           ◀──   (ACK, SK{} late)     ◀──
    Within the window both were seen, and nothing goes; after it the old SA goes once Bob's own new one is up.
    """
    pair = pair_of(methods(Method.SIR, Method.LIVENESS))
    [old] = pair.alice.ike.views()
    late_from_bob(pair, (*ANSWERS, "CHECK_SPI ACK"), late_s)
    pair.inject(to_alice(invalid_spi(pair)))
    query = next(s.datagram for s in pair.trace if s.reason == "CHECK_SPI query")
    pair.run(0.1)
    pair.inject(to_alice(nack(check_of(query))))
    pair.run(3.0)
    pair.delays_rule = None
    traffic(pair, 2.0)
    if late_s < 0.2:
        # Contradicted in time. If IKE_AUTH of the new SA went out by then, the newer of the two stays.
        assert verdicts(pair) == []
        assert "attack_suspected" in pair.alice.kinds()
    if late_s < 0.1:
        unharmed(pair, old.number)
    assert len(verdicts(pair)) <= 1
    assert pair.ping()
    pair.run(30.0)
    assert pair.ike_sas() == (1, 1)


def test_dropping_the_ack_and_the_answers_forces_one_of_bob_s_own() -> None:
    """
    Alice                        Mallory              Bob
      N(CHECK_SPI, QUERY)  ──▶                ──▶
                           ◀──   NACK      (ACK ◀──)  kept back
      IKE_SA_INIT, IKE_AUTH     ◀──────────────▶      Bob proves who he is
      SK{DELETE}           ─────────────────────▶     the old one goes on both sides, after the new one is up
    """
    pair = pair_of(methods(Method.SIR, Method.LIVENESS))
    kept = (*ANSWERS, "CHECK_SPI ACK", "ESP")
    pair.drop_rule = lambda sent: sent.sender == "bob" and sent.reason in kept
    pair.inject(to_alice(invalid_spi(pair)))
    query = next(s.datagram for s in pair.trace if s.reason == "CHECK_SPI query")
    pair.run(0.1)
    pair.inject(to_alice(nack(check_of(query))))
    pair.run(0.5)
    assert verdicts(pair) == ["sir"]
    kinds = pair.alice.kinds()
    assert len(kinds) - kinds[::-1].index("ike_sa_up") < kinds.index("verdict") + 1
    pair.drop_rule = lambda sent: False
    pair.run(2.0)
    check_one_tunnel(pair)
    assert "verdict" not in pair.bob.kinds()


@pytest.mark.parametrize("way", ["qcd", "all"])
def test_a_cut_shorter_than_the_floor_condemns_nothing_by_token_or_liveness(way: str) -> None:
    """He stops everything for 55 seconds, and says everything that can be said meanwhile."""
    pair = pair_of(methods(*WAYS[way]))
    [sa] = pair.alice.ike.views()
    errors = [to_alice(message) for message in (invalid_spi(pair), denial(pair))]
    pair.drop_rule = lambda sent: True
    for seq in range(275):
        pair.send("alice", seq=seq)
        for error in errors:
            pair.inject(error)
        pair.run(0.2)
    pair.drop_rule = lambda sent: False
    traffic(pair, 10.0, 0.2)
    assert not {"qcd-token", "liveness"} & set(verdicts(pair))
    if way == "qcd":
        unharmed(pair, sa.number)
    pair.run(60.0)
    pair.settle()
    check_one_tunnel(pair)
