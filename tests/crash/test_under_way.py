"""An SA that a new one replaces still receives what is under way: its peer may live."""

from __future__ import annotations

import pytest
from tests.crash.stories import RTT_S, SIR, Mallory, pair_of, suspect, traffic, verdicts
from tests.support.pair import Pair

from deadpeer.crash.options import ResumptionOptions


@pytest.mark.parametrize("resumes", [False, True])
def test_a_new_sa_that_mallory_forced_loses_no_packet(resumes: bool) -> None:
    """He denies for Bob and keeps Bob's answers back; a resumed SA ends the old one on Bob's side at once.

    forged INVALID_SPI         ◀─────────
    CHECK_SPI                  ─────────▶  Mallory: NACK; Bob's ACK is kept back
    a new SA                   ◀────────▶  Bob, alive: the old SA is replaced
    ESP of the old SA          ─────────▶  still under way: received
    """
    extensions = SIR["extensions"]
    assert isinstance(extensions, tuple)
    pair = pair_of({"extensions": (*extensions, ResumptionOptions(enabled=resumes))})
    Mallory(pair, drops=("INFORMATIONAL response", "response again", "CHECK_SPI ACK"))
    suspect(pair)
    traffic(pair, 1.0)
    assert verdicts(pair) == ["resumed" if resumes else "sir"]
    assert pair.ping()
    assert (_drops(pair, "alice"), _drops(pair, "bob")) == ({}, {})
    pair.run(10 * RTT_S)
    assert pair.ike_sas() == (1, 1)


def test_a_delete_that_overtakes_packets_of_the_sa_it_ends() -> None:
    """A newer SA serves already; IKE and ESP are handled by different threads on many peers."""
    pair = pair_of(SIR)
    [old] = list(pair.alice.ike.views())
    pair.delays_rule = lambda sent: (0.060 if sent.reason == "ESP" else 0.010,)
    assert pair.alice.ike.rebuild(pair.now, old, "a test")
    pair._drain(pair.alice)
    traffic(pair, 0.5, until=lambda: len([sa for sa in pair.alice.ike.views() if sa.established]) == 2)
    pair.alice.ike.dismiss(pair.now, old, "a test")
    pair._drain(pair.alice)
    traffic(pair, 0.5)
    assert pair.ike_sas() == (1, 1)
    assert (_drops(pair, "alice"), _drops(pair, "bob")) == ({}, {})


def _drops(pair: Pair, name: str) -> dict[object, int]:
    engine = pair.side(name).engine
    assert engine is not None
    return dict(engine.drops)
