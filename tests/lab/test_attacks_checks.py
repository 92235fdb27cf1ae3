"""The judgement of an attack, from made-up observations: each promise can be broken, and is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from deadpeer.lab.attacks.catalogue import attack, scenario
from deadpeer.lab.attacks.checks import budget, judge
from deadpeer.lab.attacks.gauges import known_sas
from deadpeer.lab.attacks.model import AttackResult, Check, Cost
from deadpeer.lab.attacks.observed import (
    IkeTraffic,
    Observed,
    Recovery,
    Shots,
    Span,
    grown,
    ike_traffic,
    inner_traffic,
)
from deadpeer.lab.options import LabOptions, Method
from deadpeer.lab.recording import Recording, SideEvent, Silent
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, Sighting, Way

S = 1_000_000_000
NO_IKE = IkeTraffic(0, 0, {})
GOOD = Observed(
    quiet=Span(0, 5 * S),
    blind=Span(5 * S, 8 * S),
    attack=Span(8 * S, 18 * S),
    quiet_cost=Cost(5.0, 0.2, 0.2),
    attack_cost=Cost(10.0, 0.6, 0.5),
    quiet_ike=NO_IKE,
    attack_ike=IkeTraffic(40, 3000, {"alice": 13, "bob": 5}),
    blind_shots=Shots({"sent": 900}),
    blind_counters={},
    shots=Shots({"sent": 3000, "sent octets": 120_000}, {}, 2.5),
    mischief={},
    verdicts=(),
    rebuilt=0,
    inner_sent=1000,
    inner_lost=0,
    starved=0,
    memory_mb={"alice": (40.0, 41.0), "bob": (40.0, 40.0)},
    counters={"alice": {"endpoint": {"token_mismatch": 9, "check.bad_cookie": 9, "attack_suspected": 1}}},
    internal_errors=0,
    living=1,
    lived=1,
    crash=Recovery(18 * S, 19 * S, 19 * S + S // 5),
)
IN_THE_MIDDLE = replace(
    GOOD, shots=Shots(), mischief={"forged NACK": 7, "forged denial": 3, "dropped ESP": 3}, crash=None
)


def verdict(proof: str) -> SideEvent:
    return SideEvent("alice", "verdict", 9 * S, {"proof": proof})


def broken(name: str, seen: Observed, method: Method = "qcd") -> list[str]:
    checks = judge(scenario(name), LabOptions(method=method), seen)
    assert len({check.what for check in checks}) == len(checks)
    return [check.what for check in checks if not check.holds]


def test_what_is_good_is_good() -> None:
    for name in ("forge-invalid-spi", "forge-invalid-ike-spi", "forge-token", "enumerate", "replay-token"):
        assert broken(name, GOOD) == []
    assert broken("forge-check-spi", GOOD, "sir") == []
    for name in ("mitm-nack", "mitm-nack-drop-ack", "mitm-deny", "mitm-chaos", "mitm-blackout"):
        assert broken(name, IN_THE_MIDDLE, "sir") == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"verdicts": (verdict("qcd-token"),)}, "living SAs condemned"),
        ({"lived": 0}, "the SAs from before are there after"),
        ({"rebuilt": 1}, "new SAs forced"),
        ({"shots": Shots({"sent": 3000, "sent octets": 900}, {}, 1.0)}, "octets sent back for each of his"),
        ({"attack_ike": IkeTraffic(9100, 3000, {})}, "packets sent back for each of his"),
        ({"attack_ike": IkeTraffic(50, 3000, {"bob": 15})}, "Bob's protected INFORMATIONAL requests"),
        ({"shots": Shots({"sent": 3000, "sent octets": 120_000}, {}, 3.1)}, "largest answer"),
        ({"inner_lost": 11}, "inner packets lost"),
        ({"attack_cost": Cost(10.0, 3.6, 0.4)}, "Alice's CPU for each of his packets"),
        ({"memory_mb": {"bob": (40.0, 60.5)}}, "growth of Bob's memory"),
        ({"internal_errors": 1}, "internal errors"),
        ({"flows_after": False}, "traffic flows afterwards"),
        ({"crash": Recovery(18 * S, 19 * S, 22 * S)}, "a real crash under attack"),
        ({"crash": Recovery(18 * S, 19 * S, None)}, "a real crash under attack"),
        ({"blind_counters": {"bob": {"endpoint": {"hint.invalid-spi": 1}}}}, "without knowing any SPI"),
        ({"leaks": 1}, "datagrams with a token of a living SA"),
        ({"token_answers": 1}, "answers with tokens while all SAs live"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_broken_promise_is_noticed(change: Mapping[str, Any], what: str) -> None:
    found = broken("enumerate", replace(GOOD, **change))
    assert len([each for each in found if what in each]) == 1, found


def test_in_the_middle_one_may_be_replaced_but_none_lost() -> None:
    replaced = replace(IN_THE_MIDDLE, verdicts=(verdict("sir"),) * 2, rebuilt=6)
    assert broken("mitm-nack-drop-ack", replaced, "sir") == []
    assert broken("mitm-nack", replaced, "sir") == ["living SAs condemned"]
    assert broken("mitm-blackout", replaced, "qcd") == ["living SAs condemned", "new SAs forced"]
    abandoned = replace(replaced, verdicts=(verdict("liveness"),))
    assert broken("mitm-nack-drop-ack", abandoned, "sir") == ["living SAs lost without a replacement"]
    assert broken("mitm-nack-drop-ack", replace(replaced, rebuilt=7), "sir") == ["new SAs forced"]
    assert broken("mitm-chaos", replace(IN_THE_MIDDLE, inner_lost=14), "qcd") == ["inner packets lost"]


def test_what_a_busy_machine_loses_is_not_the_attackers_doing() -> None:
    assert broken("forge-token", replace(GOOD, inner_lost=11)) == ["inner packets lost"]
    assert broken("forge-token", replace(GOOD, inner_lost=11, starved=1)) == []


def test_the_budget_of_new_sas() -> None:
    on, off = scenario("mitm-chaos"), scenario("forge-invalid-spi")
    assert budget(on, LabOptions(method="qcd"), 30.0) == budget(off, LabOptions(method="sir"), 30.0) == 0
    assert (
        budget(on, LabOptions(method="sir"), 30.0) == budget(off, LabOptions(method="reconnect"), 30.0) == 6
    )
    assert budget(on, LabOptions(method="reconnect"), 3600.0) == 12


def test_what_came_back_is_what_is_more_than_in_the_quiet() -> None:
    seen = replace(
        GOOD,
        quiet_ike=IkeTraffic(10, 600, {}),
        attack_ike=IkeTraffic(50, 4200, {}),
        shots=Shots({"sent": 100, "sent octets": 5000, "answers": 7, "answers octets": 70}),
        mischief={
            "dropped ESP": 2,
            "dropped octets": 200,
            "delayed": 3,
            "forged NACK": 1,
            "forged octets": 80,
        },
    )
    assert seen.answered == (50 - 20 + 7, 4200 - 1200 + 70)
    assert seen.sent == (106, 5280)


def test_liveness_checks_are_counted_once_however_often_they_are_sent() -> None:
    def sighting(way: Way, message_id: int, at_s: float, **changes: Any) -> Sighting:
        seen = IkeSeen(37, False, True, message_id, "aa", "bb", protected=True)
        at_ns = round(at_s * S)
        return Sighting(way, Lane.NAT_T, 80, at_ns, at_ns + 1, replace(seen, **changes))

    found = ike_traffic(
        [
            sighting(Way.TO_BOB, 1, 1.0),
            sighting(Way.TO_BOB, 1, 1.1),
            sighting(Way.TO_BOB, 2, 1.2),
            sighting(Way.TO_ALICE, 1, 1.2, response=True),
            sighting(Way.TO_ALICE, 0, 1.3),
            sighting(Way.TO_BOB, 3, 1.4, exchange=36),
            sighting(Way.TO_BOB, 4, 9.0),
            Sighting(Way.TO_BOB, Lane.NAT_T, 100, S, S, EspSeen("01020304", 1)),
        ],
        Span(S, 2 * S),
    )
    assert (found.messages, found.octets) == (6, 480)
    assert found.checks == {"alice": 2, "bob": 1}


def test_inner_packets_count_by_when_they_left() -> None:
    recording = Recording(Silent())
    for seq in range(10):
        recording.take_traffic({"event": "sent", "seq": seq, "mono_ns": seq * S})
    for seq in (0, 3, 4, 9):
        recording.take_traffic({"event": "reply", "seq": seq, "mono_ns": 20 * S})
    assert inner_traffic(recording, Span(2 * S, 6 * S)) == (4, 2)
    recording.take_traffic({"event": "no room", "seq": 5, "mono_ns": 5 * S})
    assert inner_traffic(recording, Span(2 * S, 6 * S)) == (3, 1)


def test_counters_say_what_grew_and_tables_how_large_they_are() -> None:
    before = {"endpoint": {"a": 1, "b": 2}, "tables": {"ike_sas": 1}}
    after = {"endpoint": {"a": 4, "b": 2, "c": 1}, "tables": {"ike_sas": 1}}
    assert grown(before, after) == {"endpoint": {"a": 3, "c": 1}, "tables": {"ike_sas": 1}}


def test_a_stranger_may_know_the_established_sas_only() -> None:
    record: dict[str, Any] = {
        "spi_i": "01" * 8,
        "spi_r": "02" * 8,
        "role": "responder",
        "state": "established",
        "children": [{"spi_in": "aa000001", "spi_out": "bb000001"}],
    }
    [sa] = known_sas([record, {**record, "state": "init sent"}])
    assert (sa.spi_i, sa.alice_began) == (bytes([1]) * 8, False)
    assert (sa.to_bob, sa.to_alice) == ((bytes.fromhex("bb000001"),), (bytes.fromhex("aa000001"),))


@pytest.mark.parametrize(
    ("rebuilt", "seconds", "hourly"), [(0, 10.0, 0.0), (6, 10.0, 12.0), (7, 10.0, 2520.0)]
)
def test_new_sas_an_hour_are_those_of_the_budget_where_it_held(
    rebuilt: int, seconds: float, hourly: float
) -> None:
    cost = Cost(seconds, 0.1, 0.1)
    checks = (Check("it", "held", "so", True),)
    result = AttackResult(
        attack("mitm-nack"), "sir", LabOptions(method="sir"), seconds,
        10, 100, 5, 50, 0, rebuilt, 100, 0, cost, cost, checks,
    )  # fmt: skip
    assert result.rebuilt_per_hour == pytest.approx(hourly)
    assert result.amplification is None, "he is in the middle"
    assert replace(result, attack=attack("forge-token")).amplification == 0.5
    assert result.ok
    assert not replace(result, checks=()).ok
    assert not replace(result, failure="it broke").ok
