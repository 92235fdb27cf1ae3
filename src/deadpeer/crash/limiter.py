"""Token buckets for answers to strangers: per SPI, per source and in total, for each kind of question.

Bounded tables can't be used to silence somebody, by construction: an entry is charged only when the
answer is granted by the total bucket as well, so a table gets at most `total` new entries per second,
and an entry that has refilled says the same as no entry. So at most total.rate x (burst / rate) +
total.burst entries carry anything, the tables are that large, and what is evicted is refilled. If it
were not (the clock's grain), eviction forgives: it makes a source's bucket full, never empty.

What spoofed sources can do at worst is to use up the total bucket of the kinds that need no knowledge of
an SPI of ours: garbage (nobody misses it) and ESP (then a peer's own silence detection starts its
liveness check instead of our hint).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from math import ceil

from deadpeer.crash.options import CrashOptions
from deadpeer.values import NS_PER_S


class Kind(Enum):
    """Kinds of questions; each has budgets of its own."""

    RETURNING = "returning"
    """A protected request with an SPI of ours from an ended epoch."""
    RECENT = "recent"
    """The same from this epoch, of an SA that is gone."""
    MAPPED = "mapped"
    """An ESP packet with an SPI of an ended epoch that the SPI map has."""
    ESP = "esp"
    """An ESP packet with any other unknown SPI."""
    GARBAGE = "garbage"
    """A protected request, or a CHECK_SPI, with an SPI that is none of ours."""
    CHECK = "check"
    """CHECK_SPI about an IKE SPI of ours that is gone."""
    CHECK_LIVING = "check-living"
    """CHECK_SPI about a living SA, from the address of its peer."""
    CHECK_ESP = "check-esp"
    """CHECK_SPI about an unknown ESP SPI."""


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

    def has(self, now_ns: int, rate: Rate) -> bool:
        """Whether there is one to take."""
        return self._refilled(now_ns, rate) >= 1

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


class Limiter:
    """`allow` says whether a stranger gets an answer. `boot_ns`: when the boot window began."""

    def __init__(self, boot_ns: int, options: CrashOptions) -> None:
        self._boot_end_ns = boot_ns + int(options.boot_window_s * NS_PER_S)
        self._boot = {kind: _limits(options, kind, options.boot_factor) for kind in Kind}
        self._later = {kind: _limits(options, kind, 1.0) for kind in Kind}
        self._kinds = {kind: _KindBuckets(boot_ns, self._boot[kind], self._later[kind]) for kind in Kind}

    def allow(self, now_ns: int, source: str, kind: Kind, spi: bytes) -> bool:
        """Whether to answer a question of `kind` from the IP address `source` about `spi` (ours, or ESP's).

        Grants charge the SPI, the source and the total; refusals charge nothing.
        """
        limits = (self._boot if now_ns < self._boot_end_ns else self._later)[kind]
        return self._kinds[kind].allow(now_ns, limits, source_key(source), spi)

    def sizes(self) -> dict[str, int]:
        """How many entries the tables hold."""
        sizes = {}
        for kind, buckets in self._kinds.items():
            sizes[f"limiter.{kind.value}.sources"] = len(buckets.sources)
            sizes[f"limiter.{kind.value}.spis"] = len(buckets.spis)
        return sizes


@lru_cache(maxsize=4096)
def source_key(host: str) -> bytes:
    """Whom a limit per source means: an IPv4 address, or the /64 of an IPv6 address (one subscriber)."""
    ip = ip_address(host)
    if isinstance(ip, IPv4Address):
        return ip.packed
    return ip.ipv4_mapped.packed if ip.ipv4_mapped is not None else ip.packed[:8]


@dataclass(frozen=True, slots=True)
class _Limits:
    spi: Rate
    source: Rate
    total: Rate


def _limits(options: CrashOptions, kind: Kind, factor: float) -> _Limits:
    source = Rate(options.source_rate, options.source_burst)
    spi = Rate(options.spi_rate, options.spi_burst)
    match kind:
        case Kind.GARBAGE:
            garbage = Rate(options.garbage_rate, options.garbage_burst)
            return _Limits(spi, source, garbage)
        case Kind.RETURNING:
            total = Rate(options.total_rate, options.total_burst)
        case Kind.RECENT:
            total = Rate(options.recent_rate, options.recent_burst)
        case Kind.MAPPED:
            total = Rate(options.mapped_rate, options.mapped_burst)
        case Kind.ESP:
            total = Rate(options.esp_rate, options.esp_burst)
        case Kind.CHECK | Kind.CHECK_LIVING:
            total = Rate(options.check_rate, options.check_burst)
        case Kind.CHECK_ESP:
            total = Rate(options.check_esp_rate, options.check_esp_burst)
    return _Limits(spi, source.times(factor), total.times(factor))


class _Table:
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


class _KindBuckets:
    __slots__ = ("_total", "sources", "spis")

    def __init__(self, now_ns: int, boot: _Limits, later: _Limits) -> None:
        self._total = Bucket(now_ns, boot.total)
        self.sources = _Table(max(_useful(boot.source, boot.total), _useful(later.source, later.total)))
        self.spis = _Table(max(_useful(boot.spi, boot.total), _useful(later.spi, later.total)))

    def allow(self, now_ns: int, limits: _Limits, source: bytes, spi: bytes) -> bool:
        if not self.spis.has(now_ns, spi, limits.spi) or not self.sources.has(now_ns, source, limits.source):
            return False
        if not self._total.take(now_ns, limits.total):
            return False
        self.spis.take(now_ns, spi, limits.spi)
        self.sources.take(now_ns, source, limits.source)
        return True


def _useful(each: Rate, total: Rate) -> int:
    """How many entries of a table can be less than full at one time; never more than 2**17."""
    if each.per_s <= 0:
        return 1 << 17
    return ceil(min(total.per_s * each.refill_s + total.burst + 1, 1 << 17))
