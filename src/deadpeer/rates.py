"""What strangers can cost at most: how large an answer is, how often there is one. Token buckets, and tables
of them that a flood can neither fill nor use to silence somebody."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from math import ceil

from deadpeer.values import NS_PER_S

AMPLIFICATION = 3
"""An answer to a source that may be forged is at most so many times as large as the question, octets of UDP
payload counted."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many per second, after a burst of so many."""

    per_s: float
    burst: float

    def times(self, factor: float) -> Rate:
        return Rate(self.per_s * factor, self.burst * factor)

    @property
    def refill_s(self) -> float:
        """How long an empty bucket takes to be full."""
        return self.burst / self.per_s if self.per_s > 0 else float("inf")


class Bucket:
    """One token bucket, full at first. Time is monotonic nanoseconds."""

    __slots__ = ("_at_ns", "_level")

    def __init__(self, now_ns: int, rate: Rate) -> None:
        self._at_ns = now_ns
        self._level = rate.burst

    def has(self, now_ns: int, rate: Rate, besides: int = 0) -> bool:
        """Whether there is one to take, besides so many that are spoken for."""
        return self._refilled(now_ns, rate) >= 1 + besides

    def take(self, now_ns: int, rate: Rate) -> bool:
        """Take one if there is one."""
        level = self._refilled(now_ns, rate)
        granted = level >= 1
        self._level = level - 1 if granted else level
        self._at_ns = max(now_ns, self._at_ns)
        return granted

    def full(self, now_ns: int, rate: Rate) -> bool:
        """Whether it says the same as a new one."""
        return self._refilled(now_ns, rate) >= rate.burst

    def _refilled(self, now_ns: int, rate: Rate) -> float:
        elapsed_s = max(0, now_ns - self._at_ns) / NS_PER_S
        return min(rate.burst, self._level + elapsed_s * rate.per_s)


class BucketTable:
    """Buckets by key, the least recently charged first."""

    __slots__ = ("_buckets", "_size")

    def __init__(self, size: int) -> None:
        self._buckets: OrderedDict[bytes, Bucket] = OrderedDict()
        self._size = size

    def __len__(self) -> int:
        return len(self._buckets)

    def has(self, now_ns: int, key: bytes, rate: Rate) -> bool:
        bucket = self._buckets.get(key)
        return rate.burst >= 1 if bucket is None else bucket.has(now_ns, rate)

    def take(self, now_ns: int, key: bytes, rate: Rate) -> None:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(now_ns, rate)
        bucket.take(now_ns, rate)
        self._buckets.move_to_end(key)
        self._trim(now_ns, rate)

    def _trim(self, now_ns: int, rate: Rate) -> None:
        while self._buckets:
            key, oldest = next(iter(self._buckets.items()))
            if len(self._buckets) <= self._size and not oldest.full(now_ns, rate):
                return
            del self._buckets[key]


@lru_cache(maxsize=4096)
def source_key(host: str) -> bytes:
    """Whom a limit per source means: an IPv4 address, or the /64 of an IPv6 address (one subscriber)."""
    ip = ip_address(host)
    if isinstance(ip, IPv4Address):
        return ip.packed
    return ip.ipv4_mapped.packed if ip.ipv4_mapped is not None else ip.packed[:8]


def useful_size(each: Rate, total: Rate) -> int:
    """How many entries of a table can be less than full at one time; never more than 2**17."""
    if each.per_s <= 0:
        return 1 << 17
    return ceil(min(total.per_s * each.refill_s + total.burst + 1, 1 << 17))
