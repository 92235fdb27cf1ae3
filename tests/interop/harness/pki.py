"""Certification authorities and certificates for both sides, made fresh, as PEM files."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

Kind = Literal["ecdsa", "rsa", "ed25519"]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_RSA_BITS = 3072


@dataclass(frozen=True)
class Leaf:
    """Files: a certificate, its private key (mode 0600), the intermediates between it and the root."""

    certificate: Path
    private_key: Path
    intermediates: tuple[Path, ...]


class Authority:
    """A root of one key type; with `intermediate` leaves are signed by an authority beneath it."""

    def __init__(self, directory: Path, kind: Kind, *, intermediate: bool = False) -> None:
        self.kind = kind
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        key = _new_key(kind)
        name = _name(f"{kind} root")
        self.root = directory / "root.pem"
        self._sign_with, self._issuer = key, name
        self._intermediates: tuple[Path, ...] = ()
        _write(self.root, _certificate(name, key, name, key, depth=1))
        if intermediate:
            below, below_name = _new_key(kind), _name(f"{kind} intermediate")
            path = directory / "intermediate.pem"
            _write(path, _certificate(below_name, below, name, key, depth=0))
            self._sign_with, self._issuer, self._intermediates = below, below_name, (path,)

    def issue(self, identity: str, label: str) -> Leaf:
        """A certificate for the domain name `identity`, in files whose names begin with `label`."""
        key = _new_key(self.kind)
        certificate = self._directory / f"{label}.pem"
        private = self._directory / f"{label}.key"
        _write(certificate, _certificate(_name(identity), key, self._issuer, self._sign_with, host=identity))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        private.chmod(0o600)
        return Leaf(certificate, private, self._intermediates)


def _new_key(kind: Kind) -> PrivateKey:
    if kind == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, _RSA_BITS)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name,
    key: PrivateKey,
    issuer: x509.Name,
    signing: PrivateKey,
    *,
    depth: int | None = None,
    host: str | None = None,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + 30 * day)
        .add_extension(x509.BasicConstraints(ca=depth is not None, path_length=depth), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
    )
    usage = dict.fromkeys(_USAGES, False)
    usage |= {"key_cert_sign": True, "crl_sign": True} if depth is not None else {"digital_signature": True}
    builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    if host is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    digest = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signing, digest)


_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
