"""Which configured connections a peer may mean, and from where one is initiated: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from deadpeer.ike.connection import Connection
from deadpeer.values import Address, ip_of


def connections_for(connections: Iterable[Connection], local: Address, remote: Address) -> list[Connection]:
    """The connections that a peer at `remote`, seen at our address `local`, may mean; best match first.

    The longer prefix of the peer's address decides, then that of ours, then the configuration's order.
    """
    here, there = ip_of(local.host), ip_of(remote.host)
    ranked: list[tuple[int, int, int, Connection]] = []
    for order, connection in enumerate(connections):
        ours, theirs = _fit(connection.local_addrs, here), _fit(connection.remote_addrs, there)
        if ours is not None and theirs is not None:
            ranked.append((-theirs, -ours, order, connection))
    return [entry[3] for entry in sorted(ranked, key=lambda entry: entry[:3])]


def local_host(connection: Connection, hosts: Sequence[str]) -> str | None:
    """From which of our addresses, `hosts`, to initiate: None if there is none of the peer's family.

    The first that `local_addrs` names or has in a network; without `local_addrs` the first of all.
    """
    remote = connection.remote_host
    version = ip_of(remote).version if remote is not None else None
    ours = [host for host in map(ip_of, hosts) if host.version == version]
    if not connection.local_addrs:
        return next(map(str, ours), None)
    for network in connection.local_addrs:
        if network.prefixlen == network.max_prefixlen and version in (None, network.version):
            return str(network.network_address)
        for host in ours:
            if host in network:
                return str(host)
    return None


def _fit(networks: Sequence[IPv4Network | IPv6Network], address: IPv4Address | IPv6Address) -> int | None:
    """Length of the longest matching prefix plus one, 0 for %any, None without a match."""
    if not networks:
        return 0
    return max((n.prefixlen + 1 for n in networks if address in n), default=None)
