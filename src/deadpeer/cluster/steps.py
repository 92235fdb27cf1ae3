"""The one next thing that a member owes the store. Pure: a table of conditions, each with its transaction.

A transaction does nothing if anything that it was decided by has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from deadpeer.cluster.fence import Margin
from deadpeer.cluster.records import (
    Keys,
    LeaseRecord,
    MemberRecord,
    SealedSecrets,
    View,
    write_lease,
    write_member,
    write_secrets,
)
from deadpeer.cluster.secrets import SECRET_SIZE, ClusterSecrets, KeyKind, Sealer, first_secrets
from deadpeer.cluster.store import Grant, Put, Request, Txn
from deadpeer.crypto import Entropy

LEAST_TTL_S = 2
"""etcd grants no shorter lease: one and a half of its election timeout, in whole seconds, which is 1 s unless
somebody has changed it."""
WRITE_OFF_S = 1
"""Between the end of a lease and the write-off, at most: etcd looks for leases that have run out every half
second; then it is a read and a transaction."""
LEAST_LEASE_S = LEAST_TTL_S + WRITE_OFF_S
"""Within less a dead member can't be written off."""
DOUBT_TTLS = 1.2
"""Times of a lease: how long it is not known whether a lease that is not there has ended."""


def ttl_of(lease_s: int) -> int:
    """For how long to ask the store for a lease, seconds, so that a member that died is written off `lease_s`
    after its death at the latest. At least `LEAST_TTL_S`."""
    return max(LEAST_TTL_S, lease_s - WRITE_OFF_S)


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """Who this member is. `machine`: anything that no other machine has. `ttl_s`: of the lease, seconds."""

    cluster: str
    number: int
    machine: str
    forward: str = ""
    ttl_s: int = ttl_of(5)
    margin: Margin = field(default_factory=Margin)


@dataclass(frozen=True, slots=True)
class Self:
    """What a member knows of itself. `epoch` 0: no life yet. `lease` 0: none."""

    config: MemberConfig
    disk_epoch: int
    epoch: int = 0
    lease: int = 0
    secrets: ClusterSecrets | None = None
    knows: int = 0
    """The version of the secrets that nothing of ours relies on an older one for."""
    loaded: bytes = field(default=b"", repr=False)
    """These secrets as they are sealed in the store."""


@dataclass(frozen=True, slots=True)
class Step:
    """`kind` names it. `request` None: nothing can be done but wait."""

    kind: str
    request: Request | None = None
    epoch: int = 0
    secrets: ClusterSecrets | None = field(default=None, repr=False)


def next_step(
    view: View, me: Self, sealer: Sealer, entropy: Entropy, unix_s: float, *, known_s: float
) -> Step | None:
    """What this member owes the store as it stands in `view`; None: nothing.

    `known_s`: how long we have known this store, seconds. Before that is as long as a lease can last, one
    that is not there may have been forgotten in a restore from a backup, and its holder may still serve.
    """
    keys, number = Keys(me.config.cluster), me.config.number
    mine, lease = view.members.get(number), view.leases.get(number)
    if me.epoch and mine is not None and mine.ended >= me.epoch:
        return Step("life over")
    if me.epoch and mine is not None and mine.registered > me.epoch:
        return Step("life over")
    if lease is not None and lease.machine != me.config.machine:
        return Step("number taken")
    if not me.lease:
        return Step("grant", Grant(me.config.ttl_s))
    own = LeaseRecord(me.epoch, me.config.machine, me.config.forward, me.knows)
    lease_is = (keys.lease(number), 0 if lease is None else lease.revision)
    if not me.epoch:
        if lease is None and not _may_take(mine, me, known_s):
            return Step("number in doubt")
        registered, ended = (mine.registered, mine.ended) if mine is not None else (0, 0)
        epoch = max(me.disk_epoch, registered) + 1
        # Our earlier lives are over: this process is the only one that may use our state directory.
        record = MemberRecord(epoch, max(ended, epoch - 1), me.config.ttl_s)
        puts = (
            Put(keys.member(number), write_member(record)),
            Put(keys.lease(number), write_lease(replace(own, epoch=epoch)), me.lease),
        )
        member_is = (keys.member(number), 0 if mine is None else mine.revision)
        return Step("register", Txn((member_is, lease_is), puts), epoch)
    forgotten = mine is None or mine.registered < me.epoch  # the store was restored from a backup
    if forgotten or lease is None or (lease.lease, lease.epoch) != (me.lease, me.epoch):
        # Not written off: this life goes on.
        record = MemberRecord(me.epoch, me.epoch - 1, me.config.ttl_s)
        member_is = (keys.member(number), 0 if mine is None else mine.revision)
        puts = (
            Put(keys.member(number), write_member(record)),
            Put(keys.lease(number), write_lease(own), me.lease),
        )
        return Step("go on", Txn((member_is, lease_is), puts))
    owed = _secrets_step(view, me, sealer, entropy, unix_s, own, lease)
    return owed or _write_off_step(view, keys, me, known_s)


def _secrets_step(
    view: View,
    me: Self,
    sealer: Sealer,
    entropy: Entropy,
    unix_s: float,
    own: LeaseRecord,
    lease: LeaseRecord,
) -> Step | None:
    keys = Keys(me.config.cluster)
    if view.secrets is None:
        # The first member of all makes them; one that has them puts them back after a loss of the store.
        secrets = me.secrets or first_secrets(entropy, unix_s)
        sealed = write_secrets(sealer.seal(secrets, entropy))
        return Step("found secrets", Txn(((keys.secrets, 0),), (Put(keys.secrets, sealed),)))
    is_new = me.secrets is None or view.secrets.sealed != me.loaded
    found = sealer.open(view.secrets) if is_new and not _is_older(view.secrets, me.secrets) else None
    if me.secrets is not None and (
        _is_older(view.secrets, me.secrets) or (found is not None and _other_founding(found, me.secrets))
    ):
        # The store was restored from a backup; or it was lost, and somebody has made first secrets. What we
        # have made things with must not be forgotten.
        newer = sealer.seal(replace(me.secrets, version=me.secrets.version + 1), entropy)
        put = Put(keys.secrets, write_secrets(newer))
        return Step("put secrets back", Txn(((keys.secrets, view.secrets.revision),), (put,)))
    if me.secrets is None or found is not None:
        return Step("load secrets", secrets=found)
    if lease.knows != me.knows:
        put = Put(keys.lease(me.config.number), write_lease(own), me.lease)
        return Step("acknowledge secrets", Txn(((put.key, lease.revision),), (put,)))
    behind = any(other.knows < me.secrets.version for other in view.leases.values())
    if me.secrets.announced and not behind and me.config.number == min(view.leases):
        sealed = write_secrets(sealer.seal(me.secrets.activate(), entropy))
        return Step("activate", Txn(((keys.secrets, view.secrets.revision),), (Put(keys.secrets, sealed),)))
    return None


def _is_older(sealed: SealedSecrets, ours: ClusterSecrets | None) -> bool:
    return ours is not None and sealed.version < ours.version


def _other_founding(found: ClusterSecrets, ours: ClusterSecrets) -> bool:
    """Of the same version, and not one key is the same. Of two versions the lower one gives way, else two
    would put theirs back in turn."""
    theirs = {key.secret for key in found.keys}
    return found.version == ours.version and not any(key.secret in theirs for key in ours.keys)


def _write_off_step(view: View, keys: Keys, me: Self, known_s: float) -> Step | None:
    for number, record in sorted(view.members.items()):
        if number == me.config.number or number in view.leases or record.ended >= record.registered:
            continue
        if _is_over(record, me, known_s):
            over = replace(record, ended=record.registered)
            conditions = ((keys.lease(number), 0), (keys.member(number), record.revision))
            return Step("write off", Txn(conditions, (Put(keys.member(number), write_member(over)),)))
    return None


def _may_take(mine: MemberRecord | None, me: Self, known_s: float) -> bool:
    """Whether nobody can serve under our number, which has no lease.

    That its last life is ours and over says our own disk; of a number that another machine had, or that the
    store does not know, a restore may have forgotten a life that goes on.
    """
    if mine is not None and mine.ended >= mine.registered == me.disk_epoch:
        return True
    return known_s >= _doubt_s(mine, me)


def _doubt_s(mine: MemberRecord | None, me: Self) -> float:
    return DOUBT_TTLS * max(me.config.ttl_s, mine.ttl if mine is not None else 0)


def doubt_of(view: View, me: Self) -> tuple[str, dict[str, float]]:
    """Why our number can't be taken yet, and for how long after the first look at the store, for a person.

    An empty store looks the same whether it is the first start of all, or replaces one that was lost while
    members served.
    """
    mine, number = view.members.get(me.config.number), me.config.number
    wait_s = round(_doubt_s(mine, me), 1)
    what = (
        f"etcd has no record of a member {number}" if mine is None else f"member {number} is not ours by disk"
    )
    why = (
        f"{what}: if etcd was replaced or restored, one of that number may still serve, for a lease at most;"
        f" waiting {wait_s:g} s since the first look, once"
    )
    return why, {"wait_s": wait_s}


def _is_over(record: MemberRecord, me: Self, known_s: float) -> bool:
    """Whether nobody can serve in a life of this member that has no lease."""
    longest_s = DOUBT_TTLS * max(record.ttl, me.config.ttl_s)
    return record.ended >= record.registered or known_s >= longest_s


def rotation_step(
    view: View, me: Self, kinds: Iterable[KeyKind], sealer: Sealer, entropy: Entropy, unix_s: float
) -> Step | None:
    """Announce new keys of these kinds; None if there are no secrets yet, or such keys are announced."""
    if me.secrets is None or view.secrets is None:
        return None
    keys, wanted = Keys(me.config.cluster), me.secrets
    for kind in sorted(kinds):
        wanted = wanted.announce(kind, entropy.octets(SECRET_SIZE), unix_s)
    if wanted is me.secrets:
        return None
    sealed = write_secrets(sealer.seal(replace(wanted, version=me.secrets.version + 1), entropy))
    return Step("announce", Txn(((keys.secrets, view.secrets.revision),), (Put(keys.secrets, sealed),)))
