"""How the long series are planned, made and judged; the series themselves run in `make acceptance`."""

from __future__ import annotations

import asyncio
import io
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deadpeer.lab import acceptance
from deadpeer.lab.acceptance import Row, judge_kills, judge_liveness, judge_lossy, judge_qcd, median, table
from deadpeer.lab.flood import ends
from deadpeer.lab.garbage import Garbage, GarbageConfig, Target
from deadpeer.lab.kills import Kill, KillOutcome, plan, run_kills, worst
from deadpeer.lab.options import LabOptions
from deadpeer.lab.result import RunResult
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, look
from deadpeer.values import Address
from deadpeer.wire import Encrypted, Message, add_marker, encode_message


def result(detect: float, recover: float, *, ok: bool = True, down: float = 1.4) -> RunResult:
    """Detection and recovery in round trips of 100 ms."""
    return RunResult(
        LabOptions(rtt_ms=100), ok, peer_down_s=down, detect_ms=detect * 100, recover_ms=recover * 100
    )


def test_medians_are_judged_and_failures_are_not_averaged_away() -> None:
    good = [result(1.5, 4.5), result(1.6, 4.6), result(3.0, 9.0)]
    assert judge_qcd(good)[1]
    assert not judge_qcd([result(1.9, 4.5)] * 3)[1]
    assert not judge_qcd([result(1.5, 4.9)] * 3)[1]
    assert not judge_qcd([*good, result(1.5, 4.5, ok=False)])[1]
    assert not judge_qcd([])[1]


def test_a_missing_value_is_infinitely_long() -> None:
    assert median([1.0, None, None]) == float("inf")
    assert median([1.0, 1.0, None]) == 1.0


def test_nine_in_ten_lossy_runs_are_to_be_fast_and_all_to_recover() -> None:
    fast, slow = result(5, 20), result(5, 31)
    assert judge_lossy([fast] * 9 + [slow])[1]
    assert not judge_lossy([fast] * 8 + [slow] * 2)[1]
    assert not judge_lossy([fast] * 9 + [result(5, 20, ok=False)])[1]


def test_liveness_counts_from_the_kill() -> None:
    assert judge_liveness([result(18, 20, down=1.4)])[1]
    assert not judge_liveness([result(18, 42, down=1.4)])[1]


def test_kills_need_every_recovery() -> None:
    done = [
        KillOutcome(Kill(1, "bob", "flowing", 0, 0), 0.1),
        KillOutcome(Kill(2, "alice", "flowing", 0, 0), 0.7),
        KillOutcome(Kill(3, "bob", "flowing", 0, 0), None),
    ]
    text, holds = judge_kills(done, None)
    assert holds
    assert "slowest 0.7 s (kill 2, alice)" in text
    assert judge_kills(done, "recovery from kill 4 did not happen")[1] is False
    assert judge_kills(done[2:], None)[1] is False
    assert worst(done) is done[1]


@given(st.integers(0, 2**31), st.integers(1, 200))
def test_a_plan_of_kills_is_fixed_by_its_seed(seed: int, count: int) -> None:
    kills = plan(count, seed)
    assert kills == plan(count, seed)
    assert [k.number for k in kills] == list(range(1, count + 1))
    assert kills[0].moment == "flowing"


def test_a_long_plan_has_both_sides_and_every_moment() -> None:
    kills = plan(100, 1)
    assert min(Counter(k.side for k in kills).values()) > 30
    assert set(Counter(k.moment for k in kills)) == {"flowing", "recovering", "booting"}


def test_a_few_real_kills() -> None:
    kills = [Kill(1, "bob", "flowing", 0.1, 0.2), Kill(2, "alice", "flowing", 0.1, 0.2)]
    seen: list[KillOutcome] = []
    outcomes = asyncio.run(run_kills(LabOptions(rtt_ms=10, seed=1), kills, seen.append))
    assert outcomes == seen
    assert all(o.recovery_s is not None for o in outcomes)


SAMPLES = [
    (
        Lane.NAT_T,
        add_marker(
            encode_message(
                Message(b"I" * 8, b"R" * 8, 37, 7, True, False, (Encrypted(41, bytes(range(64))),))
            )
        ),
    ),
    (Lane.NAT_T, bytes.fromhex("c1d2e3f400000005") + bytes(range(80))),
]


def test_garbage_is_fixed_by_its_seed_and_of_many_kinds() -> None:
    first, second = Garbage(1, SAMPLES), Garbage(1, SAMPLES)
    made = [first.next() for _ in range(3000)]
    assert made == [second.next() for _ in range(3000)]
    seen = [look(octets, lane) for lane, octets in made]
    ike = [s for s in seen if isinstance(s, IkeSeen)]
    esp = [s for s in seen if isinstance(s, EspSeen)]
    assert len(ike) > 300
    assert len(esp) > 300
    assert any(s.spi == "c1d2e3f4" for s in esp)
    assert any(s.spi_i == (b"I" * 8).hex() and "QCD_TOKEN" in s.notifies for s in ike)
    assert any(s.protected and s.spi_r == (b"R" * 8).hex() for s in ike)


def test_garbage_needs_no_samples() -> None:
    garbage = Garbage(1, [])
    assert len({garbage.next() for _ in range(100)}) > 50


def test_the_garbage_configuration_survives_json() -> None:
    config = GarbageConfig(
        [Target(Address("127.0.0.1", 1), Address("127.0.0.1", 2), 3)], 10, 5, 7, [("ike", "00ff")]
    )
    again = GarbageConfig.from_json(config.to_json())
    assert again.targets == config.targets
    assert (again.count, again.per_s, again.seed) == (10, 5, 7)


def test_each_datagram_has_one_end() -> None:
    counters = {
        "endpoint": {
            "dropped: malformed header": 5,
            "orphan: unprotected message": 3,
            "orphan: ESP of an unknown SPI": 7,  # counted by the data plane already
            "sent: IKE_SA_INIT response": 2,
            "sent: IKE_SA_INIT request": 100,
            "news.no_sa": 3,
        },
        "esp_dropped": {"unknown_spi": 7, "bad_icv": 1, "hold_overflow": 50},
        "gateway": {"host_sent": 11, "host_received": 99, "nat_keepalive_received": 4},
    }
    assert ends(counters) == 5 + 3 + 2 + 7 + 1 + 11 + 4


@pytest.mark.parametrize("only", acceptance.PARTS)
def test_every_part_can_be_asked_for(only: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    async def nothing(_sizes: object, _seed: int, only: list[str], _say: object) -> list[Row]:
        asked.append(only)
        return [Row("x", "y", "z", None)]

    monkeypatch.setattr(acceptance, "run_all", nothing)
    assert acceptance.main(["--quick", "--only", only]) == 0
    assert asked == [[only]]


def test_the_table_tells_failed_from_skipped() -> None:
    out = io.StringIO()
    rows = [Row("a", "w", "m", True), Row("b", "w", "m", False), Row("c", "w", "m", None)]
    Console(file=out, width=100).print(table(rows))
    text = out.getvalue()
    assert "FAILED" in text
    assert "skipped" in text


def test_a_failed_row_fails_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failed(*_args: object) -> list[Row]:
        return [Row("a", "w", "m", True), Row("b", "w", "m", False)]

    monkeypatch.setattr(acceptance, "run_all", failed)
    assert acceptance.main([]) == 1
