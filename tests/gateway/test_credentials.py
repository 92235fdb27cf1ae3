"""Secrets, keys and certificates: what is used, what is refused, and that no text quotes a secret."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.gateway.documents import base_document, write_config

from deadpeer.gateway.config import ConfigError, load
from deadpeer.gateway.errors import Problem
from deadpeer.gateway.files import parse_secret

WORDS = "the-secret-itself"


def refused(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    text = str(caught.value)
    assert "\n" not in text
    assert WORDS not in text
    return text


def connection(file: Path) -> Any:
    return load(file).connections[0]


@pytest.fixture
def secret(place: Path) -> Path:
    path = place / "home.psk"
    path.touch(mode=0o600)
    path.write_text(WORDS + "\n")
    return path


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644, 0o601])
def test_a_secret_that_others_can_read(place: Path, secret: Path, mode: int) -> None:
    secret.chmod(mode)
    text = refused(write_config(place, base_document()))
    assert text == (
        f"{place}/gw.toml: connections.home.local.secret_file: {secret} is readable by others"
        f" (mode {mode:04o}); run: chmod 600 {secret}"
    )


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_that_is_private(place: Path, secret: Path, mode: int) -> None:
    secret.chmod(mode)
    home = connection(write_config(place, base_document()))
    assert home.local.secret == WORDS.encode()
    assert home.remote.secret == WORDS.encode()
    assert WORDS not in repr(home)


def test_each_side_may_have_its_own_secret(place: Path, secret: Path) -> None:
    other = place / "bob.psk"
    other.touch(mode=0o600)
    other.write_bytes(b"0x00ff\n")
    document = base_document()
    document["connections"]["home"]["remote"] |= {"secret_file": "bob.psk"}
    home = connection(write_config(place, document))
    assert (home.local.secret, home.remote.secret) == (WORDS.encode(), b"\x00\xff")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and read what it may not")
def test_a_secret_of_another_user(place: Path, secret: Path) -> None:
    os.chown(secret, 12345, 12345)
    assert f"run: chown 0 {secret}" in refused(write_config(place, base_document()))


def test_a_secret_that_we_can_not_read(place: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_config(place, base_document())
    real_open = os.open

    def deny(path: Path, *args: int) -> int:
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return real_open(path, *args)

    monkeypatch.setattr(os, "open", deny)
    assert f"{secret} can't be read by user {os.geteuid()}; change its owner or mode" in refused(file)


@pytest.mark.parametrize("content", ["", "\n", "0x", "0s"])
def test_an_empty_secret(place: Path, secret: Path, content: str) -> None:
    secret.write_text(content)
    assert "connections.home.local.secret_file" in refused(write_config(place, base_document()))


def test_a_secret_that_is_a_fifo_does_not_hang(place: Path) -> None:
    os.mkfifo(place / "home.psk", 0o600)
    assert "is not a file" in refused(write_config(place, base_document()))


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"plain", b"plain"),
        (b"plain\n", b"plain"),
        (b"plain\r\n", b"plain"),
        (b"two\n\n", b"two\n"),
        (b" space ", b" space "),
        (b"0xDEADbeef\n", b"\xde\xad\xbe\xef"),
        (b"0sAAEC\n", b"\x00\x01\x02"),
        (b"\xff\x00", b"\xff\x00"),
    ],
)
def test_how_secrets_are_written(content: bytes, secret: bytes) -> None:
    assert parse_secret(content) == secret


@pytest.mark.parametrize("content", [b"0xnothex", b"0x123", b"0s###", b"0sAAE", b"0x\xff"])
def test_secrets_that_are_miswritten(content: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse_secret(content)
    assert content[2:].decode("latin-1") not in str(caught.value)


# Certificates


class Pki:
    """A CA and one leaf, written to a directory."""

    def __init__(self, place: Path) -> None:
        self.ca_key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self._certificate("ca", self.ca_key.public_key(), "ca")
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.leaf = self._certificate("alice", self.key.public_key(), "ca")
        (place / "ca.pem").write_bytes(self.ca.public_bytes(Encoding.PEM))
        (place / "alice.pem").write_bytes(self.leaf.public_bytes(Encoding.PEM))
        (place / "alice.der").write_bytes(self.leaf.public_bytes(Encoding.DER))
        write_key(place / "alice.key", self.key)

    def _certificate(self, subject: str, key: ec.EllipticCurvePublicKey, issuer: str) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{subject}.example")]), critical=False)
            .sign(self.ca_key, hashes.SHA256())
        )


def write_key(path: Path, key: Any, mode: int = 0o600) -> None:
    path.touch(mode=mode)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture
def pki(place: Path) -> Pki:
    return Pki(place)


def pubkey_document(**local: object) -> dict[str, Any]:
    document = base_document()
    home = document["connections"]["home"]
    home["local"] = {"auth": "pubkey", "certs": ["alice.pem"], "private_key": "alice.key"} | local
    home["remote"] = {"auth": "pubkey", "id": "bob.example", "cacerts": ["ca.pem"]}
    return document


def test_certificates(place: Path, pki: Pki) -> None:
    home = connection(write_config(place, pubkey_document(id="alice.example")))
    assert home.local.credential.certificate == pki.leaf
    assert str(home.local.identity) == "alice.example"
    assert home.remote.trust.cas == (pki.ca,)


def test_der_and_a_single_name(place: Path, pki: Pki) -> None:
    home = connection(write_config(place, pubkey_document(certs="alice.der")))
    assert home.local.credential.certificate == pki.leaf


def test_the_identity_defaults_to_the_subject(place: Path, pki: Pki) -> None:
    assert str(connection(write_config(place, pubkey_document())).local.identity) == "CN=alice"


def test_any_remote_identity(place: Path, pki: Pki) -> None:
    document = pubkey_document()
    document["connections"]["home"]["remote"]["id"] = "%any"
    assert connection(write_config(place, document)).remote.identity is None


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("id", "mallory.example", "not in the certificate, which speaks for CN=alice, alice.example"),
        ("certs", ["absent.pem"], "does not exist"),
        ("certs", ["alice.key"], "name a certificate in PEM or DER"),
        ("certs", [], "is missing"),
        ("private_key", "alice.pem", "readable by others"),
        ("private_key", "absent.key", "does not exist"),
        ("secret_file", "home.psk", 'means nothing with auth = "pubkey"'),
    ],
)
def test_bad_local_credentials(place: Path, pki: Pki, key: str, value: object, says: str) -> None:
    (place / "alice.pem").chmod(0o644)
    text = refused(write_config(place, pubkey_document(**{key: value})))
    assert says in text
    assert f"connections.home.local.{key}: " in text


@pytest.mark.parametrize("key", ["certs", "private_key"])
def test_missing_local_credentials(place: Path, pki: Pki, key: str) -> None:
    document = pubkey_document()
    del document["connections"]["home"]["local"][key]
    assert f"connections.home.local.{key}: is missing" in refused(write_config(place, document))


def test_missing_authorities(place: Path, pki: Pki) -> None:
    document = pubkey_document()
    del document["connections"]["home"]["remote"]["cacerts"]
    assert "connections.home.remote.cacerts: is missing" in refused(write_config(place, document))


def test_a_private_key_that_others_can_read(place: Path, pki: Pki) -> None:
    (place / "alice.key").chmod(0o640)
    assert f"run: chmod 600 {place}/alice.key" in refused(write_config(place, pubkey_document()))


def test_the_private_key_of_another_certificate(place: Path, pki: Pki) -> None:
    write_key(place / "other.key", ec.generate_private_key(ec.SECP256R1()))
    text = refused(write_config(place, pubkey_document(private_key="other.key")))
    assert "the private key is not that of the certificate" in text


def test_a_weak_private_key(place: Path, pki: Pki) -> None:
    write_key(place / "weak.key", rsa.generate_private_key(65537, 1024))  # noqa: S505 -- weak on purpose
    assert "1024" in refused(write_config(place, pubkey_document(private_key="weak.key")))


def test_a_private_key_that_is_none(place: Path, pki: Pki) -> None:
    (place / "alice.key").write_text(WORDS)
    assert "connections.home.local.private_key" in refused(write_config(place, pubkey_document()))


def test_psk_against_certificates(place: Path, pki: Pki) -> None:
    document = pubkey_document()
    document["connections"]["home"]["remote"] = {"auth": "psk", "id": "bob.example"}
    text = refused(write_config(place, document))
    assert "connections.home.remote.secret_file: is missing" in text
