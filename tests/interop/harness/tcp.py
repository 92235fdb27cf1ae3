"""A program: `receive ADDRESS` or `send SOURCE ADDRESS OCTETS` over TCP; each prints the SHA-256 it saw."""

import hashlib
import random
import socket
import sys

_PORT = 7
_PATIENCE_S = 150
"""For the whole of it: a sendall has one limit for all that it sends."""


def receive(address: str) -> None:
    with socket.create_server((address, _PORT), family=family(address)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
        digest, octets = hashlib.sha256(), 0
        with connection:
            while data := connection.recv(1 << 16):
                digest.update(data)
                octets += len(data)
    print(octets, digest.hexdigest())


def send(source: str, destination: str, octets: int) -> None:
    data = random.Random(octets).randbytes(octets)
    with socket.create_connection(
        (destination, _PORT), timeout=_PATIENCE_S, source_address=(source, 0)
    ) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
    print(hashlib.sha256(data).hexdigest())


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    else:
        send(sys.argv[2], sys.argv[3], int(sys.argv[4]))
