"""IKE fragmentation (RFC 7383): both ways, lost, doubled and out of order; never a datagram too large."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.crypto.pki import key, leaf, root
from tests.ike.test_auth import VALID
from tests.support.invariants import check_one_tunnel
from tests.support.pair import Pair, Sent

from deadpeer.crypto import Credential, Identity, TrustStore
from deadpeer.ike.connection import LocalAuth, RemoteAuth
from deadpeer.ike.fragment import MAX_FRAGMENTS, MAX_MESSAGE_OCTETS, Reassembly, split
from deadpeer.ike.io import Initiate
from deadpeer.wire import EncryptedFragment, decode_message

ROOT = root(kind="rsa", **VALID)


def rsa_pair(*, fragment_size: int = 576, hosts: tuple[str, str] | None = None, **options: object) -> Pair:
    """Both sides show an RSA certificate and its CA: IKE_AUTH is much larger than one datagram."""
    certificate = leaf("rsa", issuer_key=key("rsa"), **VALID)
    credential = Credential(key("rsa", 9), certificate, (ROOT,))
    identity = Identity.parse("@moon.example.org")
    local = LocalAuth("pubkey", identity, credential=credential)
    remote = RemoteAuth("pubkey", identity, trust=TrustStore([ROOT]))
    both = {"local": local, "remote": remote, "fragment_size": fragment_size, "dpd_delay_s": 0.0}
    both.update(options.pop("both", {}))  # type: ignore[call-overload]
    return Pair.with_psk(both=both, hosts=hosts or ("192.0.2.1", "192.0.2.2"), **options)  # type: ignore[arg-type]


def fragments(pair: Pair, sender: str) -> list[EncryptedFragment]:
    found = []
    for sent in pair.trace:
        payload = sent.datagram.payload
        if sent.sender == sender and sent.reason != "ESP" and payload[:4] == bytes(4):
            protected = decode_message(payload[4:]).protected
            if isinstance(protected, EncryptedFragment):
                found.append(protected)
    return found


@pytest.mark.parametrize(
    ("hosts", "headers"), [(("192.0.2.1", "192.0.2.2"), 28), (("2001:db8::1", "2001:db8::2"), 48)]
)
@pytest.mark.parametrize("size", [300, 576, 1280])
def test_no_datagram_is_larger_than_configured(hosts: tuple[str, str], headers: int, size: int) -> None:
    pair = rsa_pair(fragment_size=size, hosts=hosts)
    pair.up()
    protected = [s for s in pair.trace if "IKE_AUTH" in s.reason]
    assert protected
    assert max(len(s.datagram.payload) for s in protected) + headers <= size
    assert len(fragments(pair, "alice")) > 1
    assert len(fragments(pair, "bob")) > 1


def test_fragments_are_as_large_as_they_may_be() -> None:
    pair = rsa_pair(fragment_size=576)
    pair.up()
    sizes = [len(s.datagram.payload) + 28 for s in pair.trace if s.reason == "IKE_AUTH request"]
    assert all(576 - 16 <= size <= 576 for size in sizes[:-1])


@pytest.mark.parametrize("side", ["alice", "bob"])
def test_a_side_that_does_not_fragment_gets_no_fragments(side: str) -> None:
    pair = rsa_pair(**{side: {"fragmentation": False}})
    pair.up()
    assert fragments(pair, "alice") == []
    assert fragments(pair, "bob") == []
    check_one_tunnel(pair)


@pytest.mark.parametrize("sender", ["alice", "bob"])
@pytest.mark.parametrize("lost", [0, 1, -1])
def test_a_lost_fragment_is_made_good_by_sending_all_again(sender: str, lost: int) -> None:
    probe = rsa_pair()
    probe.up()
    number = range(1, len(fragments(probe, sender)) + 1)[lost]
    pair = rsa_pair()
    dropped: list[Sent] = []

    def rule(sent: Sent) -> bool:
        payload = sent.datagram.payload
        if dropped or sent.sender != sender or payload[:4] != bytes(4):
            return False
        protected = decode_message(payload[4:]).protected
        if isinstance(protected, EncryptedFragment) and protected.number == number:
            dropped.append(sent)
            return True
        return False

    pair.drop_rule = rule
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(5.0)
    assert dropped
    assert pair.alice.done[1].ok
    check_one_tunnel(pair)


@pytest.mark.parametrize("seed", range(10))
def test_fragments_in_any_order_some_twice_some_lost(seed: int) -> None:
    rng = random.Random(seed)
    pair = rsa_pair()
    pair.delays_rule = lambda sent: (
        [] if rng.random() < 0.1 else [rng.uniform(0.01, 0.1)] * rng.choice([1, 2])
    )
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(30.0)
    pair.delays_rule = None
    assert pair.alice.done[1].ok
    pair.run(2.0)
    check_one_tunnel(pair)


def test_a_retransmitted_request_in_fragments_is_answered_once() -> None:
    """RFC 7383 section 2.6.1: only its first fragment causes the response to go out again."""
    pair = rsa_pair()
    pair.up()
    requests = [s for s in pair.trace if s.reason == "IKE_AUTH request"]
    responses = [s for s in pair.trace if s.reason == "IKE_AUTH response"]
    before = len(pair.trace)
    for sent in requests:
        pair.inject(sent.datagram)
    again = pair.trace[before:]
    assert [s.datagram.payload for s in again] == [s.datagram.payload for s in responses]


# --- the pure part -------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=3000), st.integers(50, 400), st.randoms(use_true_random=False))
def test_what_is_cut_is_put_together_in_any_order(inner: bytes, size: int, rng: random.Random) -> None:
    parts = split(inner, size)
    assert all(0 < len(part) <= size for part in parts)
    packets = [(n, part, bytes([n])) for n, part in enumerate(parts, 1)]
    packets += rng.choices(packets, k=3)
    rng.shuffle(packets)
    collected, results = Reassembly(), []
    for number, part, packet in packets:
        result = collected.add(7, number, len(parts), 33 if number == 1 else 0, part, packet)
        if result is not None:
            results.append(result)
            break
    assert results == [(33, inner, b"\1")]


def test_a_larger_total_begins_anew_and_a_smaller_one_is_ignored() -> None:
    collected = Reassembly()
    assert collected.add(1, 1, 2, 33, b"old", b"p") is None
    assert collected.add(1, 1, 3, 33, b"a", b"p") is None
    assert collected.add(1, 2, 2, 0, b"old", b"p") is None
    assert collected.add(1, 2, 3, 0, b"b", b"q") is None
    assert collected.add(1, 3, 3, 0, b"c", b"r") == (33, b"abc", b"p")


def test_another_message_id_begins_anew() -> None:
    collected = Reassembly()
    assert collected.add(1, 1, 2, 33, b"old", b"p") is None
    assert collected.add(2, 2, 2, 0, b"b", b"q") is None
    assert collected.add(2, 1, 2, 33, b"a", b"p") == (33, b"ab", b"p")


def test_what_a_peer_can_make_us_keep_is_bounded() -> None:
    collected = Reassembly()
    assert collected.add(1, 1, MAX_FRAGMENTS + 1, 33, b"x", b"p") is None
    assert not collected._parts
    for number in range(1, 3):
        collected.add(1, number, 3, 33, bytes(MAX_MESSAGE_OCTETS // 2), b"p")
    assert collected.add(1, 3, 3, 0, b"xx", b"p") is None
    assert not collected._parts
