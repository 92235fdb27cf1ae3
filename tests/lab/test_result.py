"""The numbers and the sentence of a run, from made-up records."""

from typing import Any

import pytest

from deadpeer.lab.options import LabOptions
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.result import Moments, RunResult, measure, summary
from deadpeer.lab.traffic import TrafficLog

MS = 1_000_000
CONTRACT = {
    "method",
    "rtt_ms",
    "resume",
    "peer_down_s",
    "detect_ms",
    "recover_ms",
    "detect_rtts",
    "recover_rtts",
    "packets_sent",
    "packets_lost",
    "verdict",
    "evidence",
    "ok",
}


def verdict(at_ms: float, proof: str = "qcd-token") -> SideEvent:
    fields: dict[str, Any] = {"proof": proof, "evidence": ["invalid-spi from 127.0.0.1", "qcd-token: 1 of 1"]}
    return SideEvent("alice", "verdict", round(at_ms * MS), fields)


def crash(options: LabOptions, recovered_ms: float | None = 2090, **kwargs: Any) -> RunResult:
    """Killed at 600 ms, ready at 2000 ms; a packet each 10 ms, those sent from 590 to 2050 ms are lost."""
    traffic = TrafficLog()
    for seq in range(1, 251):
        sent = seq * 10
        traffic.take({"event": "sent", "seq": seq, "mono_ns": sent * MS})
        if not 590 <= sent < 2050:
            traffic.take({"event": "reply", "seq": seq, "mono_ns": (sent + 20) * MS})
    recovered_ns = None if recovered_ms is None else round(recovered_ms * MS)
    moments = Moments(600 * MS, 2000 * MS, recovered_ns)
    return measure(options, moments, traffic, kwargs.get("verdict", verdict(2031)))


def test_the_contract_of_the_json() -> None:
    record = crash(LabOptions(seed=9)).to_record()
    assert set(record) >= CONTRACT
    assert record["ok"] is True
    assert record["peer_down_s"] == 1.4
    assert record["detect_ms"] == 31.0
    assert record["detect_rtts"] == 1.55
    assert record["recover_ms"] == 90.0
    assert record["recover_rtts"] == 4.5
    assert record["packets_sent"] == 250
    assert record["packets_lost"] == 146
    assert record["packets_lost_while_down"] == 140
    assert record["verdict"] == "qcd-token"
    assert record["evidence"] == ["invalid-spi from 127.0.0.1", "qcd-token: 1 of 1"]
    assert record["seed"] == 9


def test_without_a_round_trip_time_nothing_is_counted_in_round_trips() -> None:
    record = crash(LabOptions(rtt_ms=0)).to_record()
    assert record["detect_rtts"] is None
    assert record["recover_rtts"] is None
    assert "round trips" not in summary(crash(LabOptions(rtt_ms=0)))


def test_a_newcomer_understands_the_summary() -> None:
    assert summary(crash(LabOptions())) == (
        "Bob was dead for 1.4 s. 31 ms (1.6 round trips) after he came back Alice held proof — a token only "
        "Bob could have made — and after 90 ms (4.5 round trips) traffic flowed again. 146 packets were "
        "lost, all but 6 while Bob was down. Today's default (strongSwan on both sides, measured) is 174 s."
    )


def test_another_proof_than_asked_for_is_a_failure() -> None:
    result = crash(LabOptions(), verdict=verdict(2031, "liveness"))
    assert not result.ok
    assert result.failure == "the proof was liveness, not qcd-token"


def test_liveness_says_that_the_lab_is_impatient() -> None:
    result = crash(LabOptions(method="liveness"), recovered_ms=4000, verdict=verdict(3900, "liveness"))
    assert result.ok
    assert "The lab gives up a silent peer after 3 s" in summary(result)
    assert result.to_record()["dpd_timeout_s"] == 3.0


def test_a_verdict_before_bob_was_back_counts_negative_and_reads_well() -> None:
    result = crash(LabOptions(method="liveness"), verdict=verdict(1900, "liveness"))
    assert result.detect_ms == -100.0
    assert "100 ms (5.0 round trips) before he came back Alice held proof" in summary(result)


@pytest.mark.parametrize(
    ("recovered_ms", "seen", "failure"),
    [
        (None, verdict(2031), "the tunnel did not carry traffic again"),
        (None, None, "Alice never came to a verdict"),
    ],
)
def test_no_recovery(recovered_ms: float | None, seen: SideEvent | None, failure: str) -> None:
    result = crash(LabOptions(), recovered_ms=recovered_ms, verdict=seen)
    assert not result.ok
    assert result.recover_ms is None
    assert result.to_record()["recover_rtts"] is None
    assert summary(result) == f"The tunnel did not come back: {failure}."


def test_an_idle_tunnel_has_no_packets_to_lose() -> None:
    result = measure(
        LabOptions(idle=True), Moments(600 * MS, 2000 * MS, 2060 * MS), TrafficLog(), verdict(2031)
    )
    text = summary(result)
    assert result.packets_sent == 0
    assert "the tunnel stood again" in text
    assert "lost" not in text


@pytest.mark.parametrize(
    ("proof", "resume", "ok"),
    [
        ("replaced", False, True),
        ("resumed", False, False),
        ("resumed", True, True),
        ("replaced", True, True),
        ("qcd-token", True, False),
    ],
)
def test_with_a_ticket_a_replacement_may_have_resumed(proof: str, resume: bool, ok: bool) -> None:
    result = crash(LabOptions(method="reconnect", resume=resume), verdict=verdict(2031, proof))
    assert result.ok is ok
