"""Members of a cluster and their store in virtual time: latency, partitions, drift, freezes, crashes.

`World.now_ns` is true time. The store has etcd's guarantees: one order of all writes, transactions on
revisions, leases that run out no earlier than their time after the last keepalive was processed.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from deadpeer.cluster.membership import (
    LifeBegins,
    LifeOver,
    Membership,
    Output,
    PersistEpoch,
    SecretsChanged,
    Trouble,
)
from deadpeer.cluster.secrets import ClusterSecrets, Sealer
from deadpeer.cluster.steps import MemberConfig
from deadpeer.cluster.store import (
    Asked,
    Changed,
    Done,
    Failed,
    Grant,
    GrantReply,
    Input,
    Item,
    KeepAlive,
    KeepAliveReply,
    Range,
    RangeReply,
    Replied,
    Reply,
    Request,
    Revoke,
    Txn,
    TxnReply,
    Watch,
    WatchLost,
)
from deadpeer.crypto import SeededEntropy

S = 1_000_000_000
CLUSTER = "test"
CLUSTER_KEY = bytes(range(32))


@dataclass
class Lease:
    ttl_s: float
    ends_ns: int


class SimStore:
    """The store itself: one copy, linearizable. Time is true time, leases count by the store's own clock."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.items: dict[str, Item] = {}
        self.leases: dict[int, Lease] = {}
        self.revision = 1
        self.drift = 0.0
        self.restored = 0
        self._next_lease = 1000
        self.history: list[tuple[int, str, bytes]] = []

    def carry_out(self, request: Request) -> Reply:
        """Do it, now."""
        self.expire()
        match request:
            case Range(prefix=prefix):
                found = tuple(item for key, item in sorted(self.items.items()) if key.startswith(prefix))
                return RangeReply(self.revision, found, f"store-{self.restored}")
            case Grant(ttl_s=ttl_s):
                self._next_lease += 1
                self.leases[self._next_lease] = Lease(ttl_s, self._ends(ttl_s))
                return GrantReply(self._next_lease, ttl_s)
            case KeepAlive(lease=number):
                lease = self.leases.get(number)
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
                    self.history.append((self._world.now_ns, put.key, put.value))
                self._world.changed()
                return TxnReply(True)
            case _:
                return Failed("what?")

    def expire(self) -> None:
        """Drop the leases that have run out; without a leader none does."""
        if not self._world.store_up:
            return
        for number in [n for n, lease in self.leases.items() if lease.ends_ns <= self._world.now_ns]:
            self._drop(number)

    def new_leader(self) -> None:
        """After an election every lease that is left has its whole time again."""
        for lease in self.leases.values():
            lease.ends_ns = self._ends(lease.ttl_s)

    def backup(self) -> tuple[int, dict[str, Item]]:
        """What a snapshot holds."""
        return self.revision, dict(self.items)

    def restore(self, backup: tuple[int, dict[str, Item]]) -> None:
        """Go back to a snapshot: keys of leases that are gone by now run out soon."""
        self.restored += 1
        self.revision, self.items = backup[0], dict(backup[1])
        self.leases = {item.lease: Lease(5, self._ends(5)) for item in self.items.values() if item.lease}
        self._world.lose_watches()

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


@dataclass
class Member:
    """One machine: what is on its disk, and the process that runs on it, if one does."""

    world: World
    number: int
    machine: str
    drift: float = 0.0
    """How much faster its clock runs than true time."""
    ttl_s: int = 5
    disk_epoch: int = 0
    process: Membership | None = None
    frozen: bool = False
    cut_off: bool = False
    """Nothing reaches the store, nothing comes back."""
    watch_delay_s: float = 0.01
    lives: list[int] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    over: int = 0
    inbox: list[Input] = field(default_factory=list)
    incarnation: int = 0
    watching: bool = False

    def clock_ns(self) -> int:
        """Its own clock."""
        return int(self.world.now_ns * (1 + self.drift)) + self.number * 1000 * S

    def boot(self) -> None:
        """Start the process."""
        self.incarnation += 1
        self.watching = False
        config = MemberConfig(CLUSTER, self.number, self.machine, ttl_s=self.ttl_s)
        entropy = SeededEntropy(self.world.dice.getrandbits(32))
        self.process = Membership(config, self.disk_epoch, Sealer(CLUSTER_KEY, CLUSTER), entropy)
        self.world.members.append(self) if self not in self.world.members else None
        self.step(None)

    def crash(self) -> None:
        """SIGKILL."""
        self.process = None
        self.inbox.clear()
        self.frozen = False

    def thaw(self) -> None:
        """SIGCONT: what came meanwhile is served at once."""
        self.frozen = False
        waiting, self.inbox = self.inbox, []
        for item in waiting:
            self.step(item)
        self.step(None)

    @property
    def serves(self) -> bool:
        """Whether its gate is open at this moment (a frozen process does nothing, but its clock runs)."""
        return self.process is not None and self.process.fence.is_open(self.clock_ns())

    def step(self, item: Input | None) -> None:
        """Hand something to the process, and obey."""
        if self.process is None:
            return
        if self.frozen:
            if item is not None:
                self.inbox.append(item)
            return
        process = self.process
        process.handle(self.clock_ns(), self.world.unix_s, item)
        while (output := process.poll()) is not None:
            self.obey(process, output)
        self.world.check()
        self._arm()

    def obey(self, process: Membership, output: Output) -> None:
        """Do what the membership says."""
        match output:
            case Asked():
                self.world.send(self, output)
            case PersistEpoch(epoch=epoch):
                self.disk_epoch = epoch
                process.persisted(self.clock_ns(), self.world.unix_s)
            case LifeBegins(epoch=epoch):
                self.lives.append(epoch)
            case LifeOver():
                self.over += 1
            case SecretsChanged(secrets=secrets):
                self.adopt(process, secrets)
            case Trouble():
                self.troubles.append(output)
            case _:
                pass

    def adopt(self, process: Membership, secrets: ClusterSecrets) -> None:
        """Use other secrets: there is nothing here that relies on the old ones."""
        process.acknowledge(self.clock_ns(), self.world.unix_s, secrets.version)

    def _arm(self) -> None:
        if self.process is None or (due := self.process.deadline()) is None:
            return
        left_ns = max(0, due - self.clock_ns())
        process = self.process

        def fire() -> None:
            if self.process is process and not self.frozen:
                later = process.deadline()
                if later is not None and later <= self.clock_ns():
                    self.step(None)

        self.world.at(int(left_ns / (1 + self.drift)) + 1, fire)


class World:
    """True time, the network to the store, and the invariant."""

    def __init__(self, seed: int, members: int = 3, ttl_s: int = 5) -> None:
        self.dice = random.Random(seed)
        self.now_ns = 0
        self.store_up = True
        self.store = SimStore(self)
        self.members: list[Member] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self.violations: list[str] = []
        for number in range(members):
            self.members.append(self.make_member(number, ttl_s))

    def make_member(self, number: int, ttl_s: int) -> Member:
        """A machine that is not started yet."""
        return Member(self, number, f"machine-{number}", ttl_s=ttl_s)

    @property
    def unix_s(self) -> float:
        return 1_700_000_000 + self.now_ns / S

    def at(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Do it so much later."""
        self._serial += 1
        heapq.heappush(self._events, (self.now_ns + max(0, delay_ns), self._serial, work))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now_ns + int(seconds * S)
        while self._events and self._events[0][0] <= end:
            self.now_ns, _, work = heapq.heappop(self._events)
            self.store.expire()
            work()
        self.now_ns = end
        self.store.expire()
        self.check()

    def send(self, member: Member, asked: Asked) -> None:
        """A request travels, is carried out, and its reply travels back: each leg may be cut."""
        process = member.process
        if isinstance(asked.request, Watch):
            member.watching = not member.cut_off and self.store_up
            if not member.watching:
                self.at(S // 10, lambda: self._to(member, process, WatchLost("cut off")))
            return
        if member.cut_off or not self.store_up:
            return

        def arrive() -> None:
            if not self.store_up:
                return
            reply = self.store.carry_out(asked.request)
            self.check()
            if not member.cut_off:
                self.at(self._delay(), lambda: self._to(member, process, Replied(asked.number, reply)))

        self.at(self._delay(), arrive)

    def changed(self) -> None:
        """Tell those who watch."""
        for member in self.members:
            if member.watching and not member.cut_off:
                process = member.process
                self.at(
                    int(member.watch_delay_s * S),
                    lambda m=member, p=process: self._to(m, p, Changed()),  # type: ignore[misc]
                )

    def lose_watches(self) -> None:
        """The store was replaced: every watch ends."""
        for member in self.members:
            member.watching = False
            if not member.cut_off:
                self.at(S // 100, lambda m=member, p=member.process: self._to(m, p, WatchLost("replaced")))  # type: ignore[misc]

    def heal(self) -> None:
        """Nobody is cut off any more; watches have to be begun anew."""
        for member in self.members:
            if member.cut_off:
                member.cut_off = False
                member.watching = False
                self._to(member, member.process, WatchLost("healed"))

    def check(self) -> None:
        """No member serves in a life that the store says is over."""
        for item in self.store.items.values():
            what, _, number = item.key.removeprefix(f"/deadpeer/{CLUSTER}/").partition("/")
            if what != "member":
                continue
            ended = json.loads(item.value)["ended"]
            for member in self.members:
                epoch = member.process.epoch if member.process is not None else 0
                if member.number == int(number) and member.serves and epoch <= ended:
                    at_s = self.now_ns / S
                    self.violations.append(f"{at_s:.3f} s: {number} serves in epoch {epoch}, ended: {ended}")

    def _to(self, member: Member, process: Membership | None, item: Input) -> None:
        if process is not None and member.process is process and not member.cut_off:
            member.step(item)

    def _delay(self) -> int:
        return int(self.dice.uniform(0.0005, 0.02) * S)
