"""The values that cross every boundary of the protocol core: time, addresses, datagrams, deadlines.

The core does no I/O; time comes in as a `Now`, packets as a `Datagram`, and what shall happen next
leaves as an `Output` (see `deadpeer.ike.io`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

NS_PER_S = 1_000_000_000


class Now(NamedTuple):
    """A moment: `mono_ns` nanoseconds of a clock that never goes back, `unix_s` seconds since 1970."""

    mono_ns: int
    unix_s: float

    def after(self, seconds: float) -> int:
        """The monotonic instant (ns) that lies `seconds` after this moment."""
        return self.mono_ns + int(seconds * NS_PER_S)


class Address(NamedTuple):
    """A UDP endpoint: `host` is the canonical text of an IPv4 or IPv6 address, `port` 0 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(maxsize=4096)
def ip_of(host: str) -> IPv4Address | IPv6Address:
    """The address of this text: the same few peers are met for each packet. Raises ValueError."""
    return ip_address(host)


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP datagram, received or to be sent.

    `payload` is what the UDP payload holds, a non-ESP marker included. `local` is our address and
    port, `remote` the peer's, in both directions.
    """

    payload: bytes
    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class Deadline:
    """When (monotonic ns) `handle(now, Timeout())` wants to be called, and the named reason for it."""

    at_ns: int
    reason: str
