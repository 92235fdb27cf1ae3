"""Draining a gateway: its peers go elsewhere by RFC 5685, or are sent off by DELETE."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fleet import Fleet
from tests.support.pair import Pair

from deadpeer.crash.options import CrashOptions, RedirectOptions
from deadpeer.crash.redirect import Drain, Redirect, _identity, _read
from deadpeer.ike.io import ExtensionCommand, Initiate, Rekey, Reload, Terminate
from deadpeer.wire import Notify, NotifyType, decode_message

DRAIN = ExtensionCommand("redirect", "drain", 99, Drain())


def test_clients_of_a_member_that_is_drained_lose_nothing() -> None:
    """
    The balancer brings new SAs to others; packets of living ones are forwarded to their owner:

      INFORMATIONAL N(REDIRECT: the same address)   ◀──────   member 0
      IKE_SA_INIT N(REDIRECTED_FROM), IKE_AUTH      ◀─────▶   member 1
      DELETE of the old SA                          ──────▶   member 0, forwarded
    """
    fleet = Fleet(1, members=3, clients=6).up()
    drained = fleet.gateways[0]
    theirs = [client for client in fleet.clients if fleet.table[client.host] == 0]
    assert len(theirs) == 2
    sent = [client.heard for client in fleet.clients]
    for client in theirs:
        fleet.rebalance(client.host, 1)
    drained.work(DRAIN)
    fleet.traffic(3.0)
    fleet.run(0.1)
    assert [c.heard - old for c, old in zip(fleet.clients, sent, strict=True)] == [60] * 6
    assert drained.node is not None
    assert drained.node.endpoint.sizes()["ike_sas"] == 0
    assert "drained" in [e.kind for _, e in drained.node.events]
    assert [c.verdicts() for c in fleet.clients] == [[]] * 6
    assert fleet.violations == []


def test_a_gateway_that_is_drained_takes_nothing_new() -> None:
    pair = Pair.with_psk()
    pair.feed("bob", DRAIN)
    assert pair.bob.done[99].ok
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(3.0)
    assert pair.ike_sas() == (1, 0)
    assert pair.bob.ike.counters["dropped: draining"] >= 2


def test_who_does_not_know_redirect_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Redirect, "notifies", lambda *args, **more: [])
    pair = Pair.with_psk()
    pair.up()
    pair.feed("bob", DRAIN)
    pair.run(1.0)
    assert pair.ike_sas() == (0, 0)
    assert pair.bob.done[99].text == "1 IKE SAs have gone"
    assert "redirected" not in pair.alice.kinds()


def test_who_is_told_not_to_follow_does_not_and_says_nothing_of_it() -> None:
    pair = Pair.with_psk()
    stay = replace(pair.alice.connections[0], extensions=(RedirectOptions(follow=False),))
    pair.feed("alice", Reload((stay,)))
    pair.up()
    [sa] = pair.bob.ike.views()
    pair.bob.ike.inform(pair.now, sa, (Notify(NotifyType.REDIRECT, _identity("192.0.2.9")),), "redirect")
    pair._drain(pair.bob)
    pair.run(0.5)
    assert pair.alice.ike.counters["redirect.unusable"] == 1
    pair.feed("bob", DRAIN)
    pair.run(1.0)
    assert pair.ike_sas() == (0, 0)
    assert "redirected" not in pair.alice.kinds()


def test_who_can_t_go_stays_until_he_is_deleted() -> None:
    """Nobody takes the new SA: the old one serves until patience ends."""
    pair = Pair.with_psk()
    pair.up()
    pair.feed("bob", DRAIN)
    pair.run(5.0)
    assert "redirected" in pair.alice.kinds()
    assert pair.ping()
    pair.run(10.0)
    assert pair.bob.done[99].ok


def test_it_is_known_after_a_rekey_and_a_second_drain_is_refused() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.feed("alice", Rekey("home", None, 5))
    pair.run(1.0)
    pair.feed("bob", DRAIN)
    pair.feed("bob", ExtensionCommand("redirect", "drain", 100, Drain()))
    pair.run(1.0)
    assert "redirected" in pair.alice.kinds()
    assert not pair.bob.done[100].ok


def test_the_new_first_message_says_who_sent_us() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.feed("bob", DRAIN)
    pair.run(1.0)
    first, *_, last = [s for s in pair.trace if s.reason in ("IKE_SA_INIT request", "retransmission")]
    assert decode_message(first.datagram.payload).notify(NotifyType.REDIRECTED_FROM) is None
    came = decode_message(last.datagram.payload.removeprefix(bytes(4))).notify(NotifyType.REDIRECTED_FROM)
    assert came is not None
    assert _read(came.data) == pair.bob.host


def test_a_responder_and_another_family_do_not_follow() -> None:
    pair = Pair.with_psk()
    pair.up()
    for side, data in (
        ("bob", _identity("192.0.2.9")),
        ("alice", _identity("2001:db8::1")),
        ("alice", b"\3\1a"),
    ):
        sender = "alice" if side == "bob" else "bob"
        [sa] = pair.side(sender).ike.views()
        pair.side(sender).ike.inform(pair.now, sa, (Notify(NotifyType.REDIRECT, data),), "redirect")
        pair._drain(pair.side(sender))
        pair.run(0.5)
        assert pair.side(side).ike.counters["redirect.unusable"] >= 1
    assert pair.ike_sas() == (1, 1)


def test_an_sa_that_comes_up_while_we_drain_is_sent_away_too() -> None:
    """Its IKE_SA_INIT was let in before the doors closed."""
    pair = Pair.with_psk(latency_s=0.050)
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(0.12)
    assert pair.ike_sas() == (1, 1)
    pair.feed("bob", DRAIN)
    pair.run(1.0)
    assert "redirected" in pair.alice.kinds()
    pair.run(30.0)
    assert pair.ike_sas()[1] == 0
    assert pair.bob.done[99].ok
    assert pair.bob.kinds().count("drained") == 1


def test_who_did_not_go_does_not_say_later_that_he_was_sent() -> None:
    pair = Pair.with_psk(options=CrashOptions(rebuilds_per_hour=0.0))
    pair.up()
    redirect(pair, "192.0.2.77")
    pair.run(0.5)
    assert pair.alice.ike.counters["redirect.not_followed"] == 1
    pair.feed("alice", Terminate("home", None, 3))
    pair.run(30.0)
    assert pair.ike_sas() == (0, 0)
    start = len(pair.trace)
    pair.up()
    first = next(s for s in pair.trace[start:] if s.reason == "IKE_SA_INIT request")
    assert decode_message(first.datagram.payload).notify(NotifyType.REDIRECTED_FROM) is None


def test_what_is_being_built_goes_on_when_the_old_one_is_deleted() -> None:
    """The balancer needs longer than our patience to take us out: until then nobody takes the new SA."""
    pair = Pair.with_psk()
    pair.up()
    pair.feed("bob", DRAIN)
    pair.run(15.0)
    assert pair.bob.done[99].ok and pair.ike_sas()[1] == 0
    pair.crash("bob")
    pair.boot("bob")  # who stands for another one at the same address
    pair.run(60.0)
    assert pair.ike_sas() == (1, 1)
    assert pair.ping()


@pytest.mark.parametrize("host", [str(IPv4Address(0)), "255.255.255.255", "224.0.0.1"])
def test_nobody_is_sent_to_an_address_that_is_nobodys(host: str) -> None:
    pair = Pair.with_psk()
    pair.up()
    redirect(pair, host)
    pair.run(0.5)
    assert pair.alice.ike.counters["redirect.unusable"] == 1
    assert "redirected" not in pair.alice.kinds()


def redirect(pair: Pair, host: str) -> None:
    """Bob sends Alice elsewhere."""
    [sa] = pair.bob.ike.views()
    pair.bob.ike.inform(pair.now, sa, (Notify(NotifyType.REDIRECT, _identity(host)),), "redirect")
    pair._drain(pair.bob)


@given(st.ip_addresses())
def test_addresses_survive(host: object) -> None:
    assert _read(_identity(str(host))) == str(host)


@given(st.binary(max_size=40))
def test_garbage_is_no_address(data: bytes) -> None:
    found = _read(data)
    assert found is None or _identity(found) == data[: 2 + data[1]]
