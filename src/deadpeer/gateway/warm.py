"""Before the gateway says that it is ready: what its first answers need is used once, within a budget."""

from __future__ import annotations

import time
from collections.abc import Sequence

from deadpeer.crypto import Entropy, rehearsals
from deadpeer.ike.connection import Connection

BUDGET_S = 0.025
"""No further algorithm is begun after so long: a late gateway is worse than a cold one."""


def warm_up(
    connections: Sequence[Connection], entropy: Entropy, *, budget_s: float = BUDGET_S
) -> tuple[str, ...]:
    """Use each algorithm of the connections' proposals and credentials once; the names of those used."""
    proposals = [template for connection in connections for template in connection.proposals]
    proposals += [
        template
        for connection in connections
        for child in connection.children
        for template in child.esp_proposals
    ]
    credentials = {
        id(connection.local.credential): connection.local.credential
        for connection in connections
        if connection.local.credential is not None
    }
    used: list[str] = []
    end_ns = time.monotonic_ns() + int(budget_s * 1e9)
    for name, use in rehearsals(proposals, credentials.values(), entropy):
        if time.monotonic_ns() >= end_ns:
            break
        use()
        used.append(name)
    return tuple(used)
