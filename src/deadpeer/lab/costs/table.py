"""Costs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from deadpeer.lab.costs.model import (
    AUTHENTICATION_TITLES,
    ROLE_TITLES,
    WAY_TITLES,
    Costs,
    Operations,
    RecoveryCost,
    SideCost,
    Wire,
)


def tables(costs: Costs) -> Iterator[Table]:
    """Recoveries, roles, and what is on disk."""
    yield _recoveries(costs)
    yield _roles(costs)
    yield _kept(costs)


def _recoveries(costs: Costs) -> Table:
    out = _table(
        "CPU of a recovery (median, us; in brackets the part in OpenSSL), IKE messages sent",
        ("method", "authentication", "", "Alice", "sends", "Bob", "sends", "Bob's primitives", "of full"),
    )
    for cost in costs.recoveries:
        out.add_row(
            WAY_TITLES[cost.way],
            AUTHENTICATION_TITLES[cost.authentication],
            "resumed" if cost.resumed else "full",
            _cpu(cost.alice),
            _wire(cost.alice.sent),
            _cpu(cost.bob),
            _wire(cost.bob.sent),
            _operations(cost.bob.operations),
            _ratio(costs, cost),
            end_section=cost.resumed,
        )
    return out


def _roles(costs: Costs) -> Table:
    out = _table(
        "What a role adds to an IKE SA with one child SA",
        ("role", "end", "memory", "disk", "setup sends", "receives", "rekey sends", "receives", "setup CPU"),
    )
    for base in costs.baselines:
        out.add_row(
            "(the SA itself)",
            base.end,
            f"{base.memory_octets:,.0f}",
            "0",
            _wire(base.setup_sent),
            "",
            _wire(base.rekey_sent),
            "",
            f"{base.setup_cpu_us:,.0f} us",
        )
    out.add_section()
    for role in costs.roles:
        out.add_row(
            ROLE_TITLES[role.role],
            role.end,
            f"{role.memory_octets:+,.0f}",
            f"{role.disk_octets:+,.0f}",
            _wire(role.setup_sent),
            _wire(role.setup_received),
            _wire(role.rekey_sent),
            _wire(role.rekey_received),
            f"{role.setup_cpu_us:+,.0f} \N{PLUS-MINUS SIGN} {role.setup_cpu_error_us:,.0f} us",
        )
    return out


def _kept(costs: Costs) -> Table:
    out = _table("What survives a crash", ("what", "octets", "for each"))
    for kept in costs.kept:
        out.add_row(kept.what, f"{kept.octets:,.0f}", kept.per)
    return out


def _table(title: str, columns: tuple[str, ...]) -> Table:
    out = Table(title=title, title_justify="left")
    for column in columns:
        out.add_column(column, overflow="fold")
    return out


def _cpu(side: SideCost) -> str:
    return f"{side.cpu_us:,.0f} ({side.primitives_share:.0%})"


def _wire(wire: Wire) -> str:
    return f"{wire.messages}: {wire.octets:,}"


def _operations(done: Operations) -> str:
    named = (
        ("signature", done.signatures),
        ("verification", done.verifications + done.certificates),
        ("DH", done.exchanges),
    )
    return ", ".join(f"{count} {name}" for name, count in named if count) or "symmetric alone"


def _ratio(costs: Costs, cost: RecoveryCost) -> str:
    if not cost.resumed:
        return ""
    return f"{costs.ratio(cost.way, cost.authentication).bob:.2f}"
