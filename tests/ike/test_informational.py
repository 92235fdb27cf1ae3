"""INFORMATIONAL and what is wrong inside protected messages (RFC 7296 sections 1.4, 2.21, 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.support.invariants import check_no_leaks, check_one_tunnel
from tests.support.pair import Pair, child_config

from deadpeer.crypto import Identity
from deadpeer.ike.connection import LocalAuth, RemoteAuth
from deadpeer.ike.exchange import Exchange
from deadpeer.ike.exchanges.informational import Inform
from deadpeer.ike.extension import Extension, SaView, Slot
from deadpeer.ike.io import Initiate, Terminate
from deadpeer.ike.sa import IkeSa
from deadpeer.values import Now
from deadpeer.wire import Delete, ExchangeType, Message, Notify, NotifyType, Payload, Protocol


class Ask(Exchange):
    """Any request at all; keeps the answer."""

    reason = "a test's request"

    def __init__(self, exchange: int, payloads: Sequence[Payload]) -> None:
        self.exchange_type = exchange  # type: ignore[assignment]
        self.payloads = payloads
        self.answer: Message | None = None

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        return self.payloads

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        self.answer = answer


def up(**options: object) -> Pair:
    pair = Pair.with_psk(both={"dpd_delay_s": 0.0}, **options)  # type: ignore[arg-type]
    pair.up()
    return pair


def sa_of(pair: Pair, name: str) -> IkeSa:
    return next(iter(pair.side(name).ike.views()))


def ask(pair: Pair, exchange: int, *payloads: Payload) -> Ask:
    """Alice asks Bob."""
    asked = Ask(exchange, payloads)
    sa_of(pair, "alice").submit(pair.now, asked)
    pair._drain(pair.alice)
    pair.run(1.0)
    return asked


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_liveness_is_answered_with_nothing(who: str) -> None:
    """
    Alice                        Bob
      INFORMATIONAL  ──────────▶
                     ◀──────────  INFORMATIONAL
    """
    pair = up()
    side = pair.side(who)
    side.ike.probe(pair.now, sa_of(pair, who), "test")
    pair._drain(side)
    pair.run(1.0)
    assert not sa_of(pair, who).request_in_flight
    assert [s.reason for s in pair.trace[-2:]] == ["test", "INFORMATIONAL response"]
    check_one_tunnel(pair)


def test_a_probe_while_a_request_is_under_way_sends_that_one_again() -> None:
    pair = up()
    sa = sa_of(pair, "alice")
    pair.hold()
    for _ in range(3):
        pair.alice.ike.probe(pair.now, sa, "test")
        pair._drain(pair.alice)
    assert len({s.datagram.payload for s in pair.held}) == 1
    assert [s.reason for s in pair.held] == ["test", "retransmission: test", "retransmission: test"]


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_down_deletes_the_ike_sa_on_both_sides(who: str) -> None:
    pair = up(children=[child_config(close_action="none")])
    pair.feed(who, Terminate("home", None, 9))
    pair.run(1.0)
    assert pair.side(who).done[9].ok
    assert pair.ike_sas() == (0, 0)
    check_no_leaks(pair.alice)
    check_no_leaks(pair.bob)


def test_a_delete_that_is_not_answered_ends_all_the_same() -> None:
    pair = up()
    pair.crash("bob")
    pair.feed("alice", Terminate("home", None, 9))
    pair.run(5.1)
    assert pair.alice.done[9].ok
    assert pair.alice.ike.sizes()["ike_sas"] == 0
    check_no_leaks(pair.alice)


def test_down_during_the_setup_answers_both_commands() -> None:
    pair = Pair.with_psk()
    pair.hold()
    pair.feed("alice", Initiate("home", None, 1))
    pair.feed("alice", Terminate("home", None, 2))
    assert not pair.alice.done[1].ok
    assert pair.alice.done[2].ok
    check_no_leaks(pair.alice)


def test_a_request_that_overtakes_the_end_of_the_setup_waits() -> None:
    """
    Alice                        Bob
      IKE_AUTH       ──────────▶
                     ◀────x       IKE_AUTH             lost
                     ◀──────────  INFORMATIONAL        not heeded: Bob is not authenticated yet
      IKE_AUTH       ──────────▶
                     ◀──────────  IKE_AUTH
                     ◀──────────  INFORMATIONAL        again, and answered
    """
    pair = Pair.with_psk()
    pair.lose("IKE_AUTH response")
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(0.045)
    pair.bob.ike.probe(pair.now, sa_of(pair, "bob"), "test")
    pair._drain(pair.bob)
    pair.run(3.0)
    assert pair.alice.ike.counters["dropped: request before authentication"] >= 1
    assert pair.alice.done[1].ok
    check_one_tunnel(pair)


def test_an_unknown_status_notify_is_ignored() -> None:
    pair = up()
    asked = ask(pair, ExchangeType.INFORMATIONAL, Notify(55_555, b"?"))
    assert asked.answer is not None
    assert asked.answer.payloads == ()
    check_one_tunnel(pair)


def test_a_protected_unknown_critical_payload_is_refused_and_the_sa_lives() -> None:
    pair = up()
    sa = sa_of(pair, "alice")
    packets = sa.protection.seal(  # type: ignore[union-attr]
        ExchangeType.INFORMATIONAL, 2, False, (200, b"\0\x80\0\5!"), None
    )
    sa.send.next_id = 2
    asked = Ask(ExchangeType.INFORMATIONAL, ())
    sa.active = asked
    sa.start_request(pair.now, packets, "critical")
    pair._drain(pair.alice)
    pair.run(1.0)
    assert asked.answer is not None
    (notify,) = asked.answer.all(Notify)
    assert (notify.type, notify.data) == (NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([200]))
    check_one_tunnel(pair)


@pytest.mark.parametrize("action", ["none", "start"])
def test_malformed_protected_content_ends_the_sa_on_both_sides(action: str) -> None:
    """Section 2.21.3: INVALID_SYNTAX is fatal for both, without a DELETE."""
    pair = up(children=[child_config(close_action=action)])
    sa = sa_of(pair, "alice")
    packets = sa.protection.seal(  # type: ignore[union-attr]
        ExchangeType.INFORMATIONAL, 2, False, (41, b"\0\0\xff\xff"), None
    )
    sa.send.next_id = 2
    sa.active = Ask(ExchangeType.INFORMATIONAL, ())
    sa.start_request(pair.now, packets, "malformed")
    pair._drain(pair.alice)
    pair.run(3.0)
    assert "malformed_request" in pair.bob.kinds()
    downs = [e.fields["reason"] for _, e in pair.bob.events if e.kind == "ike_sa_down"]
    assert downs[0] == "the peer sent a malformed message"
    if action == "none":
        assert pair.ike_sas() == (0, 0)
    else:  # each side has built it anew
        assert pair.ike_sas()[0] == pair.ike_sas()[1] > 0
        assert pair.ping()


def test_an_unknown_exchange_is_a_syntax_error() -> None:
    pair = up()
    ask(pair, 99)
    assert pair.ike_sas() == (0, 0)


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA])
def test_an_exchange_without_what_it_needs_is_a_syntax_error(exchange: int) -> None:
    pair = up()
    ask(pair, exchange)
    assert pair.ike_sas() == (0, 0)


def test_authentication_failed_ends_the_sa() -> None:
    pair = up()
    asked = ask(pair, ExchangeType.INFORMATIONAL, Notify(NotifyType.AUTHENTICATION_FAILED))
    assert asked.answer is not None
    assert pair.bob.ike.sizes()["ike_sas"] == 0


def test_many_spis_in_a_delete_are_looked_at_up_to_a_bound() -> None:
    pair = up()
    spis = tuple(n.to_bytes(4, "big") for n in range(1000, 1500))
    asked = ask(pair, ExchangeType.INFORMATIONAL, Delete(Protocol.ESP, spis))
    assert asked.answer is not None
    assert asked.answer.all(Delete) == ()
    check_one_tunnel(pair)


def test_requests_that_wait_are_bounded() -> None:
    pair = up()
    sa = sa_of(pair, "alice")
    pair.hold()
    for _ in range(1000):
        sa.submit(pair.now, Inform((Notify(55_555),), "test"))
    assert len(sa.queue) == 256
    pair._drain(pair.alice)
    pair.release()
    pair.run(30.0)
    check_one_tunnel(pair)


def test_an_answer_that_comes_twice_counts_once_and_a_stale_request_not_at_all() -> None:
    pair = up()
    pair.alice.ike.probe(pair.now, sa_of(pair, "alice"), "test")
    pair._drain(pair.alice)
    pair.run(1.0)
    request, response = pair.trace[-2:]
    pair.inject(response.datagram)
    assert pair.alice.ike.counters["dropped: response not awaited"] == 1
    before = len(pair.trace)
    pair.inject(request.datagram)
    assert pair.trace[-1].datagram.payload == response.datagram.payload, "the identical answer"
    auth = next(s for s in pair.trace if s.reason == "IKE_AUTH request")
    pair.inject(auth.datagram)
    assert pair.bob.ike.counters["dropped: request stale"] == 1
    assert len(pair.trace) == before + 1


# --- INITIAL_CONTACT -----------------------------------------------------------------------------------


def notifies_in_auth(pair: Pair) -> list[bool]:
    """For each IKE_AUTH that Bob received, whether INITIAL_CONTACT was in it."""
    return pair.contacts  # type: ignore[attr-defined,no-any-return]


def watched(**options: object) -> Pair:
    pair = Pair.with_psk(**options)  # type: ignore[arg-type]
    pair.contacts = []  # type: ignore[attr-defined]
    respond = pair.bob.ike.respond

    def spy(now: Now, sa: IkeSa, request: Message) -> Sequence[Payload]:
        if request.exchange == ExchangeType.IKE_AUTH:
            pair.contacts.append(request.notify(NotifyType.INITIAL_CONTACT) is not None)  # type: ignore[attr-defined]
        return respond(now, sa, request)

    pair.bob.ike.respond = spy  # type: ignore[method-assign]
    return pair


def test_initial_contact_is_sent_only_if_configured_and_only_by_the_first_sa() -> None:
    pair = watched()
    pair.up()
    assert notifies_in_auth(pair) == [False]
    pair = watched(alice={"initial_contact": True})
    pair.up()
    assert notifies_in_auth(pair) == [True]


def test_initial_contact_drops_what_alice_forgot_at_bob() -> None:
    """
    Alice (rebooted)             Bob (still has the old SA)
      IKE_AUTH, N(INITIAL_CONTACT) ──▶   the old SA is condemned, on proof
    """
    pair = Pair.with_psk(alice={"initial_contact": True})
    pair.up()
    pair.drop_rule = lambda sent: not sent.reason.startswith("IKE_")  # no announcement after the boot
    pair.crash("alice")
    pair.boot("alice")
    pair.up()
    pair.run(0.5)
    verdict = pair.bob.last("verdict")
    assert verdict.fields["proof"] == "initial-contact"
    pair.drop_rule = lambda sent: False
    check_one_tunnel(pair)


def test_initial_contact_leaves_other_identities_and_connections_alone() -> None:
    secret = b"correct horse battery staple"
    anybody = RemoteAuth("psk", None, secret)
    pair = Pair.with_psk(alice={"initial_contact": True}, bob={"remote_addrs": (), "remote": anybody})
    pair.up()
    (hers,) = pair.alice.connections
    other = LocalAuth("psk", Identity.parse("somebody-else"), secret)
    pair.alice.connections[:] = [replace(hers, local=other)]
    pair.drop_rule = lambda sent: not sent.reason.startswith("IKE_")
    pair.crash("alice")
    pair.boot("alice")
    pair.feed("alice", Initiate("home", None, 2))
    pair.run(0.5)
    assert pair.alice.done[2].ok
    assert pair.bob.ike.sizes()["ike_sas"] == 2
    assert "verdict" not in pair.bob.kinds()


class Boaster(Extension):
    """Says in IKE_AUTH that it takes eight requests at a time."""

    def notifies(self, now: Now, slot: Slot, sa: SaView, *, response: bool) -> Sequence[Notify]:
        return (Notify(NotifyType.SET_WINDOW_SIZE, (8).to_bytes(4, "big")),) if slot is Slot.AUTH else ()


def test_set_window_size_of_the_peer_changes_nothing() -> None:
    """Section 2.3: it allows more requests at a time, and demands none. We go on with one."""
    pair = Pair.with_psk()
    env = pair.bob.ike._env
    env.extensions = (*env.extensions, Boaster())
    pair.up()
    sa = sa_of(pair, "alice")
    pair.hold()
    for _ in range(3):
        sa.submit(pair.now, Ask(ExchangeType.INFORMATIONAL, ()))
    pair._drain(pair.alice)
    assert len(pair.held) == 1
    pair.hold_rule = lambda sent: False
    pair.release()
    pair.run(1.0)
    check_one_tunnel(pair)
