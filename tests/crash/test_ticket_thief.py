"""
A ticket is in the clear when it is shown. Who steals one gains nothing by it, from wherever he shows it, and
takes nothing from its owner: AUTH needs SK_d, and until AUTH is there the ticket is not used up.

    Alice                              Mallory                  Bob (after a crash)
      IKE_SESSION_RESUME       ──▶     (keeps a copy)
                                       shows it          ──▶
                                                         ◀──    half-open, or N(TICKET_NACK)
                                       IKE_AUTH, guessed ──▶    nothing
      IKE_SESSION_RESUME       ─────────────────────────▶
      IKE_AUTH                 ◀────────────────────────▶       resumed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.pair import Pair

from deadpeer.crash.options import CrashOptions, Method, PolicyOptions, ResumptionOptions
from deadpeer.crash.resumption_client import TicketClient
from deadpeer.crash.used_tickets import TABLE
from deadpeer.crypto import Identity
from deadpeer.ike.io import ExtensionCommand, Reload
from deadpeer.values import Address, Datagram
from deadpeer.wire import (
    Encrypted,
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    PayloadType,
    decode_message,
    encode_message,
)

ON = (ResumptionOptions(enabled=True), PolicyOptions((Method.QCD, Method.LIVENESS)))
RESUME = "IKE_SESSION_RESUME request"
MALLORY = Address("203.0.113.66", 31337)
ALICE = Address("192.0.2.1", 500)
BOB = Address("192.0.2.2", 500)


def tunnel(**changes: object) -> Pair:
    pair = Pair.with_psk(**{"latency_s": 0.050, "both": {"extensions": ON}, **changes})  # type: ignore[arg-type]
    pair.up()
    return pair


def traffic(pair: Pair, seconds: float, every_s: float = 0.010) -> None:
    for seq in range(int(seconds / every_s)):
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


def stolen_while_shown(pair: Pair) -> Message:
    """Bob crashes and is back; Alice shows her ticket, and Mallory keeps that message back."""
    pair.hold(RESUME, "retransmission")
    pair.crash("bob")
    traffic(pair, 0.3)
    pair.boot("bob")
    traffic(pair, 0.3)
    return ike_of(next(s.datagram for s in pair.held if s.reason == RESUME))


def go_on(pair: Pair) -> None:
    """What Mallory kept back goes its way."""
    pair.hold_rule = lambda sent: False
    pair.release()
    traffic(pair, 3.0, 0.05)


def ike_of(datagram: Datagram) -> Message:
    payload = datagram.payload
    return decode_message(payload[4:] if payload[:4] == bytes(4) else payload)


def ticket_in(message: Message) -> bytes:
    notify = message.notify(NotifyType.TICKET_OPAQUE)
    assert notify is not None
    return notify.data


def with_ticket(message: Message, ticket: bytes) -> Message:
    """The same request with another ticket."""
    payloads = tuple(
        replace(p, data=ticket) if isinstance(p, Notify) and p.type == NotifyType.TICKET_OPAQUE else p
        for p in message.payloads
    )
    return replace(message, payloads=payloads)


def show(pair: Pair, message: Message, source: Address, serial: int = 1) -> list[Message]:
    """Mallory shows a ticket with an SPI of his own; what Bob says."""
    before = len(pair.trace)
    request = replace(message, spi_i=b"mal" + serial.to_bytes(5, "big"))
    pair.inject(Datagram(encode_message(request), source, BOB))
    return [ike_of(s.datagram) for s in pair.trace[before:] if s.sender == "bob"]


def refused(answers: list[Message]) -> bool:
    [answer] = answers
    return answer.notify(NotifyType.TICKET_NACK) is not None


def guessed_auth(answer: Message) -> bytes:
    """IKE_AUTH of one who has no key."""
    sealed = Encrypted(PayloadType.IDI, bytes(range(200)))
    return encode_message(
        Message(answer.spi_i, answer.spi_r, ExchangeType.IKE_AUTH, 1, True, False, (sealed,))
    )


def used(pair: Pair) -> int:
    return len(list(pair.bob.ledger.items(TABLE)))


@pytest.mark.parametrize("source", [MALLORY, ALICE, ALICE._replace(port=4500)], ids=str)
def test_shown_first_it_gives_him_nothing_and_takes_nothing_from_alice(source: Address) -> None:
    """From his own address and from hers; she resumes afterwards, with the same ticket."""
    pair = tunnel(bob={"remote_addrs": ()})
    shown = stolen_while_shown(pair)
    for serial in range(1, 4):
        [answer] = show(pair, shown, source, serial)
        assert answer.notify(NotifyType.TICKET_NACK) is None
        pair.inject(Datagram(guessed_auth(answer), source, BOB))
    pair.run(0.2)
    assert used(pair) == 0
    assert [sa for sa in pair.bob.ike.views() if sa.established] == []
    go_on(pair)
    assert "resumed" in pair.alice.kinds()
    assert used(pair) == 1
    pair.run(60.0)
    assert pair.ike_sas() == (1, 1)
    assert pair.ping()


def test_from_an_address_that_the_connection_does_not_allow_it_is_refused_at_once() -> None:
    pair = tunnel()
    shown = stolen_while_shown(pair)
    assert refused(show(pair, shown, MALLORY))
    assert pair.bob.ike.counters["ticket.refused: address"] == 1
    go_on(pair)
    assert "resumed" in pair.alice.kinds()


def test_as_alice_s_own_datagram_again_it_is_a_retransmission() -> None:
    """Octet for octet from her address, before and after hers: one SA, and the same answer."""
    pair = tunnel()
    stolen_while_shown(pair)
    hers = next(s.datagram for s in pair.held if s.reason == RESUME)
    for _ in range(5):
        pair.inject(hers)
    assert pair.bob.ike.counters["ticket.shown"] == 1
    go_on(pair)
    for _ in range(5):
        pair.inject(hers)
    assert "resumed" in pair.alice.kinds()
    pair.run(60.0)
    assert pair.ike_sas() == (1, 1)
    assert pair.bob.ike.counters["ticket.redeemed"] == 1
    assert pair.ping()


@pytest.mark.parametrize("reboot", [False, True], ids=["same life", "after a crash"])
@pytest.mark.parametrize("source", [MALLORY, ALICE], ids=str)
def test_after_its_use_it_is_refused_also_by_bob_s_next_life(source: Address, reboot: bool) -> None:
    pair = tunnel()
    shown = stolen_while_shown(pair)
    go_on(pair)
    assert used(pair) == 1
    if reboot:
        pair.crash("bob")
        pair.boot("bob")
    for serial in range(1, 4):
        assert refused(show(pair, shown, source, serial))
    assert pair.bob.ike.sizes()["half_open"] == 0
    assert pair.bob.ike.counters["ticket.refused: used"] == 3


def test_the_record_of_a_use_is_on_disk_before_the_answer_leaves() -> None:
    """Bob dies right after his IKE_AUTH response: the ticket is used up in his next life."""
    pair = tunnel()
    shown = stolen_while_shown(pair)
    at_send: list[int] = []

    def watch(sent: object) -> bool:
        if getattr(sent, "reason", "") == "IKE_AUTH response":
            at_send.append(used(pair))
        return False

    pair.drop_rule = watch
    go_on(pair)
    assert at_send == [1]
    pair.crash("bob")
    pair.boot("bob")
    assert refused(show(pair, shown, MALLORY))


def test_the_ticket_of_another_client_is_of_no_use_to_one_who_has_keys_of_his_own() -> None:
    """
    Mallory is a client himself: he shows Alice's ticket and proves that he holds the keys of his own. Here
    "Mallory" is Alice's gateway with another session's ticket put among its things.
    """
    pair = tunnel()
    other = Pair.with_psk(both={"extensions": ON}, seed=99)
    other.bob.store, other.bob.ledger = pair.bob.store, pair.bob.ledger
    other.boot("bob")
    other.up()
    theirs = client(other)
    [foreign] = [held.ticket for held in theirs._held.values()]
    assert pair.bob.store is other.bob.store
    for held in client(pair)._held.values():
        assert held.ticket != foreign
        held.ticket = foreign
    pair.crash("bob")
    traffic(pair, 0.3)
    pair.boot("bob")
    traffic(pair, 1.0)
    counters = pair.bob.ike.counters
    assert counters["ticket.shown"] == 1
    assert counters["ticket.redeemed"] == 0
    assert used(pair) == 0
    traffic(pair, 70.0, 0.5)
    # He may come in by his own credentials, in a full exchange; the other's ticket is as good as before.
    assert pair.ping()
    assert "resumed" not in pair.alice.kinds()
    assert used(pair) == 0


def client(pair: Pair) -> TicketClient:
    [found] = [e for e in pair.alice.ike._env.extensions if isinstance(e, TicketClient)]
    return found


def rotate(pair: Pair) -> None:
    pair.feed("bob", ExtensionCommand("tickets", "rotate", 9))


def rotate_out(pair: Pair) -> None:
    """The key that sealed it is erased at its end."""
    rotate(pair)
    pair.crash("alice")
    pair.run(9 * 3600.0)


def configure(**changes: object) -> Callable[[Pair], None]:
    def act(pair: Pair) -> None:
        [connection] = pair.bob.connections
        pair.bob.connections = [replace(connection, **changes)]  # type: ignore[arg-type]
        pair.feed("bob", Reload(tuple(pair.bob.connections)))

    return act


def remove(pair: Pair) -> None:
    pair.bob.connections = []
    pair.feed("bob", Reload(()))


def revoke(pair: Pair) -> None:
    """Alice may not come any more: somebody else is expected on this connection."""
    [connection] = pair.bob.connections
    configure(remote=replace(connection.remote, identity=Identity.parse("carol")))(pair)


def other_secret(pair: Pair) -> None:
    [connection] = pair.bob.connections
    configure(remote=replace(connection.remote, secret=b"another one since yesterday, longer"))(pair)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rotate_out, "key unknown"),
        (remove, "connection gone"),
        (revoke, "identity"),
        (other_secret, "credentials changed"),
        (configure(extensions=()), "switched off"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_bob_has_changed_since_counts_today(change: Callable[[Pair], None], reason: str) -> None:
    """Every refusal looks the same from outside; why it is one is for Bob's counters."""
    pair = tunnel()
    shown = stolen_while_shown(pair)
    change(pair)
    pair.run(1.0)
    [answer] = show(pair, shown, MALLORY)
    assert [type(p) for p in answer.payloads] == [Notify]
    assert answer.notify(NotifyType.TICKET_NACK) is not None
    assert pair.bob.ike.counters[f"ticket.refused: {reason}"] == 1
    assert pair.bob.ike.sizes()["half_open"] == 0


def test_a_change_between_the_two_requests_counts_too() -> None:
    """Alice has shown it and is half-open; her connection goes before her IKE_AUTH is there."""
    pair = tunnel()
    stolen_while_shown(pair)
    pair.hold("IKE_AUTH request", "retransmission")
    pair.release(RESUME)
    pair.run(0.2)
    assert pair.bob.ike.sizes()["half_open"] == 1
    remove(pair)
    pair.hold_rule = lambda sent: False
    pair.release()
    pair.run(2.0)
    assert [sa for sa in pair.bob.ike.views() if sa.established] == []
    assert pair.bob.ike.counters["ticket.redeemed"] == 0


def test_tampered_cut_and_made_up_tickets_are_refused_alike() -> None:
    pair = tunnel()
    shown = stolen_while_shown(pair)
    ticket = ticket_in(shown)
    forged = [
        *(ticket[:at] + bytes([ticket[at] ^ 0x80]) + ticket[at + 1 :] for at in range(0, len(ticket), 13)),
        ticket[:-1],
        ticket + b"\0",
        ticket[:33],
        bytes(len(ticket)),
        b"x" * 1024,
        b"x" * 2048,
        b"x",
    ]
    for serial, each in enumerate(forged, 1):
        assert refused(show(pair, with_ticket(shown, each), MALLORY, serial))
        pair.run(0.01)
    assert pair.bob.ike.sizes()["half_open"] == 0
    # The true one is as good as before.
    go_on(pair)
    assert "resumed" in pair.alice.kinds()


def test_a_flood_of_one_ticket_is_bounded_in_memory_and_in_octets() -> None:
    """Four half-open SAs of one ticket; the rest is refused, each answer smaller than the question."""
    pair = tunnel(bob={"remote_addrs": ()})
    shown = stolen_while_shown(pair)
    question = len(encode_message(shown))
    before = len(pair.trace)
    for serial in range(1, 500):
        show(pair, shown, Address(f"203.0.113.{serial % 250}", 1024 + serial), serial)
        pair.run(0.001)
    answers = [len(s.datagram.payload) for s in pair.trace[before:] if s.sender == "bob"]
    assert max(answers) <= question
    assert pair.bob.ike.sizes()["half_open"] <= CrashOptions().tickets_half_open
    assert pair.bob.ike.sizes()["tickets.half_open"] <= CrashOptions().tickets_half_open
    pair.crash("alice")
    pair.run(60.0)
    assert pair.bob.ike.sizes()["tickets.half_open"] == 0
    assert pair.bob.ike.sizes()["half_open"] == 0
