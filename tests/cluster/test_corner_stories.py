"""The corners of a cluster, told with whole gateways, their clients, and somebody who asks everybody.

| corner | tests |
|---|---|
| SPI collision in one member | here: `test_an_spi_that_is_in_use_is_drawn_again` |
| SPI of one life under another's key | test_corners.py: `test_an_spi_that_passes_under_two_keys_...` |
| SPI chosen by a client | test_teeth.py: `test_a_client_that_takes_a_dead_members_spi_for_its_own` |
| epoch wrap | here: `test_the_epoch_wraps`; test_spi.py: `test_epochs_wrap` |
| member number reused, the old one gone | test_membership.py: `test_a_member_on_another_machine_...` |
| member number reused, the old one alive | here: `test_a_number_that_is_used_again_...`; fates: "replace" |
| the same with a restored or lost store | test_corners.py: `test_another_machine_takes_a_number_...` |
| secrets rotated during a failover | here: `test_secrets_that_are_rotated_during_a_failover` |
| rotation and a member that is cut off | test_membership.py: `test_a_rotation_leaves_nobody_behind` |
| SPI key dropped | test_teeth.py: `test_an_sa_whose_spi_key_was_dropped` |
| old disk image (boot counter goes back) | here: `test_a_member_from_an_old_disk_image`; fates: "old image" |
| state directory of another member | test_map_of_another.py |
| etcd restored as docs/cluster.md says | here: `test_etcd_is_restored_by_the_book` |
| etcd restored while members serve | test_membership.py, test_corners.py; fates: "restore" |
| etcd lost | test_membership.py: `test_a_store_that_was_lost_...`; test_two_foundings.py |
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.fates import GENEROUS, QCD
from tests.support.fleet import Fleet
from tests.support.mallory import Mallory

from deadpeer.cluster.secrets import KeyKind
from deadpeer.ike.io import Initiate, Lose


def up(seed: int, clients: int = 3) -> tuple[Fleet, Mallory]:
    fleet = Fleet(seed, members=3, clients=clients, extensions=QCD, options=GENEROUS)
    mallory = Mallory(fleet)
    fleet.up()
    fleet.traffic(0.5, 0.1)
    return fleet, mallory


def rotate(fleet: Fleet, member: int, kind: KeyKind) -> None:
    gateway = fleet.gateways[member]
    assert gateway.process is not None
    gateway.process.rotate(gateway.clock_ns(), fleet.unix_s, kind)
    gateway.step(None)


def test_an_spi_that_is_in_use_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The member draws an SPI that it has given to another client, three times, and then another one."""
    fleet, mallory = up(50, clients=6)
    [(_, used)] = fleet.clients[0].pairs.values()
    node = fleet.gateways[0].node
    assert node is not None
    source = node.endpoint._env._spis
    draw = source.ike_spi

    def drawn() -> Iterator[bytes]:
        yield from [used] * 3
        while True:
            yield draw()

    spis = drawn()
    monkeypatch.setattr(source, "ike_spi", lambda: next(spis))
    other = fleet.clients[3]
    assert fleet.table[other.host] == 0
    other.work(Lose())
    other.work(Initiate("home"))
    fleet.run(1.0)
    assert len({spi_r for c in fleet.clients for _, spi_r in c.pairs.values()}) == 7
    assert next(spis) != used
    mallory.storm()
    assert fleet.flows() == [True] * 6
    assert fleet.violations == []


def test_the_epoch_wraps() -> None:
    """Lives 2^20 - 1, 2^20 (which the SPI calls 0) and 2^20 + 1 of member 0, each with SAs of its own."""
    fleet = Fleet(51, members=3, clients=3, extensions=QCD, options=GENEROUS)
    mallory = Mallory(fleet)
    fleet.gateways[0].disk_epoch = 2**20 - 2
    fleet.up()
    for life in (2**20 - 1, 2**20, 2**20 + 1):
        fleet.traffic(1.0, 0.1)
        assert fleet.gateways[0].lives[-1] == life
        mallory.storm()
        assert fleet.flows() == [True] * 3
        fleet.gateways[0].crash()
        fleet.gateways[0].boot()
    fleet.traffic(2.0, 0.1)
    assert fleet.flows() == [True] * 3
    assert fleet.clients[0].verdicts() == ["qcd-token"] * 3
    mallory.storm()
    assert fleet.violations == []


def test_a_number_that_is_used_again_while_the_machine_that_had_it_goes_on() -> None:
    """The old one is cut off from the store and serves for the rest of its lease, and the new one waits."""
    fleet, mallory = up(52)
    old = fleet.gateways[0]
    old.cut_off = True
    new = fleet.replace(0, "another machine")
    new.boot()
    for _ in range(12):
        mallory.storm()
        fleet.traffic(1.2, 0.2)
        assert not (old.serves and new.serves)
    assert new.lives == [2]
    fleet.traffic(2.0, 0.1)
    assert fleet.flows() == [True] * 3
    assert fleet.clients[0].verdicts() == ["qcd-token"]
    assert fleet.violations == []


def test_secrets_that_are_rotated_during_a_failover() -> None:
    """Keys of all kinds are announced between a member's death and its write-off, and others after that."""
    fleet, mallory = up(53)
    fleet.gateways[0].crash()
    fleet.run(1.0)
    for kind in KeyKind:
        rotate(fleet, 1, kind)
        fleet.run(0.5)
    mallory.storm()
    assert fleet.told == 0
    fleet.run(5.0)
    for kind in KeyKind:
        rotate(fleet, 2, kind)
    fleet.evacuate()
    fleet.traffic(2.0, 0.1)
    mallory.storm()
    secrets = fleet.gateways[1].process.secrets  # type: ignore[union-attr]
    assert secrets is not None
    assert all(secrets.of(kind)[0].number >= 2 for kind in KeyKind)
    assert fleet.clients[0].verdicts() == ["qcd-token"]
    assert fleet.flows() == [True] * 3
    assert fleet.violations == []


def test_a_member_from_an_old_disk_image() -> None:
    """Its third life starts from the disk of before the first: etcd knows better."""
    fleet, mallory = up(54)
    for disk_epoch in (1, 0):
        fleet.gateways[0].crash()
        fleet.gateways[0].disk_epoch = disk_epoch
        fleet.gateways[0].boot()
        fleet.traffic(2.0, 0.1)
        mallory.storm()
    fleet.run(12.0)
    fleet.traffic(2.0, 0.1)
    assert fleet.gateways[0].lives == [1, 2, 3]
    assert fleet.clients[0].verdicts() == ["qcd-token"] * 2
    assert fleet.flows() == [True] * 3
    assert fleet.violations == []


def test_etcd_is_restored_by_the_book() -> None:
    """Stop it, wait for one lease, restore: all lives are over, all clients come back by tokens."""
    fleet, mallory = up(55)
    backup = fleet.store.backup()
    fleet.gateways[1].crash()
    fleet.gateways[1].boot()
    fleet.traffic(2.0, 0.1)
    fleet.store_up = False
    fleet.run(5.5)
    assert not any(gateway.serves for gateway in fleet.gateways)
    fleet.store.restore(backup)
    fleet.store_up = True
    for _ in range(6):
        fleet.traffic(1.5, 0.1)
        mallory.storm()
    assert [len(gateway.lives) for gateway in fleet.gateways] == [2, 3, 2]
    assert all(gateway.lives == sorted(set(gateway.lives)) for gateway in fleet.gateways)
    assert fleet.flows() == [True] * 3
    assert [client.verdicts()[-1] for client in fleet.clients] == ["qcd-token"] * 3
    assert fleet.violations == []
