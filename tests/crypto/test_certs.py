"""Certificates: chains that hold, every way in which one must not, and who a certificate speaks for."""

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.crypto.pki import DAY, NOW, certificate, is_ca, key, leaf, root, usage

from deadpeer.crypto import (
    AuthFailure,
    CertificateError,
    CredentialError,
    Identity,
    TrustStore,
    authority_hash,
    certificate_identities,
    certificate_matches,
    load_certificates,
    load_private_key,
    verify_signature,
)
from deadpeer.crypto import certs as certs_module

ROOT = root()


def verify(
    peer: x509.Certificate,
    intermediates: Sequence[x509.Certificate] = (),
    *,
    trusted: Sequence[x509.Certificate] = (ROOT,),
    now: float = NOW,
) -> None:
    TrustStore(trusted).verify(peer, intermediates, now)


def intermediate(
    number: int, subject: str, issuer: str = "C=CH, CN=root", issuer_number: int = 0, **changes: Any
) -> x509.Certificate:
    options: dict[str, Any] = {"extensions": is_ca()} | changes
    return certificate(subject, key("ecp256", number), issuer, key("ecp256", issuer_number), **options)


# --- chains that hold ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ca_kind", ["rsa", "ecp256", "ecp384", "ecp521", "ed25519"])
@pytest.mark.parametrize("kind", ["rsa", "ecp256", "ecp521", "ed25519"])
def test_a_certificate_of_a_trusted_ca(ca_kind: str, kind: str) -> None:
    verify(leaf(kind, issuer_key=key(ca_kind)), trusted=[root(kind=ca_kind)])


def test_chains_of_intermediates_in_any_order_and_with_strangers_between() -> None:
    one = intermediate(1, "CN=one")
    two = intermediate(2, "CN=two", "CN=one", 1)
    stranger = root("CN=stranger")
    peer = leaf(issuer="CN=two", issuer_key=key("ecp256", 2))
    for order in ([one, two], [two, one], [stranger, two, one, peer], [two, stranger, one, one]):
        verify(peer, order)
    # A trusted intermediate is as good as a root.
    verify(peer, [], trusted=[two])


def test_a_second_ca_of_the_same_name_does_not_hide_the_first() -> None:
    twin = certificate(
        "C=CH, CN=root", key("ecp256", 5), "C=CH, CN=root", key("ecp256", 5), extensions=is_ca()
    )
    verify(leaf(), trusted=[twin, ROOT])
    verify(leaf(), [twin], trusted=[ROOT])
    # The same intermediate, once expired and once not.
    old = intermediate(1, "CN=one", end=NOW - 1)
    new = intermediate(1, "CN=one")
    verify(leaf(issuer="CN=one", issuer_key=key("ecp256", 1)), [old, new])


def test_a_peers_own_certificate_may_be_trusted_as_it_is() -> None:
    own = certificate("CN=self", key("ed25519", 3), "CN=self", key("ed25519", 3))
    verify(own, trusted=[own])
    with pytest.raises(CertificateError, match="expired"):
        verify(own, trusted=[own], now=NOW + 2 * DAY)
    # That makes it no CA.
    with pytest.raises(CertificateError, match="is not a CA"):
        verify(leaf(issuer="CN=self", issuer_key=key("ed25519", 3)), trusted=[own])


@pytest.mark.parametrize(
    "extensions",
    [
        [],
        [usage(sign=True)],
        [usage(commitment=True)],
        [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)],
        [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.IPSEC_IKE, ExtendedKeyUsageOID.CODE_SIGNING]), True)],
        [(x509.BasicConstraints(ca=False, path_length=None), True)],
    ],
)
def test_extensions_of_a_peer_that_are_well(extensions: list[tuple[x509.ExtensionType, bool]]) -> None:
    verify(leaf(extensions=extensions))


# --- chains that do not -------------------------------------------------------------------------------------


def refused(reason: str, peer: x509.Certificate, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(CertificateError, match=reason):
        verify(peer, *args, **kwargs)


def test_time() -> None:
    refused("'C=CH, O=example, CN=moon' expired at 2027-01-1", leaf(), now=NOW + 2 * DAY)
    refused("is not valid before", leaf(), now=NOW - 2 * DAY)
    refused("'C=CH, CN=root' expired", leaf(), trusted=[root(end=NOW - 1)])
    refused("'C=CH, CN=root' is not valid before", leaf(), trusted=[root(start=NOW + 1)])
    expired = intermediate(1, "CN=one", end=NOW - 1)
    refused("'CN=one' expired", leaf(issuer="CN=one", issuer_key=key("ecp256", 1)), [expired])
    verify(leaf(), now=NOW + DAY)
    verify(leaf(), now=NOW - DAY)


def test_another_ca() -> None:
    refused(
        "no trusted CA has issued 'C=CH, O=example, CN=moon': its issuer is 'CN=other'",
        leaf(issuer="CN=other"),
    )
    refused("no trusted CA", leaf(), trusted=[])
    self_signed = certificate("CN=moon", key("ecp256", 9), "CN=moon", key("ecp256", 9))
    refused("no trusted CA has issued 'CN=moon'", self_signed)
    # The name alone does not make the CA.
    refused("signature.*does not verify", leaf(issuer_key=key("ecp256", 7)))
    # A chain that is whole but ends elsewhere.
    evil_root = root("CN=evil", "ecp384")
    refused(
        "no trusted CA has issued 'CN=evil'",
        leaf(issuer="CN=evil", issuer_key=key("ecp384")),
        [evil_root],
    )


def test_an_intermediate_that_is_no_ca() -> None:
    peer = leaf(issuer="CN=one", issuer_key=key("ecp256", 1))
    no_constraints = intermediate(1, "CN=one", extensions=[usage(sign=True)])
    not_ca = intermediate(1, "CN=one", extensions=[(x509.BasicConstraints(ca=False, path_length=None), True)])
    may_not_sign = intermediate(
        1, "CN=one", extensions=[(x509.BasicConstraints(ca=True, path_length=None), True), usage(sign=True)]
    )
    refused("'CN=one' is not a CA", peer, [no_constraints])
    refused("'CN=one' is not a CA", peer, [not_ca])
    refused("may not sign certificates", peer, [may_not_sign])
    # An ordinary peer must not make certificates for others.
    carol = leaf()
    dave = certificate("CN=dave", key("ecp256", 4), "C=CH, O=example, CN=moon", key("ecp256", 9))
    refused("is not a CA, yet has issued 'CN=dave'", dave, [carol])


def test_path_length() -> None:
    short = root(extensions=is_ca(path_length=0))
    verify(leaf(), trusted=[short])
    one = intermediate(1, "CN=one")
    peer = leaf(issuer="CN=one", issuer_key=key("ecp256", 1))
    refused("allows 0 CAs below itself, the chain has 1", peer, [one], trusted=[short])
    verify(peer, [one], trusted=[root(extensions=is_ca(path_length=1))])
    limited = intermediate(1, "CN=one", extensions=is_ca(path_length=0))
    verify(peer, [limited])
    two = intermediate(2, "CN=two", "CN=one", 1)
    refused("'CN=one' allows 0", leaf(issuer="CN=two", issuer_key=key("ecp256", 2)), [limited, two])


def test_what_a_peers_key_may_do() -> None:
    refused("may not sign", leaf(extensions=[usage()]))
    refused(
        "is not for IKE",
        leaf(extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)]),
    )


def test_what_is_not_understood_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    verify(leaf(extensions=[(unknown, False)]))
    refused("critical extension 1.2.3.4", leaf(extensions=[(unknown, True)]))
    refused("critical extension 1.2.3.4", leaf(), trusted=[root(extensions=[*is_ca(), (unknown, True)])])
    constraints = x509.NameConstraints([x509.DNSName("example.com")], None)
    refused("name constraints", leaf(), trusted=[root(extensions=[*is_ca(), (constraints, False)])])
    refused(
        "critical extension 2.5.29.30", leaf(), trusted=[root(extensions=[*is_ca(), (constraints, True)])]
    )


def test_weak_keys_and_signatures() -> None:
    refused("RSA with 1024 bits", leaf("rsa1024"))
    refused("RSA with 1024 bits", leaf(issuer_key=key("rsa1024")), trusted=[root(kind="rsa1024")])
    refused("curve secp256k1", leaf("k1"))
    refused("signed with sha224, which is weak", leaf(hash_algorithm=hashes.SHA224()))


def test_depth_and_work_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def ladder(height: int) -> tuple[x509.Certificate, list[x509.Certificate]]:
        steps = [intermediate(1, "CN=step1")]
        steps += [intermediate(n, f"CN=step{n}", f"CN=step{n - 1}", n - 1) for n in range(2, height + 1)]
        return leaf(issuer=f"CN=step{height}", issuer_key=key("ecp256", height)), steps

    peer, steps = ladder(certs_module.MAX_DEPTH - 2)
    verify(peer, steps)
    peer, steps = ladder(certs_module.MAX_DEPTH - 1)
    refused("longer than 8 certificates", peer, steps)

    # Many CAs of one name and key, each the issuer of all: without a bound, paths for years.
    calls = 0
    original = certs_module._check_signature

    def counted(*args: x509.Certificate) -> None:
        nonlocal calls
        calls += 1
        original(*args)

    monkeypatch.setattr(certs_module, "_check_signature", counted)
    loop = [
        certificate("CN=loop", key("ecp256", 3), "CN=loop", key("ecp256", 3), extensions=is_ca())
        for _ in range(16)
    ]
    refused(".", leaf(issuer="CN=loop", issuer_key=key("ecp256", 3)), loop)
    assert 16 <= calls <= certs_module.MAX_SIGNATURES


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("C=CH, O=example, CN=moon", True),
        ("C=ch, O=Example, CN=MOON", True),
        ("CN=moon", False),
        ("O=example, C=CH, CN=moon", False),
        ("moon.example.org", True),
        ("Moon.Example.ORG", True),
        ("sun.example.org", False),
        ("moon", False),  # the subject's CN is no host name
        ("moon@example.org", True),
        ("sun@example.org", False),
        ("10.0.0.1", True),
        ("10.0.0.2", False),
        ("2001:db8::1", True),
        ("2001:db8::2", False),
        ("fqdn:10.0.0.1", False),
        ("keyid:0a000001", False),
        ("%any", False),
    ],
)
def test_who_a_certificate_speaks_for(text: str, same: bool) -> None:
    assert certificate_matches(leaf(), Identity.parse(text)) is same


def test_a_certificate_without_a_san_speaks_for_its_subject_alone() -> None:
    bare = leaf(extensions=[])
    assert [str(i) for i in certificate_identities(bare)] == ["C=CH, O=example, CN=moon"]
    assert certificate_matches(bare, Identity.parse("C=CH, O=example, CN=moon"))
    assert not certificate_matches(bare, Identity.parse("moon"))
    assert [str(i) for i in certificate_identities(leaf())][1:] == [
        "moon.example.org",
        "moon@example.org",
        "10.0.0.1",
        "2001:db8::1",
    ]


def test_a_wildcard_in_a_san_is_not_one_here() -> None:
    wild = leaf(extensions=[(x509.SubjectAlternativeName([x509.DNSName("*.example.org")]), False)])
    assert not certificate_matches(wild, Identity.parse("moon.example.org"))


# --- reading ------------------------------------------------------------------------------------------------


def test_certificates_are_read_from_pem_bundles_and_der() -> None:
    one, two = leaf(), ROOT
    bundle = one.public_bytes(Encoding.PEM) + b"a comment\n" + two.public_bytes(Encoding.PEM)
    assert load_certificates(bundle) == (one, two)
    assert load_certificates(one.public_bytes(Encoding.DER)) == (one,)
    for bad in (
        b"",
        b"garbage",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        one.public_bytes(Encoding.DER)[:-1],
    ):
        with pytest.raises(CertificateError, match="not a certificate"):
            load_certificates(bad)


@pytest.mark.parametrize("kind", ["rsa", "ecp256", "ecp384", "ecp521", "ed25519"])
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_private_keys_are_read(kind: str, encoding: Encoding) -> None:
    octets = key(kind).private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())
    assert load_private_key(octets).public_key() == key(kind).public_key()


def test_private_keys_that_are_refused() -> None:
    sealed = key("ecp256").private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    assert load_private_key(sealed, b"secret").public_key() == key("ecp256").public_key()
    for octets, password, reason in (
        (sealed, None, "can be read"),
        (sealed, b"wrong", "can be read"),
        (b"garbage", None, "can be read"),
        (key("rsa1024").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), None, "1024 bits"),
        (key("k1").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), None, "secp256k1"),
        (
            ed448.Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            None,
            "must be RSA",
        ),
    ):
        with pytest.raises(CredentialError, match=reason):
            load_private_key(octets, password)


FULL = leaf(
    extensions=[
        (x509.SubjectAlternativeName([x509.DNSName("moon.example.org")]), False),
        usage(sign=True),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ]
).public_bytes(Encoding.DER)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(FULL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_mutated_certificate_raises_nothing_but_our_errors(changes: list[tuple[int, int]]) -> None:
    octets = bytearray(FULL)
    for at, value in changes:
        octets[at] = value
    try:
        (mutant,) = load_certificates(bytes(octets))
    except CertificateError:
        return
    certificate_matches(mutant, Identity.parse("moon.example.org"))
    certificate_matches(mutant, Identity.parse("CN=moon"))
    if octets != FULL:
        # A change outside the signed part can leave the certificate good; then it is the same but for that.
        with contextlib.suppress(CertificateError):
            TrustStore([ROOT]).verify(mutant, [mutant], NOW)
            assert mutant.tbs_certificate_bytes == load_certificates(FULL)[0].tbs_certificate_bytes
    with pytest.raises(AuthFailure):
        verify_signature(
            mutant, 14, b"\x0c" + bytes.fromhex("300a06082a8648ce3d040302") + bytes(70), b"signed"
        )


def test_what_the_library_finds_only_later_is_found_at_once() -> None:
    for part, instead in ((b"\x13\x07example", b"\x03\x07example"), (b"\x55\x1d\x0f", b"\x55\x1d\x11")):
        broken = FULL.replace(part, instead) if part in FULL else FULL.replace(b"\x0c" + part[1:], instead)
        assert broken != FULL
        with pytest.raises(CertificateError, match="can be read"):
            load_certificates(broken)


def test_a_ca_is_named_by_the_hash_of_its_public_key() -> None:
    info = ROOT.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert authority_hash(ROOT) == hashlib.sha1(info, usedforsecurity=False).digest()
    renewed = root(end=NOW + 2 * DAY)
    other = root("CN=other", "ed25519")
    store = TrustStore([ROOT, renewed, other])
    assert store.authorities == authority_hash(ROOT) + authority_hash(other)
    assert TrustStore([]).authorities == b""
