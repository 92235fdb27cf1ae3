"""Requests that come again: from the peer, whose answer was lost, and from one who captured them."""

from __future__ import annotations

import pytest
from tests.support.pair import Pair

from deadpeer.ike.io import Rekey
from deadpeer.ike.repeats import ELSEWHERE, HOME, Repeats
from deadpeer.values import Address, Datagram

S = 1_000_000_000
FLOOD = 2_000
AGAIN = "response again"


def rekeyed() -> tuple[Pair, Datagram]:
    """A pair whose tunnel is up, and the last request that Alice sent in it."""
    pair = Pair.with_psk()
    pair.up()
    pair.feed("alice", Rekey("home", "net"))
    pair.settle()
    request = [s for s in pair.trace if s.sender == "alice" and s.reason.endswith("request")][-1]
    return pair, request.datagram


def flood(pair: Pair, request: Datagram, source: Address) -> list[Datagram]:
    """Two seconds of it; what Bob answered."""
    before = len(pair.trace)
    for _ in range(FLOOD):
        pair.inject(Datagram(request.payload, source, request.remote))
        pair.run(2.0 / FLOOD)
    return [s.datagram for s in pair.trace[before:] if s.sender == "bob" and s.reason == AGAIN]


def test_who_captured_the_last_request_gets_few_answers_in_the_peers_name() -> None:
    pair, request = rekeyed()
    assert 1 <= len(flood(pair, request, request.local)) <= HOME.burst + 2 * HOME.per_s
    assert pair.bob.ike.counters["dropped: repeated request, limited"] > FLOOD / 2
    assert pair.ping()


def test_and_fewer_from_elsewhere() -> None:
    pair, request = rekeyed()
    thief = Address("198.51.100.7", 4500)
    answers = flood(pair, request, thief)
    assert 1 <= len(answers) <= ELSEWHERE.burst + 2 * ELSEWHERE.per_s
    assert {a.remote for a in answers} == {thief}
    assert all(len(a.payload) <= 3 * len(request.payload) for a in answers)
    (sa,) = pair.bob.ike.views()
    assert sa.remote == request.local, "the peer has not moved"
    assert pair.ping()


def test_the_thief_uses_up_nothing_of_the_peers() -> None:
    pair, request = rekeyed()
    flood(pair, request, Address("198.51.100.7", 4500))
    before = pair.reasons("bob").count(AGAIN)
    pair.inject(request)
    assert pair.reasons("bob").count(AGAIN) == before + 1


@pytest.mark.parametrize("home", [True, False])
def test_only_who_is_at_home_gets_a_large_answer(home: bool) -> None:
    repeats = Repeats(0)
    assert repeats.allow(0, bytes(100), (bytes(150), bytes(150)), home=home)
    assert repeats.allow(0, bytes(100), (bytes(150), bytes(151)), home=home) is home


def test_an_answer_that_is_lost_again_and_again_gets_through_in_the_end() -> None:
    """Bob's answers are lost for five seconds, and Alice retransmits with her backoff."""
    pair = Pair.with_psk()
    pair.up()
    lost_until = pair.now.mono_ns + 5 * S
    pair.drop_rule = lambda sent: sent.sender == "bob" and pair.now.mono_ns < lost_until
    pair.feed("alice", Rekey("home", "net"))
    pair.run(12.0)
    assert pair.bob.ike.counters["dropped: repeated request, limited"] == 0
    assert pair.reasons("alice").count("child SA rekey request") == 1
    assert pair.ping()
