"""One endpoint after the other in the same process: each life of a member has its own, with its own SAs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deadpeer.assembly import build_endpoint
from deadpeer.cluster.records import View
from deadpeer.cluster.router import Known
from deadpeer.cluster.secrets import ClusterSecrets, Sealer
from deadpeer.cluster.standby_map import ShownMap
from deadpeer.crash.boot import StateError
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.shared import ClusterLife
from deadpeer.crypto import Entropy
from deadpeer.ike.connection import Connection, EndpointConfig
from deadpeer.plane.engine import EspEngine
from deadpeer.store import Ledger, Store

from . import collector
from .errors import ConfigError, StartError
from .runtime import Core, Runtime
from .state import LOCK

EPOCHS = "epochs"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Served(Core, Known, Protocol):
    """The endpoint, as the pump and those who ask for its SAs see it."""


@dataclass(slots=True)
class Site:
    """What every life of a member is built from. `connections` may change between lives."""

    file: Path
    state_dir: Path
    endpoint: EndpointConfig
    connections: Sequence[Connection]
    crash: CrashOptions
    store: Store
    ledger: Ledger
    entropy: Entropy
    machine_id: bytes
    hold_packets: int

    def engine(self) -> EspEngine:
        """A data plane without any SA."""
        return EspEngine(self.entropy, hold_packets=self.hold_packets)


class Lives:
    """Builds what serves in each life, and takes it away when that is over."""

    def __init__(self, site: Site, runtime: Runtime, sealer: Sealer, member: int) -> None:
        self.life: ClusterLife | None = None
        self.endpoint: Served | None = None
        self.count = 0
        """How many there were, this one included."""
        self._site = site
        self._runtime = runtime
        self._sealer = sealer
        self._member = member

    def begin(
        self,
        epoch: int,
        secrets: ClusterSecrets,
        view: View | None,
        partners_map: ShownMap | None = None,
    ) -> ClusterLife:
        """Serve in this epoch, which is on disk. `view`: None for one of two that share an address; then
        `partners_map` is what the other one has shown of its SPI map.

        Raises ConfigError if the state directory can't be used."""
        site = self._site
        life = ClusterLife(self._member, epoch, secrets, self._sealer, site.entropy, view)
        try:
            endpoint = build_endpoint(
                self._runtime.now(),
                site.endpoint,
                site.connections,
                site.entropy,
                site.store,
                site.crash,
                ledger=site.ledger,
                machine_id=site.machine_id,
                life=life,
                partners_map=partners_map,
            )
        except (StateError, OSError) as error:
            raise unusable(error, site.file, site.state_dir) from None
        self.life, self.endpoint = life, endpoint
        self.count += 1
        self._runtime.attach(endpoint, site.engine())
        return life

    def over(self) -> None:
        """All SAs are lost. To be called in the event loop, which soon stands still until they are gone."""
        self.life = self.endpoint = None
        self._runtime.detach(self._site.engine())
        # Not now: a lease that is given back, say, is not to wait for it.
        asyncio.get_running_loop().call_soon(collector.look_again)


class EpochFile:
    """The newest epoch of a member, in the state directory: `name` says which member of what."""

    def __init__(self, store: Store, name: str, file: Path, state_dir: Path) -> None:
        """Raises ConfigError if it can't be read."""
        self._store = store
        self._name = name
        try:
            self._epochs = _read_epochs(store)
        except (OSError, ValueError) as error:
            raise unusable(error, file, state_dir) from None

    @property
    def epoch(self) -> int:
        """0: none yet."""
        return self._epochs.get(self._name, 0)

    def put(self, epoch: int) -> None:
        """Durable when this returns. Raises OSError."""
        epochs = self._epochs | {self._name: epoch}
        self._store.put(EPOCHS, json.dumps(epochs).encode())
        self._epochs = epochs


def unusable(error: Exception, file: Path, state_dir: Path) -> ConfigError:
    """What a state directory that can't be used means for the gateway."""
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        problem = f"{state_dir} can't be written: {reason}; make room or name another directory"
    else:
        problem = f"{state_dir}: {error}"
    return ConfigError(file, "gateway.state_dir", problem)


def machine(state_dir: Path, boot_id: Path = _BOOT_ID) -> str:
    """What no other running process can share, while we hold the lock of the state directory.

    An earlier life on the same running kernel with the same lock is certainly over. On any other one, a copy
    of this machine included, it is not. A snapshot of a running virtual machine that is resumed twice is
    beyond it. Raises StartError.
    """
    try:
        lock, kernel = (state_dir / LOCK).stat(), boot_id.read_text().strip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StartError(
            f"{error.filename} can't be read: {reason}; a member of a cluster needs it"
        ) from None
    text = f"{kernel} {lock.st_dev} {lock.st_ino}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read_epochs(store: Store) -> dict[str, int]:
    content = store.get(EPOCHS)
    if content is None:
        return {}
    found = json.loads(content)
    if not isinstance(found, dict) or not all(type(epoch) is int and epoch >= 0 for epoch in found.values()):
        raise ValueError(f"{EPOCHS} is damaged; delete it if no other gateway has this member's number")
    return found


Fatal = Callable[[StartError], None]
"""Ends the gateway with this error."""
