"""A host behind the gateway that lives in memory, for tests and the simulator."""

from collections import deque

from .host import IpAddress, IpNetwork
from .packets import echo_reply


class MemoryHost:
    """`received` has what the gateway wrote, oldest first; `send` gives it a packet to read.

    With `echo` the host answers echo requests to any address, and these are in `received` all the same.
    """

    def __init__(self, *, echo: bool = False) -> None:
        self.received: list[bytes] = []
        self.routes: dict[IpNetwork, IpAddress | None] = {}
        self.steered = {4, 6}
        self.closed = False
        self._echo = echo
        self._outgoing: deque[bytes] = deque()

    def send(self, packet: bytes) -> None:
        """The host sends a packet towards the gateway."""
        self._outgoing.append(packet)

    def fileno(self) -> int:
        return -1

    def read(self) -> bytes | None:
        return self._outgoing.popleft() if self._outgoing else None

    def write(self, packet: bytes) -> bool:
        if self.closed:
            return False
        self.received.append(packet)
        reply = echo_reply(packet) if self._echo else None
        if reply is not None:
            self._outgoing.append(reply)
        return True

    def add_route(self, network: IpNetwork, source: IpAddress | None = None) -> None:
        self.routes[network] = source

    def remove_route(self, network: IpNetwork) -> None:
        self.routes.pop(network, None)

    def steers(self, version: int) -> bool:
        return version in self.steered

    def close(self) -> None:
        self.closed = True
        self.routes.clear()
