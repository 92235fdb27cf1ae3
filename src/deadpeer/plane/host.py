"""What the hosts behind a gateway look like to it, whichever way their packets come."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network


class PlaneError(Exception):
    """A data plane can't be opened or used; the text says what, why, and the remedy, in one line."""


class Host(Protocol):
    """The host side of a data plane: inner IP packets in and out, non-blocking.

    `read` returns None when there is nothing to read now, `write` False when the packet had to be dropped.
    """

    def fileno(self) -> int:
        """The descriptor to wait on for reading; -1 if there is none."""
        ...

    def read(self) -> bytes | None:
        """The next packet from the host. Raises PlaneError if there will never be one again."""
        ...

    def write(self, packet: bytes) -> bool:
        """Hand a packet to the host."""
        ...

    def add_route(self, network: IpNetwork, source: IpAddress | None = None) -> None:
        """Have the host send packets for the network here, from the address `source` if it is given."""
        ...

    def remove_route(self, network: IpNetwork) -> None:
        """Undo `add_route`; nothing happens if there is no such route."""
        ...

    def steers(self, version: int) -> bool:
        """Whether the gateway's own packets, of this version of IP, never take the routes of `add_route`."""
        ...

    def close(self) -> None:
        """Give everything back, routes included. May be called again."""
        ...
