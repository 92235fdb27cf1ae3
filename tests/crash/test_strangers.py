"""What is said about SPIs that nobody here has, to whom, how much and how often."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.crash.fakes import (
    ALICE,
    BOB,
    MALLORY,
    FakeChild,
    FakeSa,
    Gateway,
    at,
    connection,
    protected_request,
    tokens_in,
)

from deadpeer.crash.options import CrashOptions, Roles
from deadpeer.crash.tokens import MakerRole, make_token
from deadpeer.ike.extension import OrphanRequest, PeerNotifies, SaClosed, Slot
from deadpeer.store import MemoryStore
from deadpeer.values import Address, Datagram
from deadpeer.wire import ExchangeType, Header, Notify, NotifyType, PayloadType, add_marker, encode_message

SPI_A = b"alice-is"


def reborn(
    *connections_: object, rotations: int = 0, roles: Roles = "both", options: CrashOptions | None = None
) -> tuple[Gateway, bytes]:
    """Bob after a crash, and an SPI that he chose before it."""
    connections = connections_ or (connection(roles=roles),)
    store = MemoryStore()
    before = Gateway(store, *connections, seed=1)  # type: ignore[arg-type]
    spi = before.spis.ike_spi()
    for _ in range(rotations):
        before.command(at(0), "rotate")
        for name, data in before.core.persisted:
            store.put(name, data)
    return Gateway(store, *connections, seed=2, options=options), spi  # type: ignore[arg-type]


# --- the answer -----------------------------------------------------------------------------------


# Alice                                       Bob, who lost the SA
#   HDR(SPIi, SPIr, I) SK{}              -->
#                                        <--  HDR(SPIi, SPIr, R) N(INVALID_IKE_SPI), N(QCD_TOKEN)
@pytest.mark.parametrize("from_initiator", [True, False])
@pytest.mark.parametrize("exchange", [35, 36, 37])
def test_a_request_of_a_dead_sa_gets_its_token(from_initiator: bool, exchange: int) -> None:
    bob, ours = reborn()
    spis = (SPI_A, ours) if from_initiator else (ours, SPI_A)
    request = protected_request(*spis, from_initiator=from_initiator, message_id=9, exchange=exchange)
    bob.request(at(1), request, ALICE)
    [(datagram, answer)] = bob.core.answers
    assert (datagram.payload, datagram.local, datagram.remote) == (request, BOB, ALICE)
    assert (answer.spi_i, answer.spi_r, answer.exchange, answer.message_id) == (*spis, exchange, 9)
    assert (answer.is_response, answer.from_initiator) == (True, not from_initiator)
    role = MakerRole.RESPONDER if from_initiator else MakerRole.INITIATOR
    token = make_token(bob.state.current.secret, role, *spis)
    assert answer.payloads == (
        Notify(NotifyType.INVALID_IKE_SPI),
        Notify(NotifyType.QCD_TOKEN, token, 1),
    )
    # RFC 7296 section 3.10 with nothing in it: 8 octets.
    assert len(encode_message(replace(answer, payloads=answer.payloads[:1]))) == 28 + 8
    assert bob.core.events[-1].kind == "invalid_ike_spi_sent"
    assert token.hex() not in repr(bob.core.events)


def test_one_token_per_generation_newest_first() -> None:
    bob, ours = reborn(rotations=5)
    bob.request(at(1), protected_request(SPI_A, ours, from_initiator=True), ALICE)
    [(_, answer)] = bob.core.answers
    assert [g.number for g in bob.state.generations] == [6, 5, 4, 3]
    assert tokens_in(answer) == [
        make_token(g.secret, MakerRole.RESPONDER, SPI_A, ours) for g in bob.state.generations
    ]
    assert len(encode_message(answer)) == 132


@pytest.mark.parametrize(("roles", "tokens"), [("both", 1), ("maker", 1), ("taker", 0), ("off", 0)])
def test_who_makes_no_tokens_says_only_that_there_is_no_sa(roles: Roles, tokens: int) -> None:
    bob, ours = reborn(roles=roles)
    bob.request(at(1), protected_request(SPI_A, ours, from_initiator=True), ALICE)
    [(_, answer)] = bob.core.answers
    assert answer.notify(NotifyType.INVALID_IKE_SPI) is not None
    assert len(tokens_in(answer)) == tokens


def test_the_address_bound_token_is_made_for_the_source_of_the_request() -> None:
    bob, ours = reborn(connection(method="spi-address"))
    for source in (ALICE, Address("2001:db8::5", 4500)):
        bob.request(at(1), protected_request(SPI_A, ours, from_initiator=True), source)
        expected = make_token(bob.state.current.secret, MakerRole.RESPONDER, SPI_A, ours, source.host)
        assert tokens_in(bob.core.answers[-1][1]) == [expected]


def test_with_both_methods_the_peer_s_connection_says_which() -> None:
    bob, ours = reborn(
        connection("a", method="spi", remote="192.0.2.1/32"),
        connection("b", method="spi-address", remote="198.51.100.0/24"),
        connection("c", method="spi-address", remote="2001:db8::/32", roles="taker"),
        rotations=3,
    )

    def methods(source: str) -> list[str]:
        bob.core.answers.clear()
        bob.request(at(1), protected_request(SPI_A, ours, from_initiator=True), Address(source, 4500))
        secrets = {g.number: g.secret for g in bob.state.generations}
        made = {
            make_token(
                secret, MakerRole.RESPONDER, SPI_A, ours, taker
            ): f"{'bound' if taker else 'plain'} {n}"
            for n, secret in secrets.items()
            for taker in (None, source)
        }
        return [made[token] for token in tokens_in(bob.core.answers[0][1])]

    assert methods("192.0.2.1") == [f"plain {n}" for n in (4, 3, 2, 1)]
    assert methods("198.51.100.77") == [f"bound {n}" for n in (4, 3, 2, 1)]
    # Somebody who moved: both, newest first, four in all.
    assert methods("203.0.113.9") == ["plain 4", "bound 4", "plain 3", "bound 3"]
    assert methods("2001:db8::9") == ["plain 4", "bound 4", "plain 3", "bound 3"]


def test_a_connection_to_anybody_is_near_to_everybody() -> None:
    bob, ours = reborn(
        connection("a", method="spi", remote="192.0.2.1/32"), connection("any", method="spi-address")
    )
    bob.request(at(1), protected_request(SPI_A, ours, from_initiator=True), MALLORY)
    assert tokens_in(bob.core.answers[0][1]) == [
        make_token(bob.state.current.secret, MakerRole.RESPONDER, SPI_A, ours, MALLORY.host)
    ]


# --- never for the living -------------------------------------------------------------------------


# Mallory, who saw SPIi and SPIr                Bob, whose SA with Alice lives
#   HDR(SPIi, SPIr, I)  SK{garbage}        -->    silence
#   HDR(SPIi, SPIr, no I) SK{garbage}      -->    silence: the flag is Mallory's word
#   HDR(SPIi, other, ...) SK{garbage}      -->    silence
@pytest.mark.parametrize("from_initiator", [True, False])
@pytest.mark.parametrize("bob_initiated", [True, False])
@pytest.mark.parametrize("shape", ["pair", "swapped", "first", "second", "crossed-first", "crossed-second"])
@pytest.mark.parametrize("established", [True, False])
def test_no_answer_names_a_living_sa_whatever_the_flag_and_the_order(
    from_initiator: bool, bob_initiated: bool, shape: str, established: bool
) -> None:
    bob, old = reborn()
    ours = bob.spis.ike_spi()
    spi_i, spi_r = (ours, SPI_A) if bob_initiated else (SPI_A, ours)
    sa = FakeSa(1, connection(), bob_initiated, spi_i, spi_r, BOB, ALICE, established=established)
    bob.core.sas.append(sa)
    pair = {
        "pair": (spi_i, spi_r),
        "swapped": (spi_r, spi_i),
        "first": (spi_i, old),
        "second": (old, spi_r),
        "crossed-first": (old, spi_i),
        "crossed-second": (spi_r, old),
    }[shape]
    bob.request(at(1), protected_request(*pair, from_initiator=from_initiator), MALLORY)
    assert bob.core.answers == []
    assert bob.core.counts["orphan.alive"] == 1


def test_a_flipped_flag_does_not_even_ask_for_the_same_token() -> None:
    """Where no SA table can be asked (a standby, a cluster), the role in the token still holds."""
    config = connection()
    store = MemoryStore()
    bob = Gateway(store, config)
    sa = FakeSa(1, config, False, SPI_A, bob.spis.ike_spi(), BOB, ALICE)
    [given] = bob.notifies(at(0), Slot.AUTH, sa, response=True)
    blind = Gateway(store, config, seed=2)
    for from_initiator, same in ((True, True), (False, False)):
        blind.core.answers.clear()
        blind.request(at(1), protected_request(sa.spi_i, sa.spi_r, from_initiator=from_initiator), MALLORY)
        assert (given.data in tokens_in(blind.core.answers[0][1])) is same


def test_an_sa_of_this_life_that_is_gone_gets_a_token() -> None:
    bob, _ = reborn()
    ours = bob.spis.ike_spi()
    bob.request(at(1), protected_request(SPI_A, ours, from_initiator=True), ALICE)
    assert len(tokens_in(bob.core.answers[0][1])) == 1
    assert bob.core.events[-1].fields["spi"] == "recent"


def test_another_member_s_sa_is_left_to_that_member() -> None:
    store = MemoryStore()
    other = Gateway(store, connection(), member=3)
    bob = Gateway(store, connection(), member=0)
    bob.request(at(1), protected_request(SPI_A, other.spis.ike_spi(), from_initiator=True), ALICE)
    assert bob.core.answers == []
    assert bob.core.counts["orphan.other_member"] == 1


# --- garbage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_initiator", [True, False])
def test_an_spi_that_we_never_chose_gets_no_token_from_the_small_bucket(from_initiator: bool) -> None:
    bob, ours = reborn()
    for n in range(1000):
        garbage = (SPI_A, n.to_bytes(8, "big")) if from_initiator else (n.to_bytes(8, "big"), SPI_A)
        source = Address(f"10.0.{n // 250}.{n % 250}", 500)
        bob.request(at(0), protected_request(*garbage, from_initiator=from_initiator), source)
    assert len(bob.core.answers) == 20
    assert all(not tokens_in(answer) for _, answer in bob.core.answers)
    assert (
        bob.core.counts["orphan.limited.garbage"]
        + len(bob.core.answers)
        + bob.core.counts["orphan.implausible"]
        == 1000
    )
    bob.request(at(0), protected_request(SPI_A, ours, from_initiator=True), ALICE)
    assert len(tokens_in(bob.core.answers[-1][1])) == 1


def test_our_spi_on_the_peer_s_side_is_garbage() -> None:
    """Mallory flips the flag of a request of Alice's to a dead SA: her SPI is none of ours."""
    bob, ours = reborn()
    bob.request(at(1), protected_request(SPI_A, ours, from_initiator=False), MALLORY)
    assert tokens_in(bob.core.answers[0][1]) == []


def test_an_epoch_that_has_not_come_is_garbage() -> None:
    store = MemoryStore()
    bob = Gateway(store, connection())
    later = Gateway(store, connection(), seed=2)
    bob.request(at(1), protected_request(SPI_A, later.spis.ike_spi(), from_initiator=True), ALICE)
    assert tokens_in(bob.core.answers[0][1]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"is_response": True},
        {"spi_i": bytes(8)},
        {"exchange": ExchangeType.IKE_SA_INIT},
        {"exchange": ExchangeType.IKE_SESSION_RESUME},
        {"next_payload": PayloadType.NOTIFY},
        {"length": 56},
        {"length": 2000},
    ],
)
def test_what_is_no_plausible_protected_request_gets_nothing(change: dict[str, object]) -> None:
    bob, ours = reborn()
    header = Header(SPI_A, ours, PayloadType.SK, 37, True, False, 1, 80)
    datagram = Datagram(bytes(80), BOB, ALICE)
    assert bob.orphan(at(1), OrphanRequest(replace(header, **change), datagram))  # type: ignore[arg-type]
    assert bob.core.answers == []
    assert bob.core.counts["orphan.implausible"] == 1
    bob.orphan(at(1), OrphanRequest(replace(header, next_payload=PayloadType.SKF), datagram))
    assert len(bob.core.answers) == 1


# --- the bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [False, True])
def test_no_answer_is_larger_than_three_times_any_question(marker: bool) -> None:
    unlimited = CrashOptions(spi_burst=1e6, source_burst=1e6, total_burst=1e6, garbage_burst=1e6)
    bob, ours = reborn(rotations=3, options=unlimited)
    answered = 0
    for octets in range(32, 1500):
        for spi in (ours, b"garbage!"):
            bob.core.answers.clear()
            request = protected_request(SPI_A, spi, from_initiator=True, octets=octets)
            datagram = Datagram(add_marker(request) if marker else request, BOB, ALICE)
            header = Header(SPI_A, spi, PayloadType.SK, 37, True, False, 7, octets)
            bob.orphan(at(1), OrphanRequest(header, datagram))
            for question, answer in bob.core.answers:
                answered += 1
                size = len(encode_message(answer)) + (4 if marker else 0)
                assert size <= 3 * len(question.payload)
                assert len(tokens_in(answer)) == (4 if spi == ours else 0)
    assert answered == 2 * (1500 - 57)


@settings(max_examples=200)
@given(st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_no_answer_to_esp_is_larger_than_three_times_the_question(octets: int, spi: int) -> None:
    bob, _ = reborn()
    bob.esp(at(1), spi, ALICE, octets)
    for _, answer in bob.core.answers:
        assert len(encode_message(answer)) + 4 <= 3 * octets
    assert bool(bob.core.answers) is (octets >= 36 and spi >= 256)


def test_a_peer_that_hammers_is_answered_at_its_limit() -> None:
    bob, ours = reborn(options=CrashOptions(boot_window_s=0))
    for n in range(1000):
        bob.request(at(n / 100), protected_request(SPI_A, ours, from_initiator=True), ALICE)
    assert len(bob.core.answers) <= 4 + 2 * 10
    assert bob.core.counts["orphan.limited.returning"] == 1000 - len(bob.core.answers)


def test_esp_of_a_peer_does_not_use_up_its_token() -> None:
    bob, ours = reborn()
    for n in range(1000):
        bob.esp(at(n / 1000), 0xCAFE_0001, ALICE)
    bob.core.answers.clear()
    bob.request(at(1), protected_request(SPI_A, ours, from_initiator=True), ALICE)
    assert len(tokens_in(bob.core.answers[0][1])) == 1


# --- ESP ------------------------------------------------------------------------------------------


# Alice                     Bob, who lost everything
#   ESP(SPI)           -->
#                      <--  HDR(0, 0, I, INFORMATIONAL, ID 0) N(INVALID_SPI, SPI)
def test_esp_of_nobody_gets_an_unprotected_invalid_spi() -> None:
    bob, _ = reborn()
    bob.esp(at(1), 0xCAFE_0001, ALICE)
    [(datagram, answer)] = bob.core.answers
    assert (datagram.payload, datagram.local, datagram.remote) == (b"", BOB, ALICE)
    assert (answer.exchange, answer.message_id) == (37, 0)
    assert (answer.from_initiator, answer.is_response) == (True, False)
    assert answer.payloads == (Notify(NotifyType.INVALID_SPI, b"\xca\xfe\x00\x01"),)
    assert bob.core.informs == []
    bob.esp(at(1), 0xCAFE_0001, ALICE, octets=35)
    assert len(bob.core.answers) == 1


def living() -> tuple[Gateway, FakeSa]:
    bob, _ = reborn()
    sa = FakeSa(1, connection(), False, SPI_A, bob.spis.ike_spi(), BOB, ALICE)
    sa.child_views = [FakeChild(number=n, spi_out=0xA0 + n, spi_in=0xB000 + n) for n in (1, 2)]
    bob.core.sas.append(sa)
    return bob, sa


# Alice                     Bob, whose IKE SA with her lives
#   ESP(unknown SPI)   -->    (may have overtaken the exchange that makes it)
#   ESP(unknown SPI)   -->    200 ms later
#                      <--  SK{ N(INVALID_SPI) }
def test_a_peer_is_told_under_protection_when_packets_go_on() -> None:
    bob, _ = living()
    for ms in range(0, 200, 10):
        bob.esp(at(ms / 1000), 0xCAFE_0001, ALICE)
    assert bob.core.informs == []
    bob.esp(at(0.2), 0xCAFE_0001, ALICE)
    assert bob.core.informs == [
        (1, (Notify(NotifyType.INVALID_SPI, b"\xca\xfe\x00\x01"),), "invalid spi"),
    ]
    for ms in range(210, 5000, 10):
        bob.esp(at(ms / 1000), 0xCAFE_0001, ALICE)
    assert len(bob.core.informs) <= 3 + 5
    assert bob.core.answers == []


def test_a_straggler_an_hour_later_is_not_a_second_sighting() -> None:
    bob, _ = living()
    bob.esp(at(0), 0xCAFE_0001, ALICE)
    bob.esp(at(3600), 0xCAFE_0001, ALICE)
    assert bob.core.informs == []
    bob.esp(at(3600.2), 0xCAFE_0001, ALICE)
    assert len(bob.core.informs) == 1


def test_only_the_exact_address_of_the_peer_is_told_inside() -> None:
    bob, _ = living()
    for _ in range(2):
        bob.esp(at(1), 0xCAFE_0001, ALICE._replace(port=1))
        bob.esp(at(2), 0xCAFE_0001, MALLORY)
    assert bob.core.informs == []
    assert {d.remote for d, _ in bob.core.answers} == {ALICE._replace(port=1), MALLORY}


def test_sightings_are_bounded() -> None:
    bob, sa = living()
    for n in range(10_000):
        bob.esp(at(0), 0x1000 + n, ALICE)
    assert bob.lost_children.counters()["lost_children.seen"] <= 1024
    bob.signal(at(1), SaClosed(sa, "deleted"))


# Bob                                  Alice
#   SK{ N(INVALID_SPI, 000000a2) } -->   builds child 2 anew
def test_a_protected_invalid_spi_replaces_that_child() -> None:
    alice, sa = living()
    lost = (Notify(NotifyType.INVALID_SPI, (0xA2).to_bytes(4, "big")),)
    alice.signal(at(1), PeerNotifies(sa, Slot.INFORMATIONAL, lost))
    assert alice.core.replaced == [(1, 0xA2)]
    assert alice.core.counts["lost_child.replaced"] == 1


def test_a_protected_invalid_spi_about_no_child_of_the_sa_or_too_often_does_nothing() -> None:
    alice, sa = living()
    for data in (b"\0\0\0\x77", b"\0\0\0", b"", bytes(5)):
        alice.signal(at(1), PeerNotifies(sa, Slot.INFORMATIONAL, (Notify(NotifyType.INVALID_SPI, data),)))
    alice.signal(at(1), PeerNotifies(sa, Slot.AUTH, (Notify(NotifyType.INVALID_SPI, b"\0\0\0\xa1"),)))
    assert alice.core.replaced == []
    lost = (Notify(NotifyType.INVALID_SPI, b"\0\0\0\xa1"),)
    for _ in range(100):
        alice.signal(at(1), PeerNotifies(sa, Slot.INFORMATIONAL, lost))
    assert len(alice.core.replaced) == 3


def test_told_not_to_answer_strangers_it_is_silent_and_counts() -> None:
    bob, ours = reborn(options=CrashOptions(answer_strangers=False))
    bob.request(at(1), protected_request(SPI_A, ours, from_initiator=True), ALICE)
    bob.esp(at(1), 0x1234ABCD, ALICE)
    assert bob.core.answers == []
    assert bob.core.counts["orphan.silent"] == 2
