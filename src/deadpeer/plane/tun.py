"""The host side as a TUN device of the kernel, its addresses and its routes (Linux)."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from socket import AF_INET, AF_INET6
from struct import Struct
from typing import Any, TypeVar

from .host import IpAddress, IpNetwork, PlaneError
from .steering import Steering, delete_route

DEFAULT_MTU = 1400
"""Octets of the largest inner packet: leaves room for ESP, UDP and IPv6 within 1500."""
QUEUE_PACKETS = 5000
"""Packets that the kernel queues towards us."""


class TunDevice:
    """A TUN device of the kernel, up, without packet information; it vanishes with its routes on `close`.

    Its routes stand where `steering` puts them, in the main table without it.

    `name` may hold "%d", which the kernel replaces by the first free number; the attribute `name` has the
    result. `addresses` are given to the device. Raises PlaneError where the device, the right to make it
    (CAP_NET_ADMIN), or the name is not to be had.
    """

    def __init__(
        self,
        name: str,
        *,
        mtu: int = DEFAULT_MTU,
        addresses: Iterable[IPv4Interface | IPv6Interface] = (),
        steering: Steering | None = None,
    ) -> None:
        self._fd = -1
        self._steering = steering
        self._routes: dict[IpNetwork, IpAddress | None] = {}
        self._fd, self.name = _open_tun(name)
        try:
            self._index = _netlink(
                f"TUN device {self.name}", lambda ip: _bring_up(ip, self.name, mtu, addresses)
            )
            if steering is not None:
                _netlink(f"routing table {steering.table}", steering.open)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes | None:
        try:
            return os.read(self._fd, _READ_OCTETS)
        except BlockingIOError:
            return None
        except OSError as error:
            raise PlaneError(
                f"TUN device {self.name}: {error.strerror}; was it deleted? Start the gateway again"
            ) from error

    def write(self, packet: bytes) -> bool:
        """False also where the kernel refuses the packet, or the device is down."""
        try:
            os.write(self._fd, packet)
        except OSError:
            return False
        return True

    def add_route(self, network: IpNetwork, source: IpAddress | None = None) -> None:
        """Nothing happens if the same route is there already, by us; with another source it is replaced.

        Raises PlaneError if the kernel refuses, for example because of a foreign route for the network.
        """
        if network in self._routes:
            if self._routes[network] == source:
                return
            self.remove_route(network)
        request = self._route(network)
        if source is not None:
            request["prefsrc"] = str(source)
        _netlink(f"route to {network} through {self.name}", lambda ip: self._add(ip, network, request))
        self._routes[network] = source

    def remove_route(self, network: IpNetwork) -> None:
        if network not in self._routes:
            return
        del self._routes[network]
        request = self._route(network)
        _netlink(f"route to {network} through {self.name}", lambda ip: self._remove(ip, network, request))

    def steers(self, version: int) -> bool:
        return self._steering is not None and self._steering.works(version)

    def close(self) -> None:
        self._routes.clear()
        steering, self._steering = self._steering, None
        if steering is not None:
            # What can't be removed does nothing without routes, and the next one tries again.
            with suppress(PlaneError):
                _netlink(f"routing table {steering.table}", steering.close)
            steering.release()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _add(self, ip: Any, network: IpNetwork, request: dict[str, Any]) -> None:
        if self._steering is not None and self._steering.works(network.version):
            self._steering.add(ip, network, request)
        else:
            ip.route("add", **request)

    def _remove(self, ip: Any, network: IpNetwork, request: dict[str, Any]) -> None:
        if self._steering is not None and self._steering.works(network.version):
            self._steering.remove(ip, network, request)
        else:
            delete_route(ip, request)

    def _route(self, network: IpNetwork) -> dict[str, Any]:
        request: dict[str, Any] = {"dst": str(network), "oif": self._index}
        if network.version == 4:
            return request | {"family": AF_INET, "scope": _SCOPE_LINK}
        return request | {"family": AF_INET6}


def local_addresses() -> tuple[IpAddress, ...]:
    """The addresses of this machine, in the kernel's order, without loopback and link-local ones."""

    def ask(ip: Any) -> list[str]:
        return [found for entry in ip.get_addr() if (found := entry.get_attr("IFA_LOCAL") or _address(entry))]

    found = (ip_address(text) for text in _netlink("local addresses", ask))
    return tuple(each for each in found if not each.is_loopback and not each.is_link_local)


_T = TypeVar("_T")

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFREQ = Struct("16sH22x")
_NAME_OCTETS = 15
_READ_OCTETS = 65536
_SCOPE_LINK = 253


def _open_tun(name: str) -> tuple[int, str]:
    octets = name.encode()
    if not 1 <= len(octets) <= _NAME_OCTETS or "/" in name or any(c.isspace() for c in name):
        raise PlaneError(f"TUN device name {name!r}: use 1 to {_NAME_OCTETS} octets, no slash, no space")
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PlaneError(f"{_DEVICE}: {error.strerror}; {_open_remedy(error)}") from error
    try:
        answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(octets, _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise PlaneError(f"TUN device {name}: {error.strerror}; {_make_remedy(error)}") from error
    return fd, _IFREQ.unpack(answer)[0].rstrip(b"\0").decode()


def _open_remedy(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "load the kernel module (modprobe tun), or give the container the device"
    return 'allow this user to read and write it, or use plane = "unix"'


def _make_remedy(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "run with CAP_NET_ADMIN (as root, or AmbientCapabilities= in systemd)"
    if error.errno == errno.EBUSY:
        return "another process holds it: stop that, or choose another name"
    return "an interface of another kind may have this name: choose another"


def _bring_up(ip: Any, name: str, mtu: int, addresses: Iterable[IPv4Interface | IPv6Interface]) -> int:
    index = int(ip.link_lookup(ifname=name)[0])
    ip.link("set", index=index, mtu=mtu, txqlen=QUEUE_PACKETS, state="up")
    for each in addresses:
        ip.addr("add", index=index, address=str(each.ip), prefixlen=each.network.prefixlen)
    return index


def _netlink(what: str, work: Callable[[Any], _T]) -> _T:
    """Run `work` with an rtnetlink socket, in a thread of its own: pyroute2 brings an event loop along,
    which can't run inside a running one. Raises PlaneError if the kernel refuses.
    """
    from pyroute2 import IPRoute, NetlinkError

    done: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with IPRoute() as ip:
                done.append(work(ip))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="rtnetlink")
    thread.start()
    thread.join()
    if not failed:
        return done[0]
    error = failed[0]
    if isinstance(error, NetlinkError):
        raise PlaneError(f"{what}: {os.strerror(error.code)}; {_netlink_remedy(error.code)}") from error
    if isinstance(error, OSError):
        raise PlaneError(f"{what}: {error.strerror}; {_netlink_remedy(error.errno)}") from error
    raise error


def _netlink_remedy(code: int | None) -> str:
    if code in (errno.EPERM, errno.EACCES):
        return "run with CAP_NET_ADMIN (as root, or AmbientCapabilities= in systemd)"
    if code == errno.EEXIST:
        return "it is there already: remove it, or change the traffic selectors"
    return "look at ip link, ip addr and ip route"


def _address(entry: Any) -> str:
    return str(entry.get_attr("IFA_ADDRESS") or "")
