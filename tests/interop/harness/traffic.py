"""Traffic between two namespaces: counted pings, and TCP with a checksum."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.interop.harness.netns import Namespace

_PINGER = Path(__file__).with_name("pinger.py")
_TCP = Path(__file__).with_name("tcp.py")


INTERVAL_S = 0.01
LINGER_S = 20.0
"""For the last answer, where one must come: nothing is waited for once all are there."""
BRIEF_S = 1.0
"""Where none may come, or the next ping will tell."""
ENDLESS = 0
"""A number of pings: they go on until they are to finish."""


@dataclass(frozen=True)
class Count:
    """Pings that left, answers that came, and when (unix time) the last one left that got none; 0: none."""

    sent: int
    received: int
    last_lost_s: float = field(default=0.0, compare=False)


class Ping:
    """Pings that go on in the background while the block runs; `finish` counts them."""

    def __init__(
        self,
        space: Namespace,
        source: str,
        destination: str,
        count: int,
        interval_s: float = INTERVAL_S,
        octets: int = 56,
        linger_s: float = LINGER_S,
    ) -> None:
        numbers = (str(count), str(interval_s), str(octets), str(linger_s))
        command = space.command(sys.executable, "-I", "-S", str(_PINGER), source, destination, *numbers)
        self._bound_s = count * interval_s + linger_s + 60.0
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Ping:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate(timeout=60)

    def finish(self) -> Count:
        """Wait for the last one; without a count no more leave.

        A ping that could not even start fails with its own words.
        """
        text, _ = self._process.communicate(timeout=self._bound_s)
        match = re.fullmatch(r"(\d+) (\d+) ([\d.]+)\n", text)
        assert match is not None, text
        return Count(int(match[1]), int(match[2]), float(match[3]))


def ping(
    space: Namespace,
    source: str,
    destination: str,
    count: int = 5,
    interval_s: float = INTERVAL_S,
    octets: int = 56,
    linger_s: float = LINGER_S,
) -> Count:
    """Ping to the end, with so many octets behind the ICMP header; wait so long for the last answers."""
    with Ping(space, source, destination, count, interval_s, octets, linger_s) as running:
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
