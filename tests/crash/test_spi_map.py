"""The persistent SPI map: a crash found in half a round trip, end to end under virtual time."""

from __future__ import annotations

import pytest
from tests.support.pair import Pair

from deadpeer.crash.options import CrashOptions

SILENT = CrashOptions(announce=False)


def traffic(pair: Pair, seconds: float, every_s: float = 0.010) -> None:
    """Alice's host sends an echo request every `every_s`."""
    for seq in range(int(seconds / every_s)):
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


def seconds_to(pair: Pair, kind: str, since_ns: int) -> float:
    """From `since_ns` to Alice's next event of that kind."""
    return next(at - since_ns for at, e in pair.alice.events if e.kind == kind and at >= since_ns) / 1e9


def test_with_the_map_a_crash_is_found_in_half_a_round_trip() -> None:
    """
    Alice                                        Bob (crashed, one second later he is back)
      ESP                        ──────────▶
                                 ◀──────────     N(INVALID_SPI), N(QCD_TOKEN)          0.5 RTT: verdict
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶                                           2.5
      ESP                        ◀─────────▶                                           3.5: traffic
    """
    pair = Pair.with_psk(latency_s=0.050, options=SILENT)
    pair.up()
    traffic(pair, 0.5)
    pair.crash("bob")
    traffic(pair, 1.0)
    back = pair.mono_ns
    pair.boot("bob")
    received = len(pair.alice.behind.received)
    while len(pair.alice.behind.received) == received:
        traffic(pair, 0.010)
    recovered_s = (pair.mono_ns - back) / 1e9
    assert seconds_to(pair, "verdict", back) <= 0.8 * 0.100
    assert pair.alice.last("verdict").fields["proof"] == "qcd-token"
    assert recovered_s <= 3.8 * 0.100


@pytest.mark.parametrize("busy", [True, False])
def test_bob_announces_his_crash(busy: bool) -> None:
    """
    Alice (her tunnel idle)                      Bob (crashed, one second later he is back)
                                 ◀──────────     N(INVALID_SPI), N(QCD_TOKEN)          0.5 RTT: verdict
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶                                           2.5: child up
    """
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    pair.crash("bob")
    (traffic(pair, 1.0) if busy else pair.run(1.0))
    back = pair.mono_ns
    pair.boot("bob")
    (traffic(pair, 1.0) if busy else pair.run(1.0))
    assert seconds_to(pair, "verdict", back) <= 0.8 * 0.100
    assert seconds_to(pair, "child_up", back) <= 2.8 * 0.100
    assert pair.ping()
