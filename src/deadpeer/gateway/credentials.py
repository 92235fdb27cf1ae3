"""Who we are and whom we trust: identities, shared secrets, certificates and keys from their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.x509 import Certificate

from deadpeer.crypto import (
    Credential,
    CryptoError,
    Identity,
    TrustStore,
    certificate_identities,
    certificate_matches,
    load_certificates,
    load_private_key,
)
from deadpeer.ike.connection import LocalAuth, RemoteAuth

from .errors import Problem, Problems
from .files import parse_secret, read_private, read_public
from .schema import LocalSection, RemoteSection


def resolve_auth(
    local: LocalSection, remote: RemoteSection, key: str, directory: Path, problems: Problems
) -> tuple[LocalAuth | None, RemoteAuth | None]:
    """Both sides of the authentication; None for a side with a problem, which is noted in `problems`.

    Where both sides use a shared key and `remote` names none, it is that of `local`.
    """
    ours = theirs = b""
    if local.auth == "psk":
        ours = _secret(local.secret_file, f"{key}.local.secret_file", directory, problems)
    if remote.auth == "psk" and (remote.secret_file is not None or local.auth != "psk"):
        theirs = _secret(remote.secret_file, f"{key}.remote.secret_file", directory, problems)
    elif remote.auth == "psk":
        theirs = ours
    return (
        _local(local, f"{key}.local", directory, ours, problems),
        _remote(remote, f"{key}.remote", directory, theirs, problems),
    )


def _secret(file: str | None, key: str, directory: Path, problems: Problems) -> bytes:
    def read() -> bytes:
        if file is None:
            raise Problem('is missing; auth = "psk" needs it, for example: secret_file = "home.psk"')
        path = directory / file
        content = read_private(path)
        try:
            return parse_secret(content)
        except Problem as problem:
            raise Problem(f"{path} {problem}") from None

    return problems.get(key, read) or b""


def _local(
    section: LocalSection, key: str, directory: Path, secret: bytes, problems: Problems
) -> LocalAuth | None:
    if section.auth == "psk":
        _refuse(section.certs, f"{key}.certs", "psk", problems)
        _refuse(section.private_key, f"{key}.private_key", "psk", problems)
        identity = problems.get(f"{key}.id", lambda: _own_identity(section.id))
        return LocalAuth("psk", identity, secret=secret) if identity else None
    _refuse(section.secret_file, f"{key}.secret_file", "pubkey", problems)
    certs = problems.get(f"{key}.certs", lambda: _certificates(section.certs, directory))
    if certs is None:
        return None
    credential = problems.get(f"{key}.private_key", lambda: _credential(section, certs, directory))
    if credential is None:
        return None
    identity = problems.get(f"{key}.id", lambda: _certified_identity(section.id, credential))
    return LocalAuth("pubkey", identity, credential=credential) if identity else None


def _remote(
    section: RemoteSection, key: str, directory: Path, secret: bytes, problems: Problems
) -> RemoteAuth | None:
    identity = None
    if section.id is not None:
        parsed = problems.get(f"{key}.id", lambda: Identity.parse(section.id or ""))
        identity = None if parsed is None or parsed.is_any else parsed
    if section.auth == "psk":
        _refuse(section.cacerts, f"{key}.cacerts", "psk", problems)
        return RemoteAuth("psk", identity, secret=secret)
    _refuse(section.secret_file, f"{key}.secret_file", "pubkey", problems)
    trust = problems.get(f"{key}.cacerts", lambda: _trust(section.cacerts, directory))
    return RemoteAuth("pubkey", identity, trust=trust) if trust else None


def _refuse(value: object, key: str, auth: str, problems: Problems) -> None:
    """A key that means nothing with this kind of auth is more likely a mistake than not."""

    def check() -> None:
        if value:
            raise Problem(f'means nothing with auth = "{auth}"; remove it or change auth')

    problems.check(key, check)


def _own_identity(text: str | None) -> Identity:
    if text is None:
        raise Problem('is missing; auth = "psk" needs it, for example: id = "alice.example"')
    identity = Identity.parse(text)
    if identity.is_any:
        raise Problem("%any can't be one's own identity; name it, for example: id = \"alice.example\"")
    return identity


def _certified_identity(text: str | None, credential: Credential) -> Identity:
    """The configured identity, which the certificate must speak for, or else the certificate's subject."""
    spoken = certificate_identities(credential.certificate)
    if text is None:
        return spoken[0]
    identity = _own_identity(text)
    if not certificate_matches(credential.certificate, identity):
        names = ", ".join(str(name) for name in spoken)
        raise Problem(f'"{text}" is not in the certificate, which speaks for {names}; name one of these')
    return identity


def _certificates(files: Sequence[str], directory: Path) -> tuple[Certificate, ...]:
    if not any(files):
        raise Problem('is missing; auth = "pubkey" needs it, for example: certs = ["alice.pem"]')
    return tuple(cert for file in files for cert in _load_certificates(directory / file))


def _load_certificates(path: Path) -> tuple[Certificate, ...]:
    content = read_public(path)
    try:
        return load_certificates(content)
    except CryptoError as error:
        raise Problem(f"{path}: {error}; name a certificate in PEM or DER") from None


def _credential(section: LocalSection, certs: Sequence[Certificate], directory: Path) -> Credential:
    if section.private_key is None:
        raise Problem('is missing; auth = "pubkey" needs it, for example: private_key = "alice.key"')
    path = directory / section.private_key
    content = read_private(path)
    try:
        return Credential(load_private_key(content), certs[0], tuple(certs[1:]))
    except CryptoError as error:
        raise Problem(
            f"{path}: {error}; name the private key of the first certificate, in PEM or DER"
        ) from None


def _trust(files: Sequence[str], directory: Path) -> TrustStore:
    if not any(files):
        raise Problem('is missing; auth = "pubkey" needs it, for example: cacerts = ["ca.pem"]')
    return TrustStore(cert for file in files for cert in _load_certificates(directory / file))
