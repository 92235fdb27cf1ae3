"""Which configured connections a peer may mean: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from deadpeer.ike.connection import Connection
from deadpeer.values import Address


def connections_for(connections: Iterable[Connection], local: Address, remote: Address) -> list[Connection]:
    """The connections that a peer at `remote`, seen at our address `local`, may mean; best match first.

    The longer prefix of the peer's address decides, then that of ours, then the configuration's order.
    """
    here, there = ip_address(local.host), ip_address(remote.host)
    ranked: list[tuple[int, int, int, Connection]] = []
    for order, connection in enumerate(connections):
        ours, theirs = _fit(connection.local_addrs, here), _fit(connection.remote_addrs, there)
        if ours is not None and theirs is not None:
            ranked.append((-theirs, -ours, order, connection))
    return [entry[3] for entry in sorted(ranked, key=lambda entry: entry[:3])]


def _fit(networks: Sequence[IPv4Network | IPv6Network], address: IPv4Address | IPv6Address) -> int | None:
    """Length of the longest matching prefix plus one, 0 for %any, None without a match."""
    if not networks:
        return 0
    return max((n.prefixlen + 1 for n in networks if address in n), default=None)
