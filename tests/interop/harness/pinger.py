"""Echo requests at a pace, and their answers: `python pinger.py SOURCE DESTINATION COUNT INTERVAL_S OCTETS`.

Prints "SENT RECEIVED". iputils' ping waits for the last answer only twice the longest time of those before,
which on a busy machine is too short; this one waits for as long as LINGER_S.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time

LINGER_S = 2.0
HEADER = struct.Struct("!BBHHH")


def main(source: str, destination: str, count: int, interval_s: float, octets: int) -> tuple[int, int]:
    """Ping; how many were sent, and how many of them were answered."""
    v6 = ":" in destination
    family, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    ask, answer = (128, 129) if v6 else (8, 0)
    tag = int.from_bytes(os.urandom(2), "big")
    waiting: set[int] = set()
    sent = lost = 0
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((source, 0))
        sock.setblocking(False)
        start = time.monotonic()
        end = start + count * interval_s + LINGER_S
        while sent < count or (waiting and time.monotonic() < end):
            now = time.monotonic()
            if sent < count and now >= start + sent * interval_s:
                # Without a route it is sent in vain.
                with contextlib.suppress(OSError):
                    sock.sendto(request(ask, tag, sent, octets, v6), (destination, 0))
                    waiting.add(sent)
                lost += sent not in waiting
                sent += 1
                continue
            due = start + sent * interval_s if sent < count else end
            if select.select([sock], [], [], max(0.0, due - now))[0]:
                packet = sock.recv(65535)
                message = packet if v6 else packet[4 * (packet[0] & 15) :]
                if len(message) == HEADER.size + octets:
                    kind, _, _, whose, number = HEADER.unpack_from(message)
                    if (kind, whose) == (answer, tag):
                        waiting.discard(number)
    return sent, sent - lost - len(waiting)


def request(kind: int, tag: int, number: int, octets: int, v6: bool) -> bytes:
    """An echo request. The kernel knows the checksum of ICMPv6 by itself."""
    payload = bytes(i & 0xFF for i in range(octets))
    checksum = 0 if v6 else _checksum(HEADER.pack(kind, 0, 0, tag, number) + payload)
    return HEADER.pack(kind, 0, checksum, tag, number) + payload


def _checksum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


if __name__ == "__main__":
    print(*main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])))
