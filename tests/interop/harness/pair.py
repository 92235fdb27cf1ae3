"""Two daemons in two namespaces, and the things that scenarios do with them and check."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interop.harness.netns import Namespace, connect, held, namespaces
from tests.interop.harness.peers import PATIENCE_S, ChildView, Peer, SaView, until
from tests.interop.harness.traffic import BRIEF_S, ENDLESS, INTERVAL_S, LINGER_S, Count, Ping, ping
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

LINK = "link0"

# What each daemon's log says when something came about. {c} is the connection, {k} the child.
_LOGGED: Mapping[str, Mapping[str, str]] = {
    "charon": {
        "ike_sa_up": r"IKE_SA {c}\[\d+\] established between",
        "child_up": r"CHILD_SA {k}\{{\d+\}} established with SPIs",
        "ike_sa_rekeyed": r"IKE_SA {c}\[\d+\] rekeyed between",
        "child_rekeyed": r"outbound CHILD_SA {k}\{{\d+\}} established with SPIs",
        "ike_sa_down": r"IKE_SA {c}\[\d+\] state change: \w+ => (DELETING|DESTROYING)",
    },
    "deadpeer": {
        "ike_sa_up": r'"event": ?"ike_sa_up".*"{c}"',
        "child_up": r'"event": ?"child_up".*"{k}"',
        "ike_sa_rekeyed": r'"event": ?"ike_sa_rekeyed".*"{c}"',
        "child_rekeyed": r'"event": ?"child_rekeyed".*"{k}"',
        "ike_sa_down": r'"event": ?"ike_sa_down".*"{c}"',
    },
}


@dataclass
class Pair:
    """A running pair. Side "a" is ours by default, "b" strongSwan."""

    spaces: Mapping[Side, Namespace]
    peers: Mapping[Side, Peer]

    # -- steps; each waits until both sides agree on the outcome

    def up(self, tunnel: Tunnel, by: Side, child: str | None = None) -> SaView:
        """Bring a child up from side `by` and check that both logs and both tables show it."""
        marks = self.marks()
        self.peers[by].up(tunnel, child)
        self.wait_agreed(tunnel)
        self.logged("child_up", tunnel, marks, child)
        return self.sa(tunnel, "a")

    def down(self, tunnel: Tunnel, by: Side) -> None:
        """Delete the IKE SA from side `by`; both sides have nothing left."""
        marks = self.marks()
        self.peers[by].down(tunnel)
        self.wait(lambda: not self.sas(tunnel, "a") and not self.sas(tunnel, "b"), "both sides deleted")
        self.logged("ike_sa_down", tunnel, marks)

    def down_child(self, tunnel: Tunnel, by: Side, child: str) -> None:
        """Delete one child from side `by`; the IKE SA and its other children stay."""
        before = self.sa(tunnel, "a")
        name = tunnel.child_name(child)
        self.peers[by].down(tunnel, child)
        self.wait_agreed(tunnel, also=lambda sa: name not in {view.name for view in sa.children})
        after = self.sa(tunnel, "a")
        assert (after.spi_i, after.spi_r) == (before.spi_i, before.spi_r)
        assert set(_spis(after)) < set(_spis(before))

    def rekey_child(self, tunnel: Tunnel, by: Side, child: str | None = None) -> None:
        """Rekey a child from side `by`; the SPIs of both directions are new, the IKE SA is the same."""
        name = tunnel.child_name(child or tunnel.children[0])
        before, marks = self.sa(tunnel, "a"), self.marks()
        old = _named(before, name)
        self.peers[by].rekey(tunnel, child or tunnel.children[0])
        self.wait_agreed(tunnel, also=lambda sa: _named(sa, name).spi_in != old.spi_in)
        after = self.sa(tunnel, "a")
        assert (after.spi_i, after.spi_r) == (before.spi_i, before.spi_r)
        assert _named(after, name).spi_out != old.spi_out
        self.logged("child_rekeyed", tunnel, marks, child)

    def rekey_ike(self, tunnel: Tunnel, by: Side) -> None:
        """Rekey the IKE SA from side `by`; the children live on under the new one."""
        before, marks = self.sa(tunnel, "a"), self.marks()
        self.peers[by].rekey(tunnel)
        self.wait_agreed(tunnel, also=lambda sa: sa.spi_i != before.spi_i and sa.spi_r != before.spi_r)
        assert _spis(self.sa(tunnel, "a")) == _spis(before)
        self.logged("ike_sa_rekeyed", tunnel, marks)

    def carries(self, tunnel: Tunnel, child: str | None = None, count: int = 5, by: Side = "a") -> None:
        """Pings from side `by` all come back, and each side's ESP counters say that they went through."""
        before = {side: self.child(tunnel, side, child) for side in SIDES}
        answered = self.ping(tunnel, child, count, by=by)
        assert answered == Count(count, count), f"{answered}\n{self.tails()}"
        for side in SIDES:
            view = self.child(tunnel, side, child)
            assert view.spi_in == before[side].spi_in, "rekeyed meanwhile: the counters say nothing"
            assert view.packets_in - before[side].packets_in >= count, (side, before[side], view)
            assert view.packets_out - before[side].packets_out >= count, (side, before[side], view)
            assert view.octets_in > before[side].octets_in
            assert view.octets_out > before[side].octets_out

    def ping(
        self,
        tunnel: Tunnel,
        child: str | None = None,
        count: int = 5,
        *,
        by: Side = "a",
        linger_s: float = LINGER_S,
    ) -> Count:
        source, destination = tunnel.inner_address(by, child), tunnel.inner_address(other(by), child)
        return ping(self.spaces[by], source, destination, count, linger_s=linger_s)

    def answers(self, tunnel: Tunnel, child: str | None = None, *, by: Side = "a") -> bool:
        """Whether one ping comes back soon: to be asked again, or where none is to come."""
        return self.ping(tunnel, child, 1, by=by, linger_s=BRIEF_S).received == 1

    def pinging(
        self, tunnel: Tunnel, count: int = ENDLESS, interval_s: float = INTERVAL_S, by: Side = "a"
    ) -> Ping:
        """Pings in the background, until so many have left or `finish` is called for."""
        ends = tunnel.inner_address(by), tunnel.inner_address(other(by))
        return Ping(self.spaces[by], *ends, count, interval_s)

    def holding(self) -> contextlib.AbstractContextManager[None]:
        """Hold what the two sides send to each other (IPv4); it all arrives when the block ends."""
        return held(self.spaces["a"], self.spaces["b"], LINK)

    @contextlib.contextmanager
    def capturing(self, side: Side, file: Path, only: str) -> Iterator[None]:
        """Write the packets on a side's link that the filter `only` lets pass to `file`, in pcapng."""
        command = ["dumpcap", "-q", "-i", LINK, "-f", only, "-w", str(file)]
        with subprocess.Popen(
            self.spaces[side].command(*command), stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stderr is not None
                heard = next((line for line in process.stderr if line.startswith("File:")), "")
                assert heard, "dumpcap did not begin"
                yield
                # What the kernel has buffered comes with its next wake-up.
                time.sleep(2.0)
            finally:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=PATIENCE_S)

    # -- what is there

    def sas(self, tunnel: Tunnel, side: Side) -> list[SaView]:
        return self.peers[side].sas(tunnel)

    def sa(self, tunnel: Tunnel, side: Side) -> SaView:
        """The one IKE SA of the tunnel."""
        (sa,) = self.sas(tunnel, side)
        return sa

    def child(self, tunnel: Tunnel, side: Side, child: str | None = None) -> ChildView:
        return _named(self.sa(tunnel, side), tunnel.child_name(child or tunnel.children[0]))

    def agreed(self, tunnel: Tunnel) -> SaView | None:
        """Side a's view if both sides have one IKE SA, the same, and the same children; else None."""
        views = {side: self.sas(tunnel, side) for side in SIDES}
        if any(len(sas) != 1 for sas in views.values()):
            return None
        (a,), (b,) = views["a"], views["b"]
        mirrored = sorted((spi_out, spi_in) for spi_in, spi_out in _spis(b))
        same = (a.spi_i, a.spi_r) == (b.spi_i, b.spi_r) and sorted(_spis(a)) == mirrored
        return a if same and a.children else None

    def wait_agreed(
        self,
        tunnel: Tunnel,
        timeout_s: float = PATIENCE_S,
        also: Callable[[SaView], bool] = lambda _: True,
    ) -> None:
        def look() -> bool:
            view = self.agreed(tunnel)
            return view is not None and also(view)

        self.wait(look, f"both sides agree on {tunnel.name}", timeout_s)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait; a failure shows both logs' tails."""
        try:
            until(condition, what, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tails()}") from None

    # -- the logs

    def marks(self) -> Mapping[Side, int]:
        return {side: self.peers[side].mark() for side in SIDES}

    def logged(self, what: str, tunnel: Tunnel, since: Mapping[Side, int], child: str | None = None) -> None:
        """Both logs have said, or soon say, that `what` (a key of the table above) came about."""
        name = tunnel.child_name(child or tunnel.children[0])
        for side in SIDES:
            peer = self.peers[side]
            pattern = _LOGGED[peer.kind][what].format(c=re.escape(tunnel.name), k=re.escape(name))
            self.log_has(side, pattern, since[side])

    def log_has(
        self, side: Side, pattern: str, since: int = 0, timeout_s: float = PATIENCE_S
    ) -> re.Match[str]:
        """A side's log matches a regular expression since a mark, or soon does."""
        peer, compiled = self.peers[side], re.compile(pattern)
        self.wait(
            lambda: compiled.search(peer.log_since(since)) is not None,
            f"{peer.kind}'s log has {pattern!r}",
            timeout_s,
        )
        match = compiled.search(peer.log_since(since))
        assert match is not None
        return match

    def tails(self, lines: int = 40) -> str:
        parts = []
        for side in SIDES:
            text = "\n".join(self.peers[side].log_since(0).splitlines()[-lines:])
            parts.append(f"--- side {side} ({self.peers[side].kind}):\n{text}")
        return "\n".join(parts)


@contextlib.contextmanager
def linked(tunnels: Sequence[Tunnel]) -> Iterator[Mapping[Side, Namespace]]:
    """Two namespaces with a link, and every address that the tunnels need."""
    with namespaces(*SIDES) as made:
        spaces: dict[Side, Namespace] = dict(zip(SIDES, made, strict=True))
        connect(spaces["a"], spaces["b"], LINK, LINK)
        for side, space in spaces.items():
            give_addresses(space, side, tunnels, LINK)
        yield spaces


def give_addresses(
    space: Namespace, side: Side, tunnels: Sequence[Tunnel], device: str, *, prefix: int = 16
) -> None:
    """The side's outer addresses on `device`, its inner ones on the loopback device."""
    outer = dict.fromkeys(tunnel.outer_address(side) for tunnel in tunnels)
    lengths = {address: 64 if ":" in address else prefix for address in outer}
    space.batch(f"addr add {address}/{length} dev {device}" for address, length in lengths.items())
    space.add_inner(dict.fromkeys(a for tunnel in tunnels for a in tunnel.inner_addresses(side)))


@contextlib.contextmanager
def started(spaces: Mapping[Side, Namespace], peers: Mapping[Side, Peer]) -> Iterator[Pair]:
    """Start both daemons; kill them when the block ends."""
    try:
        for peer in peers.values():
            peer.start()
        yield Pair(spaces, peers)
    finally:
        for peer in peers.values():
            peer.kill()


def _spis(sa: SaView) -> list[tuple[int, int]]:
    return [(child.spi_in, child.spi_out) for child in sa.children]


def _named(sa: SaView, name: str) -> ChildView:
    (child,) = [child for child in sa.children if child.name == name]
    return child
