"""A program: translates UDP over IPv4 between a private network and one public address, over a TUN device.

In Python so that no firewall tool need be installed, and so that a test can make it forget its mappings, as
real NATs do after a while (SIGUSR1). Arguments: the private addresses' prefix, the public address.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import time

TUN = "nat0"
_FIRST_PORT = 20000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_UDP = 17


class Translator:
    """Source address and port of UDP over IPv4, both ways. Pure but for the table."""

    def __init__(self, private_prefix: str, public: str) -> None:
        self._private = private_prefix
        self._public = public
        self._next = _FIRST_PORT
        self._out: dict[tuple[str, int], int] = {}
        self._back: dict[int, tuple[str, int]] = {}

    def forget(self) -> None:
        self._out.clear()
        self._back.clear()

    def translate(self, packet: bytes) -> bytes | None:
        """The packet to send on instead, or None to drop it."""
        if packet[0] >> 4 != 4 or packet[9] != _UDP or struct.unpack_from("!H", packet, 6)[0] & 0x1FFF:
            return None
        at = (packet[0] & 15) * 4
        source, destination = _text(packet[12:16]), _text(packet[16:20])
        sport, dport = struct.unpack_from("!HH", packet, at)
        if source.startswith(self._private):
            source, sport = self._public, self._port((source, sport))
        elif destination == self._public and dport in self._back:
            destination, dport = self._back[dport]
        else:
            return None
        head = packet[:10] + b"\0\0" + _octets(source) + _octets(destination) + packet[20:at]
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
        # A UDP checksum of zero is none at all (RFC 768).
        return head + struct.pack("!HH", sport, dport) + packet[at + 4 : at + 6] + b"\0\0" + packet[at + 8 :]

    def _port(self, inside: tuple[str, int]) -> int:
        if inside not in self._out:
            self._out[inside] = self._next
            self._back[self._next] = inside
            self._next += 1
        return self._out[inside]


def _text(octets: bytes) -> str:
    return ".".join(map(str, octets))


def _octets(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def _checksum(head: bytes) -> int:
    total: int = sum(word for (word,) in struct.iter_unpack("!H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _main(private_prefix: str, public: str) -> None:
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", TUN.encode(), _IFF_TUN | _IFF_NO_PI))
    translator = Translator(private_prefix, public)
    signal.signal(signal.SIGUSR1, lambda *_: translator.forget())
    print("ready", flush=True)
    while True:
        try:
            packet = os.read(tun, 65535)
        except OSError:
            # The device is not up yet.
            time.sleep(0.01)
            continue
        translated = translator.translate(packet)
        if translated is not None:
            with contextlib.suppress(OSError):
                os.write(tun, translated)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
