"""Before the gateway says that it is ready: what its first answers need is used once, within a budget, and
what stays for good is taken out of the collector's sight."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence

from deadpeer.crypto import Entropy, rehearsals
from deadpeer.ike.connection import Connection

BUDGET_S = 0.025
"""No further algorithm is begun after so long: a late gateway is worse than a cold one."""

_THRESHOLDS = (10_000, 20, 20)
"""Of Python's collector; by default it looks at the youngest after 700 objects, which is one new SA."""


def spare_collector() -> None:
    """Keep the collector of cycles from looking at modules and configuration again and again, and have it
    look at the rest less often: when hundreds of peers come back at once it took a twentieth of the time."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


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
