"""A member of a cluster: its life, its lease, what it knows of the others. Sans-IO.

Three things go in by `handle(now_ns, unix_s, item)`: replies of the store, news of its watch, and timeouts.
Then `poll()` until it returns None, then `deadline()`. It works level-triggered: whatever happens, it reads
all records anew and does the one next thing that `next_step` says is owed, by a transaction that does
nothing if anything changed meanwhile.

Why no token for a living SA can come of it:

1. That a life is over is a fact written once, by a transaction whose condition is that the member's lease
   is gone, or by the member itself when it registers its next life. A copy of that fact may be late, never
   wrong.
2. A member whose lease ran out goes on with a life only by a transaction whose condition is that nobody
   has written it off; the two exclude each other.
3. A member serves only while its fence is open, and that closes before the lease can run out.
   Its clock is measured against the store's all the time (`calibration`): a member whose clock is slower
   than the fence allows for ends its life, and begins none.
4. A store that was restored from a backup has lost leases that had not run out. Whoever reads it for the
   first time, or finds that it is another one, writes nobody off for as long as such a lease could last.

`now_ns` is of a clock that runs while the machine is suspended.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from deadpeer.cluster.calibration import Calibration
from deadpeer.cluster.fence import Fence
from deadpeer.cluster.records import Keys, RecordError, View, read_view
from deadpeer.cluster.secrets import ClusterSecrets, KeyKind, Sealer, SecretsError
from deadpeer.cluster.steps import DOUBT_TTLS, MemberConfig, Self, Step, doubt_of, next_step, rotation_step
from deadpeer.cluster.store import (
    Asked,
    Changed,
    Failed,
    Grant,
    GrantReply,
    Input,
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
from deadpeer.crypto import Entropy
from deadpeer.values import NS_PER_S

PATIENCE_S = 2.0
"""A request that is not answered so long counts as failed."""
RETRY_S = 0.5
"""After a failure, seconds until the next try."""
KEEPALIVES = 5
"""In the time of a lease. When the store goes away four fifths of the lease are left at least."""
REREAD_S = 30.0
"""Everything is read anew at least so often, whatever the watch says."""
AGAIN_S = 60.0
"""How often a trouble is told of again, if it has other words by then."""


# --- what comes out beside requests ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PersistEpoch:
    """Write this epoch to disk, then call `persisted`: not before does this member serve."""

    epoch: int


@dataclass(frozen=True, slots=True)
class LifeBegins:
    """The member may build what serves, in this epoch and with these secrets."""

    epoch: int
    secrets: ClusterSecrets


@dataclass(frozen=True, slots=True)
class LifeOver:
    """Another member wrote this life off, or another machine has our number: all SAs are lost."""

    why: str


@dataclass(frozen=True, slots=True)
class SecretsChanged:
    """Use these from now on; renew what was made with the oldest keys, then `acknowledge` the version."""

    secrets: ClusterSecrets


@dataclass(frozen=True, slots=True)
class ViewChanged:
    """What is known of the other members changed."""

    view: View


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that a person should know of. `numbers`: by name, what of it a program may want to know."""

    kind: str
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)


Output = Asked | PersistEpoch | LifeBegins | LifeOver | SecretsChanged | ViewChanged | Trouble


# --- the member --------------------------------------------------------------------------------------


class Membership:
    """One member. `disk_epoch`: the newest epoch that its state directory knows (0: none)."""

    def __init__(self, config: MemberConfig, disk_epoch: int, sealer: Sealer, entropy: Entropy) -> None:
        self.fence = Fence(config.margin)
        self.view = View()
        self.counters: Counter[str] = Counter()
        self._me = Self(config, disk_epoch)
        self._keys = Keys(config.cluster)
        self._sealer = sealer
        self._entropy = entropy
        self._outputs: deque[Output] = deque()
        self._asked: dict[int, _Pending] = {}
        self._number = 0
        self._begun = False
        self._persisted = False
        self._granted: tuple[int, float] | None = None
        """When the last time of our lease began by our clock, and how long it is."""
        self._read_due_ns = 0
        self._keep_due_ns: int | None = None
        self._watching = False
        self._watch_revision = 0
        self._rotate: set[KeyKind] = set()
        self._announcing: set[KeyKind] = set()
        self._leaving = False
        self._told: tuple[str, str] = ("", "")
        self._told_ns = self._now_ns = 0
        self._store: str | None = None
        self._known_ns = 0
        """Since when we have known this store: it is another one after a restore from a backup."""
        self.calibration = Calibration(config.margin)
        self._read_asked_ns = -1
        """When the newest answered read was asked for."""

    @property
    def epoch(self) -> int:
        """The epoch of this life; 0: it has not begun."""
        return self._me.epoch

    @property
    def secrets(self) -> ClusterSecrets | None:
        """The secrets in use."""
        return self._me.secrets

    def handle(self, now_ns: int, unix_s: float, item: Input | None) -> None:
        """Take in a reply, news of the watch, or (None) that the deadline came."""
        self._now_ns = now_ns
        match item:
            case Replied(number=number, reply=reply):
                pending = self._asked.pop(number, None)
                if pending is None:
                    self.counters["late replies"] += 1
                else:
                    self._replied(now_ns, unix_s, pending, reply)
            case Changed():
                self._read_due_ns = now_ns
            case WatchLost(why=why):
                self.counters["watches lost"] += 1
                self._watching = False
                self._read_due_ns = min(self._read_due_ns, now_ns + int(RETRY_S * NS_PER_S))
                self._tell("watch_lost", why)
            case None:
                pass
        self._run(now_ns, unix_s)

    def persisted(self, now_ns: int, unix_s: float) -> None:
        """The epoch of `PersistEpoch` is on disk."""
        self._persisted = True
        self._run(now_ns, unix_s)

    def rotate(self, now_ns: int, unix_s: float, kind: KeyKind) -> None:
        """Have a new key of this kind made, announced to all members, and then used by all."""
        self._rotate.add(kind)
        self._read_due_ns = now_ns
        self._run(now_ns, unix_s)

    def acknowledge(self, now_ns: int, unix_s: float, version: int) -> None:
        """Nothing here relies on a key that goes when what this version announces becomes active."""
        self._me = replace(self._me, knows=max(self._me.knows, version))
        self._read_due_ns = now_ns
        self._run(now_ns, unix_s)

    def leave(self, now_ns: int, unix_s: float) -> None:
        """Give the lease back: this member serves no more. Others write its life off at once."""
        self._leaving = True
        self.fence.close()
        if self._me.lease:
            self._ask(now_ns, Revoke(self._me.lease))
            self._me = replace(self._me, lease=0)

    def poll(self) -> Output | None:
        """The next output, None when all are drained."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> int | None:
        """When `handle(now_ns, unix_s, None)` has something to do, ns."""
        if self._leaving:
            return None
        due = [pending.until_ns for pending in self._asked.values()]
        if self.calibration.due_ns is not None:
            due.append(self.calibration.due_ns)
        if self._keep_due_ns is not None and not self._is_asked(KeepAlive):
            due.append(self._keep_due_ns)
        if not self._busy():
            due.append(self._read_due_ns)
        return min(due, default=None)

    # --- replies ---------------------------------------------------------------------------------

    def _replied(self, now_ns: int, unix_s: float, pending: _Pending, reply: Reply) -> None:
        if pending.calibrating:
            self._measured(now_ns, pending, reply)
            return
        if isinstance(reply, Failed):
            self._failed(now_ns, pending, reply.why)
            return
        match pending.request, reply:
            case Range(), RangeReply():
                self._read_asked_ns = max(self._read_asked_ns, pending.asked_ns)
                self._read(now_ns, unix_s, reply)
            case Grant(ttl_s=asked_s), GrantReply(ttl_s=granted_s):
                self._me = replace(self._me, lease=reply.lease)
                if granted_s > asked_s:
                    why = f"{asked_s:g} s were asked for: a dead member is written off so much later"
                    self._tell("lease_longer", why, {"granted_s": granted_s})
                self._lasts(pending.asked_ns, reply.ttl_s)
                self._read_due_ns = now_ns
            case KeepAlive(), KeepAliveReply():
                self._kept(now_ns, pending, reply.ttl_s)
            case Txn(), TxnReply():
                self._written(now_ns, pending, reply.succeeded)
            case _:
                pass

    def _failed(self, now_ns: int, pending: _Pending, why: str) -> None:
        self.counters[f"failed: {type(pending.request).__name__.lower()}"] += 1
        self._tell("store_unreachable", why)
        retry_ns = now_ns + int(RETRY_S * NS_PER_S)
        match pending.request:
            case KeepAlive():
                self._keep_due_ns = retry_ns
            case Watch():
                self._watching = False
                self._read_due_ns = retry_ns
            case _:
                self._read_due_ns = retry_ns
                if self._keep_due_ns is not None:
                    self._keep_due_ns = min(self._keep_due_ns, retry_ns)  # the lease may be gone

    def _measured(self, now_ns: int, pending: _Pending, reply: Reply) -> None:
        if isinstance(reply, Failed):
            self.counters["failed: calibration"] += 1
        before = self.calibration.slow
        self.calibration.replied(pending.asked_ns, now_ns, reply)
        slow = self.calibration.slow
        if before is not None and slow is None:
            self._read_due_ns = now_ns
        if before is not None or slow is None:
            return
        # Whoever waited for our lease to run out would rely on our fence, and that on our clock. So this life
        # is over first, and then the lease is given back: our peers need not wait.
        self.counters["clock slow"] += 1
        why = f"it counted {slow.ours_s:.2f} s at most while the store counted {slow.theirs_s} s"
        self._outputs.append(Trouble("clock_slow", why, {"ratio": round(slow.ratio, 3)}))
        self._asked = {number: asked for number, asked in self._asked.items() if asked.calibrating}
        self.fence.close()
        if self._me.epoch:
            self._over("our clock is slower than the store's")
        if self._me.lease:
            self._ask(now_ns, Revoke(self._me.lease))
        self._me = replace(self._me, lease=0)
        self._granted, self._keep_due_ns = None, None

    def _kept(self, now_ns: int, pending: _Pending, ttl_s: float) -> None:
        if ttl_s > 0:
            self._lasts(pending.asked_ns, ttl_s)
            if self._told[0] in ("store_unreachable", "watch_lost"):
                self._tell("", "")
            if not self.fence.is_open(now_ns):
                self._read_due_ns = now_ns
            return
        self.counters["leases lost"] += 1
        # The store was out of our reach so long, and perhaps of everybody's: the others may be about to
        # come back as we are.
        self._known_ns = now_ns
        self._me = replace(self._me, lease=0)
        self._granted, self._keep_due_ns = None, None
        self.fence.close()
        self._read_due_ns = now_ns

    def _lasts(self, asked_ns: int, ttl_s: float) -> None:
        """Our lease lasts so long. etcd may grant more than was asked for; but our record tells the others
        what was asked for, and by that they judge when we have stopped."""
        ttl_s = min(ttl_s, self._me.config.ttl_s)
        self._granted = (asked_ns, ttl_s)
        self._keep_due_ns = asked_ns + int(ttl_s / KEEPALIVES * NS_PER_S)

    def _written(self, now_ns: int, pending: _Pending, succeeded: bool) -> None:
        self._read_due_ns = now_ns
        step = pending.step
        if step is None:
            return
        self.counters[f"{step.kind}: {'done' if succeeded else 'outrun'}"] += 1
        if succeeded and step.kind == "announce":
            self._rotate -= self._announcing
        if succeeded and step.kind == "register":
            self._me = replace(self._me, epoch=step.epoch, disk_epoch=step.epoch)
            self._outputs.append(PersistEpoch(step.epoch))

    def _read(self, now_ns: int, unix_s: float, reply: RangeReply) -> None:
        try:
            view = read_view(self._keys, reply.revision, reply.items)
        except RecordError as error:
            self.counters["unreadable records"] += 1
            self._tell("cluster_record_unreadable", str(error))
            self._read_due_ns = now_ns + int(RETRY_S * NS_PER_S)
            return
        if reply.store != self._store or view.revision < self.view.revision:
            self._known_ns = now_ns
            if self._store is not None:
                if self._me.epoch and not self.fence.is_open(now_ns):
                    # The store before may have said that this life is over, and nobody knows it any more.
                    self._over("the store was restored from a backup while we were fenced")
                # Restored from a backup: what was written after it is no fact any more.
                self.counters["store restored"] += 1
                self._tell("store_restored", f"from revision {self.view.revision} to {view.revision}")
            self._store = reply.store
        changed = replace(view, revision=0) != replace(self.view, revision=0)
        self.view = view
        ttls = [self._me.config.ttl_s, *(record.ttl for record in view.members.values())]
        certain_ns = self._known_ns + int(DOUBT_TTLS * max(ttls) * NS_PER_S)
        if now_ns <= certain_ns:
            self._read_due_ns = min(self._read_due_ns, certain_ns + 1)
        if changed:
            self._outputs.append(ViewChanged(view))
        if not self._watching:
            self._watching = True
            self._ask(now_ns, Watch(self._keys.prefix, view.revision))
        self._owe(now_ns, unix_s)

    # --- what is owed ----------------------------------------------------------------------------

    def _owe(self, now_ns: int, unix_s: float) -> None:
        if self.calibration.slow is not None:
            return
        try:
            step = next_step(
                self.view,
                self._me,
                self._sealer,
                self._entropy,
                unix_s,
                known_s=(now_ns - self._known_ns) / NS_PER_S,
            )
            if step is None and self._rotate and self._me.secrets is not None:
                step = rotation_step(self.view, self._me, self._rotate, self._sealer, self._entropy, unix_s)
                # Owed until it is done: this transaction may be outrun, or its answer be lost.
                self._announcing = set(self._rotate)
                if step is None:
                    self._rotate.clear()
        except SecretsError as error:
            self._tell("cluster_key_wrong", str(error))
            self._read_due_ns = now_ns + int(RETRY_S * NS_PER_S)
            self.fence.close()
            return
        if step is None:
            self._tell("", "")
            return
        match step.kind:
            case "life over":
                self._over("another member has written this life off")
            case "number taken":
                self.fence.close()
                self._tell("member_number_taken", f"another machine is member {self._me.config.number}")
                self._read_due_ns = now_ns + int(RETRY_S * NS_PER_S)
            case "number in doubt":
                self._tell("member_number_in_doubt", *doubt_of(self.view, self._me))
                self._read_due_ns = now_ns + int(RETRY_S * NS_PER_S)
            case "load secrets":
                assert step.secrets is not None and self.view.secrets is not None
                is_same, loaded = step.secrets == self._me.secrets, self.view.secrets.sealed
                self._me = replace(self._me, secrets=step.secrets, loaded=loaded)
                if not self._begun:
                    self._me = replace(self._me, knows=step.secrets.version)
                elif not is_same:
                    self._outputs.append(SecretsChanged(step.secrets))
                self._owe(now_ns, unix_s)
            case _:
                assert step.request is not None
                self._ask(now_ns, step.request, step)

    def _over(self, why: str) -> None:
        self.counters["lives over"] += 1
        self.fence.close()
        # The secrets are kept: the store that ended this life may be a backup that lacks them.
        secrets = self._me.secrets
        self._me = replace(self._me, epoch=0, knows=0 if secrets is None else secrets.version)
        self._begun = self._persisted = False
        self._outputs.append(LifeOver(why))
        self._read_due_ns = 0

    def _run(self, now_ns: int, unix_s: float) -> None:
        if self._leaving:
            return
        for number, pending in list(self._asked.items()):
            if now_ns >= pending.until_ns:
                del self._asked[number]
                self._replied(now_ns, unix_s, pending, Failed("no answer"))
        if (question := self.calibration.poll(now_ns)) is not None:
            self._ask(now_ns, question, calibrating=True)
        if self._keep_due_ns is not None and now_ns >= self._keep_due_ns and not self._is_asked(KeepAlive):
            self._ask(now_ns, KeepAlive(self._me.lease))
        self._serve(now_ns)
        if now_ns >= self._read_due_ns and not self._busy():
            # Set now and not with the reply, so that news that comes meanwhile has us read once more.
            self._read_due_ns = now_ns + int(REREAD_S * NS_PER_S)
            self._ask(now_ns, Range(self._keys.prefix))

    def _serve(self, now_ns: int) -> None:
        """Open the fence as far as the lease goes, if there is nothing else that this member must know."""
        me, lease = self._me, self.view.leases.get(self._me.config.number)
        ready = (
            self._persisted
            and me.secrets is not None
            and self.view.secrets is not None
            and self.view.secrets.version == me.secrets.version
            and self._granted is not None
            and lease is not None
            and (lease.lease, lease.epoch) == (me.lease, me.epoch)
        )
        if not ready or self._granted is None or me.secrets is None:
            return
        closed_ns = self.fence.until_ns
        if closed_ns is not None and closed_ns <= now_ns and self._read_asked_ns < closed_ns:
            # It has closed by itself: what we know is from before, and a keepalive says nothing about
            # whether somebody has written us off since (a deposed leader of etcd answers it all the same).
            return
        self.fence.renewed(*self._granted, self.calibration.rate(now_ns))
        if not self._begun:
            self._begun = True
            self._outputs.append(LifeBegins(me.epoch, me.secrets))

    def _ask(
        self, now_ns: int, request: Request, step: Step | None = None, *, calibrating: bool = False
    ) -> None:
        self._number += 1
        if not isinstance(request, Watch):
            until_ns = now_ns + int(PATIENCE_S * NS_PER_S)
            self._asked[self._number] = _Pending(request, now_ns, until_ns, step, calibrating)
        self._outputs.append(Asked(self._number, request))

    def _busy(self) -> bool:
        return any(
            not isinstance(pending.request, KeepAlive) and not pending.calibrating
            for pending in self._asked.values()
        )

    def _is_asked(self, kind: type[Request]) -> bool:
        return any(isinstance(pending.request, kind) for pending in self._asked.values())

    def _tell(self, kind: str, why: str, numbers: Mapping[str, float] = MappingProxyType({})) -> None:
        """Once for each trouble, until it is over; other words for the same one now and then."""
        again = why != self._told[1] and self._now_ns - self._told_ns >= AGAIN_S * NS_PER_S
        if kind != self._told[0] or again:
            self._told, self._told_ns = (kind, why), self._now_ns
            if kind:
                self._outputs.append(Trouble(kind, why, numbers))


@dataclass(frozen=True, slots=True)
class _Pending:
    request: Request
    asked_ns: int
    until_ns: int
    step: Step | None
    calibrating: bool = False
