"""How the long series are planned, made and judged; the series themselves run in `make acceptance`."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deadpeer.lab import acceptance
from deadpeer.lab.acceptance import (
    FULL,
    JUDGED,
    QUICK,
    Row,
    Windows,
    about_this_run,
    allowing,
    assaults,
    in_turn,
    markdown,
    table,
)
from deadpeer.lab.attacks.catalogue import ATTACKS
from deadpeer.lab.attacks.model import Attack, AttackResult, Check, Cost
from deadpeer.lab.costs import Operations, RecoveryCost, SideCost, Wire
from deadpeer.lab.flood import ends
from deadpeer.lab.garbage import Garbage, GarbageConfig, Target
from deadpeer.lab.judgement import (
    Bounds,
    Judgement,
    Window,
    judge_attack,
    judge_costs,
    judge_kills,
    judge_liveness,
    judge_lossy,
    judge_medians,
    judge_windows,
    median,
)
from deadpeer.lab.kills import Kill, KillOutcome, plan, run_kills, worst
from deadpeer.lab.options import LabOptions
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.result import RunResult
from deadpeer.lab.runs import Run
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, look
from deadpeer.values import Address
from deadpeer.wire import Encrypted, Message, add_marker, encode_message


def result(detect: float, recover: float, *, ok: bool = True, down: float = 1.4) -> RunResult:
    """Detection and recovery in round trips of 100 ms."""
    return RunResult(
        LabOptions(rtt_ms=100), ok, peer_down_s=down, detect_ms=detect * 100, recover_ms=recover * 100
    )


QCD = Bounds(1.8, 4.8)


def test_medians_are_judged_and_failures_are_not_averaged_away() -> None:
    good = [result(1.5, 4.5), result(1.6, 4.6), result(3.0, 9.0)]
    assert judge_medians(good, QCD)[1]
    assert not judge_medians([result(1.9, 4.5)] * 3, QCD)[1]
    assert not judge_medians([result(1.5, 4.9)] * 3, QCD)[1]
    assert not judge_medians([*good, result(1.5, 4.5, ok=False)], QCD)[1]
    assert not judge_medians([], QCD)[1]
    assert not judge_medians([], Bounds())[1]


def test_a_short_series_lets_more_pass_and_says_so() -> None:
    slow, late = [result(1.9, 14.0)] * 3, [result(5, 31.0)] * 2
    assert not judge_medians(slow, QCD)[1]
    assert judge_medians(slow, QCD, 3.0)[1]
    assert not judge_medians([*slow, result(1.5, 4.5, ok=False)], QCD, 3.0)[1]
    assert not judge_lossy(late)[1]
    assert judge_lossy(late, 2.0) == ("2 of 2 recovered, 2 within 6 s, slowest 3.10 s", True)
    assert not judge_liveness([result(18, 42)])[1]
    assert judge_liveness([result(18, 42)], 2.0)[1]
    assert judge_costs([cost(False, 2000), cost(True, 1900)], 5.0)[1]
    assert not judge_costs([cost(False, 2000), cost(True, 2100)], 5.0)[1]
    assert (FULL.slack, FULL.at_once) == (1, 1), "it measures"
    assert allowing("soon", FULL) == "soon"


def test_only_what_has_a_bound_is_judged() -> None:
    slow = [result(3.5, 4.7)]
    assert judge_medians(slow, Bounds(recover_rtts=4.8))[1]
    assert not judge_medians(slow, Bounds(recover_rtts=4.6))[1]
    seconds = [result(30, 39)]
    assert judge_medians(seconds, Bounds(recover_s=4.0)) == ("median recover 3.90 s; 1 of 1 recovered", True)
    assert not judge_medians([result(30, 41)], Bounds(recover_s=4.0))[1]
    assert str(Bounds(0.8, 3.8)) == "medians at most: detect 0.8 round trips, recover 3.8 round trips"
    assert str(Bounds(recover_s=4.0)) == "medians at most: recover 4 s"


def test_the_bounds_are_those_of_the_issue() -> None:
    assert {name: bounds for name, (_, bounds, _) in JUDGED.items()} == {
        "qcd": Bounds(1.8, 4.8),
        "qcd-map": Bounds(0.8, 3.8),
        "qcd-map-resumed": Bounds(0.8, 3.8),
        "announced": Bounds(0.8),
        "sir": Bounds(recover_rtts=4.8),
        "reconnect": Bounds(recover_rtts=4.8),
        "no-hints": Bounds(recover_s=4.0),
    }
    for _, _, options in JUDGED.values():
        options.check()


def test_the_old_sa_stays_for_the_whole_window_in_every_run() -> None:
    assert judge_windows([Window(201, 100), Window(230, 100)]) == (
        "2 of 2, shortest 2.01 round trips",
        True,
    )
    assert not judge_windows([Window(250, 100), Window(199, 100)])[1]
    assert not judge_windows([Window(250, 100), Window(None, 100)])[1]
    assert not judge_windows([])[1]


def test_a_window_is_watched_on_alices_side() -> None:
    watcher = Windows()
    assert watcher.window(100) == Window(None, 100)
    watcher.event(SideEvent("bob", "sir_window", 1, {}))
    watcher.event(SideEvent("alice", "sir_window", 5_000_000, {}))
    watcher.event(SideEvent("alice", "verdict", 210_000_000, {}))
    assert watcher.window(100) == Window(205.0, 100)


def side(cpu_us: float) -> SideCost:
    """One side's costs, a quarter of them in primitives."""
    return SideCost(cpu_us, (cpu_us, cpu_us), cpu_us / 4, Operations(), Wire(1, 1))


def cost(resumed: bool, bob_us: float) -> RecoveryCost:
    """A recovery by QCD with RSA-3072."""
    return RecoveryCost("qcd", "rsa-3072", resumed, 1, 100, 150, 450, side(1000), side(bob_us))


def test_a_resumed_recovery_costs_at_most_half() -> None:
    text, holds = judge_costs([cost(False, 2000), cost(True, 1000)])
    assert holds
    assert text == "RSA-3072 0.50 (OpenSSL 25% of full, 25% of resumed)"
    assert not judge_costs([cost(False, 2000), cost(True, 1001)])[1]
    assert not judge_costs([cost(False, 2000)])[1]
    assert not judge_costs([])[1]


ATTACK = Attack("forger", "off-path", ("qcd",), "forges", "no SA is lost")


def attacked(*checks: Check, failure: str = "") -> AttackResult:
    """What came of an attack."""
    spent = Cost(1, 0.1, 0.1)
    return AttackResult(
        ATTACK, "qcd", LabOptions(), 3, 10, 1000, 20, 2500, 0, 1, 100, 0, spent, spent, checks, {}, failure
    )  # fmt: skip


def test_an_attack_must_keep_every_promise() -> None:
    kept, broken = Check("SAs lost", "0", "0", True), Check("amplification", "3", "3.1", False)
    judged: Judgement = judge_attack(attacked(kept))
    assert judged == ("0 SAs lost, 1 rebuilt, amplification 2.50; 1 checks hold", True)
    text, holds = judge_attack(attacked(kept, broken))
    assert not holds
    assert "amplification: 3.1, wanted 3" in text
    late = Check("a crash under attack", "within 2 s", "3 s", False, timed=True)
    assert not judge_attack(attacked(kept, late))[1]
    text, holds = judge_attack(attacked(kept, late), 5.0)
    assert holds
    assert text.endswith("not judged: a crash under attack: 3 s, wanted within 2 s; 1 checks hold")
    assert not judge_attack(attacked(kept, late, broken), 5.0)[1]
    assert judge_attack(attacked(kept, failure="no tunnel")) == ("no tunnel", False)
    assert not judge_attack(attacked())[1]


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


@pytest.mark.parametrize(
    ("recoveries", "runs", "holds"),
    [
        ([4.5, 4.7], 2, True),
        ([4.9, 5.6], 2, True),
        ([4.5, 156.0, 4.6, 4.7, 4.7], 5, True),
        ([50.0, 56.0, 4.6, 50.0, 4.7], 5, False),
    ],
)
def test_a_short_series_that_misses_its_bound_goes_on(
    recoveries: list[float], runs: int, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter(recoveries)
    seeds: list[int] = []

    async def run_once(options: LabOptions, _observer: object) -> Run:
        seeds.append(options.seed)
        return Run(result(1.5, next(made)), (), 0)

    monkeypatch.setattr(acceptance, "run_once", run_once)
    rows = asyncio.run(acceptance.run_all(QUICK, 11, ["qcd"], lambda _text: None))
    assert seeds == list(range(11, 11 + runs))
    assert [row.holds for row in rows] == [holds]
    assert rows[0].wanted.endswith("recover 4.8 round trips; 10 times that passes here")


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_run_at_a_time_and_the_rows_keep_their_order(at_once: int) -> None:
    running: set[int] = set()
    most = 0

    async def work(number: int) -> int:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        for _ in range(10 - number):
            await asyncio.sleep(0)
        running.remove(number)
        return number

    works = [partial(work, number) for number in range(9)]
    assert asyncio.run(in_turn(works, at_once)) == list(range(9))
    assert most == at_once


def test_each_attack_meets_its_methods() -> None:
    full, quick = assaults(ATTACKS, FULL), assaults(ATTACKS, QUICK)
    assert [attack for attack, _, _ in quick] == list(ATTACKS)
    assert {(attack.name, method) for attack, method, _ in full} == {
        (attack.name, method) for attack in ATTACKS for method in attack.methods
    }
    assert len(full) == sum(len(attack.methods) for attack in ATTACKS)
    assert [seconds for _, _, seconds in full[: len(ATTACKS)]] == [30.0] * len(ATTACKS)


def test_the_table_can_be_written_as_markdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def rows(*_args: object) -> list[Row]:
        return [Row("a", "x | y", "m", True), Row("b", "", "skipped: no root", None)]

    monkeypatch.setattr(acceptance, "run_all", rows)
    path = tmp_path / "table.md"
    assert acceptance.main(["--quick", "--seed", "7", "--markdown", str(path)]) == 0
    lines = path.read_text().splitlines()
    assert "2 runs in each judged series, seeds from 7" in lines[0]
    assert lines[4:] == ["| a | x \\| y | m | ok |", "| b |  | skipped: no root | skipped |"]
    with pytest.raises(SystemExit):
        acceptance.main(["--markdown", str(tmp_path / "missing" / "table.md")])
    assert "there is no such folder" in capsys.readouterr().err


def test_the_markdown_says_failed() -> None:
    about = about_this_run(FULL, 1, "2026-11-23 14:00 UTC", 1800, 0.5)
    text = markdown([Row("a", "w", "m", False)], about)
    assert text.startswith("2026-11-23 14:00 UTC, 30 minutes, ")
    assert text.endswith("| a | w | m | **FAILED** |\n")


def test_a_failed_row_fails_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def failed(*_args: object) -> list[Row]:
        return [Row("a", "w", "m", True), Row("b", "w", "m", False)]

    monkeypatch.setattr(acceptance, "run_all", failed)
    assert acceptance.main([]) == 1
