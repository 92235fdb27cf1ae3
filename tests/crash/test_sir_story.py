"""SIR end to end under virtual time: a crash found by a NACK, and what attackers can make of it."""

from __future__ import annotations

from tests.support.pair import Pair

from deadpeer.crash.options import Method, PolicyOptions, QcdOptions

LATENCY_S = 0.050
RTT_S = 2 * LATENCY_S
SIR_ONLY = {"extensions": (QcdOptions("off"), PolicyOptions((Method.SIR, Method.LIVENESS)))}


def traffic(pair: Pair, seconds: float, every_s: float = 0.010) -> None:
    """Alice's host sends an echo request every `every_s`."""
    for seq in range(int(seconds / every_s)):
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


def test_a_nack_brings_the_tunnel_back() -> None:
    """
    Alice                                        Bob (crashed, one second later he is back)
      ESP                        ──────────▶
                                 ◀──────────     N(INVALID_SPI)                        0.5 RTT
      N(CHECK_SPI, QUERY)        ──────────▶
                                 ◀──────────     N(CHECK_SPI, NACK)                    1.5
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶     the window is open meanwhile          3.5: verdict
      ESP                        ◀─────────▶                                           4.5: traffic
    """
    pair = Pair.with_psk(latency_s=LATENCY_S, both=SIR_ONLY)
    pair.up()
    traffic(pair, 0.5)
    pair.crash("bob")
    traffic(pair, 1.0)
    back = pair.mono_ns
    pair.boot("bob")
    traffic(pair, 2.0)

    at, verdict = next((at, e) for at, e in pair.alice.events if e.kind == "verdict")
    print(
        [(round((a - back) / 1e8, 2), e.kind, dict(e.fields)) for a, e in pair.alice.events if a > back - 6e8]
    )
    assert verdict.fields["proof"] == "sir"
    assert (at - back) / 1e9 <= 3.7 * RTT_S
