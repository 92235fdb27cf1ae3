"""Keys and certificates for the two sides of a measurement, made when they are first asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from deadpeer.crypto import Credential, Identity, TrustStore
from deadpeer.ike.connection import LocalAuth, RemoteAuth
from deadpeer.lab.costs.model import Authentication
from deadpeer.lab.options import Side

SHARED_KEY = b"a shared key that guards nothing"
UNIX_S = 1_800_000_000.0
"""When it is, for the endpoints; the certificates are valid for a year on either side."""
RSA_BITS = 3072

_YEAR = timedelta(days=365)
_CertKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def identity(side: Side) -> Identity:
    """The IKE identity of a side."""
    return Identity.parse(f"{side}.costs.example")


def auth_of(side: Side, authentication: Authentication) -> tuple[LocalAuth, RemoteAuth]:
    """How this side proves who it is, and what the other one must prove."""
    other: Side = "bob" if side == "alice" else "alice"
    if authentication == "psk":
        return (
            LocalAuth("psk", identity(side), secret=SHARED_KEY),
            RemoteAuth("psk", identity(other), secret=SHARED_KEY),
        )
    _, authority = _authority(authentication)
    return (
        LocalAuth("pubkey", identity(side), credential=_credential(side, authentication)),
        RemoteAuth("pubkey", identity(other), trust=TrustStore([authority])),
    )


def _key(authentication: Authentication) -> _CertKey:
    if authentication == "rsa-3072":
        return rsa.generate_private_key(65537, RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


@cache
def _authority(authentication: Authentication) -> tuple[_CertKey, x509.Certificate]:
    """A CA with a key of the same kind, that issues both certificates itself."""
    key = _key(authentication)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = _builder("authority", key).add_extension(x509.BasicConstraints(True, None), True)
    return key, builder.add_extension(usage, True).sign(key, hashes.SHA256())


@cache
def _credential(side: Side, authentication: Authentication) -> Credential:
    key, (issuer, _) = _key(authentication), _authority(authentication)
    name = x509.SubjectAlternativeName([x509.DNSName(f"{side}.costs.example")])
    builder = _builder(side, key).add_extension(name, False)
    return Credential(key, builder.sign(issuer, hashes.SHA256()))


def _builder(subject: str, key: _CertKey) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(UNIX_S, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _YEAR)
        .not_valid_after(now + _YEAR)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{common_name}.costs.example")])
