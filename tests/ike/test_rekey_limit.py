"""An authenticated peer that rekeys its IKE SA without end and deletes none: `max_ike_sas` holds here too."""

from __future__ import annotations

import pytest
from tests.support.pair import Pair

from deadpeer.ike.connection import EndpointConfig
from deadpeer.ike.io import Rekey

LIMIT = 3
KEPT_BACK = ("IKE SA delete request", "retransmission")


def rekeyed(times: int, *, deletes: bool) -> Pair:
    """Alice rekeys so often, a second apart; her DELETEs arrive, or not."""
    pair = Pair.with_psk(bob_config=EndpointConfig(max_ike_sas=LIMIT))
    pair.up()
    if not deletes:
        pair.drop_rule = lambda sent: sent.sender == "alice" and sent.reason in KEPT_BACK
    for _ in range(times):
        pair.feed("alice", Rekey("home"))
        pair.run(1.0)
    return pair


def test_who_owes_deletes_is_put_off_when_there_is_no_room() -> None:
    pair = rekeyed(20, deletes=False)
    assert pair.ike_sas()[1] == LIMIT
    assert pair.bob.ike.counters["rekeying put off: too many IKE SAs"] > 0
    assert pair.ping()
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")
    # When the replaced ones have gone by themselves, it goes on.
    pair.drop_rule = lambda sent: False
    pair.run(120.0)
    before = pair.bob.kinds().count("ike_sa_rekeyed")
    pair.feed("alice", Rekey("home"))
    pair.run(30.0)
    assert pair.bob.kinds().count("ike_sa_rekeyed") > before
    assert pair.ike_sas()[1] == 1


@pytest.mark.parametrize("limit", [1, LIMIT])
def test_a_full_gateway_rekeys_all_the_same(limit: int) -> None:
    pair = Pair.with_psk(bob_config=EndpointConfig(max_ike_sas=limit))
    pair.up()
    for times in range(1, 6):
        pair.feed("alice", Rekey("home"))
        pair.run(1.0)
        assert pair.bob.kinds().count("ike_sa_rekeyed") == times
    assert pair.ike_sas() == (1, 1)
    assert pair.ping()
