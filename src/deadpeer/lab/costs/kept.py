"""What survives a crash, in octets: read from the disks of two gateways that use all of it."""

from __future__ import annotations

from deadpeer.crash import boot, spi_records, used_tickets
from deadpeer.crash.tickets import RING_NAME
from deadpeer.lab.costs.model import Kept, Per
from deadpeer.lab.costs.recoveries import recovered

_VALUES: dict[str, str] = {
    boot.STATE_NAME: "boot counter, SPI key, secret of the tokens",
    RING_NAME: "keys that seal tickets",
}
_TABLES: dict[str, tuple[str, Per]] = {
    spi_records.HEAD_TABLE: ("head of the SPI map", "gateway"),
    spi_records.TABLE: ("record in the SPI map", "child SA"),
    used_tickets.TABLE: ("record of a used ticket", "ticket used"),
}


def measure_kept() -> tuple[Kept, ...]:
    """What Bob has on his disk after a recovery by a token of his map that was resumed. Raises LabError."""
    bob = recovered(("qcd-map", "psk", True)).rig.bob
    octets, records = bob.ledger.octets(), bob.ledger.records()
    values = [Kept(_VALUES.get(name, name), size, "gateway") for name, size in bob.store.octets().items()]
    tables: list[Kept] = []
    for table, size in octets.items():
        what, per = _TABLES.get(table, (table, "gateway"))
        if records[table]:
            tables.append(Kept(what, size / records[table], per))
    return (*values, *tables)
