"""Routes into the host side of the data plane, for as long as a child or a trap wants them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address

from deadpeer.ike.io import Event
from deadpeer.plane.host import Host, IpAddress, IpNetwork, PlaneError
from deadpeer.plane.model import InstallChild, InstallTrap, PlaneOp, RemoveChild, RemoveTrap
from deadpeer.plane.routes import networks, preferred_source


class RouteKeeper:
    """Follows the operations on the data plane. `local` are our addresses, to choose a source from."""

    def __init__(self, host: Host, local: Sequence[IpAddress]) -> None:
        self._host = host
        self._local = local
        self._wanted: dict[tuple[str, int], tuple[IpNetwork, ...]] = {}
        self._uses: Counter[IpNetwork] = Counter()

    def apply(self, op: PlaneOp) -> list[Event]:
        """Add or remove routes as the operation asks; what went wrong comes back as events."""
        match op:
            case InstallTrap():
                return self._want(("policy", op.policy), op, None)
            case InstallChild():
                return self._want(("child", op.child), op, ip_address(op.remote.host))
            case RemoveTrap():
                return self._release(("policy", op.policy))
            case RemoveChild():
                return self._release(("child", op.child))
        return []

    def _want(
        self, owner: tuple[str, int], op: InstallTrap | InstallChild, outer: IpAddress | None
    ) -> list[Event]:
        events: list[Event] = []
        chosen: list[IpNetwork] = []
        for network in networks(op.remote_ts):
            if outer is not None and outer in network:
                # The encrypted packets would be routed into the tunnel themselves.
                events.append(_skipped(network, f"it holds the peer's own address {outer}"))
                continue
            self._uses[network] += 1
            chosen.append(network)
            if self._uses[network] == 1:
                events += self._add(network, op)
        released = self._release(owner)
        self._wanted[owner] = tuple(chosen)
        return events + released

    def _add(self, network: IpNetwork, op: InstallTrap | InstallChild) -> list[Event]:
        try:
            self._host.add_route(network, preferred_source(op.local_ts, self._local, network))
        except PlaneError as error:
            return [_skipped(network, str(error))]
        return []

    def _release(self, owner: tuple[str, int]) -> list[Event]:
        events: list[Event] = []
        for network in self._wanted.pop(owner, ()):
            self._uses[network] -= 1
            if self._uses[network] > 0:
                continue
            del self._uses[network]
            try:
                self._host.remove_route(network)
            except PlaneError as error:
                events.append(_skipped(network, str(error)))
        return events


def _skipped(network: IpNetwork, reason: str) -> Event:
    return Event("route_failed", {"network": str(network), "reason": reason}, "warning")
