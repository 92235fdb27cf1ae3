"""Somebody who knows the SPIs of IKE SAs, and no key: `stranger.py SOURCES ADDRESS SPIS`, lists with commas.

From each source, and to both ports of the address, it sends requests in these SAs that nobody can decrypt,
for two seconds, and prints what is answered, in hexadecimal, a line for each datagram.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import sys
import time

ASKS_S = 2.0
_SK, _VERSION, _INFORMATIONAL, _INITIATOR, _SEALED = 46, 0x20, 37, 0x08, 57


def request(spis: bytes) -> bytes:
    """An INFORMATIONAL request (RFC 7296 section 3.1) with an SK payload of noise."""
    payload = struct.pack(">BBH", 0, 0, 4 + _SEALED) + os.urandom(_SEALED)
    rest = struct.pack(">BBBBII", _SK, _VERSION, _INFORMATIONAL, _INITIATOR, 7, 28 + len(payload))
    return spis + rest + payload


def main(sources: list[str], address: str, spis: list[bytes]) -> None:
    sockets: list[tuple[socket.socket, bytes]] = []
    for source, (port, marker) in itertools.product(sources, ((500, b""), (4500, bytes(4)))):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((source, 0))
        made.connect((address, port))
        made.setblocking(False)
        sockets.append((made, marker))
    end = time.monotonic() + ASKS_S
    while time.monotonic() < end:
        for (made, marker), pair in itertools.product(sockets, spis):
            with contextlib.suppress(ConnectionRefusedError):  # nobody was there for an earlier one
                made.send(marker + request(pair))
        time.sleep(0.2)
        for made, _ in sockets:
            _print_all(made)


def _print_all(made: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        while True:
            print(made.recv(65535).hex())


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2], [bytes.fromhex(pair) for pair in sys.argv[3].split(",")])
