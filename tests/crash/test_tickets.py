"""The ticket's codec and seal, and the keys: round trips, every octet changed, every length cut, time."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.crash.fakes import connection
from tests.crypto.pki import root

from deadpeer.crash.tickets import (
    MAX_KEYS,
    MAX_TICKET,
    KeyRing,
    RingError,
    Ticket,
    TicketError,
    TicketKey,
    TicketSizeError,
    decode_ring,
    encode_ring,
    seal,
    unseal,
)
from deadpeer.crypto import Identity, IkeSuite, TrustStore
from deadpeer.crypto.suites import ENCRYPTION_BY_WIRE, GROUP_BY_ID, INTEGRITY_BY_ID, PRF_BY_ID
from deadpeer.values import Address

NOW = 1_790_000_000
DAY = 86_400
NONCE = bytes(range(12))
RING = KeyRing().rotated(NOW, b"k" * 32, DAY, DAY)
KEY = RING.keys[0]

octets = st.binary(min_size=0, max_size=80)
seconds = st.integers(0, 2**63)


@st.composite
def suites(draw: st.DrawFn) -> IkeSuite:
    encryption = draw(st.sampled_from(list(ENCRYPTION_BY_WIRE.values())))
    integrity = None if encryption.aead else draw(st.sampled_from(list(INTEGRITY_BY_ID.values())))
    prf = draw(st.sampled_from(list(PRF_BY_ID.values())))
    return IkeSuite(encryption, integrity, prf, draw(st.sampled_from(list(GROUP_BY_ID.values()))))


hosts = st.one_of(
    st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)
).map(str)
identities = st.builds(Identity, st.integers(0, 255), octets)
tickets = st.builds(
    Ticket,
    identifier=st.binary(min_size=16, max_size=16),
    connection=st.text(max_size=20),
    local_identity=identities,
    remote_identity=identities,
    suite=suites(),
    sk_d=st.binary(min_size=32, max_size=64),
    auth=st.sampled_from(["psk", "pubkey"]),
    created_s=st.integers(0, NOW),
    expires_s=st.integers(NOW + 1, 2**63),
    authenticated_s=seconds,
    reauthenticate_s=seconds,
    client=st.builds(Address, hosts, st.integers(0, 65535)),
    spi_i=st.binary(min_size=8, max_size=8),
    spi_r=st.binary(min_size=8, max_size=8),
    policy=st.binary(min_size=16, max_size=16),
)
SUITE = IkeSuite(ENCRYPTION_BY_WIRE[20, 256], None, PRF_BY_ID[5], GROUP_BY_ID[31])
TICKET = Ticket(
    identifier=b"i" * 16,
    connection="home",
    local_identity=Identity.parse("bob"),
    remote_identity=Identity.parse("alice"),
    suite=SUITE,
    sk_d=b"d" * 32,
    auth="psk",
    created_s=NOW,
    expires_s=NOW + 3600,
    authenticated_s=NOW,
    reauthenticate_s=0,
    client=Address("192.0.2.1", 4500),
    spi_i=b"i" * 8,
    spi_r=b"r" * 8,
    policy=b"p" * 16,
)


def refusal(ring: KeyRing, sealed: bytes, now_s: float = NOW) -> str:
    with pytest.raises(TicketError) as caught:
        unseal(ring, sealed, now_s)
    return caught.value.reason


@given(tickets, st.binary(min_size=12, max_size=12))
def test_what_is_sealed_is_opened(ticket: Ticket, nonce: bytes) -> None:
    sealed = seal(KEY, ticket, nonce)
    assert unseal(RING, sealed, NOW) == (KEY, ticket)
    assert len(sealed) <= MAX_TICKET
    if any(ticket.sk_d):
        assert ticket.sk_d not in sealed


def test_a_change_of_any_octet_is_noticed() -> None:
    sealed = seal(KEY, TICKET, NONCE)
    reasons = set()
    for at in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            reasons.add((refusal(RING, bytes(changed)), at))
    assert {reason for reason, at in reasons if at == 0} == {"malformed"}
    assert {reason for reason, at in reasons if 1 <= at < 5} == {"key unknown"}
    assert {reason for reason, at in reasons if at >= 5} == {"forged"}


def test_cut_or_lengthened_it_is_nothing() -> None:
    sealed = seal(KEY, TICKET, NONCE)
    for length in range(len(sealed)):
        assert refusal(RING, sealed[:length]) in ("malformed", "forged")
    assert refusal(RING, sealed + b"\0") == "forged"
    assert refusal(RING, sealed + bytes(MAX_TICKET)) == "malformed"


@given(st.binary(max_size=200))
def test_anything_else_is_refused(noise: bytes) -> None:
    assert refusal(RING, noise) in ("malformed", "key unknown", "forged")


def test_the_seal_binds_the_number_of_its_key() -> None:
    """The same secret under another number: an old ticket can't be passed off as one of a newer key."""
    sealed = seal(KEY, TICKET, NONCE)
    other = replace(KEY, number=2)
    assert refusal(KeyRing((other, KEY)), sealed[:1] + b"\0\0\0\2" + sealed[5:]) == "forged"


def test_a_repeated_nonce_gives_away_nothing_but_sameness() -> None:
    one, same = seal(KEY, TICKET, NONCE), seal(KEY, TICKET, NONCE)
    other = seal(KEY, replace(TICKET, identifier=b"j" * 16), NONCE)
    assert one == same
    # With a stream cipher the two would differ where the plaintexts do, and nowhere else.
    assert sum(a == b for a, b in zip(one[17:], other[17:], strict=True)) < 20


def test_the_length_does_not_tell_whose_it_is() -> None:
    names = ["a", "alice", "alice.example.org"]
    tickets_of = [replace(TICKET, remote_identity=Identity.parse(name)) for name in names]
    assert len({len(seal(KEY, ticket, NONCE)) for ticket in tickets_of}) == 1


@pytest.mark.parametrize("field", ["connection", "remote_identity"])
def test_what_does_not_fit_is_not_sealed(field: str) -> None:
    long: dict[str, object] = {"connection": "x" * 900, "remote_identity": Identity(2, b"x" * 70_000)}
    with pytest.raises(TicketSizeError):
        seal(KEY, replace(TICKET, **{field: long[field]}), NONCE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "outcome"),
    [(NOW - 61, "not yet valid"), (NOW + 3600, "expired"), (NOW + 2 * DAY, "key unknown")],
)
def test_a_ticket_has_its_time(at: int, outcome: str) -> None:
    sealed = seal(KEY, TICKET, NONCE)
    assert refusal(RING, sealed, at) == outcome
    assert unseal(RING, sealed, NOW - 59) == unseal(RING, sealed, NOW + 3599)


def test_a_key_seals_then_opens_then_goes() -> None:
    ring = RING.rotated(NOW + 100, b"l" * 32, DAY, 3600)
    old = ring.find(1)
    assert old is not None
    assert (old.retires_s, old.ends_s) == (NOW + 100, NOW + 100 + 3600)
    assert ring.current(NOW + 100) == ring.find(2)
    assert unseal(ring, seal(KEY, TICKET, NONCE), NOW + 200)[1] == TICKET
    assert ring.next_end_s == NOW + 3700
    assert [key.number for key in ring.pruned(NOW + 3700).keys] == [2]
    assert refusal(ring.pruned(NOW + 3700), seal(KEY, TICKET, NONCE), NOW + 200) == "key unknown"


def test_a_retired_key_keeps_its_end() -> None:
    """A rotation after the key retired by time does not prolong it."""
    ring = RING.rotated(NOW + DAY + 10, b"l" * 32, DAY, DAY)
    assert ring.find(1) == KEY


def test_with_the_clock_set_back_a_new_key_seals() -> None:
    assert RING.current(NOW - 3600) is None
    assert RING.current(NOW + DAY) is None
    assert RING.current(NOW) == KEY


def test_keys_are_bounded_and_numbers_only_grow() -> None:
    ring = KeyRing()
    for n in range(20):
        ring = ring.rotated(NOW + n, bytes([n]) * 32, DAY, DAY)
    assert [key.number for key in ring.keys] == list(range(20, 20 - MAX_KEYS, -1))
    assert decode_ring(encode_ring(ring)) == ring


@given(st.integers(0, MAX_KEYS), st.binary(min_size=32, max_size=32))
def test_keys_are_kept(count: int, secret: bytes) -> None:
    ring = KeyRing(tuple(TicketKey(count - n, NOW, NOW + 1, NOW + 2, secret) for n in range(count)))
    assert decode_ring(encode_ring(ring)) == ring


def test_damaged_keys_are_not_used() -> None:
    data = encode_ring(RING)
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]):
            with pytest.raises(RingError):
                decode_ring(damaged)


def test_what_a_resumption_relies_on_is_in_its_policy() -> None:
    """Whatever of it changes, tickets are void; what does not matter, matters not."""
    base = connection()
    ca, other = TrustStore([root()]), TrustStore([root("CN=two", "ed25519")])
    variants = [
        base,
        replace(base, remote=replace(base.remote, secret=b"another")),
        replace(base, remote=replace(base.remote, identity=Identity.parse("@c.example"))),
        replace(base, remote=replace(base.remote, identity=None)),
        replace(base, local=replace(base.local, identity=Identity.parse("@c.example"))),
        replace(base, remote=replace(base.remote, auth="pubkey", trust=ca)),
        replace(base, remote=replace(base.remote, auth="pubkey", trust=other)),
    ]
    assert len({KEY.policy(variant) for variant in variants}) == len(variants)
    assert KEY.policy(replace(base, dpd_delay_s=1.0)) == KEY.policy(base)
    assert replace(KEY, secret=b"l" * 32).policy(base) != KEY.policy(base)


def test_secrets_are_in_no_repr() -> None:
    text = repr((KEY, RING, replace(TICKET, sk_d=b"\xab" * 32, policy=b"\xcd" * 16)))
    assert "\\xab" not in text
    assert "\\xcd" not in text
    assert "kkk" not in text
