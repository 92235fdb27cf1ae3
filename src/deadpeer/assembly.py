"""The one place that wires crash discovery into IKE."""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.cluster.spi import EpochSpis, SpiCodec
from deadpeer.crash import boot
from deadpeer.crash.liveness import Liveness
from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.strangers import Strangers
from deadpeer.crash.taker import TokenTaker
from deadpeer.crypto import Entropy
from deadpeer.ike.connection import Connection, EndpointConfig
from deadpeer.ike.endpoint import Endpoint
from deadpeer.ike.extension import Extension
from deadpeer.store import Store
from deadpeer.values import Now

DEFAULT_OPTIONS = CrashOptions()


def build_endpoint(
    now: Now,
    config: EndpointConfig,
    connections: Sequence[Connection],
    entropy: Entropy,
    store: Store,
    options: CrashOptions = DEFAULT_OPTIONS,
    member: int = 0,
) -> Endpoint:
    """An endpoint with crash discovery, in a new boot epoch.

    The epoch is durable in `store` when this returns. Raises StateError if what the store holds is
    damaged, OSError if it can't be written.
    """
    state = boot.start(store, entropy)
    codec = SpiCodec(state.spi_key)
    spis = EpochSpis(codec, state.epoch, member, entropy)
    return Endpoint(
        now,
        config,
        connections,
        entropy,
        spis,
        _extensions(state, codec, member, connections, entropy, options),
    )


def _extensions(
    state: boot.BootState,
    codec: SpiCodec,
    member: int,
    connections: Sequence[Connection],
    entropy: Entropy,
    options: CrashOptions,
) -> list[Extension]:
    """The order in which they observe: suspicion before those who judge."""
    monitor = Monitor(options)
    maker = TokenMaker(state, entropy, options)
    return [
        monitor,
        Liveness(monitor),
        maker,
        TokenTaker(monitor),
        Strangers(codec, member, maker, connections, options),
    ]
