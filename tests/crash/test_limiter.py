"""The limiter: bounds hold, and a flood does not silence those who ask rarely."""

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crash.limiter import Kind, Limiter
from deadpeer.crash.options import CrashOptions
from deadpeer.rates import Bucket, Rate, source_key

S = 1_000_000_000
PLAIN = CrashOptions(boot_window_s=0)


def v4(n: int) -> str:
    return f"{11 + (n >> 24)}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"


def spi(n: int) -> bytes:
    return n.to_bytes(8, "big")


@given(st.floats(0.1, 50), st.integers(1, 50), st.lists(st.integers(0, 3 * S), max_size=200))
def test_a_bucket_never_grants_more_than_burst_and_rate(rate: float, burst: int, gaps: list[int]) -> None:
    limit, now, granted = Rate(rate, burst), 5 * S, 0
    bucket = Bucket(now, limit)
    for gap in gaps:
        now += gap
        granted += bucket.take(now, limit)
    assert granted <= burst + rate * (now - 5 * S) / S + 1e-6


def test_a_bucket_does_not_mind_a_clock_that_stands_or_steps_back() -> None:
    limit = Rate(1, 2)
    bucket = Bucket(10 * S, limit)
    assert [bucket.take(t * S, limit) for t in (10, 9, 8, 10)] == [True, True, False, False]
    assert bucket.take(11 * S, limit)


def test_per_spi_per_source_and_in_total() -> None:
    options = replace(PLAIN, spi_burst=2, source_burst=5, total_burst=7)
    limiter = Limiter(0, options)
    ask = [limiter.allow(0, v4(1), Kind.RETURNING, spi(1)) for _ in range(4)]
    assert ask == [True, True, False, False]
    ask = [limiter.allow(0, v4(1), Kind.RETURNING, spi(n)) for n in range(2, 7)]
    assert ask == [True, True, True, False, False]
    ask = [limiter.allow(0, v4(n), Kind.RETURNING, spi(10 + n)) for n in range(2, 6)]
    assert ask == [True, True, False, False]
    # The kinds do not share.
    assert limiter.allow(0, v4(1), Kind.ESP, spi(1))
    assert limiter.allow(0, v4(1), Kind.GARBAGE, spi(1))


def test_refusals_charge_nothing() -> None:
    limiter = Limiter(0, replace(PLAIN, source_rate=1, source_burst=1, spi_rate=1, spi_burst=9))
    assert limiter.allow(0, v4(1), Kind.ESP, spi(1))
    for _ in range(10_000):  # one source hammers on
        assert not limiter.allow(0, v4(1), Kind.ESP, spi(1))
    assert all(limiter.allow(0, v4(n), Kind.ESP, spi(n)) for n in range(2, 300))
    assert limiter.allow(S, v4(1), Kind.ESP, spi(1))


def test_freer_after_boot_for_a_time_but_not_for_garbage() -> None:
    options = CrashOptions(boot_window_s=60, boot_factor=10, source_burst=1e6, source_rate=1e6)

    def granted(kind: Kind, at_s: int) -> int:
        limiter = Limiter(0, options)
        return sum(limiter.allow(at_s * S, v4(n), kind, spi(n)) for n in range(10_000))

    assert granted(Kind.RETURNING, 59) == 4000
    assert granted(Kind.RETURNING, 60) == 400
    assert granted(Kind.ESP, 0) == 4000
    assert granted(Kind.GARBAGE, 0) == granted(Kind.GARBAGE, 60) == 20


def test_the_end_of_another_member_s_life_is_as_a_boot() -> None:
    """Its peers come all at once. What is known already, or less than before, frees nothing."""
    limiter = Limiter(0, CrashOptions(source_burst=1e6, source_rate=1e6), ended_lives=3)
    spis = iter(range(1 << 32))

    def granted(at_s: float) -> int:
        ask = (limiter.allow(int(at_s * S), v4(n), Kind.RETURNING, spi(n)) for n in spis)
        return next(n for n, allowed in enumerate(ask) if not allowed)

    for at_s, ended, expected in (
        (200, 3, 400),
        (300, 4, 4000),
        (301, 4, 2000),
        (500, 4, 400),
        (600, 2, 400),
        (700, 3, 4000),
    ):
        limiter.heed(at_s * S, ended)
        assert granted(at_s) == expected, at_s


def test_ten_thousand_peers_get_their_token_in_seconds_after_boot() -> None:
    limiter, unanswered, now = Limiter(0, CrashOptions()), set(range(10_000)), 0
    while unanswered:
        now += S // 10
        unanswered -= {n for n in unanswered if limiter.allow(now, v4(n), Kind.RETURNING, spi(n))}
        assert now < 10 * S


# Mallory                        Bob, just booted
#   spoofed garbage, ESP    -->    small buckets, most refused
# 1000 honest peers
#   request, SPI of ours    -->    answered, each at the first attempt
def test_a_flood_of_spoofed_sources_does_not_silence_peers() -> None:
    limiter, rng = Limiter(0, CrashOptions()), random.Random(4)
    answered = refused = 0
    for n in range(1000):
        now = n * S // 1000
        for _ in range(100):  # a hundred thousand per second, each from another address
            kind = rng.choice((Kind.GARBAGE, Kind.ESP, Kind.RECENT))
            if not limiter.allow(now, v4(rng.getrandbits(27)), kind, spi(rng.getrandbits(64))):
                refused += 1
        if limiter.allow(now, v4(1 << 30 | n), Kind.RETURNING, spi(n)):
            answered += 1
    assert answered == 1000
    assert refused > 90_000


def test_spoofing_one_collected_spi_does_not_silence_peers() -> None:
    """Who holds one SPI of ours, from an SA of his own, can spend only what is that SPI's."""
    limiter = Limiter(0, PLAIN)
    granted = sum(limiter.allow(0, v4(n), Kind.RETURNING, spi(1)) for n in range(100_000))
    assert granted == PLAIN.spi_burst
    assert all(limiter.allow(0, v4(1 << 30 | n), Kind.RETURNING, spi(2 + n)) for n in range(300))


def test_filling_the_tables_empties_nobodys_bucket() -> None:
    """Honest sources that ask once a second are answered whenever the total allows: no table is to blame."""
    options = replace(PLAIN, esp_rate=1e6, esp_burst=1e6)
    limiter, rng = Limiter(0, options), random.Random(5)
    for second in range(5):
        for _ in range(20_000):
            limiter.allow(second * S, v4(rng.getrandbits(28)), Kind.ESP, spi(rng.getrandbits(32)))
        assert all(limiter.allow(second * S, v4(1 << 30 | n), Kind.ESP, spi(n)) for n in range(50))


def test_tables_are_bounded_and_forget() -> None:
    limiter, rng = Limiter(0, CrashOptions()), random.Random(6)
    largest = 0
    for n in range(200_000):
        now = n * S // 20_000
        limiter.allow(now, v4(rng.getrandbits(29)), Kind.ESP, spi(n))
        largest = max(largest, limiter.sizes()["limiter.esp.sources"], limiter.sizes()["limiter.esp.spis"])
    assert largest <= 2000 * 3 + 4000 + 1
    limiter.allow(1000 * S, v4(1), Kind.ESP, spi(1))
    assert limiter.sizes()["limiter.esp.sources"] == 1


def test_a_source_within_the_table_keeps_its_limit_while_others_come_and_go() -> None:
    limiter, rng, granted = Limiter(0, CrashOptions(boot_window_s=0)), random.Random(8), 0
    for n in range(50_000):
        now = n * S // 5000
        limiter.allow(now, v4(rng.getrandbits(29)), Kind.ESP, spi(n))
        granted += limiter.allow(now, v4(1 << 30), Kind.ESP, spi(1 << 40 | n))
    assert granted <= 12 + 4 * 10


def test_sources_are_ipv4_addresses_and_ipv6_subnets() -> None:
    assert source_key("192.0.2.1") != source_key("192.0.2.2")
    assert source_key("2001:db8:0:1::1") == source_key("2001:db8:0:1:ffff::2")
    assert source_key("2001:db8:0:1::1") != source_key("2001:db8:0:2::1")
    assert source_key("::ffff:192.0.2.1") == source_key("192.0.2.1")


def test_limits_of_zero_grant_nothing() -> None:
    limiter = Limiter(0, CrashOptions(garbage_rate=0, garbage_burst=0, spi_rate=0, source_rate=0))
    assert not limiter.allow(0, v4(1), Kind.GARBAGE, spi(1))
    assert limiter.allow(0, v4(1), Kind.ESP, spi(1))
