"""IKE_SA_INIT: cookies, groups, forged answers, limits, versions, loss (RFC 7296 1.2, 2.1 to 2.7)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from tests.support.invariants import check_no_leaks, check_one_tunnel
from tests.support.pair import Pair, Sent, child_config, connection

from deadpeer.crypto import parse_proposal
from deadpeer.ike.connection import EndpointConfig
from deadpeer.ike.io import Initiate
from deadpeer.values import Address, Datagram
from deadpeer.wire import (
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    Protocol,
    decode_header,
    decode_message,
    encode_message,
)

ALICE, BOB, MALLORY = Address("192.0.2.1", 500), Address("192.0.2.2", 500), Address("198.51.100.66", 500)
X25519_ONLY = parse_proposal("aes256gcm16-prfsha256-x25519", Protocol.IKE)
ECP_ONLY = parse_proposal("aes256gcm16-prfsha256-ecp256", Protocol.IKE)
BOTH = parse_proposal("aes256gcm16-prfsha256-x25519-ecp256", Protocol.IKE)


def message_of(sent: Sent) -> Message:
    """An IKE message from the trace, marker or not."""
    payload = sent.datagram.payload
    return decode_message(payload[4:] if payload[:4] == bytes(4) else payload)


def first_request(pair: Pair) -> Message:
    return message_of(next(s for s in pair.trace if s.reason == "IKE_SA_INIT request"))


def answer_to(request: Message, *notifies: Notify) -> bytes:
    """What anybody who saw the request could answer."""
    return encode_message(
        Message(request.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, 0, False, True, notifies)
    )


def held_request(**bob: int) -> tuple[Pair, Message]:
    """Alice has begun; nothing arrives before it is released. Bob takes any peer; `bob`: his limits."""
    pair = Pair.with_psk(bob={"remote_addrs": ()}, bob_config=EndpointConfig(**bob))
    pair.hold()
    pair.feed("alice", Initiate("home", None, 1))
    return pair, first_request(pair)


# --- cookies ---------------------------------------------------------------------------------------


def test_a_busy_responder_demands_a_cookie_and_keeps_nothing_before_it_comes_back() -> None:
    """
    Alice                                  Bob
      IKE_SA_INIT              ──────────▶
                               ◀──────────  N(COOKIE)         no state kept
      IKE_SA_INIT, N(COOKIE)   ──────────▶
                               ◀──────────  IKE_SA_INIT
    """
    pair = Pair.with_psk(bob_config=EndpointConfig(cookie_threshold=0))
    pair.hold("IKE_SA_INIT request")
    pair.feed("alice", Initiate("home", None, 1))
    first = pair.deliver()
    assert pair.bob.ike.sizes()["half_open"] == 0
    pair.settle()
    pair.release()
    pair.settle()
    assert pair.alice.done[1].ok
    requests = [s for s in pair.trace if s.reason == "IKE_SA_INIT request"]
    assert len(requests) == 2
    again = message_of(requests[1])
    assert again.notify(NotifyType.COOKIE) == again.payloads[0]
    assert again.payloads[1:4] == message_of(first).payloads[:3]
    assert pair.bob.ike.counters["dropped: cookie demanded"] == 1
    check_one_tunnel(pair)


def test_a_cookie_outlives_one_change_of_the_secret_and_not_two() -> None:
    for wait_s, demanded in ((50.0, 1), (70.0, 1), (130.0, 2)):
        pair = Pair.with_psk(
            alice_config=EndpointConfig(init_timeout_s=300.0), bob_config=EndpointConfig(cookie_threshold=0)
        )
        pair.feed("alice", Initiate("home", None, 1))
        pair.hold("IKE_SA_INIT request")
        pair.drop_rule = lambda sent: sent.reason == "retransmission"
        pair.settle()
        pair.run(wait_s)
        pair.drop_rule = lambda sent: False
        pair.release()
        pair.settle()
        assert pair.alice.done[1].ok
        assert pair.bob.ike.counters["dropped: cookie demanded"] == demanded, wait_s


def test_cookies_without_end_are_not_followed() -> None:
    """Who answers every request with another cookie gets no more than three further requests."""
    pair, request = held_request()
    for number in range(50):
        octets = answer_to(request, Notify(NotifyType.COOKIE, bytes([number]) * 16))
        pair.inject(Datagram(octets, BOB, ALICE))
    assert pair.reasons("alice").count("IKE_SA_INIT request") == 4
    assert pair.alice.ike.counters["dropped: unusable cookie"] == 47


@pytest.mark.parametrize("size", [0, 65])
def test_a_cookie_of_a_forbidden_size_is_ignored(size: int) -> None:
    pair, request = held_request()
    pair.inject(Datagram(answer_to(request, Notify(NotifyType.COOKIE, bytes(size))), BOB, ALICE))
    assert pair.reasons("alice").count("IKE_SA_INIT request") == 1


# --- groups ----------------------------------------------------------------------------------------


def test_the_wrong_group_first_costs_one_round_trip() -> None:
    """
    Alice (x25519 first)                  Bob (only ecp256)
      IKE_SA_INIT, KE(31)     ──────────▶
                              ◀──────────  N(INVALID_KE_PAYLOAD, 19)
      IKE_SA_INIT, KE(19)     ──────────▶
                              ◀──────────  IKE_SA_INIT
    """
    pair = Pair.with_psk(alice={"proposals": (BOTH,)}, bob={"proposals": (ECP_ONLY,)})
    pair.up()
    assert pair.reasons("alice").count("IKE_SA_INIT request") == 2
    check_one_tunnel(pair)


def test_a_cookie_and_another_group_may_both_be_asked_for() -> None:
    pair = Pair.with_psk(
        alice={"proposals": (BOTH,)},
        bob={"proposals": (ECP_ONLY,)},
        bob_config=EndpointConfig(cookie_threshold=0),
    )
    pair.up()
    check_one_tunnel(pair)


def test_retries_for_other_groups_end() -> None:
    """Each group is tried once, however often somebody asks for it; one that we do not offer never."""
    pair, request = held_request()
    for group in (19, 31, 19, 31, 14, 0, 19):
        data = group.to_bytes(2, "big")
        octets = answer_to(request, Notify(NotifyType.INVALID_KE_PAYLOAD, data))
        pair.inject(Datagram(octets, BOB, ALICE))
    pair.inject(Datagram(answer_to(request, Notify(NotifyType.INVALID_KE_PAYLOAD, b"\0")), BOB, ALICE))
    assert pair.reasons("alice").count("IKE_SA_INIT request") == 2
    assert pair.alice.ike.counters["dropped: unusable INVALID_KE_PAYLOAD"] == 7


def test_no_common_proposal_ends_an_up_with_the_reason() -> None:
    pair = Pair.with_psk(alice={"proposals": (X25519_ONLY,)}, bob={"proposals": (ECP_ONLY,)})
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(10.0)
    assert not pair.alice.done[1].ok
    assert "NO_PROPOSAL_CHOSEN" in pair.alice.done[1].text
    assert pair.ike_sas() == (0, 0)
    check_no_leaks(pair.alice)


# --- forged answers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.INVALID_SYNTAX, NotifyType.AUTHENTICATION_FAILED],
)
def test_a_forged_error_does_not_stop_the_real_answer(error: NotifyType) -> None:
    """
    Alice                                Bob
      IKE_SA_INIT            ──────────▶
                    ◀──── Mallory: N(NO_PROPOSAL_CHOSEN)
                             ◀──────────  IKE_SA_INIT
    """
    pair, request = held_request()
    for _ in range(100):
        pair.inject(Datagram(answer_to(request, Notify(error)), BOB, ALICE))
    assert pair.alice.kinds().count("hint") == 1, "events about forged errors are limited"
    pair.release()
    pair.settle()
    assert pair.alice.done[1].ok
    check_one_tunnel(pair)


def test_a_forged_demand_for_another_group_does_not_stop_the_setup() -> None:
    pair, request = held_request()
    octets = answer_to(request, Notify(NotifyType.INVALID_KE_PAYLOAD, (19).to_bytes(2, "big")))
    pair.deliver()  # Bob has answered the first request already
    pair.inject(Datagram(octets, BOB, ALICE))
    pair.release()
    pair.settle()
    assert pair.alice.done[1].ok
    pair.run(40.0)
    assert pair.bob.ike.sizes()["half_open"] == 0
    check_one_tunnel(pair)


def test_an_answer_from_another_host_is_ignored() -> None:
    pair, _ = held_request()
    pair.deliver()
    (answer,) = pair.held
    pair.inject(Datagram(answer.datagram.payload, MALLORY, ALICE))
    assert pair.alice.ike.counters["dropped: IKE_SA_INIT response not awaited"] == 1
    pair.release()
    pair.settle()
    assert pair.alice.done[1].ok


def test_an_answer_that_comes_twice_is_used_once() -> None:
    pair, _ = held_request()
    pair.deliver()
    (answer,) = pair.held
    pair.release()
    pair.settle()
    pair.inject(answer.datagram)
    assert pair.alice.ike.counters["dropped: IKE_SA_INIT response not awaited"] == 1
    check_one_tunnel(pair)


# --- retransmission and loss -------------------------------------------------------------------------


def test_the_request_again_gets_the_identical_answer() -> None:
    pair = Pair.with_psk()
    pair.lose("IKE_SA_INIT response")
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(2.0)
    assert pair.alice.done[1].ok
    answers = [
        s.datagram.payload for s in pair.trace if s.reason in ("IKE_SA_INIT response", "response again")
    ]
    assert len(answers) == 2
    assert answers[0] == answers[1]
    assert pair.bob.ike.sizes()["half_open"] == 0
    check_one_tunnel(pair)


@pytest.mark.parametrize(
    "reason", ["IKE_SA_INIT request", "IKE_SA_INIT response", "IKE_AUTH request", "IKE_AUTH response"]
)
@pytest.mark.parametrize("times", [1, 3])
def test_the_loss_of_any_message_is_made_good(reason: str, times: int) -> None:
    pair = Pair.with_psk()
    kinds = {"request": reason, "response": "response again"}
    left = [times]

    def rule(sent: Sent) -> bool:
        again = "retransmission" if reason.endswith("request") else kinds["response"]
        if left[0] and sent.reason in (reason, again) and (left[0] < times or sent.reason == reason):
            left[0] -= 1
            return True
        return False

    pair.drop_rule = rule
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(10.0)
    assert left == [0]
    assert pair.alice.done[1].ok
    check_one_tunnel(pair)


def test_every_retransmission_is_the_same_and_they_end() -> None:
    pair = Pair.with_psk(alice_config=EndpointConfig(init_timeout_s=20.0))
    pair.crash("bob")
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(30.0)
    assert not pair.alice.done[1].ok
    assert "does not answer" in pair.alice.done[1].text
    sent = [s for s in pair.trace if s.sender == "alice"]
    assert len({s.datagram.payload for s in sent}) == 1
    gaps = [(b.at_ns - a.at_ns) / 1e9 for a, b in pairwise(sent)]
    # Exponential, and at most a quarter of the time so far: a peer that was away is soon found back.
    assert gaps == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.125, 1.406, 1.758, 2.197, 2.747, 3.433], abs=0.001
    )
    check_no_leaks(pair.alice)


def test_a_request_that_comes_late_makes_no_second_sa() -> None:
    """A copy of the first message arrives when the SA is up."""
    pair = Pair.with_psk()
    pair.up()
    request = next(s for s in pair.trace if s.reason == "IKE_SA_INIT request")
    pair.inject(request.datagram)
    assert pair.bob.ike.counters["dropped: IKE_SA_INIT of an established SA"] == 1
    check_one_tunnel(pair)


# --- versions and unknown payloads ---------------------------------------------------------------------


def test_a_later_major_version_is_told_ours() -> None:
    pair, _ = held_request()
    octets = bytearray(pair.held[0].datagram.payload)
    octets[17] = 0x30
    pair.inject(Datagram(bytes(octets), MALLORY, BOB))
    refusal = message_of(pair.held[-1])
    assert pair.held[-1].reason == "refusal: other major version"
    assert [n.type for n in refusal.all(Notify)] == [NotifyType.INVALID_MAJOR_VERSION]
    assert refusal.is_response
    octets[19] |= 0x20
    before = len(pair.trace)
    pair.inject(Datagram(bytes(octets), MALLORY, BOB))
    assert len(pair.trace) == before, "a response is never answered"
    octets[17], octets[19] = 0x10, 0x08
    pair.inject(Datagram(bytes(octets), MALLORY, BOB))
    assert len(pair.trace) == before, "nor is version 1"
    assert pair.bob.ike.counters["dropped: other major version"] == 3


@pytest.mark.parametrize(("critical", "answered"), [(True, True), (False, False)])
def test_an_unknown_critical_payload_is_refused_another_is_skipped(critical: bool, answered: bool) -> None:
    pair, _ = held_request()
    octets = bytearray(pair.held[0].datagram.payload)
    pair.held.clear()
    first, octets[16] = octets[16], 200
    octets[28:28] = bytes([first, 0x80 if critical else 0, 0, 8]) + b"\1\2\3\4"
    octets[24:28] = len(octets).to_bytes(4, "big")
    pair.inject(Datagram(bytes(octets), MALLORY, BOB))
    (answer,) = [message_of(s) for s in pair.held]
    refusal = answer.notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    assert (refusal is not None) == answered
    if refusal is not None:
        assert refusal.data == bytes([200])
        assert pair.bob.ike.sizes()["half_open"] == 0


@pytest.mark.parametrize("field", ["spi_r", "spi_i", "message_id"])
def test_a_first_message_with_an_impossible_header_is_dropped(field: str) -> None:
    pair, request = held_request()
    value: object = {"spi_r": b"x" * 8, "spi_i": bytes(8), "message_id": 1}[field]
    pair.inject(Datagram(encode_message(replace(request, **{field: value})), MALLORY, BOB))  # type: ignore[arg-type]
    assert pair.bob.ike.counters["dropped: malformed: IKE_SA_INIT request header"] == 1
    assert pair.bob.ike.sizes()["half_open"] == 0


# --- both at once --------------------------------------------------------------------------------------


def test_both_sides_initiate_at_once() -> None:
    """
    Alice                                Bob
      IKE_SA_INIT            ────><────   IKE_SA_INIT
      IKE_AUTH               ────><────   IKE_AUTH          two SAs, both good
    """
    pair = Pair.with_psk(both={"initial_contact": True})
    pair.feed("alice", Initiate("home", None, 1))
    pair.feed("bob", Initiate("home", None, 1))
    pair.run(2.0)
    assert pair.alice.done[1].ok
    assert pair.bob.done[1].ok
    assert pair.ike_sas()[0] == pair.ike_sas()[1]
    assert pair.ping()
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")
    pair.run(300.0)
    assert pair.ping()
    assert pair.ike_sas()[0] == pair.ike_sas()[1]


def test_messages_on_the_nat_t_port_carry_the_marker_and_others_do_not() -> None:
    pair = Pair.with_psk()
    pair.up()
    for sent in pair.trace:
        marked = sent.datagram.payload[:4] == bytes(4)
        assert marked == (sent.datagram.local.port == 4500)
        header = decode_header(sent.datagram.payload[4:] if marked else sent.datagram.payload)
        assert header.exchange in (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH)


def test_no_connection_for_the_peer_is_answered_and_counted() -> None:
    pair = Pair(
        [connection("home", ("192.0.2.1", "192.0.2.2"), "alice", "bob", (child_config(),))],
        [connection("other", ("192.0.2.2", "203.0.113.9"), "bob", "alice", ())],
    )
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(5.0)
    assert pair.bob.ike.counters["dropped: no connection for the peer"] > 0
    assert pair.bob.ike.sizes()["ike_sas"] == 0
