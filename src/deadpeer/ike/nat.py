"""NAT detection (RFC 7296 section 2.23)."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from deadpeer.ike.digest import sha1
from deadpeer.values import Address, ip_of
from deadpeer.wire import Message, Notify, NotifyType


def detection_hash(spi_i: bytes, spi_r: bytes, address: Address) -> bytes:
    """SHA-1(SPIi | SPIr | IP | port), 20 octets."""
    return sha1(spi_i, spi_r, ip_of(address.host).packed, address.port.to_bytes(2, "big"))


def detection_notifies(
    spi_i: bytes, spi_r: bytes, local: Address, remote: Address, force: bytes | None
) -> tuple[Notify, Notify]:
    """Our pair of notifies. `force` (20 octets) replaces the source's hash, so that the peer takes us to
    be behind a NAT and encapsulates ESP in UDP."""
    source = force if force is not None else detection_hash(spi_i, spi_r, local)
    return (
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, source),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, detection_hash(spi_i, spi_r, remote)),
    )


def behind_nat(message: Message, local: Address, remote: Address) -> tuple[bool, bool] | None:
    """Judge the peer's notifies: (we are behind a NAT, the peer is); None if the peer sent none.

    `local` and `remote` are the addresses that the datagram with `message` had when it reached us.
    """
    sources = message.notifies(NotifyType.NAT_DETECTION_SOURCE_IP)
    destinations = message.notifies(NotifyType.NAT_DETECTION_DESTINATION_IP)
    if not sources or not destinations:
        return None
    here = detection_hash(message.spi_i, message.spi_r, local)
    there = detection_hash(message.spi_i, message.spi_r, remote)
    return (not _any_match(destinations, here), not _any_match(sources, there))


def _any_match(notifies: Iterable[Notify], wanted: bytes) -> bool:
    return any(hmac.compare_digest(n.data, wanted) for n in notifies)
