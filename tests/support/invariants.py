"""What must hold of two gateways when nothing is under way any more: they agree, and nothing leaks."""

from __future__ import annotations

from tests.support.pair import Pair, Side

from deadpeer.ike.child import ChildState
from deadpeer.ike.sa import IkeState


def check_one_tunnel(pair: Pair, children: int = 1) -> None:
    """Exactly one IKE SA with exactly so many children, the same ones on both sides; no leaks; traffic."""
    check_agreement(pair)
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (children, children)
    check_no_leaks(pair.alice)
    check_no_leaks(pair.bob)
    assert pair.ping("alice")
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")


def check_agreement(pair: Pair) -> None:
    """Each IKE SA and each child of one side is there on the other, in the same state."""
    alice, bob = (list(s.ike._env.table) for s in (pair.alice, pair.bob))
    assert all(sa.state is IkeState.ESTABLISHED for sa in alice + bob), [sa.state for sa in alice + bob]
    assert sorted((sa.spi_i, sa.spi_r) for sa in alice) == sorted((sa.spi_i, sa.spi_r) for sa in bob)
    for mine in alice:
        theirs = next(sa for sa in bob if sa.spi_i == mine.spi_i)
        assert mine.initiator != theirs.initiator
        ours = sorted((c.spi_in, c.spi_out) for c in mine.children.values())
        assert ours == sorted((c.spi_out, c.spi_in) for c in theirs.children.values())


def check_no_leaks(side: Side) -> None:
    """No request, timer, child or policy is left over of what is gone."""
    env = side.ike._env
    table = env.table
    sas = list(table)
    for sa in sas:
        assert sa.active is None and not sa.queue and sa.send.outstanding is None, (side.name, sa.active)
        assert sa.predecessor is None
        assert all(c.state is ChildState.INSTALLED and not c.rival for c in sa.children.values())
        assert all(table.child(number) == (sa, child) for number, child in sa.children.items())
    children = {number for sa in sas for number in sa.children}
    assert set(table._children) == children
    assert len(table._inbound) == len(children)
    assert sum(map(len, table._outbound.values())) == len(children)
    assert sum(map(len, table._policies.values())) == len(children)
    assert set(table._ours) == {sa.own_spi for sa in sas}
    assert set(table._theirs) == {sa.peer_spi for sa in sas}
    assert sum(map(len, table._peers.values())) == len(sas)
    assert sum(map(len, table._connections.values())) == len(sas)
    assert table.half_open == 0
    for owner, reason in env.timers._armed:
        if isinstance(owner, int):
            assert table.get(owner) is not None, (side.name, owner, reason)
        elif owner[0] == "child":
            assert owner[1] in children, (side.name, owner, reason)
    engine = side.engine
    assert engine is not None
    living = {n for n, child in engine._children.items() if not child.removed}
    assert living == children, (side.name, living, children)
    assert set(side.ike._recovery._attempts) == set()
    assert side.ike._recovery._held == {}
    for extension in env.extensions:
        sizes = extension.counters()
        assert sizes.get("monitor.sas", 0) <= len(sas)
        assert sizes.get("qcd.tokens_made", 0) <= len(sas)
        assert sizes.get("qcd.tokens_held", 0) <= len(sas)
