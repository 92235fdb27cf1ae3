"""The tables of SAs: by number, SPI, peer, connection, child, policy. No look-up walks through all SAs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, TypeVar

from deadpeer.values import Address

if TYPE_CHECKING:
    from deadpeer.ike.child import ChildSa
    from deadpeer.ike.sa import IkeSa

K = TypeVar("K", bound=Hashable)


class SaTable:
    """All IKE SAs that are not closed, in any state, and their child SAs."""

    def __init__(self) -> None:
        self._by_number: dict[int, IkeSa] = {}
        self._ours: dict[bytes, IkeSa] = {}
        self._theirs: Counter[bytes] = Counter()
        self._reserved: set[bytes] = set()
        self._peers: dict[Address, dict[int, IkeSa]] = {}
        self._peer_of: dict[int, Address] = {}
        self._connections: dict[str, dict[int, IkeSa]] = {}
        self._connection_of: dict[int, str] = {}
        self._initial: dict[tuple[bytes, Address], dict[int, IkeSa]] = {}
        self._initial_of: dict[int, tuple[bytes, Address]] = {}
        self._inbound: dict[int, tuple[IkeSa, ChildSa]] = {}
        self._outbound: dict[int, list[IkeSa]] = {}
        self._children: dict[int, tuple[IkeSa, ChildSa]] = {}
        self._policies: dict[int, dict[int, ChildSa]] = {}
        self._half_open: Counter[tuple[str, bool]] = Counter()
        self._half_open_of: dict[int, tuple[str, bool]] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[IkeSa]:
        return iter(list(self._by_number.values()))

    # --- IKE SAs ---------------------------------------------------------------------------------

    def add(self, sa: IkeSa) -> None:
        """Enter an IKE SA under its own SPI; its peer's SPI too, if it is known."""
        self._by_number[sa.number] = sa
        self._ours[sa.own_spi] = sa
        if sa.peer_spi != bytes(8):
            self._theirs[sa.peer_spi] += 1
        self.filed(sa)

    def filed(self, sa: IkeSa) -> None:
        """File the SA under its peer's address and its connection, which both may change."""
        if self._by_number.get(sa.number) is not sa:
            return
        if self._peer_of.get(sa.number) != sa.remote:
            _unfile(self._peers, self._peer_of, sa.number)
            self._peers.setdefault(sa.remote, {})[sa.number] = sa
            self._peer_of[sa.number] = sa.remote
        if self._connection_of.get(sa.number) != sa.connection.name:
            _unfile(self._connections, self._connection_of, sa.number)
            self._connections.setdefault(sa.connection.name, {})[sa.number] = sa
            self._connection_of[sa.number] = sa.connection.name

    def peer_spi_known(self, sa: IkeSa) -> None:
        """The response to IKE_SA_INIT named the peer's SPI."""
        self._theirs[sa.peer_spi] += 1

    def remove(self, sa: IkeSa) -> None:
        """Forget an IKE SA; its children must be gone before."""
        if self._by_number.pop(sa.number, None) is None:
            return
        self._ours.pop(sa.own_spi, None)
        if self._theirs[sa.peer_spi] <= 1:
            del self._theirs[sa.peer_spi]
        else:
            self._theirs[sa.peer_spi] -= 1
        _unfile(self._peers, self._peer_of, sa.number)
        _unfile(self._connections, self._connection_of, sa.number)
        _unfile(self._initial, self._initial_of, sa.number)
        self.settled(sa)

    def get(self, number: int) -> IkeSa | None:
        """The SA with this local number."""
        return self._by_number.get(number)

    def ours(self, spi: bytes) -> IkeSa | None:
        """The SA for which we chose this SPI."""
        return self._ours.get(spi)

    def reserve(self, spi: bytes) -> None:
        """We have offered this SPI to a peer, who may use the SA before we know that it is there."""
        self._reserved.add(spi)

    def unreserve(self, spi: bytes) -> None:
        """The offer was answered, or came to nothing."""
        self._reserved.discard(spi)

    def alive(self, spi: bytes) -> bool:
        """Whether any SA has this SPI on either side, in either role, in any state, or soon may have it."""
        return spi in self._ours or spi in self._theirs or spi in self._reserved

    def find(self, spi_i: bytes, spi_r: bytes) -> IkeSa | None:
        """The SA with this pair of SPIs."""
        for spi in (spi_i, spi_r):
            sa = self._ours.get(spi)
            if sa is not None and (sa.spi_i, sa.spi_r) == (spi_i, spi_r):
                return sa
        return None

    def with_peer(self, remote: Address) -> list[IkeSa]:
        """The established SAs whose peer is at exactly this address and port, oldest first."""
        return [sa for sa in self.at(remote) if sa.established]

    def at(self, remote: Address) -> list[IkeSa]:
        """All SAs whose peer is at exactly this address and port, in any state, oldest first."""
        return list(self._peers.get(remote, {}).values())

    def of_connection(self, name: str) -> list[IkeSa]:
        """The SAs of a connection, in any state, oldest first."""
        return list(self._connections.get(name, {}).values())

    # --- half-open -------------------------------------------------------------------------------

    def half_opened(self, sa: IkeSa, spi_i: bytes, *, proven: bool) -> None:
        """A responder's SA waits for IKE_AUTH. `proven`: its initiator returned a cookie."""
        self._initial.setdefault((spi_i, sa.remote), {})[sa.number] = sa
        self._initial_of[sa.number] = (spi_i, sa.remote)
        self._half_open_of[sa.number] = (sa.remote.host, proven)
        self._half_open[sa.remote.host, proven] += 1

    def begun_with(self, spi_i: bytes, remote: Address) -> list[IkeSa]:
        """The responder's SAs that first messages with this SPI from this address made."""
        return list(self._initial.get((spi_i, remote), {}).values())

    def settled(self, sa: IkeSa) -> None:
        """The SA is not half-open any more."""
        source = self._half_open_of.pop(sa.number, None)
        if source is None:
            return
        self._half_open[source] -= 1
        if self._half_open[source] <= 0:
            del self._half_open[source]

    @property
    def half_open(self) -> int:
        """How many SAs wait for IKE_AUTH."""
        return len(self._half_open_of)

    def half_open_from(self, host: str, *, proven: bool) -> int:
        """How many of them were asked for from this address, with a cookie or without."""
        return self._half_open.get((host, proven), 0)

    # --- child SAs -------------------------------------------------------------------------------

    def add_child(self, sa: IkeSa, child: ChildSa) -> None:
        """Enter a child, or move it to another IKE SA."""
        self._children[child.number] = (sa, child)
        self._inbound[child.spi_in] = (sa, child)
        self._outbound.setdefault(child.spi_out, []).append(sa)
        self._policies.setdefault(child.policy, {})[child.number] = child

    def remove_child(self, sa: IkeSa, child: ChildSa) -> None:
        """Forget a child of this IKE SA."""
        self._children.pop(child.number, None)
        self._inbound.pop(child.spi_in, None)
        served = self._policies.get(child.policy, {})
        served.pop(child.number, None)
        if not served:
            self._policies.pop(child.policy, None)
        owners = self._outbound.get(child.spi_out, [])
        if sa in owners:
            owners.remove(sa)
        if not owners:
            self._outbound.pop(child.spi_out, None)

    def child(self, number: int) -> tuple[IkeSa, ChildSa] | None:
        """The child with this number, and its IKE SA."""
        return self._children.get(number)

    def child_by_inbound(self, spi: int) -> tuple[IkeSa, ChildSa] | None:
        """The child that receives with this ESP SPI, and its IKE SA."""
        return self._inbound.get(spi)

    def by_outbound(self, spi: int, host: str) -> IkeSa | None:
        """The IKE SA of a child that sends with this ESP SPI to a peer at this address."""
        return next((sa for sa in self._outbound.get(spi, ()) if sa.remote.host == host), None)

    def serving(self, policy: int) -> list[tuple[IkeSa, ChildSa]]:
        """The children of a policy, each with its IKE SA, oldest first."""
        return [self._children[number] for number in self._policies.get(policy, ())]

    @property
    def children(self) -> int:
        """How many child SAs there are."""
        return len(self._children)


def _unfile(index: dict[K, dict[int, IkeSa]], key_of: dict[int, K], number: int) -> None:
    """Take an SA out of an index from keys to SAs by number."""
    key = key_of.pop(number, None)
    if key is None:
        return
    entry = index[key]
    del entry[number]
    if not entry:
        del index[key]
