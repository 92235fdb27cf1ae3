"""A NAT in a namespace of its own between the two sides."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interop.harness.netns import Namespace, connect, namespaces
from tests.interop.harness.pair import LINK, give_addresses
from tests.interop.harness.translator import TUN
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

PUBLIC = "10.9.3.1"
_ROUTER: Mapping[Side, str] = {"a": "10.9.1.254", "b": "10.9.2.254"}
_NETWORK: Mapping[Side, str] = {"a": "10.9.1.", "b": "10.9.2."}
_TRANSLATOR = Path(__file__).with_name("translator.py")


@dataclass(frozen=True)
class Nat:
    """A running NAT: one side's packets come from `PUBLIC` and changing ports."""

    process: subprocess.Popen[str]

    def forget(self) -> None:
        """Drop every mapping: the next packets come from other ports, answers to the old ones are lost."""
        self.process.send_signal(signal.SIGUSR1)


@contextlib.contextmanager
def natted(tunnels: Sequence[Tunnel], behind: Side) -> Iterator[tuple[Mapping[Side, Namespace], Nat]]:
    """Two namespaces with a third between them; the side `behind` is translated (IPv4 only)."""
    with namespaces("a", "nat", "b") as (a, middle, b):
        spaces: Mapping[Side, Namespace] = {"a": a, "b": b}
        for side in SIDES:
            connect(middle, spaces[side], f"to-{side}", LINK)
            middle.ip("addr", "add", f"{_ROUTER[side]}/24", "dev", f"to-{side}")
            give_addresses(spaces[side], side, tunnels, LINK, prefix=24)
        # All that the open side may know of the other is its public address.
        spaces[behind].ip("route", "add", f"{_NETWORK[other(behind)]}0/24", "via", _ROUTER[behind])
        spaces[other(behind)].ip("route", "add", f"{PUBLIC}/32", "via", _ROUTER[other(behind)])
        for key, value in (("ip_forward", 1), ("conf/all/rp_filter", 0), ("conf/default/rp_filter", 0)):
            middle.run("sh", "-c", f"echo {value} >/proc/sys/net/ipv4/{key}")
        command = middle.command(sys.executable, str(_TRANSLATOR), _NETWORK[behind], PUBLIC)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                middle.ip("link", "set", TUN, "up")
                middle.ip("route", "add", f"{PUBLIC}/32", "dev", TUN)
                middle.ip("route", "add", "default", "dev", TUN, "table", "100")
                middle.ip("rule", "add", "iif", f"to-{behind}", "lookup", "100")
                yield spaces, Nat(process)
            finally:
                process.kill()
