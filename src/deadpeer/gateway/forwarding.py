"""The socket on which members hand each other the datagrams of their SAs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from deadpeer.cluster.forward import Forwarded, Forwarder
from deadpeer.cluster.records import View
from deadpeer.cluster.router import Foreign
from deadpeer.values import Address, Datagram, Now

from .errors import ConfigError
from .notation import parse_host
from .sockets import UdpSocket, UdpSockets

KEY = "cluster.forward_listen"


class Forwarding:
    """Hands datagrams to the member that owns them, and takes ours from other members.

    `view` is what is known of the others now; `trace` says what a datagram is about that may be another's;
    `take` gets what others handed to us, and never hands it on. `begin` is to be called with each life.
    """

    def __init__(
        self,
        listen: Address,
        sockets: UdpSockets,
        receive_buffer: int,
        view: Callable[[], View],
        trace: Callable[[Datagram], Foreign | None],
        take: Callable[[Datagram], None],
        file: Path | str = "",
    ) -> None:
        """Raises ConfigError if the address can't be had."""
        self.counters: Counter[str] = Counter()
        self._view = view
        self._trace = trace
        self._take = take
        self._ours: Sequence[Address] = [each.local for each in sockets]
        self._forwarder: Forwarder | None = None
        try:
            self._socket = UdpSocket(parse_host(listen.host), listen.port, receive_buffer)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                file, KEY, f"{listen} can't be listened on: {reason}; name an address of ours and a free port"
            ) from None
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._on_socket)

    def begin(self, forwarder: Forwarder) -> None:
        """A life begins."""
        self._forwarder = forwarder

    def over(self) -> None:
        """A life is over."""
        self._forwarder = None

    def route(self, now: Now, datagram: Datagram) -> bool:
        """Whether the datagram is another living member's. If so it has been handed on, or dropped."""
        forwarder, foreign = self._forwarder, self._trace(datagram)
        if forwarder is None or foreign is None or not foreign.leased:
            return False
        owner = foreign.member
        view = self._view()
        address = _address(view.leases[owner].forward) if owner in view.leases else None
        if address is None:
            self.counters["not_sent: no address"] += 1
            return True
        octets = forwarder.wrap(now.mono_ns, owner, view, datagram)
        if isinstance(octets, str):
            self.counters[f"not_sent: {octets}"] += 1
        else:
            self.counters["sent" if self._socket.send(octets, address) else "not_sent: socket"] += 1
        return True

    def close(self) -> None:
        """Stop."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _on_socket(self) -> None:
        for arrived in self._socket.receive():
            if self._forwarder is None:
                self.counters["refused: between lives"] += 1
                continue
            found = self._forwarder.unwrap(arrived.payload, self._view())
            if not isinstance(found, Forwarded):
                self.counters[f"refused: {found}"] += 1
            elif (datagram := self._as_ours(found.datagram)) is None:
                self.counters["refused: no such address"] += 1
            else:
                self.counters["received"] += 1
                self._take(datagram)

    def _as_ours(self, datagram: Datagram) -> Datagram | None:
        """As it would have come here: members whose balancer rewrites addresses have one each."""
        if datagram.local in self._ours:
            return datagram
        family = ip_address(datagram.local.host).version
        for local in self._ours:
            if local.port == datagram.local.port and ip_address(local.host).version == family:
                return Datagram(datagram.payload, local, datagram.remote)
        return None


def _address(text: str) -> Address | None:
    """What a member's lease says; none if it takes no forwarded datagrams."""
    host, _, port = text.rpartition(":")
    try:
        address = Address(str(ip_address(host.removeprefix("[").removesuffix("]"))), int(port))
    except ValueError:
        return None
    return address if 0 < address.port < 65536 else None
