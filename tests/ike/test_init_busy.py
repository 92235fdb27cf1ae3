"""A responder that is busy at one moment and not at the next (RFC 7296 sections 2.6, 2.15)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from tests.support.invariants import check_one_tunnel
from tests.support.pair import Pair

from deadpeer.crash.options import Method, PolicyOptions
from deadpeer.ike.connection import EndpointConfig
from deadpeer.ike.io import Initiate
from deadpeer.values import Address, Datagram
from deadpeer.wire import Notify, NotifyType, decode_message, encode_message

ALICE, BOB, MALLORY = Address("192.0.2.1", 500), Address("192.0.2.2", 500), Address("198.51.100.66", 500)
BUSY_S = 2.0


def two_requests_under_way() -> Pair:
    """
    Alice                                     Bob, busy
      IKE_SA_INIT               ────────────▶
      IKE_SA_INIT, again        ─────·              held
                                ◀────────────  N(COOKIE)
      IKE_SA_INIT, N(COOKIE)    ─────·              held
                                               no longer busy
    """
    config = EndpointConfig(cookie_threshold=1, half_open_timeout_s=BUSY_S)
    pair = Pair.with_psk(bob={"remote_addrs": ()}, bob_config=config)
    pair.hold("IKE_SA_INIT request", "retransmission", sender="alice")
    pair.feed("alice", Initiate("home", None, 1))
    other = replace(decode_message(pair.held[0].datagram.payload), spi_i=b"somebody")
    pair.inject(Datagram(encode_message(other), MALLORY, BOB))
    assert pair.bob.ike.sizes()["half_open"] == 1
    pair.run(0.6)
    assert [sent.reason for sent in pair.held] == ["IKE_SA_INIT request", "retransmission"]
    pair.deliver()
    pair.run(0.1)
    assert pair.bob.ike.counters["dropped: cookie demanded"] == 1
    with_cookie = next(sent for sent in pair.held if sent.reason == "IKE_SA_INIT request")
    assert decode_message(with_cookie.datagram.payload).notify(NotifyType.COOKIE) is not None
    pair.run(BUSY_S)
    assert pair.bob.ike.sizes()["half_open"] == 0
    pair.held = [pair.held[0], with_cookie]
    return pair


@pytest.mark.parametrize("second", ["before IKE_AUTH", "after IKE_AUTH", "never"])
def test_whichever_request_a_response_is_to_the_initiator_may_sign_the_one_with_the_cookie(
    second: str,
) -> None:
    pair = two_requests_under_way()
    pair.deliver()
    if second == "before IKE_AUTH":
        pair.deliver()
    pair.settle()
    if second == "after IKE_AUTH":
        pair.release()
        pair.settle()
    assert pair.alice.done[1].ok
    assert pair.bob.ike.counters["sent: IKE_SA_INIT response"] == 2, "one of them to Mallory"
    assert pair.bob.ike.sizes()["half_open"] == 0
    check_one_tunnel(pair)


def test_the_request_without_a_cookie_that_comes_late_begins_nothing() -> None:
    pair = two_requests_under_way()
    without, with_cookie = pair.held
    pair.held = [with_cookie, without]
    pair.deliver()
    pair.deliver()
    pair.settle()
    assert pair.alice.done[1].ok
    assert pair.bob.ike.counters["sent: IKE_SA_INIT response"] == 2
    assert pair.bob.ike.sizes()["half_open"] == 0
    check_one_tunnel(pair)


def test_all_else_is_unchanged_in_a_request_with_a_cookie() -> None:
    """Section 2.6: the random address that stands for a NAT, too."""
    pair = two_requests_under_way()
    without, with_cookie = (decode_message(sent.datagram.payload) for sent in pair.held)
    assert with_cookie.payloads[1:] == without.payloads


def test_a_request_that_differs_in_more_than_its_cookie_is_another_one() -> None:
    """Who takes something out of a request that he saw gets a half-open SA of his own, no say in hers."""
    pair = two_requests_under_way()
    sent = pair.deliver()
    request = decode_message(sent.datagram.payload)
    poorer = tuple(
        p for p in request.payloads
        if not (isinstance(p, Notify) and p.type == NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
    )  # fmt: skip
    assert len(poorer) < len(request.payloads)
    pair.inject(Datagram(encode_message(replace(request, payloads=poorer)), sent.datagram.local, BOB))
    assert pair.bob.ike.counters["sent: response again"] == 0
    pair.settle()
    assert pair.alice.done[1].ok


def test_a_signature_over_a_request_with_a_cookie_that_we_never_made_is_none() -> None:
    pair = Pair.with_psk(bob={"remote_addrs": ()})
    pair.hold("IKE_SA_INIT request", sender="alice")
    pair.feed("alice", Initiate("home", None, 1))
    request = decode_message(pair.held[0].datagram.payload)
    demand = replace(
        request,
        from_initiator=False,
        is_response=True,
        payloads=(Notify(NotifyType.COOKIE, b"not a cookie of Bob's"),),
    )
    pair.inject(Datagram(encode_message(demand), BOB, ALICE))
    assert [sent.reason for sent in pair.held] == ["IKE_SA_INIT request"] * 2
    pair.deliver()
    pair.settle()
    assert not pair.alice.done[1].ok
    assert pair.bob.ike.counters["authentication failures"] == 1


# --- how often a busy responder is asked ---------------------------------------------------------


def sent_s(pair: Pair, since_ns: int) -> list[float]:
    """When Alice sent anything but ESP, seconds since a moment."""
    times = [s.at_ns for s in pair.trace if s.sender == "alice" and s.reason != "ESP" and s.at_ns >= since_ns]
    return [round((at_ns - since_ns) / 1e9, 2) for at_ns in times]


def gaps(times: list[float]) -> list[float]:
    return [round(after - before, 2) for before, after in pairwise(times)]


def test_who_asks_for_a_cookie_is_asked_ever_more_rarely() -> None:
    """The interval goes on growing from where it was: one answer was slow to come, so will the next be."""
    pair = two_requests_under_way()
    since_ns = pair.held[1].at_ns
    pair.held.clear()
    pair.run(12.0)
    assert gaps(sent_s(pair, since_ns)) == [1.0, 2.0, 4.0, 4.0]


def test_after_a_token_the_first_request_has_time_for_a_key_exchange() -> None:
    """Round trips are known from liveness checks, and whoever presents a token is there."""
    pair = Pair.with_psk(alice={"extensions": (PolicyOptions((Method.QCD,)),)})
    pair.up()
    for _ in range(20):
        pair.send("alice")
        pair.run(0.1)
    pair.crash("bob")
    pair.boot("bob")
    pair.drop_rule = lambda sent: sent.reason == "IKE_SA_INIT request"
    while "verdict" not in pair.alice.kinds():
        pair.send("alice")
        pair.run(0.01)
    pair.drop_rule = lambda sent: True
    since_ns = next(s.at_ns for s in reversed(pair.trace) if s.reason == "IKE_SA_INIT request")
    pair.run(4.0)
    assert gaps(sent_s(pair, since_ns)) == [0.5, 1.0, 1.0, 1.0]
