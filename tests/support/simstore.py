"""The store that all members share, in virtual time, with etcd's guarantees: one order of all writes,
transactions on revisions, leases that run out no earlier than their time after the last keepalive was
processed, by the clock of the leader of the moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deadpeer.cluster.store import (
    Done,
    Failed,
    Grant,
    GrantReply,
    Item,
    KeepAlive,
    KeepAliveReply,
    Range,
    RangeReply,
    Reply,
    Request,
    Revoke,
    TimeToLive,
    TimeToLiveReply,
    Txn,
    TxnReply,
)

S = 1_000_000_000


class Surroundings(Protocol):
    """What the store needs of the world around it."""

    now_ns: int
    store_up: bool

    def changed(self) -> None:
        """Tell those who watch."""
        ...

    def lose_watches(self) -> None:
        """Every watch ends."""
        ...


@dataclass
class Lease:
    ttl_s: float
    ends_ns: int


class SimStore:
    """One copy, linearizable. `drift`: how much slower the leader's clock runs than true time, as a share.
    `looks_ns`: so often it looks for leases that have run out; 0: they go at once."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self.items: dict[str, Item] = {}
        self.leases: dict[int, Lease] = {}
        self.revision = 1
        self.drift = 0.0
        self.looks_ns = S // 2
        self.restored = 0
        self.term = 1
        self._next_lease = 1000
        self.due_ns = 0
        """No lease goes before that."""
        self._ttl_s: dict[int, float] = {}
        """Of all leases that were ever granted: a snapshot holds that."""

    def carry_out(self, request: Request) -> Reply:
        """Do it, now."""
        self.expire()
        match request:
            case Range(prefix=prefix):
                found = tuple(item for key, item in sorted(self.items.items()) if key.startswith(prefix))
                return RangeReply(self.revision, found, f"store-{self.restored}")
            case Grant(ttl_s=ttl_s):
                self._next_lease += 1
                self._begin(self._next_lease, ttl_s)
                return GrantReply(self._next_lease, ttl_s, self.term)
            case TimeToLive(lease=number):
                lease = self.leases.get(number)
                if lease is None:
                    return TimeToLiveReply(number, -1, self.term)
                left_s = max(0, lease.ends_ns - self._world.now_ns) / S / (1 + self.drift)
                return TimeToLiveReply(number, int(left_s), self.term)
            case KeepAlive(lease=number):
                lease = self.leases.get(number)
                if lease is not None and lease.ends_ns <= self._world.now_ns:
                    self._drop(number)  # etcd answers when it is gone
                    lease = None
                if lease is None:
                    return KeepAliveReply(0)
                lease.ends_ns = self._ends(lease.ttl_s)
                return KeepAliveReply(lease.ttl_s)
            case Revoke(lease=number):
                self._drop(number)
                return Done()
            case Txn(unchanged=unchanged, puts=puts):
                if any(put.lease and put.lease not in self.leases for put in puts):
                    return Failed("requested lease not found")
                for key, revision in unchanged:
                    if (self.items[key].revision if key in self.items else 0) != revision:
                        return TxnReply(False)
                self.revision += 1
                for put in puts:
                    self.items[put.key] = Item(put.key, put.value, self.revision, put.lease)
                self._world.changed()
                return TxnReply(True)
            case _:
                return Failed("what?")

    def expire(self) -> None:
        """Drop the leases that have run out, if it looks for them now; without a leader none does."""
        now_ns = self._world.now_ns
        if now_ns < self.due_ns or not self._world.store_up:
            return
        for number in [n for n, lease in self.leases.items() if self._looks(lease.ends_ns) <= now_ns]:
            self._drop(number)
        self.due_ns = self._looks(
            min((lease.ends_ns for lease in self.leases.values()), default=now_ns + 3600 * S)
        )

    def new_leader(self, extra_s: float = 0.0) -> None:
        """After an election every lease that is left has its whole time again, and what etcd adds to it: the
        time that an election takes."""
        self.term += 1
        for lease in self.leases.values():
            lease.ends_ns = self._ends(lease.ttl_s + extra_s)

    def lose_leases(self) -> None:
        """All end at once."""
        for number in list(self.leases):
            self._drop(number)

    def backup(self) -> tuple[int, dict[str, Item]]:
        """What a snapshot holds."""
        return self.revision, dict(self.items)

    def restore(self, backup: tuple[int, dict[str, Item]]) -> None:
        """Go back to a snapshot: keys of leases that are gone by now run out soon."""
        self.restored += 1
        self.term += 1
        self.revision, self.items = backup[0], dict(backup[1])
        self.leases = {}
        for item in self.items.values():
            if item.lease:
                self._begin(item.lease, self._ttl_s[item.lease])
        self._world.lose_watches()

    def _begin(self, number: int, ttl_s: float) -> None:
        self._ttl_s[number] = ttl_s
        self.leases[number] = Lease(ttl_s, self._ends(ttl_s))
        self.due_ns = min(self.due_ns, self._looks(self.leases[number].ends_ns))

    def _looks(self, ends_ns: int) -> int:
        """When it is seen that a lease has run out."""
        return -(-ends_ns // self.looks_ns) * self.looks_ns if self.looks_ns else ends_ns

    def _ends(self, ttl_s: float) -> int:
        return self._world.now_ns + int(ttl_s * S * (1 + self.drift))

    def _drop(self, number: int) -> None:
        if self.leases.pop(number, None) is None:
            return
        gone = [key for key, item in self.items.items() if item.lease == number]
        if gone:
            self.revision += 1
            for key in gone:
                del self.items[key]
            self._world.changed()
