"""Addresses on the loopback interface that no other test of this machine has at the same time."""

from __future__ import annotations

import random
import socket

_CLAIM = ("254", 15400)
"""Whoever has this address of a network, and this port, has the network."""


class LoopbackNet:
    """A network of 256 addresses within 127.0.0.0/8, ours until `close`. `prefix` is "127.x.y"."""

    def __init__(self) -> None:
        dice = random.SystemRandom()
        for _ in range(1000):
            self.prefix = f"127.{dice.randrange(100, 250)}.{dice.randrange(256)}"
            self._claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self._claim.bind((f"{self.prefix}.{_CLAIM[0]}", _CLAIM[1]))
                return
            except OSError:
                self._claim.close()
        raise AssertionError("no network on loopback is free")

    def close(self) -> None:
        self._claim.close()
