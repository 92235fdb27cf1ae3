"""Limits on what first messages of strangers can cause: half-open SAs, refusals, large answers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.ike.test_init import ALICE, BOB, MALLORY, first_request, held_request, message_of
from tests.support.invariants import check_no_leaks
from tests.support.pair import Pair

from deadpeer.ike.connection import EndpointConfig
from deadpeer.ike.io import Initiate, Reload
from deadpeer.values import Address, Datagram
from deadpeer.wire import NotifyType, encode_message


def flood(pair: Pair, count: int, hosts: int) -> None:
    """First messages with ever new SPIs, from so many hosts."""
    request = first_request(pair)
    for number in range(count):
        forged = replace(request, spi_i=(number + 1).to_bytes(8, "big"))
        source = Address(f"198.51.{number % hosts}.1", 500)
        pair.inject(Datagram(encode_message(forged), source, BOB))


def test_half_open_sas_of_one_source_are_limited() -> None:
    pair, _ = held_request()
    flood(pair, 20, hosts=1)
    assert pair.bob.ike.sizes()["half_open"] == 5
    assert pair.bob.ike.counters["dropped: cookie demanded"] == 15
    pair.run(31.0)
    assert pair.bob.ike.sizes()["half_open"] == 0
    pair.release()
    check_no_leaks(pair.bob)


def test_first_messages_in_the_name_of_a_peer_do_not_keep_it_away() -> None:
    """Forged ones of its address use up what a source may begin without a cookie; it returns one."""
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    pair.crash("bob")
    pair.run(1.0)
    pair.boot("bob")
    request = message_of(next(s for s in pair.trace if s.reason == "IKE_SA_INIT request"))
    for number in range(300):
        forged = replace(request, spi_i=(number + 1).to_bytes(8, "big"))
        pair.inject(Datagram(encode_message(forged), ALICE, BOB))
        pair.send("alice", seq=number)
        pair.run(0.010)
    assert pair.ping()
    assert pair.ike_sas()[0] == 1
    assert pair.bob.ike.sizes()["half_open"] <= 5


def test_half_open_sas_with_a_cookie_are_limited_per_source_too() -> None:
    pair, request = held_request(cookie_threshold=0, half_open_per_proven_source=3)
    for number in range(5):
        begun = replace(request, spi_i=bytes([number + 1]) * 8)
        pair.inject(Datagram(encode_message(begun), MALLORY, BOB))
        demand = message_of(pair.held[-1])
        cookie = demand.notify(NotifyType.COOKIE)
        assert cookie is not None
        again = replace(begun, payloads=(cookie, *begun.payloads))
        pair.inject(Datagram(encode_message(again), MALLORY, BOB))
    assert pair.bob.ike.sizes()["half_open"] == 3
    assert pair.bob.ike.counters["dropped: too many half-open SAs of one source"] == 2


def test_half_open_sas_are_limited_in_total_and_cookies_come_first() -> None:
    pair, _ = held_request(cookie_threshold=10, half_open_limit=12)
    flood(pair, 40, hosts=40)
    assert pair.bob.ike.sizes()["half_open"] == 10
    assert pair.bob.ike.counters["dropped: cookie demanded"] == 30
    pair.release()  # Alice returns her cookie, which the flood can't
    pair.settle()
    assert pair.alice.done[1].ok


def test_the_number_of_ike_sas_is_limited() -> None:
    pair, _ = held_request(max_ike_sas=3)
    flood(pair, 10, hosts=10)
    assert pair.bob.ike.sizes()["ike_sas"] == 3
    assert pair.bob.ike.counters["dropped: too many IKE SAs"] == 7


def test_a_cookie_answer_is_smaller_than_the_question() -> None:
    pair = Pair.with_psk(bob_config=EndpointConfig(cookie_threshold=0))
    pair.up()
    by_reason = {s.reason: len(s.datagram.payload) for s in pair.trace}
    assert by_reason["refusal: cookie demanded"] < by_reason["IKE_SA_INIT request"]


@pytest.mark.parametrize("what", ["another version", "no connection", "critical"])
def test_refusals_are_limited_per_source_and_in_total(what: str) -> None:
    """What leads to nothing is answered a few times a second: the source may be forged."""
    pair, request = held_request()
    pair.drop_rule = lambda sent: True
    pair.bob.ike.handle(pair.now, Reload(() if what == "no connection" else tuple(pair.bob.connections)))
    octets = encode_message(request)
    if what == "another version":
        octets = octets[:17] + b"\x30" + octets[18:]
    elif what == "critical":
        octets = octets[:16] + bytes([200]) + octets[17:28] + b"\x00\x80\x00\x04" + octets[28:]
        octets = octets[:24] + len(octets).to_bytes(4, "big") + octets[28:]
    before = len(pair.trace)
    for number in range(400):
        spi = (1 << 56 | number).to_bytes(8, "big")
        pair.inject(Datagram(spi + octets[8:], MALLORY, BOB))
    assert len(pair.trace) - before == 8
    for number in range(400):
        host = Address(f"198.18.{number // 250}.{number % 250}", 500)
        pair.inject(Datagram((2 << 56 | number).to_bytes(8, "big") + octets[8:], host, BOB))
    assert len(pair.trace) - before == 200
    assert pair.bob.ike.counters["refusal limited"] == 600
    pair.run(1.0)
    before = len([s for s in pair.trace if s.sender == "bob"])
    pair.inject(Datagram(octets, MALLORY, BOB))
    assert len([s for s in pair.trace if s.sender == "bob"]) == before + 1


def test_an_answer_much_larger_than_its_question_is_for_those_who_return_a_cookie() -> None:
    """CERTREQ takes 20 octets for each CA: nothing to send to a source that may be forged."""
    pair = Pair.with_psk()
    trust = SimpleNamespace(authorities=bytes(20 * 100))
    connections = [replace(c, remote=replace(c.remote, trust=trust)) for c in pair.bob.connections]
    pair.bob.ike.handle(pair.now, Reload(tuple(connections)))
    pair.feed("alice", Initiate("home", None, 1))
    pair.settle()
    assert pair.bob.ike.counters["dropped: cookie demanded"] == 1
    question, answer = pair.trace[:2]
    assert answer.sender == "bob"
    assert len(answer.datagram.payload) <= 3 * len(question.datagram.payload)
    large = next(s for s in pair.trace if s.reason == "IKE_SA_INIT response")
    assert len(large.datagram.payload) > 2000
    assert pair.alice.done[1].ok
