"""Session resumption from beginning to end: real endpoints and ESP, virtual time, crashes in between."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from itertools import count

import pytest
from tests.crypto import pki
from tests.support.pair import START_UNIX_S, Pair, Sent

from deadpeer.crash.options import Method, PolicyOptions, ResumptionOptions
from deadpeer.crypto import Credential, Identity, TrustStore
from deadpeer.ike.connection import EndpointConfig, LocalAuth, RemoteAuth
from deadpeer.ike.exchanges import init
from deadpeer.ike.io import ExtensionCommand, Rekey
from deadpeer.values import Address, Datagram
from deadpeer.wire import (
    ExchangeType,
    KeyExchange,
    Message,
    Notify,
    NotifyType,
    decode_message,
    encode_message,
)

QCD_ONLY = PolicyOptions((Method.QCD, Method.LIVENESS))
ON = (ResumptionOptions(enabled=True), QCD_ONLY)
OFF = (ResumptionOptions(enabled=False), QCD_ONLY)
RESUME = "IKE_SESSION_RESUME request"


def resuming(**changes: object) -> Pair:
    """A tunnel that is up, on both sides of which resumption is on unless `alice` or `bob` say otherwise."""
    options = {"latency_s": 0.050, "both": {"extensions": ON}, **changes}
    pair = Pair.with_psk(**options)  # type: ignore[arg-type]
    pair.up()
    return pair


def traffic(pair: Pair, seconds: float, every_s: float = 0.010) -> None:
    """Alice's host sends an echo request every `every_s`."""
    for seq in range(int(seconds / every_s)):
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


def crash_and_recover(pair: Pair, down_s: float = 1.0) -> float:
    """Bob crashes under traffic and is back later; seconds from then to Alice's new child."""
    pair.crash("bob")
    traffic(pair, down_s)
    back = pair.mono_ns
    pair.trace.clear()
    pair.boot("bob")
    traffic(pair, 2.0)
    return (next(at for at, e in reversed(pair.alice.events) if e.kind == "child_up") - back) / 1e9


def test_a_crash_is_resumed_in_as_many_round_trips_as_a_full_exchange() -> None:
    """
    Alice                                                Bob
      IKE_SA_INIT                          ◀────────▶
      IKE_AUTH, N(TICKET_REQUEST)          ─────────▶
                                           ◀─────────    IKE_AUTH, N(TICKET_LT_OPAQUE)
                                                         (crash, one second later he is back)
      ESP                                  ─────────▶
                                           ◀─────────    N(INVALID_SPI), N(QCD_TOKEN)
      IKE_SESSION_RESUME, N(TICKET_OPAQUE) ─────────▶
                                           ◀─────────    IKE_SESSION_RESUME
      IKE_AUTH, N(TICKET_REQUEST)          ─────────▶
                                           ◀─────────    IKE_AUTH, N(TICKET_LT_OPAQUE)
    """
    full = crash_and_recover(resuming(both={"extensions": OFF}))
    pair = resuming()
    assert "ticket_received" in pair.alice.kinds()
    resumed = crash_and_recover(pair)
    assert resumed == full
    sent = [s.reason for s in pair.trace if s.sender == "alice"]
    assert sent.count(RESUME) == 1
    assert "IKE_SA_INIT request" not in sent
    assert pair.alice.last("resumed")
    assert pair.bob.last("resumed")
    assert pair.alice.kinds().count("ticket_received") == 2
    assert pair.alice.kinds().count("token_received") == 2
    assert pair.ping()
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (1, 1)


# --- no Diffie-Hellman, no certificate ---------------------------------------------------------------


def ike_of(sent: Sent) -> Message:
    """The message in a datagram of ours on either port."""
    payload = sent.datagram.payload
    return decode_message(payload[4:] if payload[:4] == bytes(4) else payload)


def test_no_key_exchange_takes_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = resuming()
    made: list[object] = []
    generate = init.generate_key
    monkeypatch.setattr(init, "generate_key", lambda *args: made.append(args) or generate(*args))
    crash_and_recover(pair)
    assert made == []
    exchange = [s for s in pair.trace if s.reason in (RESUME, "IKE_SA_INIT response")]
    assert [ike_of(s).exchange for s in exchange] == [ExchangeType.IKE_SESSION_RESUME] * 2
    assert [ike_of(s).all(KeyExchange) for s in exchange] == [(), ()]
    assert "IKE_SA_INIT" not in pair.alice.last("ike_sa_up").fields.values()


def with_certificates() -> Pair:
    """Both sides authenticate with a certificate that ends 1000 s after the tunnel came up."""
    trust = TrustStore([pki.root(start=0, end=2**31)])
    end = START_UNIX_S + 1000
    credential = Credential(pki.key("ecp256", 9), pki.leaf(start=0, end=end))
    identity = Identity.parse("moon.example.org")
    auth = {"local": LocalAuth("pubkey", identity, credential=credential)}
    auth["remote"] = RemoteAuth("pubkey", identity, trust=trust)  # type: ignore[assignment]
    return resuming(both={"extensions": ON, **auth})


def test_with_certificates_the_ticket_ends_with_them() -> None:
    pair = with_certificates()
    assert pair.bob.last("ticket_sent").fields["lifetime_s"] == 1000
    crash_and_recover(pair)
    assert pair.alice.last("resumed")
    assert int(str(pair.bob.last("ticket_sent").fields["lifetime_s"])) < 1000
    auth = [s for s in pair.trace if s.reason in ("IKE_AUTH request", "IKE_AUTH response")]
    assert all(len(s.datagram.payload) < 700 for s in auth), "a certificate was sent"


# --- what survives, and what renews ----------------------------------------------------------------


def test_crash_after_crash_is_resumed() -> None:
    pair = resuming()
    for _ in range(4):
        crash_and_recover(pair, 0.3)
        assert [s.reason for s in pair.trace].count(RESUME) == 1
    assert pair.alice.kinds().count("resumed") == 4
    assert pair.ike_sas() == (1, 1)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_rekeyed_sa_gets_a_ticket_of_its_own(who: str) -> None:
    """
    Alice                                              Bob
      CREATE_CHILD_SA (either side)      ◀────────▶
      INFORMATIONAL, N(TICKET_REQUEST)   ─────────▶
                                         ◀─────────    INFORMATIONAL, N(TICKET_LT_OPAQUE)
    """
    pair = resuming()
    pair.feed(who, Rekey("home", None, 9))
    pair.run(2)
    received = [e.fields["sa"] for _, e in pair.alice.events if e.kind == "ticket_received"]
    assert len(received) == 2
    assert received[1] != received[0]
    crash_and_recover(pair)
    assert pair.alice.last("resumed")
    assert pair.ike_sas() == (1, 1)


def test_a_crash_before_the_ticket_of_a_rekeyed_sa_is_resumed_with_the_one_before() -> None:
    pair = resuming()
    pair.drop_rule = lambda sent: sent.reason == "ticket request"
    pair.feed("alice", Rekey("home", None, 9))
    pair.run(1)
    pair.drop_rule = lambda sent: False
    crash_and_recover(pair)
    assert pair.alice.last("resumed")


def test_a_ticket_is_renewed_before_it_expires() -> None:
    short = (ResumptionOptions(enabled=True, lifetime_s=400), QCD_ONLY)
    pair = resuming(both={"extensions": short})
    pair.run(1000)
    assert 3 <= pair.alice.kinds().count("ticket_received") <= 5
    crash_and_recover(pair)
    assert pair.alice.last("resumed")


def test_a_key_rotated_out_is_refused_and_a_full_exchange_follows() -> None:
    pair = resuming()
    for tag in range(8):
        pair.feed("bob", ExtensionCommand("tickets", "rotate", 100 + tag))
    took = crash_and_recover(pair)
    assert pair.bob.ike.counters["ticket.refused: key unknown"] == 1
    assert pair.alice.last("resume_refused").fields["reason"] == "TICKET_NACK"
    assert took <= 4.8 * 0.100
    assert pair.ping()
    assert "ticket_received" in pair.alice.kinds()


def test_an_older_key_still_opens() -> None:
    pair = resuming()
    pair.feed("bob", ExtensionCommand("tickets", "rotate", 100))
    crash_and_recover(pair)
    assert pair.alice.last("resumed")


@pytest.mark.parametrize("round_s", [1.2, 3.0])
def test_an_unanswered_ticket_is_shown_again(round_s: float) -> None:
    """Nobody saw it who could have used it up: whether the round ended with it, or with IKE_SA_INIT."""
    pair = resuming(alice_config=EndpointConfig(init_timeout_s=round_s))
    pair.crash("bob")
    traffic(pair, 90.0, 0.5)
    shown = [ike_of(s) for s in pair.trace if s.reason == RESUME]
    assert len({message.spi_i for message in shown}) >= 3
    assert len({message.notify(NotifyType.TICKET_OPAQUE) for message in shown}) == 1
    pair.boot("bob")
    traffic(pair, 60.0, 0.5)
    assert pair.ping()
    assert round_s > 2 or "resumed" in pair.alice.kinds()


# --- today's configuration ---------------------------------------------------------------------------


def test_switched_off_meanwhile_a_full_exchange_follows() -> None:
    pair = resuming()
    pair.bob.connections = [replace(c, extensions=OFF) for c in pair.bob.connections]
    crash_and_recover(pair)
    assert pair.bob.ike.counters["ticket.refused: switched off"] == 1
    assert "resumed" not in pair.alice.kinds()
    assert pair.ping()


def test_a_peer_that_was_revoked_stays_out() -> None:
    pair = resuming()
    stranger = replace(pair.bob.connections[0].remote, identity=Identity.parse("carol"))
    pair.bob.connections = [replace(pair.bob.connections[0], remote=stranger)]
    pair.crash("bob")
    pair.boot("bob")
    traffic(pair, 3.0)
    assert pair.bob.ike.counters["ticket.refused: identity"] == 1
    assert pair.ike_children()[1] == 0
    assert not pair.ping()


def test_without_the_gateways_consent_there_is_no_ticket() -> None:
    pair = resuming(bob={"extensions": OFF})
    assert "ticket_received" not in pair.alice.kinds()
    assert pair.bob.ike.counters["ticket.not given: switched off"] == 1
    crash_and_recover(pair)
    assert RESUME not in pair.reasons()
    assert pair.ping()


def test_who_does_not_want_tickets_asks_for_none() -> None:
    pair = resuming(alice={"extensions": OFF})
    assert "ticket_sent" not in pair.bob.kinds()
    crash_and_recover(pair)
    assert RESUME not in pair.reasons()


# --- the old SA ------------------------------------------------------------------------------------


def test_the_gateway_drops_the_old_sa_of_a_resumed_one() -> None:
    """Alice gives Bob up, who lives: the network was gone. Resuming replaces, on his side too."""
    pair = resuming(bob={"extensions": ON, "dpd_delay_s": 0.0})
    pair.drop_rule = lambda sent: True
    while "verdict" not in pair.alice.kinds():
        traffic(pair, 0.1, 0.1)
    pair.drop_rule = lambda sent: False
    traffic(pair, 5.0, 0.1)
    assert pair.alice.last("resumed")
    assert pair.bob.last("verdict").fields["proof"] == "resumed"
    assert pair.ike_sas() == (1, 1)
    assert pair.ping()


RECONNECT = (ResumptionOptions(enabled=True), PolicyOptions((Method.RECONNECT, Method.LIVENESS)))


def test_a_new_sa_beside_a_suspected_one_can_be_resumed() -> None:
    """Bob's authenticated answer is the proof that he holds the old SA no more."""
    pair = resuming(both={"extensions": RECONNECT})
    took = crash_and_recover(pair)
    assert took <= 4.8 * 0.100
    assert pair.alice.last("verdict").fields["proof"] == "resumed"
    assert "IKE_SA_INIT request" not in pair.reasons("alice")
    assert pair.ike_sas() == (1, 1)


@pytest.mark.parametrize("gap_ms", range(700, 2500, 60))
def test_a_flap_while_a_resumed_sa_is_being_built_ends_in_one_tunnel(gap_ms: int) -> None:
    """Wherever the old SA's answer comes in between, the two never keep different SAs."""
    pair = resuming(both={"extensions": RECONNECT})
    traffic(pair, 0.2)
    pair.drop_rule = lambda sent: True
    traffic(pair, gap_ms / 1000)
    pair.drop_rule = lambda sent: False
    traffic(pair, 3.0)
    assert pair.ping()
    pair.run(30)
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (1, 1)


# --- attackers -------------------------------------------------------------------------------------

MALLORY = Address("203.0.113.66", 31337)


def captured(pair: Pair, reason: str = RESUME) -> Datagram:
    """A datagram of Alice's as somebody saw it on the wire."""
    return next(s.datagram for s in pair.trace if s.reason == reason and s.sender == "alice")


def from_mallory(datagram: Datagram, serial: int = 0) -> Datagram:
    """The same octets from another address; another SPI, if asked for, makes it another half-open SA."""
    payload = datagram.payload
    if serial:
        marker = 4 if payload[:4] == bytes(4) else 0
        payload = payload[:marker] + b"mal" + serial.to_bytes(5, "big") + payload[marker + 8 :]
    return Datagram(payload, Address(MALLORY.host, MALLORY.port + serial), datagram.remote)


def test_a_replayed_exchange_gains_nothing_now_or_after_the_next_crash() -> None:
    """
    Mallory                                              Bob (resumed with Alice)
      IKE_SESSION_RESUME (captured)        ─────────▶
                                           ◀─────────    N(TICKET_NACK)
    """
    pair = resuming()
    crash_and_recover(pair)
    asked, proved = captured(pair), captured(pair, "IKE_AUTH request")
    for again in range(2):
        before = len(pair.trace)
        for datagram in (asked, from_mallory(asked), from_mallory(asked, 7), proved, from_mallory(proved)):
            pair.inject(datagram)
            pair.settle()
        answers = [s for s in pair.trace[before:] if s.datagram.remote.host == MALLORY.host]
        refusals = [ike_of(s) for s in answers if s.reason == "refusal: resumption"]
        assert len(refusals) == 2
        assert all(refusal.notify(NotifyType.TICKET_NACK) for refusal in refusals)
        assert pair.ike_sas() == (1, 1)
        assert pair.bob.ike.counters["ticket.refused: used"] >= 2
        assert pair.ping()
        if not again:
            crash_and_recover(pair)


@pytest.mark.parametrize(
    ("addresses", "thefts", "resumes"), [((), 3, True), ((), 50, False), (("192.0.2.1/32",), 50, True)]
)
def test_a_thief_who_shows_the_ticket_first(addresses: tuple[str, ...], thefts: int, resumes: bool) -> None:
    """
    Alice                         Mallory                Bob
      IKE_SESSION_RESUME     ──▶  (keeps it back)
                                  shows it       ──▶     a half-open SA, which can say nothing
      IKE_SESSION_RESUME     ────────────────────▶
    """
    networks = tuple(ip_network(address) for address in addresses)
    pair = resuming(bob={"extensions": ON, "remote_addrs": networks})
    pair.hold_rule = lambda sent: sent.reason == RESUME
    crash_and_recover_held(pair)
    stolen = captured(pair)
    sent_before = len(pair.trace)
    for serial in range(1, thefts + 1):
        pair.inject(from_mallory(stolen, serial))
    to_mallory = [s.datagram for s in pair.trace[sent_before:] if s.datagram.remote.host == MALLORY.host]
    assert sum(len(d.payload) for d in to_mallory) <= 3 * thefts * len(stolen.payload)
    assert pair.bob.ike.counters["ticket.shown"] <= 4
    pair.hold_rule = lambda sent: False
    pair.release()
    traffic(pair, 3.0)
    assert ("resumed" in pair.alice.kinds()) is resumes
    assert pair.ping()
    pair.run(60)
    assert pair.ike_sas() == (1, 1)
    assert pair.bob.ike.counters["ticket.redeemed"] == int(resumes)


def crash_and_recover_held(pair: Pair) -> None:
    """Bob crashes and is back; Alice has her verdict, what she sends then is held."""
    pair.crash("bob")
    traffic(pair, 0.3)
    pair.trace.clear()
    pair.boot("bob")
    traffic(pair, 0.25)


def test_a_forged_refusal_costs_a_full_exchange_no_more() -> None:
    """
    Alice                              Mallory                     Bob
      IKE_SESSION_RESUME       ─────▶
                               ◀─────  N(TICKET_NACK)
      IKE_SA_INIT, IKE_AUTH    ◀────────────────────────────────▶
    """
    pair = resuming()
    pair.hold_rule = lambda sent: sent.reason == RESUME
    crash_and_recover_held(pair)
    asked = ike_of(next(s for s in pair.trace if s.reason == RESUME))
    refusal = Message(
        asked.spi_i, bytes(8), ExchangeType.IKE_SESSION_RESUME, 0, False, True,
        (Notify(NotifyType.TICKET_NACK),),
    )  # fmt: skip
    datagram = captured(pair)
    marker = datagram.payload[:4] if datagram.payload[:4] == bytes(4) else b""
    pair.inject(Datagram(marker + encode_message(refusal), datagram.remote, datagram.local))
    pair.hold_rule = lambda sent: False
    pair.release()
    traffic(pair, 3.0)
    assert pair.alice.last("resume_refused")
    assert "resumed" not in pair.alice.kinds()
    assert pair.ping()
    pair.run(60)
    assert pair.ike_sas() == (1, 1)


def test_forged_octets_in_the_ticket_are_refused() -> None:
    pair = resuming()
    crash_and_recover(pair)
    asked = ike_of(next(s for s in pair.trace if s.reason == RESUME))
    ticket = asked.notify(NotifyType.TICKET_OPAQUE)
    assert ticket is not None
    serial = count(1)
    for at in range(5, len(ticket.data), 16):
        data = bytearray(ticket.data)
        data[at] ^= 1
        forged = tuple(replace(p, data=bytes(data)) if p is ticket else p for p in asked.payloads)
        message = replace(asked, spi_i=next(serial).to_bytes(8, "big"), payloads=forged)
        pair.inject(Datagram(encode_message(message), MALLORY, Address(pair.bob.host, 500)))
    pair.settle()
    refused = pair.bob.ike.counters
    assert refused["ticket.refused: forged"] == len(range(5, len(ticket.data), 16))
    assert pair.ike_sas() == (1, 1)


# --- a crash between any two messages --------------------------------------------------------------


@pytest.mark.parametrize("number", range(8))
def test_a_second_crash_between_any_two_messages(number: int) -> None:
    pair = resuming()
    pair.crash("bob")
    traffic(pair, 0.3)
    pair.boot("bob")
    seen: list[str] = []

    def until(sent: Sent) -> bool:
        if sent.reason != "ESP":
            seen.append(sent.reason)
        return False

    pair.drop_rule = until
    while len(seen) <= number:
        traffic(pair, 0.01)
    pair.crash("bob")
    traffic(pair, 0.5)
    pair.boot("bob")
    # In the middle of IKE_AUTH the core gives a setup a whole round before it begins another.
    traffic(pair, 70.0, 0.1)
    assert pair.ping()
    assert pair.ike_sas() == (1, 1)
