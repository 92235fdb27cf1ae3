"""A pair of which one side can be killed between any two datagrams, and what must hold after its boot.

Moments are counted while armed: each datagram of IKE that is sent, by whom ever, and each that the victim
has handled without sending anything. At the chosen moment the victim dies: it sends nothing more, even of
what the same input made it want to send, and loses what its ledger had not yet committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.support.pair import Pair, Side

from deadpeer.store import MemoryLedger
from deadpeer.values import Datagram

COMMIT_S = 0.025
"""What need not be durable is on disk after so long: the gateway's ledger commits in batches."""


class BatchLedger(MemoryLedger):
    """A ledger whose records reach the disk after `COMMIT_S`, at once with all before if `durable`."""

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__()
        self._clock = clock
        self._pending: list[tuple[int, str, bytes, bytes | None]] = []

    def write(self, table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
        self._pending.append((self._clock() + int(COMMIT_S * 1e9), table, key, value))
        self._commit(None if durable else self._clock())

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        self._commit(None)
        return super().items(table)

    def crash(self) -> None:
        """What is not committed by now is lost."""
        self._commit(self._clock())
        self._pending.clear()

    def _commit(self, until_ns: int | None) -> None:
        while self._pending and (until_ns is None or self._pending[0][0] <= until_ns):
            _, table, key, value = self._pending.pop(0)
            super().write(table, key, value, durable=True)


class _DeathError(Exception):
    """The victim's process ends here."""


class MortalPair(Pair):
    """`arm` names the victim and the moment; `moments` says what there was to choose from."""

    victim: Side | None = None
    moments: list[str]
    senders: tuple[str, ...] = ("alice",)
    """Behind which sides a host has packets to send."""
    _die_at: int | None = None

    def boot(self, name: str) -> None:
        side = self.side(name)
        if not isinstance(side.ledger, BatchLedger):
            side.ledger = BatchLedger(lambda: self.mono_ns)
        super().boot(name)

    def crash(self, name: str) -> None:
        ledger = self.side(name).ledger
        assert isinstance(ledger, BatchLedger)
        ledger.crash()
        super().crash(name)

    def arm(self, victim: str, die_at: int | None) -> None:
        """Count moments from now on; `victim` dies at that one (from 1; None: never)."""
        self.victim, self._die_at, self.moments = self.side(victim), die_at, []

    @property
    def died(self) -> bool:
        """Whether the moment has come."""
        return self._die_at is not None and len(self.moments) >= self._die_at

    def _moment(self, what: str) -> bool:
        """Note a moment; True if it was the last of the victim, who is dead now."""
        if self.victim is None or self.died or self.victim.endpoint is None:
            return False
        self.moments.append(what)
        if not self.died:
            return False
        self.crash(self.victim.name)
        return True

    def _send(self, side: Side, datagram: Datagram, reason: str) -> None:
        super()._send(side, datagram, reason)
        if reason != "ESP" and self._moment(f"{side.name} sent: {reason}") and side is self.victim:
            raise _DeathError

    def _drain(self, side: Side) -> None:
        try:
            super()._drain(side)
        except _DeathError:
            # The rest of what it wanted to do is gone with its memory.
            assert side.endpoint is None

    def _arrive(self, datagram: Datagram) -> None:
        before = len(self.trace)
        super()._arrive(datagram)
        victim = self.victim
        if victim is None or victim.endpoint is None or datagram.remote.host != victim.host:
            return
        said = [sent for sent in self.trace[before:] if sent.sender == victim.name and sent.reason != "ESP"]
        sent = next((s for s in reversed(self.trace[:before]) if s.datagram is datagram), None)
        if not said and sent is not None and sent.reason != "ESP":
            self._moment(f"{victim.name} handled: {sent.reason}")


@dataclass
class Outcome:
    """What a kill led to. `back_s`: from the victim's boot to the first echo, seconds; None: never."""

    number: int
    moment: str
    back_s: float | None
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        back = "no traffic" if self.back_s is None else f"back after {self.back_s:.2f} s"
        return f"after {self.number} ({self.moment}): {'; '.join([back, *self.problems])}"
