"""What recoveries and roles cost: real endpoints of both sides driven in memory, real CPU, no sockets.

`measure` gives everything as values; `python -m deadpeer.lab.costs` prints it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

from cryptography.hazmat.backends.openssl import backend

from deadpeer.lab.costs.kept import measure_kept
from deadpeer.lab.costs.model import (
    AUTHENTICATION_TITLES,
    AUTHENTICATIONS,
    ROLE_TITLES,
    WAY_TITLES,
    WAYS,
    Authentication,
    Baseline,
    Costs,
    End,
    Kept,
    Operations,
    Per,
    Ratio,
    RecoveryCost,
    Role,
    RoleCost,
    SideCost,
    Way,
    Wire,
)
from deadpeer.lab.costs.recoveries import measure_recoveries, ratios
from deadpeer.lab.costs.roles import measure_roles

SAS = 64
"""So many SAs stand when octets per SA are measured. A power of two: tables grow by doubling."""
SETUPS = 5
"""So many SAs are built for each recovery: what a role adds to their CPU is a small difference."""


def measure(
    say: Callable[[str], None],
    *,
    recoveries: int,
    ways: Sequence[Way] = WAYS,
    authentications: Sequence[Authentication] = AUTHENTICATIONS,
    sas: int = SAS,
) -> Costs:
    """Measure everything: CPU from `recoveries` of each kind, octets from `sas` SAs. `say` gets progress.

    One thread, no I/O; with 20 recoveries it takes about a minute. Raises LabError if a tunnel does not come
    up, or does not come back.
    """
    costs = measure_recoveries(say, ways, authentications, recoveries)
    baselines, roles = measure_roles(say, sas=sas, setups=SETUPS * recoveries)
    return Costs(_machine(), sas, costs, ratios(costs), baselines, roles, measure_kept())


def _machine() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{platform.machine()}, {platform.system()} {platform.release()}, {python}, {openssl()}"


def openssl() -> str:
    """The version of the OpenSSL that `cryptography` uses."""
    return backend.openssl_version_text()


__all__ = [
    "AUTHENTICATIONS",
    "AUTHENTICATION_TITLES",
    "Authentication",
    "Baseline",
    "Costs",
    "End",
    "Kept",
    "Operations",
    "Per",
    "ROLE_TITLES",
    "Ratio",
    "RecoveryCost",
    "Role",
    "RoleCost",
    "SAS",
    "SETUPS",
    "SideCost",
    "WAYS",
    "WAY_TITLES",
    "Way",
    "Wire",
    "measure",
    "openssl",
]
