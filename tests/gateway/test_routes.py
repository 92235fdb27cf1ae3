"""Routes live as long as something wants them."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_network

import pytest

from deadpeer.crypto import EspKeys, parse_proposal, select_esp
from deadpeer.crypto.proposals import offer
from deadpeer.gateway.notation import parse_selector
from deadpeer.gateway.routes import RouteKeeper
from deadpeer.plane.host import IpAddress, IpNetwork, PlaneError
from deadpeer.plane.memory import MemoryHost
from deadpeer.plane.model import InstallChild, InstallTrap, RemoveChild, RemoveTrap
from deadpeer.values import Address
from deadpeer.wire import Protocol, TrafficSelector

NET = ip_network("10.0.1.0/24")
TEMPLATE = parse_proposal("aes128gcm16", Protocol.ESP)


def ts(text: str) -> tuple[TrafficSelector, ...]:
    selector = parse_selector(text)
    assert selector is not None
    return (selector,)


def child(number: int, remote: str = "10.0.1.0/24", peer: str = "192.0.2.1") -> InstallChild:
    chosen = select_esp(offer([TEMPLATE], b"abcd"), [TEMPLATE], with_group=False)
    assert chosen is not None
    keys = EspKeys(encryption_key=bytes(16), salt=bytes(4), integrity_key=b"")
    return InstallChild(
        child=number,
        policy=1,
        spi_in=1000 + number,
        spi_out=2000 + number,
        suite=chosen.suite,
        inbound=keys,
        outbound=keys,
        local=Address("192.0.2.2", 4500),
        remote=Address(peer, 4500),
        local_ts=ts("10.0.0.0/24"),
        remote_ts=ts(remote),
    )


def test_a_rekey_leaves_the_route_alone() -> None:
    host = MemoryHost()
    keeper = RouteKeeper(host, [ip_address("10.0.0.1")])
    assert keeper.apply(child(1)) == []
    assert host.routes == {NET: ip_address("10.0.0.1")}
    keeper.apply(child(2))
    keeper.apply(RemoveChild(1))
    keeper.settle()
    assert NET in host.routes
    keeper.apply(RemoveChild(2))
    keeper.settle()
    assert host.routes == {}


def test_a_trap_keeps_the_route_when_the_child_is_lost() -> None:
    host = MemoryHost()
    keeper = RouteKeeper(host, [])
    keeper.apply(InstallTrap(1, ts("10.0.0.0/24"), ts("10.0.1.0/24")))
    keeper.apply(child(1))
    keeper.apply(RemoveChild(1))
    keeper.settle()
    assert NET in host.routes
    keeper.apply(RemoveTrap(1))
    assert keeper.settle() == []
    assert host.routes == {}


def test_a_child_that_a_trap_replaces_leaves_the_route_untouched() -> None:
    class Counting(MemoryHost):
        added = removed = 0

        def add_route(self, network: IpNetwork, source: IpAddress | None = None) -> None:
            self.added += 1
            super().add_route(network, source)

        def remove_route(self, network: IpNetwork) -> None:
            self.removed += 1
            super().remove_route(network)

    host = Counting()
    keeper = RouteKeeper(host, [])
    keeper.apply(child(1))
    keeper.apply(RemoveChild(1))
    keeper.apply(InstallTrap(1, ts("10.0.0.0/24"), ts("10.0.1.0/24")))
    keeper.settle()
    assert (host.added, host.removed) == (1, 0)
    keeper.apply(RemoveTrap(1))
    keeper.settle()
    assert (host.added, host.removed) == (1, 1)


def test_a_trap_that_is_set_again_counts_once() -> None:
    host = MemoryHost()
    keeper = RouteKeeper(host, [])
    for _ in range(3):
        keeper.apply(InstallTrap(1, ts("10.0.0.0/24"), ts("10.0.1.0/24")))
    keeper.apply(RemoveTrap(1))
    keeper.settle()
    assert host.routes == {}


def test_a_source_outside_the_local_selectors_is_not_used() -> None:
    host = MemoryHost()
    RouteKeeper(host, [ip_address("192.0.2.2")]).apply(child(1))
    assert host.routes == {NET: None}


@pytest.mark.parametrize("network", ["0.0.0.0/0", "192.0.2.0/24"])
def test_a_network_with_the_peer_in_it_is_routed_only_where_our_own_packets_are_steered(network: str) -> None:
    host = MemoryHost()
    host.steered = {6}
    keeper = RouteKeeper(host, [])
    (event,) = keeper.apply(child(1, network))
    assert (event.kind, event.fields["network"]) == ("route_failed", network)
    assert host.routes == {}
    assert keeper.apply(RemoveChild(1)) == []

    host.steered = {4}
    assert keeper.apply(child(2, network)) == []
    assert list(map(str, host.routes)) == [network]


def test_a_trap_for_everything_would_catch_our_own_packets_whoever_the_peer_is() -> None:
    host = MemoryHost()
    host.steered = set()
    (event,) = RouteKeeper(host, []).apply(InstallTrap(1, ts("10.0.0.0/24"), ts("0.0.0.0/0")))
    assert (event.kind, host.routes) == ("route_failed", {})


def test_a_range_becomes_its_networks() -> None:
    host = MemoryHost()
    RouteKeeper(host, []).apply(child(1, "10.0.1.1-10.0.1.3"))
    assert sorted(map(str, host.routes)) == ["10.0.1.1/32", "10.0.1.2/31"]


def test_what_the_kernel_refuses_is_an_event() -> None:
    class Refusing(MemoryHost):
        def add_route(self, network: object, source: object = None) -> None:
            raise PlaneError("no right; run as root")

    (event,) = RouteKeeper(Refusing(), []).apply(child(1))
    assert event.fields == {"network": str(IPv4Network("10.0.1.0/24")), "reason": "no right; run as root"}
