"""What is sealed is opened by other code than ours, and what is opened is what an inner header says."""

import hmac
from struct import Struct

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st
from tests.plane.pair import SUITES, make_keys, make_suite, ping

from deadpeer.crypto import AuthenticationFailed, EspKeys, EspSuite, SeededEntropy
from deadpeer.plane.drops import Drop
from deadpeer.plane.esp import EspOpener, EspSealer, inner_packet
from deadpeer.wire import EspPacket, decode_esp

SPI = 0xC0FFEE01
BEYOND = 5 * 2**32 + 6
"""An extended sequence number whose high half is not zero."""


def foreign_open(suite: EspSuite, keys: EspKeys, payload: bytes, high: int) -> bytes:
    """The plaintext, by RFC 4303, 4106, 7634, 3602 and 4868 and raw `cryptography` calls."""
    header, high_octets = payload[:8], high.to_bytes(4, "big")
    if suite.integrity is None:
        aad = header[:4] + high_octets + header[4:] if suite.esn else header
        nonce, sealed = keys.salt + payload[8:16], payload[16:]
        if suite.encryption.name.startswith("chacha"):
            return ChaCha20Poly1305(keys.encryption_key).decrypt(nonce, sealed, aad)
        return AESGCM(keys.encryption_key).decrypt(nonce, sealed, aad)
    octets = {"sha256": 16, "sha384": 24, "sha512": 32}[suite.integrity.hash]
    covered = payload[:-octets] + (high_octets if suite.esn else b"")
    assert hmac.digest(keys.integrity_key, covered, suite.integrity.hash)[:octets] == payload[-octets:]
    decryptor = Cipher(algorithms.AES(keys.encryption_key), modes.CBC(payload[8:24])).decryptor()
    return decryptor.update(payload[24:-octets]) + decryptor.finalize()


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
@pytest.mark.parametrize("version", [4, 6])
def test_other_code_opens_what_we_seal(suite: EspSuite, version: int) -> None:
    keys = make_keys(suite, b"k")
    sealer = EspSealer(SPI, suite, keys, SeededEntropy(3))
    sequence = BEYOND if suite.esn else 6
    for size in range(40):
        packet = ping(1, size=size, version=version)
        payload = sealer.seal(sequence, packet)
        assert payload[:8] == Struct("!II").pack(SPI, 6)
        plaintext = foreign_open(suite, keys, payload, sequence >> 32)
        pad = plaintext[-2]
        assert plaintext == packet + bytes(range(1, pad + 1)) + bytes([pad, {4: 4, 6: 41}[version]])
        assert len(plaintext) % (16 if suite.integrity else 4) == 0
        assert pad < 16


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_open_gives_back_what_was_sealed_and_nothing_else_verifies(suite: EspSuite) -> None:
    keys = make_keys(suite, b"k")
    sealer, opener = EspSealer(SPI, suite, keys, SeededEntropy(3)), EspOpener(SPI, suite, keys)
    sequence = BEYOND if suite.esn else 6
    packet = decode_esp(sealer.seal(sequence, ping(9)))
    assert inner_packet(opener.open(sequence, packet)) == ping(9)
    wrong = [EspPacket(SPI ^ 1, packet.sequence, packet.body), EspPacket(SPI, 7, packet.body)]
    for at in range(len(packet.body)):
        damaged = bytearray(packet.body)
        damaged[at] ^= 0x10
        wrong.append(EspPacket(SPI, packet.sequence, bytes(damaged)))
    wrong += [EspPacket(SPI, packet.sequence, packet.body[:cut]) for cut in (1, 20, len(packet.body) - 1)]
    for each in wrong:
        with pytest.raises(AuthenticationFailed):
            opener.open((sequence >> 32 << 32) + each.sequence, each)
    if suite.esn:
        with pytest.raises(AuthenticationFailed):
            opener.open(sequence + 2**32, packet)


def test_the_iv_of_an_aead_counts_and_that_of_cbc_does_not() -> None:
    gcm, cbc = make_suite("aes256gcm16", esn=True), make_suite("aes256-sha256")
    sealer = EspSealer(SPI, gcm, make_keys(gcm, b"k"), SeededEntropy(1))
    ivs = [sealer.seal(n, ping(1))[8:16] for n in (1, 2, 2**32, 2**32 + 1)]
    assert ivs == [n.to_bytes(8, "big") for n in (1, 2, 2**32, 2**32 + 1)]
    sealer = EspSealer(SPI, cbc, make_keys(cbc, b"k"), SeededEntropy(1))
    stream = SeededEntropy(1)
    assert [sealer.seal(n, ping(1))[8:24] for n in (1, 2)] == [stream.octets(16), stream.octets(16)]


def trailer(pad: int, next_header: int) -> bytes:
    return bytes(range(1, pad + 1)) + bytes([pad, next_header])


@pytest.mark.parametrize(
    ("plaintext", "outcome"),
    [
        (ping(1) + trailer(0, 4), ping(1)),
        (ping(1) + trailer(255, 4), ping(1)),
        (ping(1, version=6) + trailer(3, 41), ping(1, version=6)),
        (ping(1) + b"traffic flow confidentiality" + trailer(2, 4), ping(1)),
        (ping(1, version=6) + bytes(500) + trailer(2, 41), ping(1, version=6)),
        (b"", Drop.BAD_TRAILER),
        (b"\4", Drop.BAD_TRAILER),
        (b"\1\1\4", Drop.INNER_MALFORMED),  # an empty payload
        (b"\2\2\4", Drop.BAD_TRAILER),
        (ping(1) + b"\1\2\4\3\4", Drop.BAD_PADDING),
        (ping(1) + b"\0\0\2\4", Drop.BAD_PADDING),
        (trailer(3, 59), Drop.DUMMY),
        (b"anything at all\xff" + bytes([59]), Drop.DUMMY),
        (ping(1) + trailer(2, 6), Drop.BAD_NEXT_HEADER),
        (ping(1) + trailer(2, 41), Drop.INNER_MALFORMED),
        (ping(1, version=6) + trailer(2, 4), Drop.INNER_MALFORMED),
        (ping(1)[:-1] + trailer(1, 4), Drop.INNER_MALFORMED),
        (ping(1, version=6)[:-1] + trailer(1, 41), Drop.INNER_MALFORMED),
        (b"\x44" + ping(1)[1:] + trailer(2, 4), Drop.INNER_MALFORMED),
        (trailer(2, 4), Drop.INNER_MALFORMED),
        (trailer(2, 41), Drop.INNER_MALFORMED),
    ],
)
def test_what_a_verified_plaintext_holds(plaintext: bytes, outcome: bytes | Drop) -> None:
    assert inner_packet(plaintext) == outcome


@given(st.binary(max_size=200), st.sampled_from([0, 4, 41, 59]))
def test_no_plaintext_raises(plaintext: bytes, next_header: int) -> None:
    outcome = inner_packet(plaintext + bytes([next_header]))
    assert isinstance(outcome, Drop) or plaintext.startswith(outcome)
