"""Off the path: floods of forged errors, wrong tokens, captured tokens and exchanges shown again.

    Mallory (knows SPIs and addresses, sends as whoever he likes)        Alice
      N(INVALID_SPI) | N(INVALID_IKE_SPI) | N(QCD_TOKEN)+ | NACK   ──▶     at most: SK{}, CHECK_SPI
                                                                          Bob
                                                                   ◀──    SK{}      he lives

The bound: with each method, no SA is lost, no new one is begun, and Alice sends at most three liveness
checks at once and one per second after that; where SIR is on, as many CHECK_SPI about the IKE SA and about
the child.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.crash.stories import (
    BOB,
    LATENCY_S,
    MALLORY,
    crash_and_recover,
    denial,
    invalid_spi,
    methods,
    nack_blind,
    pair_of,
    rebuilds,
    to_alice,
    token_of,
    traffic,
    unharmed,
    verdicts,
    with_tokens,
)
from tests.support.pair import Pair

from deadpeer.crash.evidence import MAX_TOKENS_CHECKED
from deadpeer.crash.options import CrashOptions, Method
from deadpeer.ike.io import Rekey
from deadpeer.values import Address, Datagram
from deadpeer.wire import NON_ESP_MARKER, Message, Notify, NotifyType, decode_message

WAYS = {
    "qcd": (Method.QCD, Method.LIVENESS),
    "sir": (Method.SIR, Method.LIVENESS),
    "reconnect": (Method.RECONNECT, Method.LIVENESS),
    "all": tuple(Method),
}
WRONG = tuple(bytes([n]) * 16 for n in range(16))
FLOOD_S = 5


def number_of(pair: Pair) -> int:
    return next(iter(pair.alice.ike.views())).number


FORGERIES: dict[str, Callable[[Pair], list[Message]]] = {
    "INVALID_SPI": lambda pair: [invalid_spi(pair)],
    "INVALID_IKE_SPI": lambda pair: [denial(pair)],
    "tokens": lambda pair: [
        with_tokens(invalid_spi(pair), *WRONG[:4]),
        with_tokens(denial(pair), *WRONG[:4]),
    ],
    "NACK": lambda pair: [nack_blind(pair, bytes(21)), nack_blind(pair, bytes(5) + bytes(range(16)))],
    "all of them": lambda pair: [
        invalid_spi(pair),
        denial(pair),
        with_tokens(denial(pair), *WRONG),
        nack_blind(pair, bytes(21)),
    ],
}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("way", WAYS)
def test_a_flood_costs_a_bounded_number_of_checks_and_no_sa(way: str, forgery: str) -> None:
    pair = pair_of(methods(*WAYS[way]))
    number, before = number_of(pair), len(pair.trace)
    # The check that silence causes by itself is not Mallory's doing.
    pair.run(1.0)
    flood = [to_alice(message) for message in FORGERIES[forgery](pair)]
    for _ in range(FLOOD_S * 200):
        for datagram in flood:
            pair.inject(datagram)
        pair.run(0.005)
    pair.run(1.0)
    sent = [s for s in pair.trace[before:] if s.sender == "alice" and s.reason != "ESP"]
    kinds = 3 if Method.SIR in WAYS[way] else 1
    assert len(sent) <= kinds * (3 + FLOOD_S + 2)
    assert rebuilds(pair) == 0
    unharmed(pair, number)


def test_from_another_address_nothing_is_even_a_hint() -> None:
    pair = pair_of(methods(*Method))
    number, before = number_of(pair), len(pair.trace)
    for message in FORGERIES["all of them"](pair):
        pair.inject(to_alice(message, MALLORY))
        pair.inject(to_alice(message, Address(BOB.host, 31337)))
    asked = [s.reason for s in pair.trace[before:] if s.sender == "alice"]
    # An ESP SPI is looked up by the peer's host: a NAT may have given the peer another port.
    assert asked in ([], ["invalid-spi", "CHECK_SPI query"], ["invalid-spi"])
    unharmed(pair, number)


# --- wrong tokens -----------------------------------------------------------------------------------


def test_wrong_tokens_are_compared_and_answered_with_silence() -> None:
    """RFC 6290 section 4.5: nothing is sent, the SA stays; at least four tokens are looked at (4.1)."""
    pair = pair_of(methods(*WAYS["qcd"]))
    number = number_of(pair)
    pair.crash("bob")
    traffic(pair, 1.0)
    assert next(iter(pair.alice.ike.views())).request_in_flight
    assert number_of(pair) == number
    before = len(pair.trace)
    for tokens in (WRONG[:1], WRONG[:4], WRONG, (WRONG[0][:15], WRONG[1] * 9)):
        pair.inject(to_alice(with_tokens(denial(pair), *tokens)))
        pair.inject(to_alice(with_tokens(invalid_spi(pair), *tokens)))
    assert pair.alice.ike.counters["token_mismatch"] >= 6
    assert verdicts(pair) == []
    assert "verdict" not in [e.kind for _, e in pair.alice.events]
    # The last two tokens have no length that a token can have: to Alice that is a plain error.
    assert len([s for s in pair.trace[before:] if s.sender == "alice"]) <= 2


@pytest.mark.parametrize("make", [denial, invalid_spi], ids=["INVALID_IKE_SPI", "INVALID_SPI"])
@pytest.mark.parametrize("position", range(MAX_TOKENS_CHECKED + 2))
def test_the_true_token_is_found_among_wrong_ones(position: int, make: Callable[[Pair], Message]) -> None:
    """What the tests above do not find is not there: the one that Bob made condemns, in the first eight."""
    pair = pair_of(methods(*WAYS["qcd"]))
    tokens = [*WRONG[:position], token_of(pair)]
    pair.crash("bob")
    traffic(pair, 1.0)
    assert next(iter(pair.alice.ike.views())).request_in_flight
    pair.inject(to_alice(with_tokens(make(pair), *tokens)))
    assert verdicts(pair) == (["qcd-token"] if position < MAX_TOKENS_CHECKED else [])


def test_the_true_token_from_elsewhere_is_nothing() -> None:
    pair = pair_of(methods(*WAYS["qcd"]))
    token, number = token_of(pair), number_of(pair)
    for source in (MALLORY, Address("192.0.2.3", 4500)):
        pair.inject(to_alice(with_tokens(denial(pair), token), source))
        pair.inject(to_alice(with_tokens(invalid_spi(pair), token), source))
    unharmed(pair, number)


# --- captured, and shown again ----------------------------------------------------------------------


def captured_tokens(pair: Pair) -> list[Datagram]:
    """What Bob sent in the clear with a token in it."""
    return [
        sent.datagram
        for sent in pair.trace
        if sent.sender == "bob"
        and sent.reason in ("invalid ike spi", "invalid spi", "announcement")
        and ike_of(sent.datagram).notify(NotifyType.QCD_TOKEN) is not None
    ]


def ike_of(datagram: Datagram) -> Message:
    return decode_message(datagram.payload.removeprefix(NON_ESP_MARKER))


@pytest.mark.parametrize("spi_map", [False, True], ids=["plain", "map"])
def test_a_captured_token_is_worth_nothing_for_the_next_sa(spi_map: bool) -> None:
    """
    Alice                          Bob (crashed)              Mallory
                           ◀────   N(QCD_TOKEN)      ────▶      keeps it
      a new SA             ◀───▶
                           ◀─────────────────────────────       the same, octet for octet
                           ◀─────────────────────────────       the token, with the new SA's SPIs
    """
    pair = pair_of(methods(*WAYS["qcd"]), options=CrashOptions(spi_map=spi_map))
    crash_and_recover(pair)
    old = captured_tokens(pair)
    assert old
    number, count = number_of(pair), len(verdicts(pair))
    for datagram in old:
        message = ike_of(datagram)
        tokens = [n.data for n in message.notifies(NotifyType.QCD_TOKEN)]
        for _ in range(3):
            pair.inject(datagram)
            pair.inject(to_alice(with_tokens(denial(pair), *tokens)))
            pair.inject(to_alice(with_tokens(invalid_spi(pair), *tokens)))
            header = denial(pair)
            pair.inject(to_alice(replace(message, spi_i=header.spi_i, spi_r=header.spi_r)))
            pair.run(LATENCY_S)
    pair.run(2.0)
    assert len(verdicts(pair)) == count
    assert [sa.number for sa in pair.alice.ike.views()] == [number]
    assert pair.alice.ike.counters["token_mismatch"] > 0
    assert pair.ping()


def test_the_token_of_a_rekeyed_sa_is_worth_nothing_for_its_heir() -> None:
    """Bob gives it to anybody who asks, once the old SA is gone; the heir has another."""
    pair = pair_of(methods(*WAYS["qcd"]))
    old = token_of(pair)
    pair.feed("alice", Rekey("home"))
    pair.run(1.0)
    assert token_of(pair) != old
    number = number_of(pair)
    pair.inject(to_alice(with_tokens(denial(pair), old)))
    pair.inject(to_alice(with_tokens(invalid_spi(pair), old)))
    unharmed(pair, number)


@pytest.mark.parametrize("source", ["theirs", "mallory"])
def test_a_captured_life_played_again_changes_nothing(source: str) -> None:
    """Everything that either side ever sent, in order, twice: setup, rekeys, a crash, its recovery."""
    pair = pair_of(methods(*Method))
    for who, child in (("alice", "net"), ("bob", None), ("bob", "net"), ("alice", None)):
        pair.feed(who, Rekey("home", child))
        traffic(pair, 0.3, 0.05)
    crash_and_recover(pair)
    pair.run(10.0)
    numbers = [[sa.number for sa in side.ike.views()] for side in (pair.alice, pair.bob)]
    counts = pair.alice.kinds().count("verdict"), pair.bob.kinds().count("verdict")
    life = [sent.datagram for sent in pair.trace]
    received = len(pair.alice.behind.received), len(pair.bob.behind.received)
    for datagram in life * 2:
        origin = datagram.local if source == "theirs" else MALLORY
        pair.inject(Datagram(datagram.payload, origin, datagram.remote))
        pair.run(0.002)
    assert (pair.alice.kinds().count("verdict"), pair.bob.kinds().count("verdict")) == counts
    # ESP is played again as well: nothing of it comes through a second time.
    assert (len(pair.alice.behind.received), len(pair.bob.behind.received)) == received
    pair.run(40.0)  # half-open SAs that an IKE_SA_INIT made, which nobody can finish, are gone by then
    assert [[sa.number for sa in side.ike.views()] for side in (pair.alice, pair.bob)] == numbers
    assert pair.ping()
    assert (rebuilds(pair), pair.ike_sas()) == (0, (1, 1))


def test_what_is_not_about_a_living_sa_is_ignored() -> None:
    """Errors in exchanges that never are in the clear, responses to nothing, requests with an error."""
    pair = pair_of(methods(*Method))
    number, before = number_of(pair), len(pair.trace)
    error = denial(pair)
    for message in (
        replace(error, spi_i=b"\x01" * 8),
        replace(error, spi_r=bytes(8)),
        replace(error, is_response=False),
        replace(invalid_spi(pair), is_response=True),
        replace(invalid_spi(pair), payloads=(Notify(NotifyType.INVALID_SPI, b"\x00\x00\x01"),)),
        replace(invalid_spi(pair), payloads=(Notify(NotifyType.INVALID_SPI, b"\x00\x00\x01\x00"),)),
        replace(error, payloads=()),
    ):
        pair.inject(to_alice(message))
    assert [s for s in pair.trace[before:] if s.sender == "alice"] == []
    unharmed(pair, number)
