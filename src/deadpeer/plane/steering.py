"""Routes into the tunnel that our own packets never take: a routing table of our own, and rules (Linux).

A tunnel may lead to a network that holds its peer's outer address; 0.0.0.0/0 does. If its route stood in the
main table, the encrypted packets would be routed into the tunnel again. So it stands in a table of its own,
which rules ask like this, from the top:

    from OUR-ADDRESS ipproto udp sport OUR-PORT    goto the end     what our sockets send goes its old way
    lookup main suppress_prefixlength 24                            the host's longer routes win
    lookup TABLE suppress_prefixlength 23                           else the tunnel's, /24 and longer
    ... two more for each shorter prefix length in use ...
    nop                                                             the end

Together the two tables behave like one with the longest match, where the tunnel's routes come before the
host's of equal length. The rule names our own end of a datagram and no firewall mark, so that strict reverse
path filtering (rp_filter = 1), which asks the way back of each datagram that arrives, gets the same answer.

Rules outlive a process that is killed; the next one removes them. Without routes in the table they change
nothing.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from socket import AF_INET, AF_INET6, IPPROTO_UDP
from struct import Struct
from typing import Any

from .host import IpAddress, IpNetwork, PlaneError

DEFAULT_TABLE = 6290
FIRST_TABLE, LAST_TABLE = 256, 32000
RULES = 300
"""The rules' priorities are TABLE to TABLE + RULES - 1."""


class Steering:
    """The rules that go with routing table number `table`, for datagrams sent from `outer` (address, port).

    The methods take a pyroute2.IPRoute. Raises PlaneError if another process of this network namespace
    uses the table.
    """

    def __init__(self, table: int, outer: Iterable[tuple[IpAddress, int]]) -> None:
        self.table = table
        self._outer = tuple(outer)
        self._versions: frozenset[int] = frozenset()
        self._lengths: Counter[tuple[int, int]] = Counter()
        self._claim = _claim(table)

    def works(self, version: int) -> bool:
        """Whether the kernel has what this needs, for this version of IP. Known after `open`."""
        return version in self._versions

    def open(self, ip: Any) -> None:
        """Remove what a killed process left behind, and let our own packets pass by the table."""
        self._versions = frozenset(version for version in _FAMILIES if self._begin(ip, version))

    def add(self, ip: Any, network: IpNetwork, request: dict[str, Any]) -> None:
        """Add a route to the network. Raises PlaneError if that is a network the host is itself a part of."""
        if _connected(ip, network):
            raise PlaneError(
                f"route to {network}: this host is in that network itself; change the traffic selectors"
            )
        ip.route("add", **request, table=self.table)
        key = network.version, network.prefixlen
        if not self._lengths[key]:
            for rule in self._pair(*key):
                _tolerate(ip, "add", rule, errno.EEXIST)
        self._lengths[key] += 1

    def remove(self, ip: Any, network: IpNetwork, request: dict[str, Any]) -> None:
        """Remove the route, and the rules of its length when nothing needs them any more."""
        delete_route(ip, request | {"table": self.table})
        key = network.version, network.prefixlen
        self._lengths[key] -= 1
        if self._lengths[key] <= 0:
            del self._lengths[key]
            for rule in self._pair(*key):
                _tolerate(ip, "del", rule, errno.ENOENT)

    def close(self, ip: Any) -> None:
        """Remove all rules."""
        for version in self._versions:
            self._sweep(ip, version)
        self._versions = frozenset()
        self._lengths.clear()

    def release(self) -> None:
        """Let another process have the table."""
        if self._claim is not None:
            self._claim.close()

    def _begin(self, ip: Any, version: int) -> bool:
        try:
            self._sweep(ip, version)
            end = self.table + RULES - 1
            ip.rule("add", **self._rule(version, end, action="nop"))
            for host, port in self._outer:
                if host.version == version:
                    chosen = {"src": str(host), "ip_proto": IPPROTO_UDP, "sport_range": f"{port}:{port}"}
                    rule = self._rule(version, self.table, action="goto", goto=end, **chosen)
                    _tolerate(ip, "add", rule, errno.EEXIST)
        except _netlink_error() as error:
            if error.code not in _NOT_THERE:
                raise
            with suppress(_netlink_error()):
                self._sweep(ip, version)
            return False
        return True

    def _sweep(self, ip: Any, version: int) -> None:
        for rule in list(ip.get_rules(family=_FAMILIES[version])):
            priority = rule.get_attr("FRA_PRIORITY") or 0
            if rule.get_attr("FRA_PROTOCOL") == _PROTOCOL and 0 <= priority - self.table < RULES:
                _tolerate(ip, "del", self._rule(version, priority, action=_ANY_ACTION), errno.ENOENT)

    def _pair(self, version: int, length: int) -> Iterator[dict[str, Any]]:
        priority = self.table + 2 + 2 * (128 - length)
        yield self._rule(version, priority, table=_MAIN, suppress_prefixlen=length)
        shorter = {"suppress_prefixlen": length - 1} if length else {}
        yield self._rule(version, priority + 1, table=self.table, **shorter)

    def _rule(self, version: int, priority: int, **more: Any) -> dict[str, Any]:
        return {"family": _FAMILIES[version], "priority": priority, "protocol": _PROTOCOL, **more}


def delete_route(ip: Any, request: dict[str, Any]) -> None:
    """Delete a route, unless it is gone already, perhaps with its device."""
    try:
        ip.route("del", **request)
    except _netlink_error() as error:
        if error.code not in (errno.ESRCH, errno.ENODEV):
            raise


_ASKERS = 128
_CREDENTIALS = Struct("=iII")
_FAMILIES = {4: AF_INET, 6: AF_INET6}
_MAIN = 254
_BY_KERNEL = 2
_ANY_ACTION = 0
_PROTOCOL = 98
"""Who set the rule (RTPROT_..., FRA_PROTOCOL): a number that nobody else has in linux/rtnetlink.h."""
_NOT_THERE = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EINVAL)


def _claim(table: int) -> socket.socket | None:
    """A name that is free when the process ends, however it does; each network namespace has its own.

    None if somebody holds it who may not set routes for us: such names are there for anybody to take.
    """
    name = f"\0deadpeer-routing-table-{table}"
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        claim.bind(name)
        claim.listen(_ASKERS)
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
    else:
        return claim
    if _holder(name) in (0, os.geteuid()):
        raise PlaneError(
            f"routing table {table} is in use by another gateway; choose another number, {RULES} away or more"
        )
    return None


def _holder(name: str) -> int | None:
    """The user whose process listens at an abstract UNIX address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        try:
            asking.connect(name)
        except OSError:
            return None
        _, uid, _ = _CREDENTIALS.unpack(
            asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        return int(uid)


def _connected(ip: Any, network: IpNetwork) -> bool:
    """Whether the main table has a route to just this network that the kernel made for an address of ours."""
    if network.prefixlen in (0, network.max_prefixlen):
        return False
    family = _FAMILIES[network.version]
    return any(
        entry["dst_len"] == network.prefixlen and entry.get_attr("RTA_DST") == str(network.network_address)
        for entry in ip.get_routes(family=family, table=_MAIN, proto=_BY_KERNEL)
    )


def _tolerate(ip: Any, command: str, rule: dict[str, Any], code: int) -> None:
    try:
        ip.rule(command, **rule)
    except _netlink_error() as error:
        if error.code != code:
            raise


def _netlink_error() -> Any:
    from pyroute2 import NetlinkError

    return NetlinkError
