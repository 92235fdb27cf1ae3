"""An SA that a new one replaces still receives what is under way: its peer may live."""

from __future__ import annotations

import pytest
from tests.crash.stories import RTT_S, SIR, Mallory, pair_of, suspect, traffic, verdicts

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
    assert (dict(pair.alice.engine.drops), dict(pair.bob.engine.drops)) == ({}, {})
    pair.run(10 * RTT_S)
    assert pair.ike_sas() == (1, 1)
