"""What the persistent SPI map (RFC 6290 section 8.2) holds: a record for each child SA, and one header.

A record is found by our inbound ESP SPI (4 octets) and says which IKE SA that child belonged to, what its
token was made of, and where the peer was: at most 63 octets with the key. The boot epoch need not be in
it: it is in the IKE SPI that we chose.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from ipaddress import ip_address
from struct import Struct, error

from deadpeer.crash.boot import BootState
from deadpeer.crash.options import TokenMethod
from deadpeer.crash.tokens import MakerRole
from deadpeer.ike.extension import SaView
from deadpeer.values import Address, ip_of

TABLE = "spi-map"
"""The ledger's table of records, by our inbound ESP SPI (4 octets)."""

HEAD_TABLE = "spi-map-head"
HEAD_KEY = b"head"

TAG_SIZE = 2


@dataclass(frozen=True, slots=True)
class SpiRecord:
    """Where a child SA of ours belonged. `generation`: of the secret that the peer's token is made with.

    `peer` tells apart who may be behind one address: a few bits of a digest of connection and identity.
    """

    role: MakerRole
    method: TokenMethod
    spi_i: bytes
    spi_r: bytes
    generation: int
    peer: bytes
    remote: Address
    local: Address

    @property
    def own_spi(self) -> bytes:
        """The IKE SPI that we chose."""
        return self.spi_i if self.role is MakerRole.INITIATOR else self.spi_r


@dataclass(frozen=True, slots=True)
class Header:
    """`epoch` is that of the map's last writer. `ended`: when (unix seconds) older epochs, by the 20 bits
    that an IKE SPI has of them, were first found to be over."""

    epoch: int
    ended: dict[int, int] = field(default_factory=dict)


class BindingError(Exception):
    """The map was not written by the previous life of this gateway on this machine; says why."""


def record_key(spi: int) -> bytes:
    """The ledger's key of an inbound ESP SPI."""
    return spi.to_bytes(4, "big")


def encode_record(record: SpiRecord) -> bytes:
    """35 octets with two IPv4 addresses, 59 with two IPv6 addresses."""
    remote, local = ip_of(record.remote.host).packed, ip_of(record.local.host).packed
    flags = (
        record.role
        | (record.method == "spi-address") << 1
        | (len(remote) == 16) << 2
        | (len(local) == 16) << 3
    )
    fixed = _RECORD.pack(
        flags,
        record.spi_i,
        record.spi_r,
        record.generation,
        record.peer,
        record.remote.port,
        record.local.port,
    )
    return fixed + remote + local


def decode_record(data: bytes) -> SpiRecord | None:
    """The record in these octets, or None if it is none."""
    try:
        flags, spi_i, spi_r, generation, peer, remote_port, local_port = _RECORD.unpack_from(data)
    except error:
        return None
    remote_end = _RECORD.size + (16 if flags & 4 else 4)
    end = remote_end + (16 if flags & 8 else 4)
    if len(data) != end or flags & ~15:
        return None
    return SpiRecord(
        role=MakerRole(flags & 1),
        method="spi-address" if flags & 2 else "spi",
        spi_i=spi_i,
        spi_r=spi_r,
        generation=generation,
        peer=peer,
        remote=Address(str(ip_address(data[_RECORD.size : remote_end])), remote_port),
        local=Address(str(ip_address(data[remote_end:])), local_port),
    )


def record_of(sa: SaView, method: TokenMethod, generation: int) -> SpiRecord | None:
    """The record of a living SA; None where an address has a scope, which a record can't hold."""
    if "%" in sa.remote.host or "%" in sa.local.host:
        return None
    role = MakerRole.INITIATOR if sa.initiator else MakerRole.RESPONDER
    return SpiRecord(role, method, sa.spi_i, sa.spi_r, generation, peer_tag(sa), sa.remote, sa.local)


def peer_tag(sa: SaView) -> bytes:
    """Which peer of which connection, in two octets."""
    identity = sa.remote_identity
    who = b"" if identity is None else bytes((identity.id_type,)) + identity.data
    return hashlib.sha256(sa.connection.name.encode() + b"\0" + who).digest()[:TAG_SIZE]


# --- the header, and what the map is bound to ------------------------------------------------------


def encode_header(header: Header, state: BootState, machine_id: bytes) -> bytes:
    """Version, machine, epoch, ended epochs, and a MAC under a key of the boot state."""
    entries = list(header.ended.items())[:MAX_ENDED]
    body = _HEAD.pack(_VERSION, _machine(state, machine_id), header.epoch, len(entries))
    body += b"".join(_ENDED.pack(epoch, unix_s) for epoch, unix_s in entries)
    return body + _mac(state, b"header", body)


def read_header(data: bytes, state: BootState, machine_id: bytes) -> Header:
    """The header of a map that the life before this one, `state.epoch` - 1, left on this machine.

    Raises BindingError for any other.

    Why so strict. A token says: the SA that it was made for is dead. The map is a list of SAs about which
    we would say so to whoever sends a packet, or on our own. That is true of SAs that ended with an earlier
    life of this gateway here. It is false of a map that got here in another way while the SAs live on:

    - The disk, or the state directory, was copied to another machine (a clone, a template, a backup that
      is restored for a test) while the first machine runs. The machine's identity differs.
    - The map alone was copied, or was left behind when the boot state was made anew: the MAC's key is not
      this boot state's.
    - Map and boot state are from different moments (a backup of a running system, a restored file): the
      map's last writer is not the life just before this one. For the same reason a map is refused that
      an older or a misconfigured gateway has not kept up to date.
    - The whole state directory was set back, here: then all of it is of the past of this machine, and
      every SA of that past died when this process took over the directory's lock. Nothing false is said.

    What remains is a copy that can't be told from the original: the same machine identity (a clone of a
    virtual machine's disk that nobody gave a new one), started while the original runs. Therefore a record
    is used only where its local address is one of ours and, in answers, the one that was asked: the clone
    would have to be reached at the original's address as well.
    """
    if len(data) < _HEAD.size + _MAC_SIZE:
        raise BindingError("its header is damaged")
    body, mac = data[:-_MAC_SIZE], data[-_MAC_SIZE:]
    version, machine, epoch, count = _HEAD.unpack_from(body)
    if version != _VERSION:
        raise BindingError(f"it is of version {version}, not {_VERSION}")
    if not hmac.compare_digest(mac, _mac(state, b"header", body)):
        raise BindingError("it belongs to another boot state, or its header is damaged")
    if not hmac.compare_digest(machine, _machine(state, machine_id)):
        raise BindingError("it was written on another machine")
    if epoch != state.epoch - 1:
        raise BindingError(
            f"its last writer was boot {epoch}, not {state.epoch - 1}: it is a copy, or a backup was restored"
        )
    entries = body[_HEAD.size :]
    if len(entries) != count * _ENDED.size:
        raise BindingError("its header is damaged")
    return Header(epoch, dict(_ENDED.iter_unpack(entries)))


MAX_ENDED = 64
"""Ended epochs that are told apart; the records of still older ones are dropped."""

# flags, SPIi, SPIr, generation, peer, remote port, local port; then both addresses
_RECORD = Struct(f"!B8s8sI{TAG_SIZE}sHH")
# version, machine, epoch, number of ended epochs; then those
_HEAD = Struct("!B16sQH")
_ENDED = Struct("!II")
_VERSION = 1
_MAC_SIZE = 16


def _machine(state: BootState, machine_id: bytes) -> bytes:
    """The machine's identity, blinded: the file does not say which machine it is from."""
    return _mac(state, b"machine", hashlib.sha256(machine_id).digest())


def _mac(state: BootState, label: bytes, data: bytes) -> bytes:
    """Under a key of its own, derived from the boot state's one secret that never rotates."""
    key = hmac.digest(state.spi_key, b"deadpeer SPI map 1", "sha256")
    return hmac.digest(key, label + b"\0" + data, "sha256")[:_MAC_SIZE]
