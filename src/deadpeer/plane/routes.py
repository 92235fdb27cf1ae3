"""From traffic selectors to what routing knows: prefixes, and the address that packets should bear."""

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    summarize_address_range,
)

from deadpeer.wire import TrafficSelector

from .host import IpAddress, IpNetwork


def networks(selectors: Iterable[TrafficSelector]) -> tuple[IpNetwork, ...]:
    """The fewest prefixes that cover exactly the address ranges; protocols and ports are not looked at."""
    v4: list[IPv4Network] = []
    v6: list[IPv6Network] = []
    for ts in selectors:
        if isinstance(ts.start, IPv4Address) and isinstance(ts.end, IPv4Address):
            v4 += summarize_address_range(ts.start, ts.end)
        elif isinstance(ts.start, IPv6Address) and isinstance(ts.end, IPv6Address):
            v6 += summarize_address_range(ts.start, ts.end)
    return (*collapse_addresses(v4), *collapse_addresses(v6))


def preferred_source(
    local_ts: Iterable[TrafficSelector], addresses: Iterable[IpAddress], network: IpNetwork
) -> IpAddress | None:
    """The first of our addresses, of the network's IP version, that lies within a local selector.

    A packet of ours from another address would not match the policy of the tunnel.
    """
    selectors = tuple(local_ts)
    for address in addresses:
        if address.version == network.version and any(_holds(ts, address) for ts in selectors):
            return address
    return None


def _holds(ts: TrafficSelector, address: IpAddress) -> bool:
    return ts.start.version == address.version and int(ts.start) <= int(address) <= int(ts.end)
