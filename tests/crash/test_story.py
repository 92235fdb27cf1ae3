"""Whole stories of a crash, told by the extensions of both sides; the cores between them are fakes."""

from dataclasses import replace

import pytest
from tests.crash.fakes import (
    ALICE,
    BOB,
    MALLORY,
    FakeSa,
    Gateway,
    at,
    connection,
    protected_request,
    tokens_in,
    tunnel,
)

from deadpeer.crash.evidence import TokenMatch
from deadpeer.crash.maker import HANDOVER
from deadpeer.crash.options import Roles, TokenMethod
from deadpeer.ike.extension import PeerNotifies, RequestAnswered, SaClosed, SaRekeyed, Slot
from deadpeer.store import MemoryStore
from deadpeer.values import Address


class Pair:
    """Alice and Bob with a tunnel, Alice its initiator. Bob can crash, either can ask the other."""

    def __init__(self, a: Roles = "both", b: Roles = "both", method: TokenMethod = "spi") -> None:
        self.to_bob = connection("bob", roles=a, method=method, remote="198.51.100.2/32")
        self.to_alice = connection("alice", roles=b, method=method, remote="192.0.2.1/32")
        self.alice_store, self.bob_store = MemoryStore(), MemoryStore()
        self.alice = Gateway(self.alice_store, self.to_bob, seed=1)
        self.bob = Gateway(self.bob_store, self.to_alice, seed=2)
        self.at_alice, self.at_bob = tunnel(self.alice, self.bob, a=self.to_bob, b=self.to_alice)

    def crash_bob(self, *, keep_state: bool = True) -> None:
        self.sync(self.bob, self.bob_store)
        store = self.bob_store if keep_state else MemoryStore()
        self.bob = Gateway(store, self.to_alice, seed=3)

    def crash_alice(self) -> None:
        self.sync(self.alice, self.alice_store)
        self.alice = Gateway(self.alice_store, self.to_bob, seed=4)

    @staticmethod
    def sync(gateway: Gateway, store: MemoryStore) -> None:
        """What the runtime does with Persist."""
        for name, data in gateway.core.persisted:
            store.put(name, data)
        gateway.core.persisted.clear()

    def esp_to_bob(self, seconds: float) -> None:
        """Alice sends ESP; if Bob answers, his answer reaches her."""
        self.bob.core.answers.clear()
        self.bob.esp(at(seconds), self.at_alice.child_views[0].spi_out, ALICE)
        for _, answer in self.bob.core.answers:
            self.alice.news(at(seconds + 0.05), answer, BOB)

    def request_to_bob(self, seconds: float) -> None:
        """Alice's request in flight goes out (again); if Bob answers, his answer reaches her."""
        self.bob.core.answers.clear()
        sa = self.at_alice
        self.bob.request(at(seconds), protected_request(sa.spi_i, sa.spi_r, from_initiator=True), ALICE)
        for _, answer in self.bob.core.answers:
            self.alice.news(at(seconds + 0.05), answer, BOB)

    def proofs(self) -> list[type]:
        return [type(verdict.proof) for _, verdict in self.alice.core.condemned]


# Alice                                    Bob
#                                           +   crash, boot
#   ESP                                -->
#                                      <--  N(INVALID_SPI)                     0.5 RTT
#   SK{} (liveness check)              -->
#                                      <--  N(INVALID_IKE_SPI), N(QCD_TOKEN)   1.5 RTT
#   verdict
@pytest.mark.parametrize("method", ["spi", "spi-address"])
def test_a_crash_is_found_in_one_and_a_half_round_trips(method: TokenMethod) -> None:
    pair = Pair(method=method)
    pair.crash_bob()
    pair.esp_to_bob(10.0)
    assert pair.alice.core.probes == [(1, "invalid-spi")]
    pair.request_to_bob(10.1)
    assert pair.proofs() == [TokenMatch]
    [(_, verdict)] = pair.alice.core.condemned
    assert verdict.took_s == pytest.approx(0.1)
    assert [h.kind for h in verdict.hints] == ["invalid-spi"]


# Alice                                    Bob
#                                           +   crash
#   SK{} (silence)                     -->  x   lost: nobody there
#                                           .   boot
#   ESP                                -->
#                                      <--  N(INVALID_SPI)
#   SK{} (the same, at once)           -->
#                                      <--  N(INVALID_IKE_SPI), N(QCD_TOKEN)
def test_with_a_request_in_flight_the_hint_sends_it_again() -> None:
    pair = Pair()
    pair.crash_bob()
    pair.at_alice.request_in_flight = True
    pair.esp_to_bob(10.0)
    assert pair.alice.core.probes == [(1, "invalid-spi")]
    pair.request_to_bob(10.1)
    assert pair.proofs() == [TokenMatch]


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ("both", "both", True),
        ("taker", "maker", True),
        ("taker", "both", True),
        ("both", "maker", True),
        ("maker", "both", False),
        ("both", "taker", False),
        ("maker", "taker", False),
        ("off", "both", False),
        ("both", "off", False),
        ("maker", "maker", False),
        ("taker", "taker", False),
    ],
)
def test_bob_s_crash_is_proved_where_he_makes_and_alice_takes(a: Roles, b: Roles, found: bool) -> None:
    pair = Pair(a, b)
    pair.crash_bob()
    pair.esp_to_bob(10.0)
    pair.request_to_bob(10.1)
    assert bool(pair.proofs()) is found


# Alice (initiator)                        Bob
#   + crash, boot
#                                      <--  SK{}   Initiator flag clear
#   N(INVALID_IKE_SPI), N(QCD_TOKEN)   -->  verdict
def test_the_other_way_round() -> None:
    pair = Pair()
    pair.crash_alice()
    sa = pair.at_bob
    sa.request_in_flight = True
    request = protected_request(sa.spi_i, sa.spi_r, from_initiator=False)
    pair.alice.request(at(1), request, BOB, ALICE)
    [(_, answer)] = pair.alice.core.answers
    pair.bob.news(at(1.1), answer, ALICE, BOB)
    assert len(pair.bob.core.condemned) == 1


def test_bob_without_his_state_can_prove_nothing() -> None:
    pair = Pair()
    pair.crash_bob(keep_state=False)
    pair.esp_to_bob(10.0)
    pair.request_to_bob(10.1)
    assert pair.proofs() == []
    assert pair.at_alice in pair.alice.core.sas


def test_crash_after_crash() -> None:
    pair = Pair()
    for _ in range(5):
        pair.crash_bob()
    pair.esp_to_bob(10.0)
    pair.request_to_bob(10.1)
    assert pair.proofs() == [TokenMatch]


def test_three_rotations_then_a_crash() -> None:
    pair = Pair()
    for _ in range(3):
        pair.bob.command(at(1), "rotate")
    pair.crash_bob()
    pair.esp_to_bob(10.0)
    pair.request_to_bob(10.1)
    assert pair.proofs() == [TokenMatch]


def test_a_fourth_rotation_gives_alice_a_new_token_first() -> None:
    pair = Pair()
    for _ in range(4):
        pair.bob.command(at(1), "rotate")
    [(_, notifies, reason)] = pair.bob.core.informs
    pair.alice.signal(at(1), PeerNotifies(pair.at_alice, Slot.INFORMATIONAL, notifies))
    pair.bob.signal(at(1), RequestAnswered(pair.at_bob, 1, False, reason))
    assert [g.number for g in pair.bob.maker.generations] == [5, 4, 3, 2]
    pair.crash_bob()
    pair.esp_to_bob(10.0)
    pair.request_to_bob(10.1)
    assert pair.proofs() == [TokenMatch]


# Alice                                    Bob
#   CREATE_CHILD_SA (IKE rekey)        -->
#                                      <--  response, his token for the new SA
#   SK{ her token } on the new SA      -->
#                                           +   crash, boot
@pytest.mark.parametrize("alice_rekeys", [True, False])
def test_a_crash_after_an_ike_rekey(alice_rekeys: bool) -> None:
    pair = Pair()
    spi_a, spi_b = pair.alice.spis.ike_spi(), pair.bob.spis.ike_spi()
    spis = {"spi_i": spi_a, "spi_r": spi_b} if alice_rekeys else {"spi_i": spi_b, "spi_r": spi_a}
    new_a = replace(pair.at_alice, number=11, initiator=alice_rekeys, **spis)  # type: ignore[arg-type]
    new_b = replace(pair.at_bob, number=11, initiator=not alice_rekeys, **spis)  # type: ignore[arg-type]
    sides: list[tuple[Gateway, FakeSa, FakeSa]] = [
        (pair.alice, pair.at_alice, new_a),
        (pair.bob, pair.at_bob, new_b),
    ]
    starter, other = sides if alice_rekeys else sides[::-1]
    answer = other[0].notifies(at(1), Slot.IKE_REKEY, other[2], response=True)
    assert len(answer) == 1
    starter[0].signal(at(1), PeerNotifies(starter[2], Slot.IKE_REKEY, answer))
    for (gateway, old, new), initiated in ((starter, True), (other, False)):
        gateway.core.sas.append(new)
        gateway.signal(at(1), SaRekeyed(old, new, initiated))
        gateway.core.sas.remove(old)
        gateway.signal(at(1), SaClosed(old, "rekeyed"))
    [(number, notifies, reason)] = starter[0].core.informs
    assert (number, reason) == (11, HANDOVER)
    other[0].signal(at(1), PeerNotifies(other[2], Slot.INFORMATIONAL, notifies))
    assert pair.alice.taker.holds(new_a)
    assert pair.bob.taker.holds(new_b)

    pair.crash_bob()
    new_a.request_in_flight = True
    pair.bob.request(at(2), protected_request(**spis, from_initiator=alice_rekeys), ALICE)
    [(_, token)] = pair.bob.core.answers
    pair.alice.news(at(2), token, BOB)
    assert pair.proofs() == [TokenMatch]


# Mallory asks Bob, who lives, for the token of his SA with Alice, in every way he knows.
def test_mallory_gets_no_token_of_a_living_sa_that_would_match() -> None:
    pair = Pair()
    sa = pair.at_alice
    for spis in ((sa.spi_i, sa.spi_r), (sa.spi_r, sa.spi_i)):
        for flag in (True, False):
            pair.bob.request(at(1), protected_request(*spis, from_initiator=flag), MALLORY)
            pair.alice.request(at(1), protected_request(*spis, from_initiator=flag), MALLORY, ALICE)
    assert pair.bob.core.answers == pair.alice.core.answers == []


# Alice                                    Bob, who crashed          Mallory
#                                                               <--  any requests from spoofed sources
#   SK{}                               -->
#                                      <--  N(INVALID_IKE_SPI), N(QCD_TOKEN)
def test_alice_gets_her_token_in_the_middle_of_a_flood() -> None:
    pair = Pair()
    pair.crash_bob()
    pair.at_alice.request_in_flight = True
    for n in range(20_000):
        source = Address(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 500)
        spis = (b"mallory!", n.to_bytes(8, "big"))
        if any(spis[1]):
            pair.bob.request(at(n / 1e5), protected_request(*spis, from_initiator=True), source)
        pair.bob.esp(at(n / 1e5), 0x1000 + n, source)
    assert all(not tokens_in(answer) for _, answer in pair.bob.core.answers)
    pair.request_to_bob(0.2)
    assert pair.proofs() == [TokenMatch]
