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

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from deadpeer.crash.options import CrashOptions
from deadpeer.rates import Bucket, BucketTable, Rate, source_key, useful_size
from deadpeer.values import NS_PER_S


class Kind(Enum):
    """Kinds of questions; each has budgets of its own."""

    RETURNING = "returning"
    """A protected request with an SPI of ours from an ended epoch, whoever may have collected it and when."""
    MAPPED_IKE = "mapped-ike"
    """The same with a pair of SPIs that the SPI map has: of an SA that the crash ended."""
    RECENT = "recent"
    """The same from this epoch, of an SA that is gone."""
    MAPPED = "mapped"
    """An ESP packet with an SPI of an ended epoch that the SPI map has."""
    ESP = "esp"
    """An ESP packet with any other unknown SPI."""
    GARBAGE = "garbage"
    """A protected request, or a CHECK_SPI, with an SPI that is none of ours."""
    CHECK = "check"
    """CHECK_SPI about an IKE SPI of ours from an ended epoch."""
    CHECK_RECENT = "check-recent"
    """The same from this epoch: anybody can get such an SPI."""
    CHECK_LIVING = "check-living"
    """CHECK_SPI about a living SA, from the address of its peer."""
    CHECK_ESP = "check-esp"
    """CHECK_SPI about an unknown ESP SPI."""


_SPIS_OF: Mapping[Kind, Kind] = {Kind.MAPPED_IKE: Kind.RETURNING}
"""Kinds that are charged to another one's SPIs: when a peer is back, or its record goes, its pair changes
from the one to the other, and is still the same pair. Sources are not shared: whoever forges a peer's
address would use up there what is the peer's."""


class Limiter:
    """`allow` says whether a stranger gets an answer. `boot_ns`: when the boot window began.

    `ended_lives`: of other members for whom we speak. Another one is as a boot of ours: its peers come to us,
    all at once, and the window begins anew.
    """

    def __init__(self, boot_ns: int, options: CrashOptions, ended_lives: int = 0) -> None:
        self._window_ns = int(options.boot_window_s * NS_PER_S)
        self._boot_end_ns = boot_ns + self._window_ns
        self._ended_lives = ended_lives
        self._boot = {kind: _limits(options, kind, options.boot_factor) for kind in Kind}
        self._later = {kind: _limits(options, kind, 1.0) for kind in Kind}
        self._spis = {kind: BucketTable(self._spis_that_count(kind)) for kind in Kind if kind not in _SPIS_OF}
        self._kinds = {
            kind: _KindBuckets(
                boot_ns, self._boot[kind], self._later[kind], self._spis[_SPIS_OF.get(kind, kind)]
            )
            for kind in Kind
        }

    def allow(self, now_ns: int, source: str, kind: Kind, spi: bytes) -> bool:
        """Whether to answer a question of `kind` from the IP address `source` about `spi` (ours, or ESP's).

        Grants charge the SPI, the source and the total; refusals charge nothing.
        """
        limits = (self._boot if now_ns < self._boot_end_ns else self._later)[kind]
        return self._kinds[kind].allow(now_ns, limits, source_key(source), spi)

    def heed(self, now_ns: int, ended_lives: int) -> None:
        """So many lives of other members have ended by now."""
        if ended_lives > self._ended_lives:
            self._boot_end_ns = now_ns + self._window_ns
        self._ended_lives = ended_lives

    def sizes(self) -> dict[str, int]:
        """How many entries the tables hold."""
        sizes = {}
        for kind, buckets in self._kinds.items():
            sizes[f"limiter.{kind.value}.sources"] = len(buckets.sources)
        for kind, spis in self._spis.items():
            sizes[f"limiter.{kind.value}.spis"] = len(spis)
        return sizes

    def _spis_that_count(self, kind: Kind) -> int:
        """How many entries of this kind's table, and of those that share it, can be less than full."""
        sharing = [kind, *(other for other, whose in _SPIS_OF.items() if whose is kind)]
        limits = (self._boot, self._later)
        return sum(max(useful_size(each[k].spi, each[k].total) for each in limits) for k in sharing)


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
        case Kind.MAPPED | Kind.MAPPED_IKE:
            total = Rate(options.mapped_rate, options.mapped_burst)
        case Kind.ESP:
            total = Rate(options.esp_rate, options.esp_burst)
        case Kind.CHECK | Kind.CHECK_RECENT | Kind.CHECK_LIVING:
            total = Rate(options.check_rate, options.check_burst)
        case Kind.CHECK_ESP:
            total = Rate(options.check_esp_rate, options.check_esp_burst)
    return _Limits(spi, source.times(factor), total.times(factor))


class _KindBuckets:
    __slots__ = ("_total", "sources", "spis")

    def __init__(self, now_ns: int, boot: _Limits, later: _Limits, spis: BucketTable) -> None:
        self._total = Bucket(now_ns, boot.total)
        self.sources = BucketTable(
            max(useful_size(boot.source, boot.total), useful_size(later.source, later.total))
        )
        self.spis = spis

    def allow(self, now_ns: int, limits: _Limits, source: bytes, spi: bytes) -> bool:
        if not self.spis.has(now_ns, spi, limits.spi) or not self.sources.has(now_ns, source, limits.source):
            return False
        if not self._total.take(now_ns, limits.total):
            return False
        self.spis.take(now_ns, spi, limits.spi)
        self.sources.take(now_ns, source, limits.source)
        return True
