"""Session resumption from beginning to end: real endpoints and ESP, virtual time, crashes in between."""

from __future__ import annotations

from tests.support.pair import Pair

from deadpeer.crash.options import Method, PolicyOptions, ResumptionOptions

QCD_ONLY = PolicyOptions((Method.QCD, Method.LIVENESS))
ON = (ResumptionOptions(enabled=True), QCD_ONLY)
OFF = (ResumptionOptions(enabled=False), QCD_ONLY)
RESUME = "IKE_SESSION_RESUME request"


def resuming(**changes: object) -> Pair:
    """A tunnel that is up, on both sides of which resumption is on unless `alice` or `bob` say otherwise."""
    options = {"latency_s": 0.050, "both": {"extensions": ON}, **changes}
    pair = Pair.with_psk(**options)  # type: ignore[arg-type]
    pair.up()
    return pair


def traffic(pair: Pair, seconds: float, every_s: float = 0.010) -> None:
    """Alice's host sends an echo request every `every_s`."""
    for seq in range(int(seconds / every_s)):
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


def crash_and_recover(pair: Pair, down_s: float = 1.0) -> float:
    """Bob crashes under traffic and is back later; seconds from then to Alice's new child."""
    pair.crash("bob")
    traffic(pair, down_s)
    back = pair.mono_ns
    pair.trace.clear()
    pair.boot("bob")
    traffic(pair, 2.0)
    return (next(at for at, e in reversed(pair.alice.events) if e.kind == "child_up") - back) / 1e9


def test_a_crash_is_resumed_in_as_many_round_trips_as_a_full_exchange() -> None:
    """
    Alice                                                Bob
      IKE_SA_INIT                          ◀────────▶
      IKE_AUTH, N(TICKET_REQUEST)          ─────────▶
                                           ◀─────────    IKE_AUTH, N(TICKET_LT_OPAQUE)
                                                         (crash, one second later he is back)
      ESP                                  ─────────▶
                                           ◀─────────    N(INVALID_SPI), N(QCD_TOKEN)
      IKE_SESSION_RESUME, N(TICKET_OPAQUE) ─────────▶
                                           ◀─────────    IKE_SESSION_RESUME
      IKE_AUTH, N(TICKET_REQUEST)          ─────────▶
                                           ◀─────────    IKE_AUTH, N(TICKET_LT_OPAQUE)
    """
    full = crash_and_recover(resuming(both={"extensions": OFF}))
    pair = resuming()
    assert "ticket_received" in pair.alice.kinds()
    resumed = crash_and_recover(pair)
    assert resumed == full
    sent = [s.reason for s in pair.trace if s.sender == "alice"]
    assert sent.count(RESUME) == 1
    assert "IKE_SA_INIT request" not in sent
    assert pair.alice.last("resumed")
    assert pair.bob.last("resumed")
    assert pair.alice.kinds().count("ticket_received") == 2
    assert pair.alice.kinds().count("token_received") == 2
    assert pair.ping()
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (1, 1)
