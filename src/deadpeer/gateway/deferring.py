"""Questions that have to be met with silence, asked again when more is known of who may have the SA.

As if they had just arrived: the pump asks the fence and the router, and the core decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from deadpeer.cluster.ownership import AddressHeld, Cluster
from deadpeer.cluster.router import Foreign, Known, trace
from deadpeer.cluster.unanswered import Unanswered
from deadpeer.values import NS_PER_S, Datagram

from .clocks import boottime_ns
from .runtime import Runtime


class Deferring:
    """Remembers what `cluster.unanswered` says is worth it, for `keep_s` seconds, within one life.

    `begin` and `over` are to be called with each life; before a `begin` nothing is remembered.
    """

    def __init__(self, runtime: Runtime, keep_s: float) -> None:
        self._runtime = runtime
        self._unanswered = Unanswered(keep_s)
        self._ownership: Cluster | AddressHeld | None = None
        self._known: Known | None = None
        self._port_nat_t = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None

    def begin(self, ownership: Cluster | AddressHeld, known: Known, port_nat_t: int) -> None:
        """A life begins."""
        self._ownership, self._known, self._port_nat_t = ownership, known, port_nat_t

    def over(self) -> None:
        """A life is over: what it was asked is forgotten."""
        self._ownership = self._known = None
        self._unanswered.forget()
        self.stop()

    def stop(self) -> None:
        """Ask nothing again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def trace(self, datagram: Datagram) -> Foreign | None:
        """What a datagram is about that another member may have; if it may be answered later it is kept."""
        if self._ownership is None or self._known is None:
            return None
        foreign = trace(datagram, self._ownership, self._known, self._port_nat_t)
        if foreign is not None:
            self._unanswered.remember(boottime_ns(), datagram, foreign)
        return foreign

    def look(self, members: Iterable[int]) -> None:
        """Something else is known of these members."""
        self._unanswered.look(members)
        self.wake()

    def wake(self) -> None:
        """Time has come, or the fence is open: soon, for whoever says so goes on first."""
        self.stop()
        now_ns, due_ns = boottime_ns(), self._unanswered.deadline()
        if self._unanswered.due(now_ns):
            self._timer = self._loop.call_soon(self._turn)
        elif due_ns is not None:
            self._timer = self._loop.call_later((due_ns - now_ns) / NS_PER_S, self.wake)

    def counters(self) -> dict[str, int]:
        """What became of all questions, and how many there are."""
        return dict(self._unanswered.counters) | {"waiting": len(self._unanswered)}

    def _turn(self) -> None:
        """Others have theirs in between. While the fence is closed nobody is asked: `wake` comes again."""
        self._timer = None
        if self._ownership is None or not self._runtime.serves:
            return
        self._runtime.again(self._take, self._unheard)
        self.wake()

    def _take(self) -> Datagram | None:
        ownership = self._ownership
        return None if ownership is None else self._unanswered.next(boottime_ns(), ownership)

    def _unheard(self) -> None:
        self._unanswered.unheard(boottime_ns())
