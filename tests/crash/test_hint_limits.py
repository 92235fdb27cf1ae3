"""A flood of forged hints costs what the monitor's limit allows, whichever methods a connection uses."""

from __future__ import annotations

import pytest
from tests.crash.stories import invalid_spi, methods, pair_of, to_alice, verdicts

from deadpeer.crash.options import Method


@pytest.mark.parametrize("chosen", [Method.QCD, Method.SIR, Method.RECONNECT, Method.LIVENESS])
def test_hints_while_a_check_is_in_flight_send_nothing_more(chosen: Method) -> None:
    """Each hint that comes while a request waits for its answer must not have it sent again."""
    both = methods(chosen) if chosen is Method.LIVENESS else methods(chosen, Method.LIVENESS)
    pair = pair_of(both, latency_s=0.05)
    pair.run(1.0)
    hint, before = to_alice(invalid_spi(pair)), len(pair.reasons("alice"))
    for _ in range(5_000):
        pair.inject(hint)
        pair.run(0.001)
    pair.run(1.0)
    caused = [reason for reason in pair.reasons("alice")[before:] if reason != "CHECK_SPI query"]
    # Three at once, then one a second.
    assert len(caused) <= 3 + 5 + 1, caused
    assert verdicts(pair) == []
