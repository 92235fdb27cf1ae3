"""Routes into the host side of the data plane, for as long as a child or a trap wants them.

A route that nothing wants any more is removed by `settle` only: where a child goes and a trap or another
child comes in its place, the route stays as it is, and no packet finds another way meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from deadpeer.ike.io import Event
from deadpeer.plane.host import Host, IpAddress, IpNetwork, PlaneError
from deadpeer.plane.model import InstallChild, InstallTrap, PlaneOp, RemoveChild, RemoveTrap
from deadpeer.plane.routes import networks, preferred_source
from deadpeer.values import ip_of


class RouteKeeper:
    """Follows the operations on the data plane. `local` are our addresses, to choose a source from."""

    def __init__(self, host: Host, local: Sequence[IpAddress]) -> None:
        self._host = host
        self._local = local
        self._wanted: dict[tuple[str, int], tuple[IpNetwork, ...]] = {}
        self._uses: Counter[IpNetwork] = Counter()
        self._idle: set[IpNetwork] = set()

    def apply(self, op: PlaneOp) -> list[Event]:
        """Add routes as the operation asks, note those that idle; what went wrong comes back as events."""
        match op:
            case InstallTrap():
                return self._want(("policy", op.policy), op, None)
            case InstallChild():
                return self._want(("child", op.child), op, ip_of(op.remote.host))
            case RemoveTrap():
                self._release(("policy", op.policy))
            case RemoveChild():
                self._release(("child", op.child))
        return []

    def settle(self) -> list[Event]:
        """Remove the routes that nothing wants."""
        events: list[Event] = []
        while self._idle:
            network = self._idle.pop()
            try:
                self._host.remove_route(network)
            except PlaneError as error:
                events.append(_skipped(network, str(error)))
        return events

    def forget(self) -> list[Event]:
        """Remove all routes: everything that wanted them is gone."""
        for owner in list(self._wanted):
            self._release(owner)
        return self.settle()

    def _want(
        self, owner: tuple[str, int], op: InstallTrap | InstallChild, outer: IpAddress | None
    ) -> list[Event]:
        events: list[Event] = []
        chosen: list[IpNetwork] = []
        for network in networks(op.remote_ts):
            if self._loops(network, outer):
                events.append(_skipped(network, f"it holds the peer's own address {outer or ''}".rstrip()))
                continue
            self._uses[network] += 1
            chosen.append(network)
            if network in self._idle:
                self._idle.discard(network)
            elif self._uses[network] == 1:
                events += self._add(network, op)
        self._release(owner)
        self._wanted[owner] = tuple(chosen)
        return events

    def _add(self, network: IpNetwork, op: InstallTrap | InstallChild) -> list[Event]:
        try:
            self._host.add_route(network, preferred_source(op.local_ts, self._local, network))
        except PlaneError as error:
            return [_skipped(network, str(error))]
        return []

    def _loops(self, network: IpNetwork, outer: IpAddress | None) -> bool:
        """Whether the encrypted packets would be routed into the tunnel themselves. A trap does not say who
        its peer will be: a route to everywhere certainly holds it.
        """
        if self._host.steers(network.version):
            return False
        return network.prefixlen == 0 or (outer is not None and outer in network)

    def _release(self, owner: tuple[str, int]) -> None:
        for network in self._wanted.pop(owner, ()):
            self._uses[network] -= 1
            if self._uses[network] <= 0:
                del self._uses[network]
                self._idle.add(network)


def _skipped(network: IpNetwork, reason: str) -> Event:
    return Event("route_failed", {"network": str(network), "reason": reason}, "warning")
