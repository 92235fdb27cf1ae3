"""Nobody keeps the loop for long: leases must be renewed, however many peers come at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.gateway.test_runtime import Bench, ScriptedCore, run

from deadpeer.ike.io import Input
from deadpeer.values import Datagram, Now

COSTLY_S = 0.015
"""Two of these are longer than a turn."""
PEERS = 12


def test_a_socket_full_of_costly_datagrams_lets_others_have_their_turn(place: Path) -> None:
    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        if isinstance(item, Datagram):
            time.sleep(COSTLY_S)

    core, at_once = ScriptedCore(script), []

    async def work(bench: Bench) -> None:
        for number in range(PEERS):
            bench.send(b"from peer %d" % number)
        while len(core.inputs) < PEERS:
            before = len(core.inputs)
            await asyncio.sleep(0)
            at_once.append(len(core.inputs) - before)

    run(place, core, work)
    assert sum(at_once) == PEERS
    assert max(at_once) <= 2
