"""What the roles cost, as tables for makers of small devices. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.lab.costs.model import (
    AUTHENTICATION_TITLES,
    AUTHENTICATIONS,
    ROLE_TITLES,
    WAY_TITLES,
    WAYS,
    Costs,
    Kept,
    Operations,
    RoleCost,
    SideCost,
    Wire,
)
from deadpeer.lab.report.compare import EMPTY, Cell, secret_octets
from deadpeer.lab.report.notation import MINUS, NONE, cpu, octets


@dataclass(frozen=True, slots=True)
class Grid:
    """A plain table; the first cell of a row names it."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Small:
    """The section's tables; `maker` is what a token maker keeps on disk, octets."""

    roles: Grid
    recoveries: Grid
    kept: Grid
    maker: str


def small(costs: Costs) -> Small:
    """The tables of the section."""
    return Small(_roles(costs), _recoveries(costs), _kept(costs), octets(secret_octets(costs)))


def _roles(costs: Costs) -> Grid:
    base = tuple(
        (
            Cell(f"the SA itself, {b.end}"),
            Cell(octets(b.memory_octets)),
            Cell("0"),
            Cell("0"),
            _wire(b.setup_sent),
            _wire(b.rekey_sent),
            Cell(cpu(b.setup_cpu_us)),
        )
        for b in costs.baselines
    )
    return Grid(
        "Octets and messages that a role adds to one SA (messages: IKE datagrams, octets: UDP payload)",
        (
            "role",
            "octets in memory",
            "on disk per SA",
            "on disk, once",
            "sent in set-up",
            "sent in a rekey",
            "CPU of set-up",
        ),
        base + tuple(_role(role) for role in costs.roles),
    )


def _role(role: RoleCost) -> tuple[Cell, ...]:
    sign = MINUS if role.setup_cpu_us < 0 else "+"
    return (
        Cell(f"{ROLE_TITLES[role.role]}, {role.end}"),
        Cell(f"+ {octets(role.memory_octets)}"),
        Cell(f"+ {octets(role.disk_octets)}"),
        Cell(octets(role.disk_fixed_octets)),
        _wire(role.setup_sent),
        _wire(role.rekey_sent),
        Cell(
            f"{sign} {cpu(abs(role.setup_cpu_us))}",
            f"\N{PLUS-MINUS SIGN} {cpu(role.setup_cpu_error_us)}",
            "muted" if abs(role.setup_cpu_us) < 2 * role.setup_cpu_error_us else "",
        ),
    )


def _wire(wire: Wire) -> Cell:
    if not wire.messages and not wire.octets:
        return EMPTY
    count = (
        f"{wire.messages} message{'' if wire.messages == 1 else 's'}" if wire.messages else "no message more"
    )
    return Cell(f"{octets(wire.octets)} octets", count)


def _recoveries(costs: Costs) -> Grid:
    rows: list[tuple[Cell, ...]] = []
    for way in WAYS:
        for authentication in AUTHENTICATIONS:
            pair = [
                cost
                for resumed in (False, True)
                for cost in costs.recoveries
                if (cost.way, cost.authentication, cost.resumed) == (way, authentication, resumed)
            ]
            if len(pair) != 2:
                continue
            full, resumed_one = pair
            rows.append(
                (
                    Cell(WAY_TITLES[way], AUTHENTICATION_TITLES[authentication]),
                    _cpu(full.alice),
                    _cpu(resumed_one.alice),
                    _cpu(full.bob),
                    _cpu(resumed_one.bob),
                    Cell(_ratio(costs, way, authentication)),
                    Cell(_primitives(full.bob.operations)),
                    _sent(full.alice, full.bob),
                )
            )
    return Grid(
        "CPU of one recovery; in small print the part within OpenSSL",
        (
            "method",
            "Alice, full",
            "Alice, resumed",
            "Bob, full",
            "Bob, resumed",
            "Bob, resumed to full",
            "Bob\N{RIGHT SINGLE QUOTATION MARK}s primitives, full",
            "IKE messages, Alice + Bob",
        ),
        tuple(rows),
    )


def _cpu(side: SideCost) -> Cell:
    return Cell(cpu(side.cpu_us), f"{side.primitives_share:.0%} OpenSSL")


def _sent(alice: SideCost, bob: SideCost) -> Cell:
    return Cell(
        f"{alice.sent.messages} + {bob.sent.messages}",
        f"{octets(alice.sent.octets + bob.sent.octets)} octets",
    )


def _ratio(costs: Costs, way: str, authentication: str) -> str:
    for ratio in costs.ratios:
        if (ratio.way, ratio.authentication) == (way, authentication):
            return f"{ratio.bob:.2f}"
    return NONE


def _primitives(done: Operations) -> str:
    parts = (
        (done.signatures, "signature"),
        (done.verifications, "verification"),
        (done.certificates, "certificate"),
        (done.exchanges, "DH"),
        (done.macs, "HMAC"),
        (done.seals, "AEAD"),
    )
    return ", ".join(f"{count} {name}" for count, name in parts if count) or "none"


def _kept(costs: Costs) -> Grid:
    return Grid(
        "Octets on disk",
        ("what", "octets", "for each"),
        tuple(_kept_row(kept) for kept in costs.kept),
    )


def _kept_row(kept: Kept) -> tuple[Cell, ...]:
    return (Cell(kept.what), Cell(octets(kept.octets)), Cell(kept.per))
