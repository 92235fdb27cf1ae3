"""What becomes of a tunnel whose peer has lost it: each method, with traffic and without, each dpd_action.

clear    the SA goes on proof, nothing is begun, by no method
trap     the SA goes, packets wait and bring the tunnel back; SIR and reconnect, whose only proof is a
         new SA, have it up by then
restart  the tunnel is back, asked for or not
"""

from __future__ import annotations

import pytest
from tests.crash.stories import methods, verdicts
from tests.support.pair import Pair, child_config

from deadpeer.crash.options import CrashOptions, Method
from deadpeer.ike.connection import DpdAction

QCD, SIR, RECONNECT, LIVENESS = Method.QCD, Method.SIR, Method.RECONNECT, Method.LIVENESS
PROOF = {QCD: "qcd-token", SIR: "sir", RECONNECT: "replaced", LIVENESS: "liveness"}


def after_a_crash(method: Method, *actions: DpdAction, traffic: bool) -> Pair:
    """Bob was down for a second, three minutes ago; nothing tells Alice by itself."""
    children = [
        child_config(name, dpd_action=action) for name, action in zip(("net", "other"), actions, strict=False)
    ]
    pair = Pair.with_psk(
        children=children,
        both=methods(*dict.fromkeys((method, LIVENESS))) | {"dpd_delay_s": 10.0},
        options=CrashOptions(spi_map=False),
    )
    pair.up()
    assert pair.ping()
    pair.crash("bob")
    pair.run(1.0)
    pair.boot("bob")
    for _ in range(360):
        if traffic:
            pair.send("alice")
        pair.run(0.5)
    return pair


def begun(pair: Pair) -> int:
    """How many SAs Alice has initiated since the first."""
    return pair.alice.kinds().count("initiate") - 1


@pytest.mark.parametrize("traffic", [True, False], ids=["traffic", "idle"])
@pytest.mark.parametrize("method", [QCD, SIR, RECONNECT, LIVENESS])
def test_clear_is_clear(method: Method, traffic: bool) -> None:
    pair = after_a_crash(method, "clear", traffic=traffic)
    # No new SA is wanted, and so none can be the proof: without a token liveness finds it.
    assert verdicts(pair) == [PROOF[QCD if method is QCD else LIVENESS]]
    assert begun(pair) == 0
    assert pair.ike_sas() == (0, 0)
    assert not pair.ping()


@pytest.mark.parametrize("traffic", [True, False], ids=["traffic", "idle"])
@pytest.mark.parametrize("method", [QCD, SIR, RECONNECT, LIVENESS])
def test_trap_brings_it_back_when_packets_wait(method: Method, traffic: bool) -> None:
    pair = after_a_crash(method, "trap", traffic=traffic)
    assert verdicts(pair) == [PROOF[method]]
    assert begun(pair) == (1 if traffic or method in (SIR, RECONNECT) else 0)
    assert pair.ping()
    assert (begun(pair), pair.ike_sas(), pair.ike_children()) == (1, (1, 1), (1, 1))


@pytest.mark.parametrize("traffic", [True, False], ids=["traffic", "idle"])
@pytest.mark.parametrize("method", [QCD, SIR, RECONNECT, LIVENESS])
def test_restart_brings_it_back(method: Method, traffic: bool) -> None:
    pair = after_a_crash(method, "restart", traffic=traffic)
    assert verdicts(pair) == [PROOF[method]]
    assert (begun(pair), pair.ike_sas(), pair.ike_children()) == (1, (1, 1), (1, 1))
    assert pair.ping()


@pytest.mark.parametrize("method", [SIR, RECONNECT])
def test_a_new_sa_beside_the_old_one_has_all_its_children(method: Method) -> None:
    """The peer may live, and then the new SA replaces the old one: no child may be lost on suspicion."""
    pair = after_a_crash(method, "restart", "clear", traffic=True)
    assert verdicts(pair) == [PROOF[method]]
    assert pair.ike_children() == (2, 2)


@pytest.mark.parametrize("method", [QCD, LIVENESS])
def test_a_cleared_child_is_not_built_with_one_that_is_restarted(method: Method) -> None:
    pair = after_a_crash(method, "restart", "clear", traffic=True)
    assert verdicts(pair) == [PROOF[method]]
    assert pair.ike_children() == (1, 1)
    assert [e.fields["children"] for _, e in pair.alice.events if e.kind == "recovering"] == [["net"]]


def test_by_default_waiting_packets_bring_the_tunnel_back() -> None:
    pair = Pair.with_psk(children=[child_config(dpd_action=child_default())])
    pair.up()
    pair.crash("bob")
    pair.boot("bob")
    pair.send("alice")
    pair.run(1.0)
    assert verdicts(pair) == ["qcd-token"]
    assert pair.ping()


def child_default() -> DpdAction:
    """What a child does of which nothing is said."""
    from deadpeer.ike.connection import ChildConfig

    action: DpdAction = ChildConfig.__dataclass_fields__["dpd_action"].default
    return action
