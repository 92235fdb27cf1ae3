"""The host side as a UNIX datagram socket: one inner IP packet is one datagram. Needs no privilege."""

import contextlib
import errno
import os
import socket
import stat
from collections import deque
from pathlib import Path

from .host import IpAddress, IpNetwork, PlaneError

BACKLOG_PACKETS = 1024
"""Packets that wait where the host's socket is full (the kernel's own queue may hold only ten)."""


class UnixHost:
    """We are bound to `local`, the host is expected at `peer`, and may come and go.

    A packet for a host that is not there is dropped. One for a host that is slow waits, bounded; `flush`
    tries again, as each `read` and `write` does; `dropped` counts those that waited in vain. Routes are
    noted only. A socket file that was left behind at `local` is replaced; the new one has mode 0600. Raises
    PlaneError if `local` can't be bound.
    """

    def __init__(self, local: Path | str, peer: Path | str) -> None:
        self._local = Path(local)
        self._peer = str(peer)
        self._backlog: deque[bytes] = deque()
        self.dropped = 0
        self.routes: dict[IpNetwork, IpAddress | None] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            _remove_socket(self._local)
            self._socket.bind(str(self._local))
            self._local.chmod(0o600)
        except OSError as error:
            self._socket.close()
            reason = error.strerror or str(error)
            raise PlaneError(f"socket {self._local}: {reason}; {_remedy(error)}") from error
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_OCTETS)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def waiting(self) -> int:
        """How many packets wait for `flush`."""
        return len(self._backlog)

    def read(self) -> bytes | None:
        self.flush()
        try:
            return self._socket.recv(_READ_OCTETS)
        except OSError:
            return None

    def write(self, packet: bytes) -> bool:
        self.flush()
        if self._backlog:
            return self._wait(packet)
        outcome = self._send(packet)
        return self._wait(packet) if outcome is None else outcome

    def flush(self) -> None:
        """Send what waits, as far as the host takes it."""
        while self._backlog:
            outcome = self._send(self._backlog[0])
            if outcome is None:
                break
            self._backlog.popleft()
            self.dropped += not outcome

    def add_route(self, network: IpNetwork, source: IpAddress | None = None) -> None:
        self.routes[network] = source

    def remove_route(self, network: IpNetwork) -> None:
        self.routes.pop(network, None)

    def steers(self, version: int) -> bool:
        """Its routes are those of nobody."""
        return True

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._socket.close()
        self._backlog.clear()
        with contextlib.suppress(OSError):
            self._local.unlink()

    def _send(self, packet: bytes) -> bool | None:
        """True: sent; False: there is no host that takes it; None: the host's queue is full."""
        try:
            self._socket.sendto(packet, self._peer)
        except BlockingIOError:
            return None
        except OSError:
            return False
        return True

    def _wait(self, packet: bytes) -> bool:
        if len(self._backlog) >= BACKLOG_PACKETS:
            return False
        self._backlog.append(packet)
        return True


_READ_OCTETS = 65536
_BUFFER_OCTETS = 1 << 20


def _remove_socket(path: Path) -> None:
    """Unlink the socket that a killed process left; leave any other kind of file for bind to trip over."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            path.unlink()


def _remedy(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "make the directory first"
    if error.errno == errno.EADDRINUSE:
        return "another kind of file is there: remove it, or choose another path"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "allow this user to write to the directory"
    return "choose another path (at most 107 octets)"
