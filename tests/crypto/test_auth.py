"""AUTH: the shared key's formula, signatures of every kind both ways, and every mismatch refused."""

import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.crypto.pki import key, leaf

from deadpeer.crypto import (
    PRFS,
    AuthFailure,
    Credential,
    CredentialError,
    SignatureHash,
    load_certificates,
    parse_hashes,
    shared_key_auth,
    signed_octets,
    supported_hashes_notify_data,
    verify_signature,
)
from deadpeer.wire import AuthMethod, CertEncoding

SIGNED = b"RealMessage1 | NonceRData | MACedIDForI"
ALL_HASHES = frozenset(int(h) for h in SignatureHash)
KINDS = ["rsa", "ecp256", "ecp384", "ecp521", "ed25519"]


def credential(kind: str) -> Credential:
    return Credential(key(kind, 9), leaf(kind))


@pytest.mark.parametrize("name", sorted(PRFS))
def test_shared_key(name: str) -> None:
    p = PRFS[name]
    inner = hmac.digest(b"secret", b"Key Pad for IKEv2", p.hash)
    assert shared_key_auth(p, b"secret", SIGNED) == hmac.digest(inner, SIGNED, p.hash)


def test_signed_octets() -> None:
    maced = hmac.digest(b"sk_pi", b"\x02\0\0\0moon", "sha256")
    octets = signed_octets(PRFS["prfsha256"], b"message", b"nonce", b"sk_pi", b"\x02\0\0\0moon")
    assert octets == b"message" + b"nonce" + maced


def test_the_hashes_that_are_announced() -> None:
    assert supported_hashes_notify_data().hex() == "0002000300040005"
    assert parse_hashes(supported_hashes_notify_data()) == ALL_HASHES
    assert parse_hashes(bytes.fromhex("00010002ffff")) == {1, 2, 0xFFFF}
    assert parse_hashes(b"\0\2\0") == parse_hashes(b"") == frozenset()


@pytest.mark.parametrize(
    ("kind", "identifier"),
    [
        ("rsa", "300d06092a864886f70d01010b0500"),
        ("ecp256", "300a06082a8648ce3d040302"),
        ("ecp384", "300a06082a8648ce3d040303"),
        ("ecp521", "300a06082a8648ce3d040304"),
        ("ed25519", "300506032b6570"),
    ],
)
def test_rfc_7427_signatures(kind: str, identifier: str) -> None:
    own = credential(kind)
    method, data = own.sign(SIGNED, ALL_HASHES)
    assert method == AuthMethod.DIGITAL_SIGNATURE
    assert data[1 : 1 + data[0]].hex() == identifier
    verify_signature(own.certificate, method, data, SIGNED)


@pytest.mark.parametrize("kind", KINDS)
def test_every_change_is_noticed(kind: str) -> None:
    own = credential(kind)
    method, data = own.sign(SIGNED, ALL_HASHES)
    with pytest.raises(AuthFailure, match="does not verify"):
        verify_signature(own.certificate, method, data, SIGNED + b"\0")
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(AuthFailure):
            verify_signature(own.certificate, method, bytes(changed), SIGNED)
    for cut in range(len(data)):
        with pytest.raises(AuthFailure):
            verify_signature(own.certificate, method, data[:cut], SIGNED)
    other = Credential(key("ecp256", 9), leaf("ecp256")) if kind != "ecp256" else credential("ecp384")
    with pytest.raises(AuthFailure):
        verify_signature(other.certificate, method, data, SIGNED)


@pytest.mark.parametrize(
    ("kind", "hashes_of_peer", "identifier"),
    [
        ("rsa", {4}, "300d06092a864886f70d01010d0500"),
        ("rsa", {3, 4}, "300d06092a864886f70d01010c0500"),
        ("ecp256", {4}, "300a06082a8648ce3d040304"),
        ("ecp521", {2, 3}, "300a06082a8648ce3d040303"),
        ("ecp256", {1, 2, 4}, "300a06082a8648ce3d040302"),
    ],
)
def test_a_hash_that_the_peer_accepts_is_taken(kind: str, hashes_of_peer: set[int], identifier: str) -> None:
    own = credential(kind)
    method, data = own.sign(SIGNED, frozenset(hashes_of_peer))
    assert data[1 : 1 + data[0]].hex() == identifier
    verify_signature(own.certificate, method, data, SIGNED)


def test_what_the_peer_can_not_verify_is_not_signed() -> None:
    for kind in ("rsa", "ecp256"):
        with pytest.raises(CredentialError, match="SHA-2"):
            credential(kind).sign(SIGNED, frozenset({1, 5}))
    with pytest.raises(CredentialError, match="IDENTITY"):
        credential("ed25519").sign(SIGNED, frozenset({2, 3, 4}))


@pytest.mark.parametrize(
    ("kind", "method", "octets"), [("ecp256", 9, 64), ("ecp384", 10, 96), ("ecp521", 11, 132)]
)
def test_classic_ecdsa_for_peers_without_rfc_7427(kind: str, method: int, octets: int) -> None:
    own = credential(kind)
    for none in (None, frozenset[int]()):
        used, data = own.sign(SIGNED, none)
        assert (used, len(data)) == (method, octets)
        verify_signature(own.certificate, used, data, SIGNED)
    for bad in (data[:-1], data + b"\0", bytes(octets), b"\xff" * octets, data[::-1]):
        with pytest.raises(AuthFailure):
            verify_signature(own.certificate, method, bad, SIGNED)
    for other in {9, 10, 11} - {method}:
        with pytest.raises(AuthFailure, match="needs a key on"):
            verify_signature(own.certificate, other, data, SIGNED)
    with pytest.raises(AuthFailure, match="needs a key on"):
        verify_signature(leaf("rsa"), method, data, SIGNED)


def test_no_sha_1_either_way() -> None:
    for kind in ("rsa", "ed25519"):
        with pytest.raises(CredentialError, match="SHA-1"):
            credential(kind).sign(SIGNED, None)
    private = key("rsa", 9)
    assert isinstance(private, rsa.RSAPrivateKey)
    with pytest.raises(AuthFailure, match="SHA-1"):
        verify_signature(leaf("rsa"), AuthMethod.RSA, bytes(256), SIGNED)
    sha1_with_rsa = bytes.fromhex("300d06092a864886f70d0101050500")
    with pytest.raises(AuthFailure, match="can't sign with"):
        verify_signature(leaf("rsa"), 14, bytes((len(sha1_with_rsa),)) + sha1_with_rsa + bytes(256), SIGNED)


@pytest.mark.parametrize("method", [0, 2, 12, 13, 255])
def test_methods_that_are_no_signature(method: int) -> None:
    with pytest.raises(AuthFailure, match="is not a signature"):
        verify_signature(leaf(), method, b"", SIGNED)


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_rsassa_pss_is_verified(digest: str) -> None:
    algorithm = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[digest]
    # RFC 7427 appendix A.4.3; for the longer hashes the OIDs' last octet and the salt's length differ.
    last, salt = {"sha256": ("01", "20"), "sha384": ("02", "30"), "sha512": ("03", "40")}[digest]
    own_hash = f"300d06096086480165030402{last}0500"
    parameters = f"a00f{own_hash}a11c301a06092a864886f70d010108{own_hash}a2030201{salt}"
    identifier = bytes.fromhex(f"304106092a864886f70d01010a3034{parameters}")
    private = key("rsa", 9)
    assert isinstance(private, rsa.RSAPrivateKey)
    pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
    data = bytes((len(identifier),)) + identifier + private.sign(SIGNED, pss, algorithm)
    verify_signature(leaf("rsa"), AuthMethod.DIGITAL_SIGNATURE, data, SIGNED)
    with pytest.raises(AuthFailure, match="does not verify"):
        verify_signature(leaf("rsa"), AuthMethod.DIGITAL_SIGNATURE, data, SIGNED + b"\0")
    # The same signature under PKCS #1 v1.5's name is none.
    pkcs1 = bytes.fromhex("300d06092a864886f70d01010b0500")
    with pytest.raises(AuthFailure, match="does not verify"):
        verify_signature(leaf("rsa"), 14, bytes((15,)) + pkcs1 + data[1 + len(identifier) :], SIGNED)


def test_pkcs1_without_the_null_is_accepted() -> None:
    private = key("rsa", 9)
    assert isinstance(private, rsa.RSAPrivateKey)
    identifier = bytes.fromhex("300b06092a864886f70d01010b")
    data = bytes((len(identifier),)) + identifier + private.sign(SIGNED, padding.PKCS1v15(), hashes.SHA256())
    verify_signature(leaf("rsa"), 14, data, SIGNED)


def test_an_algorithm_of_another_kind_of_key_is_refused() -> None:
    data = {kind: credential(kind).sign(SIGNED, ALL_HASHES)[1] for kind in ("rsa", "ecp256", "ed25519")}
    for kind in data:
        for other in data.keys() - {kind}:
            with pytest.raises(AuthFailure, match="can't sign with"):
                verify_signature(leaf(kind), 14, data[other], SIGNED)


def test_weak_keys_verify_nothing_and_make_no_credential() -> None:
    with pytest.raises(AuthFailure, match="1024 bits"):
        verify_signature(leaf("rsa1024"), 14, b"", SIGNED)
    with pytest.raises(CredentialError, match="1024 bits"):
        Credential(key("rsa1024", 9), leaf("rsa1024"))
    with pytest.raises(AuthFailure, match="secp256k1"):
        verify_signature(leaf("k1"), 14, b"", SIGNED)


def test_a_credential_is_a_pair_and_hides_itself() -> None:
    with pytest.raises(CredentialError, match="not that of the certificate"):
        Credential(key("ecp256", 8), leaf("ecp256"))
    issuer = leaf("ecp384")
    own = Credential(key("ecp256", 9), leaf("ecp256"), (issuer,))
    assert repr(own) == "Credential()"
    payloads = own.payloads()
    assert {p.encoding for p in payloads} == {CertEncoding.X509_SIGNATURE}
    assert [load_certificates(p.data)[0] for p in payloads] == [own.certificate, issuer]


def test_an_ecdsa_key_signs_with_its_certificates_curve() -> None:
    private = key("ecp256", 9)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    data = bytes.fromhex("0c300a06082a8648ce3d040303") + private.sign(SIGNED, ec.ECDSA(hashes.SHA384()))
    verify_signature(leaf("ecp256"), 14, data, SIGNED)


CERTIFICATES = {kind: leaf(kind) for kind in KINDS}


@given(st.sampled_from(KINDS), st.integers(0, 255), st.binary(max_size=150))
def test_garbage_is_an_auth_failure(kind: str, method: int, data: bytes) -> None:
    with pytest.raises(AuthFailure):
        verify_signature(CERTIFICATES[kind], method, data, SIGNED)
