"""UDP sockets: one for each local address and port. Never blocking, every loss counted under a reason."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct

from deadpeer.values import Address, Datagram

from .errors import ConfigError
from .notation import Host

DRAIN = 64
"""Datagrams that are taken from a socket before the other sources of events get their turn."""
_MAX_DATAGRAM = 65535
_PMTUDISC_DONT = 0
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = Struct("=9I")
_MEMINFO_DROPS = 8


class UdpSocket:
    """One bound, non-blocking UDP socket. `local` is its address and port.

    `free`: the address need not be ours yet, and may come and go.
    """

    def __init__(self, host: Host, port: int, receive_buffer: int, *, free: bool = False) -> None:
        self.counters: Counter[str] = Counter()
        family = socket.AF_INET if host.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._let_fragment(family)
            self._grow(receive_buffer)
            if free:
                level, option = _FREEBIND[family]
                self._socket.setsockopt(level, option, 1)
            self._socket.bind((str(host), port))
        except OSError:
            self._socket.close()
            raise
        self.local = Address(str(host), self._socket.getsockname()[1])

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, most: int = DRAIN) -> Iterator[Datagram]:
        """Up to so many datagrams that are there now."""
        for _ in range(most):
            try:
                payload, source = self._socket.recvfrom(_MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # An ICMP error of an earlier datagram: unauthenticated, and no reason to stop reading.
                self.counters[f"receive_{_name(error)}"] += 1
                continue
            self.counters["received"] += 1
            yield Datagram(payload, self.local, Address(source[0], source[1]))

    def send(self, payload: bytes, remote: Address) -> bool:
        """Send, or count why not. A datagram that would have to wait is lost, like on any full link."""
        try:
            self._socket.sendto(payload, remote)
        except (BlockingIOError, InterruptedError):
            self.counters["send_would_block"] += 1
            return False
        except OSError as error:
            self.counters[f"send_{_name(error)}"] += 1
            return False
        self.counters["sent"] += 1
        return True

    def dropped(self) -> int:
        """Datagrams that the kernel dropped because the receive buffer was full."""
        with suppress(OSError):
            octets = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            if len(octets) == _MEMINFO.size:
                return int(_MEMINFO.unpack(octets)[_MEMINFO_DROPS])
        return 0

    def close(self) -> None:
        self._socket.close()

    def _let_fragment(self, family: int) -> None:
        # A path MTU learnt from forged ICMP must not stop us: let the network fragment what is too large.
        if family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)

    def _grow(self, receive_buffer: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)


class UdpSockets:
    """The sockets of a gateway, found by local address. Sending from an address without one is counted."""

    def __init__(self, sockets: Sequence[UdpSocket]) -> None:
        self._sockets = {each.local: each for each in sockets}
        self._counters: Counter[str] = Counter()

    def __iter__(self) -> Iterator[UdpSocket]:
        return iter(self._sockets.values())

    def send(self, datagram: Datagram) -> bool:
        """Send from the socket of the datagram's local address."""
        sock = self._sockets.get(datagram.local)
        if sock is None:
            self._counters["send_no_socket"] += 1
            return False
        return sock.send(datagram.payload, datagram.remote)

    def counters(self) -> dict[str, int]:
        """All sockets together, and what the kernel dropped before we could read it."""
        total = Counter(self._counters)
        for each in self:
            total.update(each.counters)
            total["kernel_dropped"] += each.dropped()
        return dict(total)

    def close(self) -> None:
        for each in self:
            each.close()


def open_sockets(
    hosts: Sequence[Host],
    port: int,
    port_nat_t: int,
    receive_buffer: int,
    file: Path | str,
    *,
    free: bool = False,
) -> UdpSockets:
    """Bind a socket for both ports on each address; if `free`, before it is ours.

    Raises ConfigError, with none left open."""
    opened: list[UdpSocket] = []
    try:
        for host in hosts:
            for key, number in (("port", port), ("port_nat_t", port_nat_t)):
                try:
                    opened.append(UdpSocket(host, number, receive_buffer, free=free))
                except OSError as error:
                    raise _bind_error(error, host, key, number, file) from None
    except ConfigError:
        for each in opened:
            each.close()
        raise
    return UdpSockets(opened)


def _bind_error(error: OSError, host: Host, key: str, port: int, file: Path | str) -> ConfigError:
    if error.errno in (errno.EACCES, errno.EPERM):
        problem = (
            f"port {port} on {host} needs the capability CAP_NET_BIND_SERVICE; run as root or by"
            f" contrib/deadpeer.service, or choose a port above 1023"
        )
    elif error.errno == errno.EADDRINUSE:
        problem = (
            f"port {port} on {host} is in use by another program; stop it (to find it:"
            f" ss -lunp sport = :{port}) or choose another port"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        key = "listen"
        problem = f"{host} is not an address of this host; correct it (ip address shows which there are)"
    else:
        problem = f"port {port} on {host} can't be opened ({os.strerror(error.errno or 0)}); correct it"
    return ConfigError(file, f"gateway.{key}", problem)


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "error").lower()


# Linux; the socket module of Python 3.11 does not name them all.
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
