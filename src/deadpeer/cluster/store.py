"""What a member asks of the store that all members share, and what the store answers, as values.

The store is etcd, or something with its guarantees: every key has the revision of its last change, a
transaction compares such revisions and writes, or does nothing; a range read is linearizable; keys bound
to a lease go when it runs out. `gateway.etcd` carries requests out, a simulator does so in virtual time.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Item:
    """A key as it is stored. `revision`: of its last change. `lease`: 0 if it is bound to none."""

    key: str
    value: bytes = field(repr=False)
    revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key, bound to a lease if that is not 0."""

    key: str
    value: bytes = field(repr=False)
    lease: int = 0


# --- requests ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range:
    """Read all keys that begin with `prefix`, linearizably."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A new lease of `ttl_s` seconds."""

    ttl_s: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Begin the lease's time anew."""

    lease: int


@dataclass(frozen=True, slots=True)
class TimeToLive:
    """How much of the lease's time is left."""

    lease: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """Give a lease back, and with it the keys that are bound to it."""

    lease: int


@dataclass(frozen=True, slots=True)
class Txn:
    """If each key's last change has the revision given here (0: there is no such key), write all `puts`."""

    unchanged: tuple[tuple[str, int], ...]
    puts: tuple[Put, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """Report changes of keys that begin with `prefix`, after this revision. Replaces an earlier watch."""

    prefix: str
    after: int


Request = Range | Grant | KeepAlive | TimeToLive | Revoke | Txn | Watch


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with the number that its reply will bear."""

    number: int
    request: Request


# --- replies -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RangeReply:
    """`revision`: of the whole store at the moment of reading. `store`: which store it is; another one after
    a restore from a backup."""

    revision: int
    items: tuple[Item, ...]
    store: str = ""


@dataclass(frozen=True, slots=True)
class GrantReply:
    """`term`: another one for each leader of the store."""

    lease: int
    ttl_s: float
    term: int = 0


@dataclass(frozen=True, slots=True)
class KeepAliveReply:
    """`ttl_s` 0: there is no such lease any more."""

    ttl_s: float


@dataclass(frozen=True, slots=True)
class TimeToLiveReply:
    """`ttl_s`: whole seconds that are left, rounded down, by the leader's clock; -1: there is no such lease
    any more. `term`: as in GrantReply."""

    lease: int
    ttl_s: int
    term: int


@dataclass(frozen=True, slots=True)
class TxnReply:
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Done:
    """Of a Revoke."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer, or an error: whether the request was carried out is not known. `why` for people."""

    why: str


Reply = RangeReply | GrantReply | KeepAliveReply | TimeToLiveReply | TxnReply | Done | Failed


@dataclass(frozen=True, slots=True)
class Replied:
    """The reply to the request of that number."""

    number: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class Changed:
    """Something under the watched prefix changed. What it is, a Range will say."""


@dataclass(frozen=True, slots=True)
class WatchLost:
    """The watch ended: changes may have been missed."""

    why: str


Input = Replied | Changed | WatchLost
