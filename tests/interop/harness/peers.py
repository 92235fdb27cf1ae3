"""Both daemons behind one interface, so that every scenario runs with either as initiator."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.interop.harness.charon import Charon
from tests.interop.harness.gateway import Gateway
from tests.interop.harness.tunnels import Credentials, Side, Tunnel, swanctl, toml


@dataclass(frozen=True)
class ChildView:
    """A child SA in use. SPIs are numbers, counters those of the daemon itself."""

    name: str
    spi_in: int
    spi_out: int
    packets_in: int
    packets_out: int
    octets_in: int
    octets_out: int


@dataclass(frozen=True)
class SaView:
    """An IKE SA in use: SPIs in 16 hexadecimal digits, and its children in use."""

    spi_i: str
    spi_r: str
    children: tuple[ChildView, ...]


class Peer(Protocol):
    """What a scenario asks of a daemon. Each call is bounded and fails with the tail of the log."""

    kind: str

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def stop(self) -> None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def up(self, tunnel: Tunnel, child: str | None = None) -> None: ...

    def down(self, tunnel: Tunnel, child: str | None = None) -> None: ...

    def rekey(self, tunnel: Tunnel, child: str | None = None) -> None: ...

    def sas(self, tunnel: Tunnel) -> list[SaView]: ...

    def mark(self) -> int:
        """A place in the log, for `log_since`."""
        ...

    def log_since(self, mark: int) -> str: ...


class CharonPeer:
    """strongSwan. Its configuration is loaded at each start."""

    kind = "charon"

    def __init__(
        self,
        directory: Path,
        namespace: str,
        side: Side,
        tunnels: Iterable[tuple[Tunnel, Credentials]],
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.charon = Charon(directory, namespace, settings)
        self._tunnels = list(tunnels)
        self._side = side

    def start(self) -> None:
        self.charon.start()
        self.charon.private_directory.mkdir(parents=True, exist_ok=True)
        authorities = self.charon.private_directory.parent / "x509ca"
        authorities.mkdir(exist_ok=True)
        for _, credentials in self._tunnels:
            if credentials.leaf is not None:
                shutil.copy(credentials.leaf.private_key, self.charon.private_directory)
                for path in credentials.leaf.intermediates:
                    shutil.copy(path, authorities)
        self.charon.load(swanctl(self._tunnels, self._side))

    def kill(self) -> None:
        self.charon.kill()

    def stop(self) -> None:
        self.charon.stop()

    def freeze(self) -> None:
        self.charon.freeze()

    def thaw(self) -> None:
        self.charon.thaw()

    def up(self, tunnel: Tunnel, child: str | None = None) -> None:
        self.charon.initiate(tunnel.child_name(child or tunnel.children[0]), tunnel.name)

    def down(self, tunnel: Tunnel, child: str | None = None) -> None:
        if child is None:
            self.charon.terminate(tunnel.name)
        else:
            self.charon.terminate(child=tunnel.child_name(child))

    def rekey(self, tunnel: Tunnel, child: str | None = None) -> None:
        if child is None:
            self.charon.rekey(tunnel.name)
        else:
            self.charon.rekey(child=tunnel.child_name(child))

    def sas(self, tunnel: Tunnel) -> list[SaView]:
        return [
            SaView(
                sa.spi_i,
                sa.spi_r,
                tuple(
                    ChildView(
                        child.name,
                        int(child.spi_in, 16),
                        int(child.spi_out, 16),
                        child.packets_in,
                        child.packets_out,
                        child.octets_in,
                        child.octets_out,
                    )
                    for child in sa.children
                    if child.state == "INSTALLED"
                ),
            )
            for sa in self.charon.list_sas(tunnel.name)
            if sa.state == "ESTABLISHED"
        ]

    def mark(self) -> int:
        return len(self.charon.log())

    def log_since(self, mark: int) -> str:
        return self.charon.log()[mark:]


class DeadpeerPeer:
    """Our gateway."""

    kind = "deadpeer"

    def __init__(
        self,
        directory: Path,
        namespace: str,
        side: Side,
        tunnels: Iterable[tuple[Tunnel, Credentials]],
        settings: Mapping[str, object] | None = None,
        *,
        keylog: Path | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        pairs = list(tunnels)
        section: dict[str, object] = {
            "state_dir": str(directory / "state"),
            "control": str(directory / "control.sock"),
            "listen": list(dict.fromkeys(tunnel.outer_address(side) for tunnel, _ in pairs)),
            "tun": "dp0",
            "log_level": "debug",
            **(settings or {}),
        }
        self.gateway = Gateway(directory, namespace, toml(pairs, side, directory, section), keylog=keylog)

    def start(self) -> None:
        self.gateway.start()

    def kill(self) -> None:
        self.gateway.kill()

    def stop(self) -> None:
        self.gateway.stop()

    def freeze(self) -> None:
        self.gateway.freeze()

    def thaw(self) -> None:
        self.gateway.thaw()

    def up(self, tunnel: Tunnel, child: str | None = None) -> None:
        self._ask("up", tunnel, child or tunnel.children[0])

    def down(self, tunnel: Tunnel, child: str | None = None) -> None:
        self._ask("down", tunnel, child)

    def rekey(self, tunnel: Tunnel, child: str | None = None) -> None:
        self._ask("rekey", tunnel, child)

    def _ask(self, verb: str, tunnel: Tunnel, child: str | None) -> None:
        name = None if child is None else tunnel.child_name(child)
        self.gateway.ask(verb, connection=tunnel.name, child=name)

    def sas(self, tunnel: Tunnel) -> list[SaView]:
        return [
            SaView(
                sa["spi_i"],
                sa["spi_r"],
                tuple(_our_child(child) for child in sa["children"] if child["state"] == "installed"),
            )
            for sa in self.gateway.sas()
            if sa["connection"] == tunnel.name and sa["state"] == "established"
        ]

    def mark(self) -> int:
        return len(self.gateway.log())

    def log_since(self, mark: int) -> str:
        return self.gateway.log()[mark:]


def _our_child(child: Mapping[str, Any]) -> ChildView:
    traffic = child["traffic"]
    return ChildView(
        child["child"],
        int(child["spi_in"], 16),
        int(child["spi_out"], 16),
        traffic["packets_in"],
        traffic["packets_out"],
        traffic["octets_in"],
        traffic["octets_out"],
    )


PATIENCE_S = 60.0
"""How long a scenario waits for what must come about. It says nothing about how fast that is."""


class StillNotError(AssertionError):
    """What a scenario waited for did not come about in time."""


def until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for a condition. Raises StillNotError with `what` was waited for."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise StillNotError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.02)
