"""The ways on which members hand packets to each other: UDP through a relay of the lab's, so that they can be
cut while every member reaches etcd and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from deadpeer.lab.options import LabError
from deadpeer.lab.relay import bound, drain
from deadpeer.lab.scenarios.plan import Layout
from deadpeer.values import Address


class Byways:
    """One address per member that the other members are told. `passed`, `lost`: datagrams so far."""

    def __init__(self, layout: Layout) -> None:
        self.passed = self.lost = 0
        self._layout = layout
        self._open = True
        self._sockets: list[socket.socket] = []

    def start(self) -> None:
        """Listen for all members. Raises LabError if an address is taken."""
        loop, port = asyncio.get_running_loop(), self._layout.forward_port
        for told, host in zip(self._layout.own, self._layout.members, strict=True):
            try:
                sock = bound(Address(told, port))
            except OSError as error:
                raise LabError(f"{told}:{port} can't be listened on: {error.strerror}") from None
            self._sockets.append(sock)
            loop.add_reader(sock.fileno(), self._pass, sock, (host, port))

    def cut(self) -> None:
        """Let nothing pass from any member to any other."""
        self._open = False

    def mend(self) -> None:
        """Let everything pass again."""
        self._open = True

    def stop(self) -> None:
        """Close everything."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def _pass(self, sock: socket.socket, target: tuple[str, int]) -> None:
        for payload, _, _ in drain(sock):
            if not self._open:
                self.lost += 1
                continue
            self.passed += 1
            # A member that is dead answers with ICMP: lost, as on any link.
            with contextlib.suppress(OSError):
                sock.sendto(payload, target)
