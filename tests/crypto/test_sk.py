"""SK and SKF: RFC 7634's whole IKE message, round trips, tampering, and the shapes that must not open."""

import hmac
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crypto import (
    ENCRYPTIONS,
    GROUPS,
    INTEGRITIES,
    PRFS,
    AuthenticationFailed,
    IkeSuite,
    SeededEntropy,
    SkCipher,
)

SUITES = [
    IkeSuite(ENCRYPTIONS["aes128gcm16"], None, PRFS["prfsha256"], GROUPS["x25519"]),
    IkeSuite(ENCRYPTIONS["aes256gcm16"], None, PRFS["prfsha256"], GROUPS["x25519"]),
    IkeSuite(ENCRYPTIONS["chacha20poly1305"], None, PRFS["prfsha256"], GROUPS["x25519"]),
    IkeSuite(ENCRYPTIONS["aes128"], INTEGRITIES["sha256"], PRFS["prfsha256"], GROUPS["x25519"]),
    IkeSuite(ENCRYPTIONS["aes256"], INTEGRITIES["sha384"], PRFS["prfsha384"], GROUPS["ecp384"]),
    IkeSuite(ENCRYPTIONS["aes256"], INTEGRITIES["sha512"], PRFS["prfsha512"], GROUPS["modp2048"]),
]
SPIS: dict[str, bytes] = {"spi_i": b"initiate", "spi_r": b"responds"}


def make(suite: IkeSuite, seed: int = 1) -> SkCipher:
    entropy = SeededEntropy(seed)
    integrity_octets = suite.integrity.key_octets if suite.integrity else 0
    return SkCipher(suite, entropy.octets(suite.encryption.material_octets), entropy.octets(integrity_octets))


def message(cipher: SkCipher, inner: bytes, first: int = 41, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        **SPIS,
        "exchange": 37,
        "message_id": 7,
        "from_initiator": True,
        "is_response": False,
        "first_payload": first,
        "inner": inner,
        "iv": bytes(cipher.iv_octets),
    }
    return cipher.seal_message(**fields | changes)


def fragment(
    cipher: SkCipher, inner: bytes, number: int, total: int, first: int = 35, **changes: Any
) -> bytes:
    fields: dict[str, Any] = {
        **SPIS,
        "exchange": 35,
        "message_id": 1,
        "from_initiator": True,
        "is_response": False,
        "first_payload": first,
        "inner": inner,
        "iv": bytes(cipher.iv_octets),
    }
    return cipher.seal_fragment(number=number, total=total, **fields | changes)


def test_rfc_7634_appendix_b() -> None:
    suite = SUITES[2]
    cipher = SkCipher(suite, bytes(range(0x80, 0xA4)))
    inner = bytes.fromhex("0000000c000040010000000a")
    expected = bytes.fromhex(
        "c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e20250000000009000000452900002910111213"
        "14151617610394701f8d017f7c129248896b71bfe25236efd7cdc67066906315b2"
    )
    sealed = cipher.seal_message(
        spi_i=bytes(range(0xC0, 0xC8)),
        spi_r=bytes(range(0xD0, 0xD8)),
        exchange=37,
        message_id=9,
        from_initiator=False,
        is_response=False,
        first_payload=41,
        inner=inner,
        iv=bytes(range(0x10, 0x18)),
    )
    assert sealed == expected
    assert cipher.open_message(expected) == (41, inner)


@pytest.mark.parametrize("suite", SUITES, ids=lambda s: s.name)
@given(inner=st.binary(max_size=300), first=st.integers(0, 255), data=st.data())
def test_message_round_trip(suite: IkeSuite, inner: bytes, first: int, data: st.DataObject) -> None:
    cipher = make(suite)
    initiator, response = data.draw(st.booleans()), data.draw(st.booleans())
    message_id = data.draw(st.integers(0, 0xFFFFFFFF))
    octets = message(
        cipher, inner, first, from_initiator=initiator, is_response=response, message_id=message_id
    )
    assert cipher.open_message(octets) == (first, inner)

    spi_i, spi_r, kind, version, exchange, flags, number, length = struct.unpack_from("!8s8sBBBBII", octets)
    assert (spi_i, spi_r, kind, version, exchange) == (SPIS["spi_i"], SPIS["spi_r"], 46, 0x20, 37)
    assert flags == (0x08 if initiator else 0) | (0x20 if response else 0)
    assert (number, length) == (message_id, len(octets))


@pytest.mark.parametrize("suite", SUITES, ids=lambda s: s.name)
def test_every_changed_octet_is_noticed(suite: IkeSuite) -> None:
    cipher = make(suite)
    for octets, opened in (
        (message(cipher, b"inner payloads"), cipher.open_message),
        (fragment(cipher, b"inner payloads", 1, 2), cipher.open_fragment),
    ):
        for at in range(len(octets)):
            for bit in (0x01, 0x80):
                changed = bytearray(octets)
                changed[at] ^= bit
                with pytest.raises(AuthenticationFailed):
                    opened(bytes(changed))
        for cut in range(len(octets)):
            with pytest.raises(AuthenticationFailed):
                opened(octets[:cut])
        with pytest.raises(AuthenticationFailed):
            opened(octets + b"\0")
    with pytest.raises(AuthenticationFailed):
        make(suite, seed=2).open_message(message(cipher, b"inner"))


@pytest.mark.parametrize("suite", SUITES, ids=lambda s: s.name)
@given(inner=st.binary(min_size=1, max_size=4000), mtu=st.integers(150, 1400))
def test_fragments_fit_and_come_back(suite: IkeSuite, inner: bytes, mtu: int) -> None:
    cipher = make(suite)
    size = cipher.max_inner(mtu)
    assert size > 0
    parts = [inner[at : at + size] for at in range(0, len(inner), size)]
    back = b""
    for number, part in enumerate(parts, 1):
        octets = fragment(cipher, part, number, len(parts))
        assert len(octets) <= mtu
        opened = cipher.open_fragment(octets)
        assert (opened.number, opened.total) == (number, len(parts))
        assert opened.first_payload == (35 if number == 1 else 0)
        back += opened.inner_part
    assert back == inner
    # Not an octet is wasted: one more would not fit.
    assert len(fragment(cipher, bytes(size + 1), 1, 1)) > mtu


@pytest.mark.parametrize("suite", SUITES, ids=lambda s: s.name)
def test_max_inner_of_too_small_a_size_is_zero(suite: IkeSuite) -> None:
    cipher = make(suite)
    sizes = [cipher.max_inner(mtu) for mtu in range(200)]
    assert sizes[0] == sizes[40] == 0
    assert sizes == sorted(sizes)


def test_fragment_numbers_are_checked() -> None:
    cipher = make(SUITES[0])
    for number, total in ((0, 1), (2, 1), (1, 0x10000)):
        with pytest.raises(ValueError, match="no fragment"):
            fragment(cipher, b"x", number, total)


def mac_by_hand(before: bytes, plaintext: bytes) -> bytes:
    """A CBC message's body made without SkCipher: seed 1's keys over `before`, a zero IV."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    entropy = SeededEntropy(1)
    key, integrity_key = entropy.octets(16), entropy.octets(32)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    protected = bytes(16) + encryptor.update(plaintext)
    return protected + hmac.digest(integrity_key, before + protected, "sha256")[:16]


def by_hand(plaintext: bytes, *, outer: bytes = b"", kind: int = 46, extra: bytes = b"") -> bytes:
    """An IKE message with `outer` payloads before an SK or SKF payload around `plaintext`."""
    body_octets = len(extra) + 16 + len(plaintext) + 16
    first = 43 if outer else kind
    length = 28 + len(outer) + 4 + body_octets
    before = struct.pack("!8s8sBBBBII", b"initiate", b"responds", first, 0x20, 37, 8, 7, length)
    before += outer + struct.pack("!BBH", 41, 0, 4 + body_octets) + extra
    return before + mac_by_hand(before, plaintext)


def test_payloads_before_sk_are_authenticated_and_skipped() -> None:
    cipher = make(SUITES[3])
    outer = struct.pack("!BBH", 46, 0, 8) + b"vend"
    octets = by_hand(b"inner" + bytes(10) + b"\x0a", outer=outer)
    assert cipher.open_message(octets) == (41, b"inner")
    changed = octets.replace(b"vend", b"Vend")
    with pytest.raises(AuthenticationFailed, match="ICV"):
        cipher.open_message(changed)


def test_the_sender_may_pad_more_than_a_block_and_with_anything() -> None:
    octets = by_hand(b"inner" + b"\xa5" * 26 + bytes((26,)))
    assert make(SUITES[3]).open_message(octets) == (41, b"inner")


def test_a_pad_length_beyond_the_plaintext_is_refused() -> None:
    with pytest.raises(AuthenticationFailed, match="pad length"):
        make(SUITES[3]).open_message(by_hand(bytes(15) + b"\x10"))
    assert make(SUITES[3]).open_message(by_hand(bytes(15) + b"\x0f")) == (41, b"")
    with pytest.raises(AuthenticationFailed, match="pad length"):
        make(SUITES[3]).open_message(by_hand(b""))


@pytest.mark.parametrize(("number", "total"), [(0, 1), (2, 1), (0, 0), (1, 0)])
def test_a_verified_fragment_that_can_not_be_is_refused(number: int, total: int) -> None:
    octets = by_hand(bytes(15) + b"\x0f", kind=53, extra=struct.pack("!HH", number, total))
    with pytest.raises(AuthenticationFailed, match="no fragment"):
        make(SUITES[3]).open_fragment(octets)


def test_the_wrong_kind_and_broken_chains_are_refused() -> None:
    cipher = make(SUITES[0])
    with pytest.raises(AuthenticationFailed, match="no such"):
        cipher.open_fragment(message(cipher, b"inner"))
    with pytest.raises(AuthenticationFailed, match="no such"):
        cipher.open_message(fragment(cipher, b"inner", 1, 1))
    header = struct.Struct("!8s8sBBBBII")
    for kind, payloads, reason in (
        (0, b"", "no such"),
        (43, b"", "cut off"),
        (43, struct.pack("!BBH", 0, 0, 4), "no such"),
        (43, struct.pack("!BBH", 43, 0, 0), "impossible"),
        (43, struct.pack("!BBH", 46, 0, 5), "impossible"),
        (46, struct.pack("!BBH", 0, 0, 4) + b"more", "not the last"),
        (46, struct.pack("!BBH", 0, 0, 8) + b"tiny", "too few"),
    ):
        octets = header.pack(b"i" * 8, b"r" * 8, kind, 0x20, 37, 8, 0, 28 + len(payloads)) + payloads
        with pytest.raises(AuthenticationFailed, match=reason):
            cipher.open_message(octets)
    with pytest.raises(AuthenticationFailed, match="too short"):
        octets = header.pack(b"i" * 8, b"r" * 8, 53, 0x20, 37, 8, 0, 34) + struct.pack("!BBHH", 0, 0, 6, 1)
        cipher.open_fragment(octets)


@given(st.sampled_from(SUITES), st.binary(max_size=200))
def test_garbage_is_refused(suite: IkeSuite, octets: bytes) -> None:
    for opened in (make(suite).open_message, make(suite).open_fragment):
        with pytest.raises(AuthenticationFailed):
            opened(octets)


def test_misuse_is_a_value_error() -> None:
    cipher = make(SUITES[0])
    with pytest.raises(ValueError, match="IV"):
        message(cipher, b"", iv=bytes(4))
    with pytest.raises(ValueError, match="SPI"):
        message(cipher, b"", spi_i=b"short")
    with pytest.raises(ValueError, match="fragment the message"):
        message(cipher, bytes(65536))
    with pytest.raises(ValueError, match="key material"):
        SkCipher(SUITES[0], bytes(16))
    with pytest.raises(ValueError, match="integrity key"):
        SkCipher(SUITES[3], bytes(16))
    assert repr(cipher) == "SkCipher(...)"
