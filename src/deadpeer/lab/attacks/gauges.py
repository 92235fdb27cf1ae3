"""What is read off running gateways: CPU, memory, counters, SAs; and the tokens that must not show."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deadpeer.crash.boot import STATE_NAME, decode
from deadpeer.crash.tokens import MakerRole, make_token
from deadpeer.gateway.client import call
from deadpeer.lab.attacks.forgery import KnownSa
from deadpeer.lab.attacks.observed import Counters
from deadpeer.lab.options import LabError, Side
from deadpeer.lab.peers import GatewayPeer
from deadpeer.lab.session import Session
from deadpeer.lab.sites import SIDES

CALL_TIMEOUT_S = 90.0


def gateway(session: Session, side: Side) -> GatewayPeer:
    """One of our gateways. Raises LabError if that side is another make."""
    peer = session.peers[side]
    if not isinstance(peer, GatewayPeer):
        raise LabError(f"{side} is no deadpeer gateway: attacks need two", usage=True)
    return peer


def cpu_s(session: Session) -> dict[Side, float]:
    """CPU seconds that each gateway's process has used so far."""
    return {side: _schedstat(gateway(session, side).pid) for side in SIDES}


def memory_mb(session: Session, side: Side) -> float:
    """Resident memory of a gateway's process."""
    for line in Path(f"/proc/{gateway(session, side).pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def counters(session: Session, side: Side) -> Counters:
    """All counters of a gateway."""
    found: Counters = (await _ask(session, side, "counters"))["counters"]
    return found


async def half_open(session: Session, side: Side) -> int:
    """Half-open IKE SAs of a gateway at this moment."""
    return (await counters(session, side))["tables"].get("half_open", 0)


async def alices_sas(session: Session) -> tuple[KnownSa, ...]:
    """The established IKE SAs as Alice has them."""
    return known_sas((await _ask(session, "alice", "sas"))["sas"])


def known_sas(records: Iterable[dict[str, Any]]) -> tuple[KnownSa, ...]:
    """The established ones among the SAs that Alice's `sas` shows. Pure."""
    return tuple(
        KnownSa(
            bytes.fromhex(record["spi_i"]),
            bytes.fromhex(record["spi_r"]),
            record["role"] == "initiator",
            tuple(bytes.fromhex(child["spi_out"]) for child in record["children"]),
            tuple(bytes.fromhex(child["spi_in"]) for child in record["children"]),
        )
        for record in records
        if record["state"] == "established"
    )


async def rekey(session: Session, connection: str, child: str | None) -> None:
    """Have Alice rekey the IKE SA, or that child."""
    args = {"connection": connection} | ({"child": child} if child is not None else {})
    answer = await asyncio.to_thread(call, gateway(session, "alice").files.control, "rekey", args)
    if not answer["ok"]:
        raise LabError(f"Alice could not rekey: {answer['text']}")


def true_tokens(session: Session, sas: Sequence[KnownSa]) -> list[bytes]:
    """The tokens of these SAs by the state on disk of both sides: of both roles and all generations."""
    tokens = []
    for side in SIDES:
        state = decode((gateway(session, side).files.state / STATE_NAME).read_bytes())
        for sa in sas:
            for generation in state.generations:
                tokens += [make_token(generation.secret, role, sa.spi_i, sa.spi_r) for role in MakerRole]
    return tokens


async def _ask(session: Session, side: Side, command: str) -> Any:
    control = gateway(session, side).files.control
    return (await asyncio.to_thread(call, control, command, None, CALL_TIMEOUT_S))["data"]


def _schedstat(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
