"""A small certificate authority for tests: keys made once, certificates as wrong as a test wants them."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from deadpeer.crypto import PrivateKey

NOW = 1_800_000_000.0
DAY = 86_400
Extension: TypeAlias = tuple[x509.ExtensionType, bool]


@cache
def key(kind: str, number: int = 0) -> PrivateKey:
    """A key of a kind: rsa, rsa1024, ecp256, ecp384, ecp521, ed25519. The same number gives the same key."""
    curves = {
        "ecp256": ec.SECP256R1(),
        "ecp384": ec.SECP384R1(),
        "ecp521": ec.SECP521R1(),
        "k1": ec.SECP256K1(),
    }
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(bytes((number,)) * 32)
    if kind in curves:
        return ec.derive_private_key(1000 + number, curves[kind])
    return rsa.generate_private_key(65537, 1024 if kind == "rsa1024" else 2048)


def name(text: str) -> x509.Name:
    """C=CH, CN=moon"""
    oids = {
        "C": x509.NameOID.COUNTRY_NAME,
        "O": x509.NameOID.ORGANIZATION_NAME,
        "CN": x509.NameOID.COMMON_NAME,
    }
    pairs = [part.strip().split("=", 1) for part in text.split(",")]
    return x509.Name([x509.NameAttribute(oids[kind], value) for kind, value in pairs])


def certificate(
    subject: str,
    subject_key: PrivateKey,
    issuer: str,
    issuer_key: PrivateKey,
    *,
    extensions: Sequence[Extension] = (),
    start: float = NOW - DAY,
    end: float = NOW + DAY,
    hash_algorithm: hashes.SHA224 | hashes.SHA256 | None = None,
) -> x509.Certificate:
    """Any certificate at all."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(subject_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(start, UTC))
        .not_valid_after(datetime.fromtimestamp(end, UTC))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if isinstance(issuer_key, ed25519.Ed25519PrivateKey):
        return builder.sign(issuer_key, None)
    return builder.sign(issuer_key, hash_algorithm or hashes.SHA256())


def usage(*, sign: bool = False, cert_sign: bool = False, commitment: bool = False) -> Extension:
    """A critical keyUsage."""
    value = x509.KeyUsage(
        digital_signature=sign,
        content_commitment=commitment,
        key_encipherment=not sign,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=cert_sign,
        encipher_only=False,
        decipher_only=False,
    )
    return value, True


def is_ca(path_length: int | None = None) -> list[Extension]:
    """The extensions of a CA."""
    return [(x509.BasicConstraints(ca=True, path_length=path_length), True), usage(cert_sign=True)]


def root(subject: str = "C=CH, CN=root", kind: str = "ecp256", **changes: Any) -> x509.Certificate:
    """A self-signed CA with key number 0 of its kind."""
    options: dict[str, Any] = {"extensions": is_ca()} | changes
    return certificate(subject, key(kind), subject, key(kind), **options)


def leaf(
    kind: str = "ecp256",
    issuer: str = "C=CH, CN=root",
    issuer_key: PrivateKey | None = None,
    **changes: Any,
) -> x509.Certificate:
    """moon's certificate: key number 9 of its kind, a SAN and little else, as strongSwan's pki does it."""

    san = x509.SubjectAlternativeName(
        [
            x509.DNSName("moon.example.org"),
            x509.RFC822Name("moon@example.org"),
            x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        ]
    )
    options: dict[str, Any] = {"extensions": [(san, False)]} | changes
    return certificate(
        "C=CH, O=example, CN=moon", key(kind, 9), issuer, issuer_key or key("ecp256"), **options
    )
