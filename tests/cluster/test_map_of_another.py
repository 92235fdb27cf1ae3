"""The SPI map of one member in the state directory of another: a copied disk, a copied directory."""

from __future__ import annotations

from copy import deepcopy

from tests.support.fleet import Fleet

from deadpeer.crash.spi_records import TABLE


def test_a_member_says_nothing_of_the_children_in_a_map_that_another_member_wrote() -> None:
    """
    Somebody makes member 1 from a copy of member 0's machine, which goes on:

      lease/1  ──▶  epoch 2; its map was written in epoch 1, with the key that all members share, on "this"
                    machine, at the address that all members share. None of its SAs was member 1's.
    """
    fleet = Fleet(7, members=2, clients=2).up()
    first, second = fleet.gateways
    second.crash()
    second.machine = first.machine
    second.ledger = deepcopy(first.ledger)
    records = list(second.ledger.items(TABLE))
    assert records
    second.boot()
    fleet.run(60.0)
    assert second.lives == [1, 2]
    assert fleet.violations == []
    assert second.table is not None
    assert second.table.sizes()["spi_map.ended"] == 0
    assert not {key for key, _ in second.ledger.items(TABLE)} & {key for key, _ in records}


def test_a_member_knows_its_own_map_after_a_crash() -> None:
    fleet = Fleet(8, members=2, clients=2).up()
    first = fleet.gateways[0]
    first.crash()
    first.boot()
    fleet.run(5.0)
    assert first.table is not None
    assert first.table.counters["announced"] > 0
    assert fleet.violations == []
