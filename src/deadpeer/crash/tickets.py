"""Resumption tickets by value (RFC 5723 section 6): the gateway's state, sealed by a key that only it has.

Pure: keys, sealing, opening. A ticket is version (1) | key number (4) | nonce (12) | synthetic IV (16) |
ciphertext. Only its maker ever looks inside.

The seal is AES-SIV (RFC 5297) under a 512-bit key, with a random 96-bit nonce in its associated data.
Why not AES-GCM: who can forge a ticket can be any peer. The keys outlive the process, so a counter can't
serve as the nonce without a write for each ticket, and a gateway restored from a snapshot may draw the same
random numbers twice. A nonce used twice gives away GCM's authentication key; here it gives away no more
than whether two tickets are the same.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import pairwise
from struct import Struct, error
from typing import Literal, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from deadpeer.crypto import IkeSuite
from deadpeer.crypto.identity import Identity
from deadpeer.crypto.suites import ENCRYPTION_BY_WIRE, GROUP_BY_ID, INTEGRITY_BY_ID, PRF_BY_ID
from deadpeer.ike.connection import AuthKind, Connection
from deadpeer.values import Address

RING_NAME = "tickets"
"""Under which name the keys are kept in the `Store`."""

VERSION = 1
SECRET_SIZE = 32
NONCE_SIZE = 12
IDENTIFIER_SIZE = 16
POLICY_SIZE = 16
MAX_KEYS = 8
MAX_TICKET = 1024
"""Octets of a ticket that we make, and the most that is looked at: the request fits into one packet."""
SKEW_S = 60
"""A ticket may have been made so far in the future: clocks are set."""

Reason = Literal[
    "malformed", "key unknown", "forged", "expired", "not yet valid", "used", "too many used",
    "connection gone", "switched off", "identity", "credentials changed", "suite", "address", "half-open",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)


class TicketError(Exception):
    """A ticket is worth nothing. Why is for our counters alone: the peer is told TICKET_NACK."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class TicketSizeError(ValueError):
    """Identities or names are too long for a ticket of `MAX_TICKET` octets."""


class RingError(ValueError):
    """The keys on disk can't be read."""


@dataclass(frozen=True, slots=True)
class TicketKey:
    """One generation: it seals from `created_s` until `retires_s`, opens until `ends_s` (Unix seconds).

    No ticket outlives its key, so that a key can be erased at its end without breaking a promise.
    """

    number: int
    created_s: int
    retires_s: int
    ends_s: int
    secret: bytes = field(repr=False)
    sealing: bytes = field(init=False, repr=False, compare=False)
    """What seals, derived from the secret once and not for each ticket."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sealing", _derive(self.secret, b"seal"))

    def seals(self, now_s: float) -> bool:
        """Whether new tickets may be made with it. Not with one from the future: the clock went back."""
        return self.created_s - SKEW_S <= now_s < self.retires_s

    def policy(self, connection: Connection) -> bytes:
        """What of a connection's configuration a resumption relies on, 16 octets; see `_policy_text`."""
        return _derive(self.secret, b"policy", _policy_text(connection))[:POLICY_SIZE]


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys, newest first, at most `MAX_KEYS`. Numbers begin at 1 and only grow."""

    keys: tuple[TicketKey, ...] = ()

    def current(self, now_s: float) -> TicketKey | None:
        """The key that new tickets are sealed with, None if it is time for another."""
        return self.keys[0] if self.keys and self.keys[0].seals(now_s) else None

    def find(self, number: int) -> TicketKey | None:
        """The key of this number."""
        return next((key for key in self.keys if key.number == number), None)

    def rotated(self, now_s: float, secret: bytes, seals_s: float, lifetime_s: float) -> KeyRing:
        """With a new current key, that seals for `seals_s` seconds and opens for `lifetime_s` longer.

        The one before seals no more, and ends `lifetime_s` from now at the latest. Older keys than
        MAX_KEYS go: their tickets are refused.
        """
        now = int(now_s)
        number = max((key.number for key in self.keys), default=0) + 1
        retires = now + max(int(seals_s), 1)
        new = TicketKey(number, now, retires, retires + int(lifetime_s), secret)
        old = tuple(
            replace(key, retires_s=min(key.retires_s, now), ends_s=min(key.ends_s, now + int(lifetime_s)))
            if key is self.keys[0] and key.retires_s > now
            else key
            for key in self.keys
        )
        return KeyRing((new, *old)[:MAX_KEYS]).pruned(now_s)

    def pruned(self, now_s: float) -> KeyRing:
        """Without the keys that have ended."""
        return KeyRing(tuple(key for key in self.keys if key.ends_s > now_s))

    @property
    def next_end_s(self) -> int | None:
        """When the next key is to be erased, Unix time."""
        return min((key.ends_s for key in self.keys), default=None)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the gateway forgets in a crash and reads back from the client. Times are Unix seconds.

    `identifier` makes it unique. `spi_i`, `spi_r` are those of the SA that it resumes. `authenticated_s`
    is when the peer last proved its credentials, `reauthenticate_s` when it has to again (0: never), and
    `expires_s` never lies after that. `client` is where it was last. `policy` is `TicketKey.policy`.
    """

    identifier: bytes
    connection: str
    local_identity: Identity
    remote_identity: Identity
    suite: IkeSuite
    sk_d: bytes = field(repr=False)
    auth: AuthKind
    created_s: int
    expires_s: int
    authenticated_s: int
    reauthenticate_s: int
    client: Address
    spi_i: bytes
    spi_r: bytes
    policy: bytes = field(repr=False)


def seal(key: TicketKey, ticket: Ticket, nonce: bytes) -> bytes:
    """The ticket as the client gets it. `nonce`: 12 fresh random octets. Raises TicketSizeError."""
    head = _HEAD.pack(VERSION, key.number, nonce)
    sealed = head + _cipher(key).encrypt(_encode(ticket), [_SEAL_CONTEXT, head])
    if len(sealed) > MAX_TICKET:
        raise TicketSizeError(f"a ticket of {len(sealed)} octets; {MAX_TICKET} is the most")
    return sealed


def unseal(ring: KeyRing, octets: bytes, now_s: float) -> tuple[TicketKey, Ticket]:
    """The key and the ticket, if it is one that we made and its time has neither to come nor gone.

    Raises TicketError.
    """
    if not _HEAD.size + _SIV_SIZE < len(octets) <= MAX_TICKET:
        raise TicketError("malformed")
    version, number, _ = _HEAD.unpack_from(octets)
    if version != VERSION:
        raise TicketError("malformed")
    key = ring.find(number)
    if key is None or key.ends_s <= now_s:
        raise TicketError("key unknown")
    head, sealed = octets[: _HEAD.size], octets[_HEAD.size :]
    try:
        plain = _cipher(key).decrypt(sealed, [_SEAL_CONTEXT, head])
    except InvalidTag:
        raise TicketError("forged") from None
    try:
        ticket = _decode(plain)
    except (ValueError, KeyError, error):
        # Ours, since the seal holds, but of a version that laid it out otherwise.
        raise TicketError("malformed") from None
    if ticket.expires_s <= now_s:
        raise TicketError("expired")
    if ticket.created_s > now_s + SKEW_S:
        raise TicketError("not yet valid")
    return key, ticket


def encode_ring(ring: KeyRing) -> bytes:
    """The octets of the keys: magic, version, number of keys, keys, SHA-256 of all before."""
    body = _RING.pack(_MAGIC, VERSION, len(ring.keys))
    for key in ring.keys:
        body += _KEY.pack(key.number, key.created_s, key.retires_s, key.ends_s, key.secret)
    return body + hashlib.sha256(body).digest()


def decode_ring(data: bytes) -> KeyRing:
    """The keys in these octets. Raises RingError, also for another version."""
    body, digest = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    if len(body) < _RING.size or not hmac.compare_digest(hashlib.sha256(body).digest(), digest):
        raise RingError("the checksum of the ticket keys is wrong")
    magic, version, count = _RING.unpack_from(body)
    if (magic, version) != (_MAGIC, VERSION) or len(body) != _RING.size + count * _KEY.size:
        raise RingError("these are not ticket keys of this version")
    keys = tuple(TicketKey(*each) for each in _KEY.iter_unpack(body[_RING.size :]))
    if len(keys) > MAX_KEYS or any(a.number <= b.number for a, b in pairwise(keys)):
        raise RingError("the ticket keys are out of order")
    return KeyRing(keys)


# --- helpers ---------------------------------------------------------------------------------------

_SEAL_CONTEXT = b"deadpeer resumption ticket"
_MAGIC = b"DPTKEY"
_DIGEST_SIZE = 32
_SIV_SIZE = 16
_BLOCK = 64
"""Plaintexts are padded to whole blocks: the length of a ticket should not tell whose identity is in it."""

# version, number of the key, nonce
_HEAD = Struct(f"!BI{NONCE_SIZE}s")
# magic, version, number of keys
_RING = Struct("!6sBB")
# number, created, retires, ends, secret
_KEY = Struct(f"!IQQQ{SECRET_SIZE}s")
# identifier, created, expires, authenticated, reauthenticate, SPIi, SPIr, policy,
# encryption, key bits, integrity, PRF, group, authentication, types of both identities, client's port
_FIXED = Struct(f"!{IDENTIFIER_SIZE}sQQQQ8s8s{POLICY_SIZE}sHHHHHBBBH")
_LENGTH = Struct("!H")
_AUTH_KINDS: tuple[AuthKind, ...] = get_args(AuthKind)


def _derive(secret: bytes, purpose: bytes, data: bytes = b"") -> bytes:
    return hmac.digest(secret, b"deadpeer ticket " + purpose + b"\0" + data, "sha512")


def _cipher(key: TicketKey) -> AESSIV:
    return AESSIV(key.sealing)


def _policy_text(connection: Connection) -> bytes:
    """Who the peer may be and by which credentials, and who we are: if it changes, tickets are void.

    So a changed shared key, or a CA that is trusted no more, counts at resumption as it does at a full
    exchange.
    """
    remote = connection.remote
    expected = remote.identity if remote.identity is not None else Identity(0, b"")
    parts = [remote.auth.encode(), bytes([expected.id_type]), expected.data, remote.secret]
    parts += [bytes([connection.local.identity.id_type]), connection.local.identity.data]
    if remote.trust is not None:
        parts += sorted(remote.trust.fingerprints)
    return _fields(parts)


def _fields(parts: Sequence[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def _encode(ticket: Ticket) -> bytes:
    suite = ticket.suite
    fixed = _FIXED.pack(
        ticket.identifier,
        ticket.created_s,
        ticket.expires_s,
        ticket.authenticated_s,
        ticket.reauthenticate_s,
        ticket.spi_i,
        ticket.spi_r,
        ticket.policy,
        suite.encryption.transform_id,
        suite.encryption.key_bits or 0,
        suite.integrity.transform_id if suite.integrity is not None else 0,
        suite.prf.transform_id,
        suite.group.transform_id,
        _AUTH_KINDS.index(ticket.auth),
        ticket.local_identity.id_type,
        ticket.remote_identity.id_type,
        ticket.client.port,
    )
    parts = (
        ticket.connection.encode(),
        ticket.local_identity.data,
        ticket.remote_identity.data,
        ticket.sk_d,
        ip_address(ticket.client.host).packed,
    )
    if max(map(len, parts)) > MAX_TICKET:
        raise TicketSizeError("a name or identity does not fit into a ticket")
    plain = fixed + _fields(parts)
    return plain + bytes(-len(plain) % _BLOCK)


def _decode(plain: bytes) -> Ticket:
    """Raises ValueError, KeyError or struct.error."""
    (
        identifier, created, expires, authenticated, reauthenticate, spi_i, spi_r, policy,
        encryption, key_bits, integrity, prf, group, auth, local_type, remote_type, port,
    ) = _FIXED.unpack_from(plain)  # fmt: skip
    parts, rest = [], plain[_FIXED.size :]
    for _ in range(5):
        (length,) = _LENGTH.unpack_from(rest)
        part, rest = rest[_LENGTH.size : _LENGTH.size + length], rest[_LENGTH.size + length :]
        if len(part) != length:
            raise ValueError("a field ends too soon")
        parts.append(part)
    if any(rest) or len(rest) >= _BLOCK or auth >= len(_AUTH_KINDS):
        raise ValueError("not the layout of a ticket")
    name, local, remote, sk_d, host = parts
    suite = IkeSuite(
        ENCRYPTION_BY_WIRE[encryption, key_bits or None],
        INTEGRITY_BY_ID[integrity] if integrity else None,
        PRF_BY_ID[prf],
        GROUP_BY_ID[group],
    )
    return Ticket(
        identifier=identifier,
        connection=name.decode(),
        local_identity=Identity(local_type, local),
        remote_identity=Identity(remote_type, remote),
        suite=suite,
        sk_d=sk_d,
        auth=_AUTH_KINDS[auth],
        created_s=created,
        expires_s=expires,
        authenticated_s=authenticated,
        reauthenticate_s=reauthenticate,
        client=Address(str(ip_address(host)), port),
        spi_i=spi_i,
        spi_r=spi_r,
        policy=policy,
    )
