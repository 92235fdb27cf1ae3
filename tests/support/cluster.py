"""Members of a cluster and their store in virtual time: latency, partitions, drift, stops, sleep, crashes.

`World.now_ns` is true time. The store is `tests.support.simstore`.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, TypeVar

from tests.support.simstore import S, SimStore

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
from deadpeer.cluster.store import Asked, Changed, Input, Replied, Request, Txn, Watch, WatchLost
from deadpeer.crypto import SeededEntropy

CLUSTER = "test"
CLUSTER_KEY = bytes(range(32))

Method = TypeVar("Method", bound=Callable[..., Any])


class KilledError(Exception):
    """A process died in the middle of what it did."""


def mortal(method: Method) -> Method:
    """What a process does until it is done, or the process is killed at a `Member.point`."""

    @wraps(method)
    def run(self: Member, *args: Any) -> None:
        if self.depth:
            method(self, *args)
            return
        self.depth = 1
        try:
            with suppress(KilledError):
                method(self, *args)
        finally:
            self.depth = 0

    return run  # type: ignore[return-value]


class Alarm:
    """One timer: set anew, it forgets when it was to go off."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._set = 0
        self._at_ns: int | None = None

    def set(self, delay_ns: int, work: Callable[[], None]) -> None:
        """Go off after so long."""
        at_ns = self._world.now_ns + max(0, delay_ns)
        if self._at_ns == at_ns:
            return
        self._set += 1
        self._at_ns = at_ns
        mine = self._set

        def fire() -> None:
            if self._set == mine:
                self._at_ns = None
                work()

        self._world.at(delay_ns, fire)


@dataclass
class Member:
    """One machine: what is on its disk, and the process that runs on it, if one does."""

    world: World
    number: int
    machine: str
    drift: float = 0.0
    """How much faster its clock runs than true time, as a share."""
    ahead_ns: int = 0
    """By how much its clock is ahead of that, since its rate has changed."""
    ttl_s: int = 5
    disk_epoch: int = 0
    process: Membership | None = None
    frozen: bool = False
    """SIGSTOP: its clock runs, and what comes waits."""
    asleep: bool = False
    """Frozen with the whole machine: its clock runs, and what comes is lost."""
    cut_off: bool = False
    """Nothing reaches the store, nothing comes back."""
    deaf: bool = False
    """What it asks the store is carried out, and the answers get lost."""
    mute: tuple[type[Request], ...] = ()
    """Requests of these kinds get lost."""
    watch_delay_s: float = 0.01
    lives: list[int] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    over: int = 0
    inbox: list[Input] = field(default_factory=list)
    incarnation: int = 0
    watching: bool = False
    dies_at: str = ""
    """The name of the point at which it is killed when it comes there."""
    dies_after: int = 0
    """It passes that point so many times before."""
    deaths: list[str] = field(default_factory=list)
    """The points at which it was killed."""
    depth: int = 0

    def __post_init__(self) -> None:
        self.alarm = Alarm(self.world)

    def clock_ns(self) -> int:
        """Its own clock."""
        return int(self.world.now_ns * (1 + self.drift)) + self.ahead_ns + self.number * 1000 * S

    def skew(self, drift: float) -> None:
        """From now on its clock runs at another rate."""
        self.ahead_ns += int(self.world.now_ns * (1 + self.drift)) - int(self.world.now_ns * (1 + drift))
        self.drift = drift

    @mortal
    def boot(self) -> None:
        """Start the process."""
        self.incarnation += 1
        self.watching = False
        self.frozen = self.asleep = False
        config = MemberConfig(CLUSTER, self.number, self.machine, ttl_s=self.ttl_s)
        entropy = SeededEntropy(self.world.dice.getrandbits(32))
        self.process = Membership(config, self.disk_epoch, Sealer(CLUSTER_KEY, CLUSTER), entropy)
        self.world.members.append(self) if self not in self.world.members else None
        self.step(None)

    def crash(self) -> None:
        """SIGKILL."""
        self.process = None
        self.inbox.clear()
        self.frozen = self.asleep = False
        self.dies_at = ""

    def point(self, name: str) -> None:
        """Here the process may be killed. Raises KilledError."""
        if name != self.dies_at:
            return
        if self.dies_after:
            self.dies_after -= 1
            return
        self.deaths.append(name)
        self.crash()
        raise KilledError(name)

    def suspend(self) -> None:
        """The machine sleeps."""
        self.frozen = self.asleep = True

    @mortal
    def thaw(self) -> None:
        """SIGCONT, or the machine wakes up: what came meanwhile is served at once."""
        self.frozen = self.asleep = False
        waiting, self.inbox = self.inbox, []
        for item in waiting:
            self.step(item)
        self.step(None)

    @property
    def serves(self) -> bool:
        """Whether its gate is open at this moment (a frozen process does nothing, but its clock runs)."""
        return self.process is not None and self.process.fence.is_open(self.clock_ns())

    @mortal
    def step(self, item: Input | None) -> None:
        """Hand something to the process, and obey."""
        process = self.process
        if process is None:
            return
        if self.frozen:
            if item is not None and not self.asleep:
                self.inbox.append(item)
            return
        process.handle(self.clock_ns(), self.world.unix_s, item)
        while (output := process.poll()) is not None:
            self.obey(process, output)
        self.world.check()
        self._arm()

    def obey(self, process: Membership, output: Output) -> None:
        """Do what the membership says."""
        match output:
            case Asked():
                self.point("before a request is sent")
                self.world.send(self, output)
            case PersistEpoch(epoch=epoch):
                self.point("before the epoch is on disk")
                self.disk_epoch = epoch
                self.point("after the epoch is on disk")
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
        self.alarm.set(int(left_ns / (1 + self.drift)) + 1, self._due)

    def _due(self) -> None:
        due = None if self.process is None else self.process.deadline()
        if self.frozen or due is None:
            return
        if due <= self.clock_ns():
            self.step(None)
        else:
            self._arm()


class World:
    """True time, the network to the store, and the invariant of lives."""

    def __init__(self, seed: int, members: int = 3, ttl_s: int = 5) -> None:
        self.dice = random.Random(seed)
        self.now_ns = 0
        self.store_up = True
        self.slowest_s = 0.02
        """The longest that a request, or its reply, is under way."""
        self.store = SimStore(self)
        self.members: list[Member] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._term = 0
        self.violations: list[str] = []
        self.over_ns: dict[int, int] = {}
        """When the store last said of a member that no life of it goes on, by number."""
        self._ended: dict[int, int] = {}
        """The newest epoch that this store has ever said to be over, by number."""
        self._of_store = 0
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
        while (at_ns := self._next_ns(end)) <= end:
            self.now_ns = at_ns
            self.store.expire()
            if self._events and self._events[0][0] <= at_ns:
                heapq.heappop(self._events)[2]()
        self.now_ns = end
        self.store.expire()
        self.check()

    # --- the store's faults ------------------------------------------------------------------------

    def elect(self, takes_s: float) -> None:
        """The leader is gone; after so long there is another one, with another clock. Who was answered
        meanwhile does not hear it, and every lease has its whole time again."""
        self.store_up = False
        self._term += 1

        def elected() -> None:
            self.store_up = True
            self.store.drift = self.dice.uniform(-0.004, 0.004)
            self.store.new_leader(takes_s)

        self.at(int(takes_s * S), elected)

    def heal(self, only: Member | None = None) -> None:
        """Nobody (or not this one) is cut off any more; watches have to be begun anew."""
        for member in self.members if only is None else [only]:
            member.deaf, member.mute = False, ()
            if member.cut_off:
                member.cut_off = False
                member.watching = False
                self._to(member, member.process, WatchLost("healed"))

    def lose_watches(self) -> None:
        """The store was replaced: every watch ends."""
        for member in self.members:
            member.watching = False
            if not member.cut_off:
                self.at(S // 100, lambda m=member, p=member.process: self._to(m, p, WatchLost("replaced")))  # type: ignore[misc]

    # --- requests ----------------------------------------------------------------------------------

    def send(self, member: Member, asked: Asked) -> None:
        """A request travels, is carried out, and its reply travels back: each leg may be cut."""
        process = member.process
        if isinstance(asked.request, Watch):
            member.watching = not member.cut_off and self.store_up
            if not member.watching:
                self.at(S // 10, lambda: self._to(member, process, WatchLost("cut off")))
            return
        if member.cut_off or not self.store_up or isinstance(asked.request, member.mute):
            return

        def arrive() -> None:
            if not self.store_up:
                return
            term = self._term
            reply = self.store.carry_out(asked.request)
            if isinstance(asked.request, Txn) and member.process is process:
                kill(member, "after a transaction, before its reply")
            self.check()

            def answer() -> None:
                if term == self._term and not member.deaf:
                    self._to(member, process, Replied(asked.number, reply))

            self.at(self._delay(), answer)

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

    def check(self) -> None:
        """What was over once stays over, and no member serves in a life that the store says is over."""
        if self._of_store != self.store.restored:
            self._of_store = self.store.restored
            self._ended.clear()
        for item in self.store.items.values():
            found = _member(item.key, item.value)
            if found is None:
                continue
            number, registered, ended = found
            if ended < self._ended.get(number, 0):
                self._violated(f"epoch {self._ended[number]} of {number} was over, and is not any more")
            self._ended[number] = ended
            if ended == registered and f"/deadpeer/{CLUSTER}/lease/{number}" not in self.store.items:
                self.over_ns[number] = self.now_ns
            for member in self.members:
                if member.number != number or member.process is None or member.process.epoch > ended:
                    continue
                if member.serves:
                    self._violated(f"{number} serves in epoch {member.process.epoch}, ended: {ended}")

    def _next_ns(self, end_ns: int) -> int:
        """When something happens next; behind `end_ns` if nothing does until then."""
        event_ns = self._events[0][0] if self._events else end_ns + 1
        return min(event_ns, max(self.now_ns, self.store.due_ns)) if self.store_up else event_ns

    def _violated(self, what: str) -> None:
        self.violations.append(f"{self.now_ns / S:.3f} s: {what}")

    def _to(self, member: Member, process: Membership | None, item: Input) -> None:
        if process is not None and member.process is process and not member.cut_off:
            member.step(item)

    def _delay(self) -> int:
        return int(self.dice.uniform(0.0005, self.slowest_s) * S)


def kill(member: Member, name: str) -> None:
    """The point is not in what the process itself does."""
    with suppress(KilledError):
        member.point(name)


@lru_cache(maxsize=4096)
def _member(key: str, value: bytes) -> tuple[int, int, int] | None:
    """Of a member's record: its number, the newest epoch that it has begun, and the newest that is over."""
    what, _, number = key.removeprefix(f"/deadpeer/{CLUSTER}/").partition("/")
    if what != "member":
        return None
    record = json.loads(value)
    return int(number), record["registered"], record["ended"]
