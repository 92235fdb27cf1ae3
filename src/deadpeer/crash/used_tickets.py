"""Which tickets were used: a bounded record that survives a crash, so that each is good only once."""

from __future__ import annotations

from struct import Struct

from deadpeer.crash.agenda import Agenda
from deadpeer.crash.tickets import IDENTIFIER_SIZE
from deadpeer.ike.extension import Core
from deadpeer.store import Ledger
from deadpeer.values import Deadline, Now

TABLE = "used_tickets"
"""The ledger's table: identifier (16 octets) to the ticket's expiry (8 octets, Unix seconds)."""


class UsedTickets:
    """Identifiers of used tickets, each kept until its ticket expires. Nothing is forgotten before.

    When `bound` of them are kept, `full` says so, and who redeems must refuse: forgetting one would let it
    be used again.
    """

    def __init__(self, ledger: Ledger, bound: int) -> None:
        self._bound = bound
        self._expiries: dict[bytes, int] = {}
        self._agenda: Agenda[bytes] = Agenda("used ticket expires")
        self._broken: list[bytes] = []
        for key, value in ledger.items(TABLE):
            if len(key) == IDENTIFIER_SIZE and len(value) == _EXPIRY.size:
                self._expiries[key] = _EXPIRY.unpack(value)[0]
            else:
                self._broken.append(key)

    def attach(self, now: Now, core: Core) -> None:
        """Arm the expiry of what was read; call it once, first."""
        self._core = core
        for key in self._broken:
            core.record(TABLE, key, None)
            core.count("used_tickets.broken")
        self._broken.clear()
        for key, expires_s in self._expiries.items():
            self._agenda.set(key, _at_ns(now, expires_s))

    def __contains__(self, identifier: bytes) -> bool:
        return identifier in self._expiries

    def __len__(self) -> int:
        return len(self._expiries)

    @property
    def full(self) -> bool:
        """Whether no further ticket may be used."""
        return len(self._expiries) >= self._bound

    def add(self, now: Now, identifier: bytes, expires_s: int) -> None:
        """The ticket is used. It is on disk before anything that is sent after this call."""
        self._expiries[identifier] = expires_s
        self._agenda.set(identifier, _at_ns(now, expires_s))
        self._core.record(TABLE, identifier, _EXPIRY.pack(expires_s), durable=True)

    def deadline(self) -> Deadline | None:
        """When the next record can go."""
        return self._agenda.deadline()

    def expire(self, now: Now) -> None:
        """Drop the records of tickets that nobody could use any more."""
        while (identifier := self._agenda.due(now.mono_ns)) is not None:
            expires_s = self._expiries[identifier]
            if expires_s > now.unix_s:  # The wall clock was set back meanwhile.
                self._agenda.set(identifier, _at_ns(now, expires_s))
                continue
            del self._expiries[identifier]
            self._core.record(TABLE, identifier, None)


_EXPIRY = Struct("!Q")
_CHECK_S = 86_400.0
"""The wall clock is looked at again after so long at the latest."""


def _at_ns(now: Now, expires_s: int) -> int:
    return now.after(min(max(expires_s - now.unix_s, 0.0) + 1.0, _CHECK_S))
