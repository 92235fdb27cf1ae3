"""Whether an address is ours, and every time that it goes: asked of the kernel over netlink (Linux).

Needs no privilege. The kernel's news wait in a socket, so that a process that was stopped meanwhile can read
them before it does anything else.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from enum import Flag, auto
from ipaddress import IPv4Address
from struct import Struct

from .notation import Host


class News(Flag):
    """What the kernel had to tell of an address."""

    NONE = 0
    CHANGED = auto()
    """Look again."""
    WENT = auto()
    """It was not ours at some moment since the last news, or may not have been."""


class AddressWatch:
    """Watches one address, on whatever device. Raises OSError if the kernel offers no netlink."""

    def __init__(self, address: Host) -> None:
        four = isinstance(address, IPv4Address)
        self._family = socket.AF_INET if four else socket.AF_INET6
        self._octets = address.packed
        self._asked = 0
        self._news = _netlink(_GROUP_IPV4 if four else _GROUP_IPV6)
        self._news.setblocking(False)
        self._asking = _netlink(0)
        self._asking.settimeout(LOOK_S)
        self._poll = select.poll()
        self._poll.register(self._news, select.POLLIN)

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._news.fileno()

    def news(self) -> News:
        """What has come since it was asked last. Costs one system call while there is none."""
        found = News.NONE
        while self._poll.poll(0):
            try:
                octets = self._news.recv(_READ_OCTETS)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # The queue was full, and news are lost.
                found |= News.WENT | News.CHANGED
                continue
            for kind, _, _, body in _messages(octets):
                if kind in (_RTM_NEWADDR, _RTM_DELADDR) and self._address_in(body) is not None:
                    found |= News.CHANGED | (News.WENT if kind == _RTM_DELADDR else News.NONE)
        return found

    def look(self) -> bool:
        """Whether it is ours now, and not still being checked for a duplicate.

        Raises OSError if the kernel doesn't say so within `LOOK_S`."""
        for _ in range(_TRIES):
            whole, held = self._dump()
            if whole:
                return held
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def close(self) -> None:
        self._news.close()
        self._asking.close()

    def _dump(self) -> tuple[bool, bool]:
        """Whether the answer is of one piece, and whether the address is in it."""
        self._asked += 1
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        size = _HEADER.size + _ADDRESS.size
        request = _HEADER.pack(size, _RTM_GETADDR, flags, self._asked, 0)
        self._asking.send(request + _ADDRESS.pack(self._family, 0, 0, 0, 0))
        whole, held = True, False
        while True:
            for kind, flags, asked, body in _messages(self._asking.recv(_READ_OCTETS)):
                if asked != self._asked:
                    continue  # of a question whose answer came too late
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return whole, held
                if kind == _NLMSG_ERROR:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                held = held or self._address_in(body) is True

    def _address_in(self, body: bytes) -> bool | None:
        """None: it is about another address. False: it is ours, and can't be used yet, or at all."""
        if len(body) < _ADDRESS.size:
            return None
        family, _, few_flags, _, _ = _ADDRESS.unpack_from(body)
        found = dict(_attributes(body))
        # IFA_ADDRESS is the peer's on a point-to-point link; IPv6 without one has no IFA_LOCAL.
        if family != self._family or found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS)) != self._octets:
            return None
        flags = few_flags
        if len(wide := found.get(_IFA_FLAGS, b"")) == 4:
            flags = int.from_bytes(wide, sys.byteorder)
        return not flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED) or bool(flags & _IFA_F_OPTIMISTIC)


LOOK_S = 0.2
"""How long the kernel may take to list its addresses."""
_TRIES = 3
_READ_OCTETS = 1 << 16

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_HEADER = Struct("=IHHII")  # length, type, flags, sequence number, port
_ADDRESS = Struct("=BBBBI")  # family, prefix length, flags, scope, device
_ATTRIBUTE = Struct("=HH")  # length, type
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_GROUP_IPV4, _GROUP_IPV6 = 0x10, 0x100
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_OPTIMISTIC, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x04, 0x08, 0x40


def _netlink(groups: int) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        made.bind((0, groups))
    except OSError:
        with suppress(OSError):
            made.close()
        raise
    return made


def _messages(octets: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message."""
    offset = 0
    while offset + _HEADER.size <= len(octets):
        length, kind, flags, number, _ = _HEADER.unpack_from(octets, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, number, octets[offset + _HEADER.size : offset + length]
        offset += _aligned(length)


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    offset = _ADDRESS.size
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind, body[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
