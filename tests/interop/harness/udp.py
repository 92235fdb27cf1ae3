"""A program: `SOURCE DESTINATION PORT HEX` sends one datagram to that port and prints the answer.

Payloads are in hexadecimal. Exits 1 where no answer comes within half a minute.
"""

import socket
import sys


def ask(source: str, destination: str, port: int, payload: bytes) -> bytes | None:
    """The first answer, or None."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.connect((destination, port))
        sock.settimeout(30.0)
        sock.send(payload)
        try:
            return sock.recv(65535)
        except TimeoutError:
            return None


if __name__ == "__main__":
    answer = ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), bytes.fromhex(sys.argv[4]))
    if answer is None:
        sys.exit(1)
    print(answer.hex())
