"""Packet protection: vectors of RFC 7634, draft-mcgrew-gcm-test and RFC 3602, round trips, and tampering."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crypto import (
    ENCRYPTIONS,
    INTEGRITIES,
    AuthenticationFailed,
    Encryption,
    EspKeys,
    Integrity,
    PacketCipher,
    SeededEntropy,
)

# name, key, salt, IV, AAD, plaintext, ciphertext | ICV
VECTORS = {
    "RFC 7634 appendix A": (
        "chacha20poly1305",
        "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        "a0a1a2a3",
        "1011121314151617",
        "0102030400000005",
        "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10"
        "0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
        "2425262728292a2b2c2d2e2f303132333435363701020204",
        "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6"
        "14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3"
        "cbec163fac469b502773f6fb94e664da9165b82829f641e0"
        "76aaa8266b7fb0f7b11b369907e1ad43",
    ),
    "draft-mcgrew-gcm-test-01, 128 bits, ESN": (
        "aes128gcm16",
        "4c80cdefbb5d10da906ac73c3613a634",
        "2e443b68",
        "4956ed7e3b244cfe",
        "000043218765432100000000",
        "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000"
        "00000000045f736970045f756470037369700963796265726369747902646b00"
        "0021000101020201",
        "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34"
        "cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce"
        "61bc17d768fd9732459018148f6cbe722fd04796562dfdb4",
    ),
    "draft-mcgrew-gcm-test-01, 256 bits": (
        "aes256gcm16",
        "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        "11223344",
        "0102030405060708",
        "4a2cbfe300000002",
        "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000"
        "7002400020bf0000020405b40101040201020201",
        "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763"
        "748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c49"
        "15956c96",
    ),
}

PAIRS: list[tuple[Encryption, Integrity | None]] = [
    (encryption, integrity)
    for encryption in dict.fromkeys(ENCRYPTIONS.values())
    for integrity in ((None,) if encryption.aead else dict.fromkeys(INTEGRITIES.values()))
]
IDS = [e.name + (f"-{i.name}" if i else "") for e, i in PAIRS]


def make(encryption: Encryption, integrity: Integrity | None, seed: int = 1) -> PacketCipher:
    entropy = SeededEntropy(seed)
    return PacketCipher(
        encryption,
        integrity,
        EspKeys(
            entropy.octets(encryption.key_octets),
            entropy.octets(encryption.salt_octets),
            entropy.octets(integrity.key_octets if integrity else 0),
        ),
    )


@pytest.mark.parametrize("vector", VECTORS.values(), ids=VECTORS)
def test_published_esp_packets(vector: tuple[str, ...]) -> None:
    name, *hexes = vector
    key, salt, iv, aad, plaintext, sealed = map(bytes.fromhex, hexes)
    cipher = PacketCipher(ENCRYPTIONS[name], None, EspKeys(key, salt, b""))
    assert cipher.seal(iv, plaintext, aad) == iv + sealed
    assert cipher.open(iv + sealed, aad) == plaintext


def test_cbc_is_rfc_3602_case_1_and_the_mac_covers_all_before_and_after_it() -> None:
    integrity_key = bytes(range(32))
    keys = EspKeys(bytes.fromhex("06a9214036b8a15b512e03d534120006"), b"", integrity_key)
    cipher = PacketCipher(ENCRYPTIONS["aes128"], INTEGRITIES["sha256"], keys)
    iv = bytes.fromhex("3dafba429d9eb430b422da802c9fac41")
    ciphertext = bytes.fromhex("e353779c1079aeb82708942dbe77181a")

    sealed = cipher.seal(iv, b"Single block msg", b"spi|seq", suffix=b"high")

    icv = hmac.digest(integrity_key, b"spi|seq" + iv + ciphertext + b"high", "sha256")[:16]
    assert sealed == iv + ciphertext + icv
    assert cipher.open(sealed, b"spi|seq", suffix=b"high") == b"Single block msg"
    for suffix in (b"", b"hig", b"higH"):
        with pytest.raises(AuthenticationFailed):
            cipher.open(sealed, b"spi|seq", suffix=suffix)


@pytest.mark.parametrize(("encryption", "integrity"), PAIRS, ids=IDS)
@given(data=st.data())
def test_round_trip(encryption: Encryption, integrity: Integrity | None, data: st.DataObject) -> None:
    cipher = make(encryption, integrity)
    block = encryption.block_octets
    plaintext = data.draw(st.binary(max_size=5 * 16).map(lambda b: b[: len(b) // block * block]))
    iv = data.draw(st.binary(min_size=cipher.iv_octets, max_size=cipher.iv_octets))
    aad = data.draw(st.binary(max_size=40))
    sealed = cipher.seal(iv, plaintext, aad)
    assert sealed[: cipher.iv_octets] == iv
    assert len(sealed) == len(plaintext) + cipher.overhead
    assert cipher.open(sealed, aad) == plaintext


@pytest.mark.parametrize(("encryption", "integrity"), PAIRS, ids=IDS)
def test_every_changed_octet_is_noticed(encryption: Encryption, integrity: Integrity | None) -> None:
    cipher = make(encryption, integrity)
    aad = b"additional"
    sealed = cipher.seal(bytes(cipher.iv_octets), bytes(32), aad)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 0x01
        with pytest.raises(AuthenticationFailed):
            cipher.open(bytes(changed), aad)
    for other in (b"", aad[:-1], aad + b"\0", b"Additional"):
        with pytest.raises(AuthenticationFailed):
            cipher.open(sealed, other)
    for cut in range(len(sealed)):
        with pytest.raises(AuthenticationFailed):
            cipher.open(sealed[:cut], aad)
    with pytest.raises(AuthenticationFailed):
        make(encryption, integrity, seed=2).open(sealed, aad)


@given(st.sampled_from(PAIRS), st.binary(max_size=120), st.binary(max_size=20))
def test_garbage_never_opens(pair: tuple[Encryption, Integrity | None], body: bytes, aad: bytes) -> None:
    with pytest.raises(AuthenticationFailed):
        make(*pair).open(body, aad)


def test_a_verified_cbc_packet_of_broken_blocks_is_refused() -> None:
    keys = EspKeys(bytes(16), b"", bytes(32))
    cipher = PacketCipher(ENCRYPTIONS["aes128"], INTEGRITIES["sha256"], keys)
    protected = bytes(16) + bytes(15)
    icv = hmac.digest(bytes(32), b"aad" + protected, "sha256")[:16]
    with pytest.raises(AuthenticationFailed, match="whole blocks"):
        cipher.open(protected + icv, b"aad")


def test_misuse_is_a_value_error() -> None:
    gcm, cbc = make(*PAIRS[0]), make(ENCRYPTIONS["aes256"], INTEGRITIES["sha512"])
    with pytest.raises(ValueError, match="IV is 8"):
        gcm.seal(bytes(12), b"", b"")
    with pytest.raises(ValueError, match="after the ciphertext"):
        gcm.seal(bytes(8), b"", b"", suffix=b"high")
    with pytest.raises(ValueError, match="after the ciphertext"):
        gcm.open(bytes(40), b"", suffix=b"high")
    with pytest.raises(ValueError, match="whole blocks"):
        cbc.seal(bytes(16), b"short", b"")
    with pytest.raises(ValueError, match="wrong length"):
        PacketCipher(ENCRYPTIONS["aes256gcm16"], None, EspKeys(bytes(16), bytes(4), b""))
    with pytest.raises(ValueError, match="wrong length"):
        PacketCipher(ENCRYPTIONS["aes256gcm16"], None, EspKeys(bytes(32), bytes(4), b"x"))
    with pytest.raises(ValueError, match="pair"):
        PacketCipher(ENCRYPTIONS["aes256"], None, EspKeys(bytes(32), b"", b""))
    assert repr(gcm) == "PacketCipher(...)"
