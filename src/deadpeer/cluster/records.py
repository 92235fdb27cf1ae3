"""What the members keep in the store: one record and one lease per member, and the sealed secrets.

Nothing in it grows with the number of SAs. Values are JSON, read strictly; what another version or a
person wrote wrongly is a RecordError that names the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deadpeer.cluster.store import Item

MAX_MEMBERS = 256
MAX_TTL_S = 86_400
MAX_NUMBER = (1 << 63) - 1
"""Of epochs and versions."""


class RecordError(Exception):
    """A record can't be read: names the key and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A member's lives: the newest one that was registered, and the newest one that is known to be over.
    `ttl`: how long a lease of its may last, seconds.

    `ended` never goes back and never passes `registered`: once written it stays true, so that a copy of it
    may be late but never wrong.
    """

    registered: int
    ended: int
    ttl: int = 5
    revision: int = 0


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A member that lives: its epoch, the machine that it runs on, where it takes forwarded datagrams, and
    the version of the secrets that it has. Goes with its lease."""

    epoch: int
    machine: str
    forward: str
    knows: int
    revision: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class SealedSecrets:
    """The cluster's secrets under a key that is not in the store. `version` grows with each change."""

    version: int
    sealed: bytes = field(repr=False)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """All that the store holds, as of one revision."""

    revision: int = 0
    members: Mapping[int, MemberRecord] = field(default_factory=dict)
    leases: Mapping[int, LeaseRecord] = field(default_factory=dict)
    secrets: SealedSecrets | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of the keys of one cluster."""

    cluster: str

    @property
    def prefix(self) -> str:
        return f"/deadpeer/{self.cluster}/"

    def member(self, number: int) -> str:
        return f"{self.prefix}member/{number}"

    def lease(self, number: int) -> str:
        return f"{self.prefix}lease/{number}"

    @property
    def secrets(self) -> str:
        return f"{self.prefix}secrets"


def read_view(keys: Keys, revision: int, items: Iterable[Item]) -> View:
    """The view that a range read gives. Raises RecordError."""
    members: dict[int, MemberRecord] = {}
    leases: dict[int, LeaseRecord] = {}
    secrets = None
    for item in items:
        what, _, number = item.key.removeprefix(keys.prefix).partition("/")
        if what == "secrets" and not number:
            secrets = _read_secrets(item)
        elif what == "member":
            fields = _object(item, registered=int, ended=int, ttl=int)
            record = MemberRecord(**fields, revision=item.revision)
            if not 0 <= record.ended <= record.registered:
                raise RecordError(f"{item.key}: epochs out of order")
            if not 0 < record.ttl <= MAX_TTL_S:
                raise RecordError(f"{item.key}: 'ttl' is not 1 to {MAX_TTL_S}")
            members[_number(item, number)] = record
        elif what == "lease":
            fields = _object(item, epoch=int, machine=str, forward=str, knows=int)
            leases[_number(item, number)] = LeaseRecord(**fields, revision=item.revision, lease=item.lease)
    return View(revision, members, leases, secrets)


def write_member(record: MemberRecord) -> bytes:
    """The value of a member's record."""
    return _json(record, "revision")


def write_lease(record: LeaseRecord) -> bytes:
    """The value of a member's lease."""
    return _json(record, "revision", "lease")


def write_secrets(secrets: SealedSecrets) -> bytes:
    """The value of the secrets' key."""
    return json.dumps({"version": secrets.version, "sealed": secrets.sealed.hex()}).encode()


def _read_secrets(item: Item) -> SealedSecrets:
    fields = _object(item, version=int, sealed=str)
    try:
        return SealedSecrets(fields["version"], bytes.fromhex(fields["sealed"]), item.revision)
    except ValueError:
        raise RecordError(f"{item.key}: 'sealed' is not hexadecimal") from None


def _object(item: Item, **types: type) -> dict[str, Any]:
    try:
        found = json.loads(item.value)
    except (ValueError, RecursionError):
        raise RecordError(f"{item.key}: not JSON") from None
    if not isinstance(found, dict) or set(found) != set(types):
        raise RecordError(f"{item.key}: not an object of {', '.join(types)}")
    for name, kind in types.items():
        if type(found[name]) is not kind:
            raise RecordError(f"{item.key}: '{name}' is not {kind.__name__}")
        if kind is int and not 0 <= found[name] <= MAX_NUMBER:
            raise RecordError(f"{item.key}: '{name}' is not 0 to {MAX_NUMBER}")
    return found


def _number(item: Item, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 3 or int(text) >= MAX_MEMBERS:
        raise RecordError(f"{item.key[:80]}: no member number")
    return int(text)


def _json(record: MemberRecord | LeaseRecord, *without: str) -> bytes:
    fields = {name: value for name, value in asdict(record).items() if name not in without}
    return json.dumps(fields, separators=(",", ":")).encode()
