"""A crash, found by a token and repaired, end to end under virtual time."""

from __future__ import annotations

from tests.support.pair import Pair


def traffic(pair: Pair, seconds: float, every_s: float = 0.010) -> None:
    """Alice's host sends an echo request every `every_s`."""
    for seq in range(int(seconds / every_s)):
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


def test_a_token_brings_the_tunnel_back_in_round_trips() -> None:
    """
    Alice                                        Bob (crashed, one second later he is back)
      ESP                        ──────────▶
                                 ◀──────────     N(INVALID_SPI)                        0.5 RTT
      INFORMATIONAL (liveness)   ──────────▶
                                 ◀──────────     N(INVALID_IKE_SPI), N(QCD_TOKEN)      1.5: verdict
      IKE_SA_INIT, IKE_AUTH      ◀─────────▶                                           3.5
      ESP                        ◀─────────▶                                           4.5: traffic
    """
    pair = Pair.with_psk(latency_s=0.050)
    pair.up()
    traffic(pair, 0.5)
    pair.crash("bob")
    traffic(pair, 1.0)
    back = pair.mono_ns
    pair.boot("bob")
    traffic(pair, 2.0)

    at, verdict = next((at, e) for at, e in pair.alice.events if e.kind == "verdict")
    assert verdict.fields["proof"] == "qcd-token"
    assert (at - back) / 1e9 <= 1.8 * 0.100
    up = [at for at, e in pair.alice.events if e.kind == "child_up"]
    assert len(up) == 2
    assert (up[1] - back) / 1e9 <= 3.8 * 0.100
    assert pair.ping()
