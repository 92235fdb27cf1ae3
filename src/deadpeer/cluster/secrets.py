"""The keys that all members share, how they are sealed, and how they are renewed without leaving one behind.

A new key is first announced: from then on every member can read what is made with it. Once each member
that lives has the announcement it becomes active: from then on things are made with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from deadpeer.cluster.records import SealedSecrets
from deadpeer.crypto import Entropy

SECRET_SIZE = 32
MAX_KEPT = 4
"""Keys of a kind: the active one and older ones, not counting one that is announced."""
NONCE_SIZE = 12


class SecretsError(Exception):
    """The shared secrets can't be opened: another cluster key, or somebody tampered with them."""


class KeyKind(StrEnum):
    """What a shared key is for."""

    SPI = "spi"
    QCD = "qcd"
    TICKET = "ticket"


@dataclass(frozen=True, slots=True)
class SharedKey:
    """One key. Numbers of a kind begin at 1 and only grow."""

    kind: KeyKind
    number: int
    made_s: int
    active: bool
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClusterSecrets:
    """All shared keys. `version` grows with each change."""

    version: int
    keys: tuple[SharedKey, ...]

    def of(self, kind: KeyKind) -> tuple[SharedKey, ...]:
        """The keys of a kind: the active one, then older ones, then one that is only announced."""
        found = sorted((k for k in self.keys if k.kind is kind), key=lambda k: -k.number)
        return tuple(sorted(found, key=lambda k: not k.active))

    @property
    def announced(self) -> tuple[SharedKey, ...]:
        """Keys that every member must have before they are used."""
        return tuple(k for k in self.keys if not k.active)

    def announce(self, kind: KeyKind, secret: bytes, now_s: float) -> ClusterSecrets:
        """With a new key of this kind, not yet in use. One at a time: an announced one is kept as it is."""
        if any(k.kind is kind for k in self.announced):
            return self
        number = max((k.number for k in self.keys if k.kind is kind), default=0) + 1
        new = SharedKey(kind, number, int(now_s), False, secret)
        return ClusterSecrets(self.version + 1, (*self.keys, new))

    def activate(self) -> ClusterSecrets:
        """With every announced key in use; the oldest of more than `MAX_KEPT` of a kind go."""
        kept: list[SharedKey] = []
        for kind in KeyKind:
            ring = [replace(k, active=True) for k in self.keys if k.kind is kind]
            kept += sorted(ring, key=lambda k: -k.number)[:MAX_KEPT]
        return ClusterSecrets(self.version + 1, tuple(kept))


def first_secrets(entropy: Entropy, now_s: float) -> ClusterSecrets:
    """Those of a new cluster: one key of each kind, in use."""
    keys = (SharedKey(kind, 1, int(now_s), True, entropy.octets(SECRET_SIZE)) for kind in KeyKind)
    return ClusterSecrets(1, tuple(keys))


class Sealer:
    """Seals the secrets under a key of 32 octets that every member has in a file, and the store has not."""

    __slots__ = ("_aead", "_cluster", "_key")

    def __init__(self, key: bytes, cluster: str) -> None:
        if len(key) != SECRET_SIZE:
            raise ValueError(f"a cluster key has {SECRET_SIZE} octets, not {len(key)}")
        self._key = key
        self._cluster = cluster
        self._aead = AESGCM(self.derive("secrets"))

    def derive(self, purpose: str) -> bytes:
        """A key of 32 octets for another purpose (RFC 5869)."""
        info = f"deadpeer cluster {self._cluster} {purpose}".encode()
        return HKDF(SHA256(), SECRET_SIZE, None, info).derive(self._key)

    def seal(self, secrets: ClusterSecrets, entropy: Entropy) -> SealedSecrets:
        """The form in which they may be given to the store."""
        nonce = entropy.octets(NONCE_SIZE)
        text = json.dumps([_record(key) for key in secrets.keys], separators=(",", ":")).encode()
        sealed = nonce + self._aead.encrypt(nonce, text, self._bound_to(secrets.version))
        return SealedSecrets(secrets.version, sealed)

    def open(self, sealed: SealedSecrets) -> ClusterSecrets:
        """What another member sealed. Raises SecretsError."""
        nonce, rest = sealed.sealed[:NONCE_SIZE], sealed.sealed[NONCE_SIZE:]
        try:
            text = self._aead.decrypt(nonce, rest, self._bound_to(sealed.version))
            return ClusterSecrets(sealed.version, tuple(_keys(json.loads(text))))
        except (InvalidTag, ValueError, KeyError, TypeError):
            why = f"the secrets of cluster {self._cluster} can't be opened with this member's cluster key"
            raise SecretsError(why) from None

    def _bound_to(self, version: int) -> bytes:
        return f"{self._cluster} {version}".encode()


def _record(key: SharedKey) -> list[object]:
    return [key.kind.value, key.number, key.made_s, key.active, key.secret.hex()]


def _keys(records: list[list[object]]) -> Iterable[SharedKey]:
    for kind, number, made_s, active, secret in records:
        yield SharedKey(
            KeyKind(str(kind)), int(str(number)), int(str(made_s)), bool(active), bytes.fromhex(str(secret))
        )
