"""Echo requests at a pace, and their answers: `SOURCE DESTINATION COUNT INTERVAL_S OCTETS LINGER_S`.

Prints "SENT RECEIVED LAST_LOST_S", the last one when (unix time) the last ping left that was not answered, 0
if all were. A COUNT of 0: until its standard input ends. iputils' ping waits for the last answer only twice
the longest time of those before, which on a busy machine is too short; this one for LINGER_S.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import struct
import sys
import time

HEADER = struct.Struct("!BBHHH")


def main(
    source: str, destination: str, count: int, interval_s: float, octets: int, linger_s: float
) -> tuple[int, int, float]:
    """Ping; how many were sent, how many of them were answered, and when the last one left that was not."""
    v6 = ":" in destination
    family, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    ask, answer = (128, 129) if v6 else (8, 0)
    tag = int.from_bytes(os.urandom(2), "big")
    waiting: dict[int, float] = {}
    sent = lost = 0
    lost_s = 0.0
    listened = [] if count else [sys.stdin.fileno()]
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((source, 0))
        sock.setblocking(False)
        now = due = time.monotonic()
        end = math.inf
        while now < end and (waiting or end == math.inf):
            if end == math.inf and now >= due:
                leaves_s = time.time()
                # Without a route it is sent in vain.
                with contextlib.suppress(OSError):
                    sock.sendto(request(ask, tag, sent, octets, v6), (destination, 0))
                    waiting[sent] = leaves_s
                if sent not in waiting:
                    lost, lost_s = lost + 1, leaves_s
                sent += 1
                # What this process had no time for is not made up for: queues are for the pace.
                due = now + interval_s
                if sent == count:
                    end = now + linger_s
            wait_s = max(0.0, (due if end == math.inf else end) - now)
            readable, _, _ = select.select([sock, *listened], [], [], wait_s)
            if listened and listened[0] in readable:
                listened, end = [], time.monotonic() + linger_s
            if sock in readable:
                packet = sock.recv(65535)
                message = packet if v6 else packet[4 * (packet[0] & 15) :]
                if len(message) == HEADER.size + octets:
                    kind, _, _, whose, number = HEADER.unpack_from(message)
                    if (kind, whose) == (answer, tag):
                        waiting.pop(number, None)
            now = time.monotonic()
    return sent, sent - lost - len(waiting), max([lost_s, *waiting.values()])


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
    _, source, destination, count, interval, octets, linger = sys.argv
    print(*main(source, destination, int(count), float(interval), int(octets), float(linger)))
