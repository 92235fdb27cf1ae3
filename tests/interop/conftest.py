"""Skips what can't run here (in CI that is a failure), and starts pairs of daemons."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.interop.harness import charon as strongswan
from tests.interop.harness.netns import Namespace, sweep
from tests.interop.harness.pair import Pair, linked, started
from tests.interop.harness.peers import CharonPeer, DeadpeerPeer, Peer
from tests.interop.harness.pki import Authority, Kind
from tests.interop.harness.tunnels import Credentials, Side, Tunnel, other

# The harness proves itself with INTEROP_A=charon: strongSwan on both sides.
_SIDE_A = os.environ.get("INTEROP_A", "deadpeer")

Settings = Mapping[str, Any]
StartPair = Callable[..., Pair]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("interop") is None:
        return
    reason = strongswan.missing()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"interoperability with strongSwan {reason}, and in CI nothing is skipped")
    if reason is not None:
        pytest.skip(f"interoperability with strongSwan {reason}")


@pytest.fixture(scope="session", autouse=True)
def _leftovers() -> None:
    if strongswan.missing() is None:
        sweep()


class Issuer:
    """Authorities of each kind, made when first asked for; side a's roots are not side b's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authorities: dict[tuple[Kind, Side], Authority] = {}

    def credentials(self, tunnel: Tunnel, side: Side) -> Credentials:
        if tunnel.auth == "psk":
            return Credentials(tunnel.secrets.get(side, f"a secret of {tunnel.name}"))
        leaf = self._authority(tunnel.auth, side).issue(tunnel.identity(side), f"{tunnel.name}-{side}")
        # Roots of both sides have the same name, so that only the key tells them apart.
        trusted = side if tunnel.distrusted == other(side) else other(side)
        return Credentials("", leaf, self._authority(tunnel.auth, trusted).root)

    def _authority(self, kind: Kind, side: Side) -> Authority:
        key = (kind, side)
        if key not in self._authorities:
            # RSA with a chain of two, for size
            directory = self._directory / f"{kind}-{side}"
            self._authorities[key] = Authority(directory, kind, intermediate=kind == "rsa")
        return self._authorities[key]


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("pki"))


@contextlib.contextmanager
def _pairs(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[StartPair]:
    with contextlib.ExitStack() as stack:

        def start(
            tunnels: Sequence[Tunnel],
            *,
            charon: Settings | None = None,
            deadpeer: Settings | None = None,
            keylog: Path | None = None,
            spaces: Mapping[Side, Namespace] | None = None,
        ) -> Pair:
            spaces = spaces or stack.enter_context(linked(tunnels))
            directory = tmp_path_factory.mktemp("pair")
            peers: dict[Side, Peer] = {
                "a": make_peer(
                    _SIDE_A, directory, spaces["a"].name, "a", tunnels, issuer, charon, deadpeer, keylog
                ),
                "b": make_peer("charon", directory, spaces["b"].name, "b", tunnels, issuer, charon, deadpeer),
            }
            return stack.enter_context(started(spaces, peers))

        yield start


def make_peer(
    kind: str,
    directory: Path,
    namespace: str,
    side: Side,
    tunnels: Sequence[Tunnel],
    issuer: Issuer,
    charon: Settings | None = None,
    deadpeer: Settings | None = None,
    keylog: Path | None = None,
) -> Peer:
    """A daemon of a kind for a side; not started yet."""
    pairs = [(tunnel, issuer.credentials(tunnel, side)) for tunnel in tunnels]
    place = directory / f"{side}-{kind}"
    if kind == "charon":
        return CharonPeer(place, namespace, side, pairs, charon)
    return DeadpeerPeer(place, namespace, side, pairs, deadpeer, keylog=keylog)


@pytest.fixture
def start_pair(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[StartPair]:
    """Starts pairs that end with the test."""
    with _pairs(tmp_path_factory, issuer) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_pair(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[StartPair]:
    """Starts pairs that end with the module."""
    with _pairs(tmp_path_factory, issuer) as start:
        yield start
