"""The one place that wires crash discovery into IKE."""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.cluster.ownership import Ownership, Single
from deadpeer.cluster.spi import EpochSpis, SpiCodec, SpiReader
from deadpeer.cluster.standby_map import ShownMap
from deadpeer.crash import boot
from deadpeer.crash.announce import Announcer
from deadpeer.crash.liveness import Liveness
from deadpeer.crash.lost_children import LostChildren
from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.policy import Policy
from deadpeer.crash.rebuilds import Rebuilds
from deadpeer.crash.reconnect import Reconnect
from deadpeer.crash.redirect import Redirect
from deadpeer.crash.resumption import TicketGateway
from deadpeer.crash.resumption_client import TicketClient
from deadpeer.crash.rivals import Rivals
from deadpeer.crash.shared import ClusterLife
from deadpeer.crash.sir import Sir
from deadpeer.crash.sir_responder import SirResponder
from deadpeer.crash.spi_map import SpiMap
from deadpeer.crash.strangers import Strangers
from deadpeer.crash.taker import TokenTaker
from deadpeer.crypto import Entropy
from deadpeer.ike.connection import Connection, EndpointConfig
from deadpeer.ike.endpoint import Endpoint
from deadpeer.ike.extension import Extension
from deadpeer.store import Ledger, MemoryLedger, Store
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
    *,
    ledger: Ledger | None = None,
    machine_id: bytes = b"",
    life: ClusterLife | None = None,
    partners_map: ShownMap | None = None,
) -> Endpoint:
    """An endpoint with crash discovery, in a new boot epoch, or in the life of a member of a cluster.

    `ledger` holds what is kept in records, in memory if None; `machine_id` is anything that no other
    machine has; `partners_map` is what the other of two has shown of its SPI map. The epoch is durable in
    `store` when this returns (that of a member was before). Raises StateError if what the store holds is
    damaged, OSError if it can't be written.
    """
    ledger = MemoryLedger() if ledger is None else ledger
    if life is None:
        state = boot.start(store, entropy)
        reader: SpiReader = (codec := SpiCodec(state.spi_key))
        spis = EpochSpis(codec, state.epoch, member, entropy)
        ownership: Ownership = Single(codec, state.epoch, member)
    else:
        state, reader, spis, ownership = life.state, life.ring, life.spis, life.ownership
    maker = TokenMaker(state, entropy, options)
    spi_map = SpiMap(
        now,
        state,
        reader,
        ownership,
        maker,
        ledger,
        options,
        machine_id=machine_id,
        local_hosts=config.local_hosts,
        partners=partners_map,
    )
    tickets = TicketGateway(store, ledger, entropy, options)
    extensions = _extensions(ownership, maker, spi_map, tickets, connections, entropy, options)
    if life is not None:
        life.serve(now, maker, tickets)
        extensions.append(life)
    return Endpoint(now, config, connections, entropy, spis, extensions)


def _extensions(
    ownership: Ownership,
    maker: TokenMaker,
    spi_map: SpiMap,
    tickets: TicketGateway,
    connections: Sequence[Connection],
    entropy: Entropy,
    options: CrashOptions,
) -> list[Extension]:
    """The order in which they observe: suspicion before those who judge, tokens before the map and before
    tickets (until the token of a rekeyed SA is with the peer, our crash is found in slower ways), and a
    resumed SA (a proof by itself) before those who asked for one beside another."""
    policy, monitor, rebuilds = Policy(), Monitor(options), Rebuilds(options)
    lost_children = LostChildren(monitor, options)
    return [
        policy,
        monitor,
        rebuilds,
        Rivals(rebuilds),
        maker,
        tickets,
        TicketClient(monitor, rebuilds),
        SirResponder(ownership, connections, options),
        Sir(monitor, policy, rebuilds, entropy, options),
        Reconnect(monitor, policy, rebuilds),
        Redirect(rebuilds),
        Liveness(monitor, policy),
        TokenTaker(monitor, policy),
        spi_map,
        lost_children,
        Strangers(ownership, maker, connections, lost_children, options, spi_map),
        Announcer(spi_map, maker, entropy, options),
    ]
