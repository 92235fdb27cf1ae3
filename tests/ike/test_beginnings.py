"""Both sides begin at the same time after a crash, in many orders of deliveries; resumption is on."""

from __future__ import annotations

import random

import pytest
from tests.support.invariants import check_one_tunnel
from tests.support.pair import Pair, child_config

from deadpeer.crash.options import QcdOptions, ResumptionOptions

RESUMED: dict[str, object] = {"extensions": (QcdOptions("both"), ResumptionOptions(True))}


def waiting(crashed: tuple[str, ...]) -> Pair:
    """A tunnel was up; who crashed is back; both hosts have sent one packet, and all datagrams are held."""
    pair = Pair.with_psk(children=[child_config(start_action="trap")], both=RESUMED)
    pair.up()
    for side in crashed:
        pair.crash(side)
    pair.hold()
    for side in crashed:
        pair.boot(side)
    pair.send("bob", "10.10.2.1", "10.10.1.1")
    pair.send("alice")
    return pair


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("crashed", [("bob",), ("alice",), ("alice", "bob")], ids="+".join)
def test_one_tunnel_is_left_in_whatever_order(crashed: tuple[str, ...], seed: int) -> None:
    """
    Alice                                Bob (back from a crash, and so is Alice in one case)
      ESP               ──╲  ╱────────   IKE_SA_INIT
      INVALID_SPI, IKE_SESSION_RESUME, IKE_AUTH, ... in an order that the seed chooses
    """
    rng = random.Random(seed)
    pair = waiting(crashed)
    while pair.held:
        pair.deliver(rng.randrange(len(pair.held)))
    pair.hold_rule = lambda sent: False
    pair.run(60.0)
    check_one_tunnel(pair)
