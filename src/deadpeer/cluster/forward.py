"""Datagrams of another member's SAs, handed to that member: sealed, fresh, bounded, and never twice.

A forwarded datagram is version (1) | sender's member number (1) | sender's epoch (8) | salt (8) | counter (8)
| ciphertext of (lane (1) | family (1) | peer's port (2) | peer's address (4 or 16) | our address (4 or 16) |
payload). Sealed with AES-256-GCM under a key of the sender's number, epoch and salt, which no two lives
share, so that the counter is the nonce; bound to the receiver's number and epoch.

What was forwarded to a member is never forwarded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from struct import Struct, error

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from deadpeer.cluster.records import View
from deadpeer.crypto import Entropy
from deadpeer.rates import Bucket, Rate
from deadpeer.values import Address, Datagram, ip_of

VERSION = 1
WINDOW = 4096
"""How far behind the newest a counter may lie."""
MAX_PAYLOAD = 60_000
RATE = Rate(20_000.0, 20_000.0)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A datagram that another member received for us: as if it had come here."""

    sender: int
    datagram: Datagram


class Forwarder:
    """One life of a member. `key`: 32 octets that all members derive from the cluster key.

    `ports`: ours for IKE and for NAT traversal; the other members' may differ.
    """

    def __init__(
        self,
        key: bytes,
        member: int,
        epoch: int,
        ports: tuple[int, int],
        entropy: Entropy,
        rate: Rate = RATE,
    ) -> None:
        self._key = key
        self._member = member
        self._epoch = epoch
        self._ports = ports
        self._rate = rate
        self._bucket = Bucket(0, rate)
        self._salt = entropy.octets(8)
        self._seal = AESGCM(_derive(key, member, epoch, self._salt))
        self._counter = 0
        self._senders: dict[int, _Sender] = {}

    def wrap(self, now_ns: int, to: int, view: View, datagram: Datagram) -> bytes | str:
        """The octets to send to that member's address, or why there are none."""
        lease = view.leases.get(to)
        if lease is None:
            return "no lease"
        if len(datagram.payload) > MAX_PAYLOAD:
            return "too large"
        if not self._bucket.take(now_ns, self._rate):
            return "limited"
        self._counter += 1
        head = _HEAD.pack(VERSION, self._member, self._epoch, self._salt, self._counter)
        sealed = self._seal.encrypt(
            _nonce(self._counter), self._encode(datagram), _bound(head, to, lease.epoch)
        )
        return head + sealed

    def unwrap(self, octets: bytes, view: View) -> Forwarded | str:
        """The datagram that another member forwarded, or why it is none."""
        if len(octets) < _HEAD.size:
            return "too short"
        version, sender, epoch, salt, counter = _HEAD.unpack_from(octets)
        lease = view.leases.get(sender)
        if version != VERSION or sender == self._member:
            return "malformed"
        if lease is None or lease.epoch != epoch:
            return "sender has no such lease"
        known = self._senders.get(sender)
        if known is None or known.life != (epoch, salt):
            known = _Sender((epoch, salt), AESGCM(_derive(self._key, sender, epoch, salt)))
        if not known.fresh(counter):
            return "replayed"
        head, sealed = octets[: _HEAD.size], octets[_HEAD.size :]
        try:
            inner = known.aead.decrypt(_nonce(counter), sealed, _bound(head, self._member, self._epoch))
        except InvalidTag:
            return "forged"
        known.accept(counter)
        self._senders[sender] = known
        try:
            return Forwarded(sender, self._decode(inner))
        except (error, ValueError):
            return "malformed"

    def _encode(self, datagram: Datagram) -> bytes:
        remote, local = ip_of(datagram.remote.host), ip_of(datagram.local.host)
        lane = self._ports.index(datagram.local.port)
        head = _INNER.pack(lane, remote.version, datagram.remote.port)
        return head + remote.packed + local.packed + datagram.payload

    def _decode(self, inner: bytes) -> Datagram:
        lane, version, port = _INNER.unpack_from(inner)
        if lane > 1 or version not in (4, 6):
            raise ValueError("no such lane or family")
        size, at = (4 if version == 4 else 16), _INNER.size
        remote, local = inner[at : at + size], inner[at + size : at + 2 * size]
        return Datagram(
            inner[at + 2 * size :],
            Address(str(ip_address(local)), self._ports[lane]),
            Address(str(ip_address(remote)), port),
        )


class _Sender:
    """What has come from one life of another member."""

    __slots__ = ("_newest", "_seen", "aead", "life")

    def __init__(self, life: tuple[int, bytes], aead: AESGCM) -> None:
        self.life = life
        self.aead = aead
        self._newest = 0
        self._seen = 0

    def fresh(self, counter: int) -> bool:
        behind = self._newest - counter
        return counter > 0 and (behind < 0 or (behind < WINDOW and not self._seen >> behind & 1))

    def accept(self, counter: int) -> None:
        ahead = counter - self._newest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & (1 << WINDOW) - 1 if ahead < WINDOW else 1
            self._newest = counter
        else:
            self._seen |= 1 << -ahead


_HEAD = Struct("!BBQ8sQ")
_INNER = Struct("!BBH")
_TARGET = Struct("!BQ")


def _derive(key: bytes, member: int, epoch: int, salt: bytes) -> bytes:
    info = f"deadpeer forward {member} {epoch}".encode()
    return HKDF(SHA256(), 32, salt, info).derive(key)


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def _bound(head: bytes, to: int, epoch: int) -> bytes:
    return head + _TARGET.pack(to, epoch)
