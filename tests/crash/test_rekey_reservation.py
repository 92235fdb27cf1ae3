"""An IKE SPI that we have offered counts as alive before the SA is there: the peer may be faster."""

from __future__ import annotations

import pytest
from tests.support.pair import Pair

from deadpeer.crash.options import Method, PolicyOptions
from deadpeer.ike.io import Rekey

QCD = {"extensions": (PolicyOptions((Method.QCD, Method.LIVENESS)),)}


@pytest.mark.parametrize("lost", [False, True])
def test_no_token_for_an_sa_whose_making_is_still_on_its_way(lost: bool) -> None:
    """Bob rekeys the IKE SA, and Alice's response is late or lost; she uses the new SA already.

    Alice                                        Bob
    CREATE_CHILD_SA            ◀──────────       his new SPI is in no SA yet
    response                   ──────(held)      the SA lives on Alice's side
    CREATE_CHILD_SA, new SA    ──────────▶       unknown, and yet no answer: a token in the clear
                                                 could be replayed for as long as the SA lives
    response                   ──────────▶       now he has it
    CREATE_CHILD_SA again      ◀─────────▶
    """
    pair = Pair.with_psk(both=QCD)
    pair.up()
    if lost:
        pair.lose("CREATE_CHILD_SA response", sender="alice")
    else:
        pair.hold("CREATE_CHILD_SA response", sender="alice")
    pair.feed("bob", Rekey("home", None, 9))
    pair.run(0.015)
    pair.feed("alice", Rekey("home", "net", 8))
    pair.run(0.03)
    assert "invalid ike spi" not in pair.reasons("bob")
    if not lost:
        pair.release()
    pair.run(10.0)
    assert "invalid ike spi" not in pair.reasons("bob")
    assert pair.ike_sas() == (1, 1)
    assert pair.ping()
    assert [e for _, e in pair.alice.events if e.kind == "verdict"] == []
