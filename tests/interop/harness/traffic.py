"""Traffic between two namespaces: counted pings, and TCP with a checksum."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.interop.harness.netns import Namespace

_PINGER = Path(__file__).with_name("pinger.py")
_TCP = Path(__file__).with_name("tcp.py")


@dataclass(frozen=True)
class Count:
    """Pings that left and answers that came."""

    sent: int
    received: int


class Ping:
    """Pings that go on in the background while the block runs; `finish` counts them."""

    def __init__(
        self,
        space: Namespace,
        source: str,
        destination: str,
        count: int,
        interval_s: float = 0.01,
        octets: int = 56,
    ) -> None:
        numbers = (str(count), str(interval_s), str(octets))
        command = space.command(sys.executable, "-I", "-S", str(_PINGER), source, destination, *numbers)
        self._bound_s = count * interval_s + 30.0
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> Ping:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.wait(10)

    def finish(self) -> Count:
        """Wait for the last one. A ping that could not even start fails with its own words."""
        text, _ = self._process.communicate(timeout=self._bound_s)
        match = re.fullmatch(r"(\d+) (\d+)\n", text)
        assert match is not None, text
        return Count(int(match[1]), int(match[2]))


def ping(
    space: Namespace,
    source: str,
    destination: str,
    count: int = 5,
    interval_s: float = 0.01,
    octets: int = 56,
) -> Count:
    """Ping to the end, with so many octets behind the ICMP header."""
    with Ping(space, source, destination, count, interval_s, octets) as running:
        return running.finish()


def tcp_transfer(
    sender: Namespace, receiver: Namespace, source: str, destination: str, octets: int, timeout_s: float
) -> None:
    """Send `octets` pseudo-random octets over TCP; fails unless the receiver's SHA-256 is the sender's."""
    script = [sys.executable, str(_TCP)]
    with subprocess.Popen(
        receiver.command(*script, "receive", destination), stdout=subprocess.PIPE, text=True
    ) as listening:
        try:
            assert listening.stdout is not None
            assert listening.stdout.readline() == "listening\n"
            sent = sender.run(*script, "send", source, destination, str(octets), timeout_s=timeout_s)
            assert sent.returncode == 0, sent.stderr
            received, _ = listening.communicate(timeout=timeout_s)
            assert received.split() == [str(octets), sent.stdout.strip()]
        finally:
            listening.kill()
