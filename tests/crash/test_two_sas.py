"""Two IKE SAs between the same two gateways: what is lost of one is not told in the other in vain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.pair import Pair, child_config, connection, host_selector, mirrored

from deadpeer.crash.options import CrashOptions, Method, PolicyOptions
from deadpeer.ike.io import Initiate
from deadpeer.plane.model import RemoveChild

HOSTS = ("192.0.2.1", "192.0.2.2")
HOME = child_config()
WORK = child_config("more", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),))
PATHS = (("10.10.1.1", "10.10.2.1"), ("10.10.1.2", "10.10.2.2"))
"""The inner addresses that the child of each SA is for."""


def two_sas(*methods: Method, latency_s: float = 0.010) -> Pair:
    """Two connections between Alice and Bob, with identities of their own, both up."""
    extensions = (PolicyOptions(methods),) if methods else ()
    hers = [
        connection("home", HOSTS, "alice", "bob", (HOME,)),
        connection("work", HOSTS, "alice2", "bob2", (WORK,)),
    ]
    his = [
        connection("home", HOSTS[::-1], "bob", "alice", (mirrored(HOME),)),
        connection("work", HOSTS[::-1], "bob2", "alice2", (mirrored(WORK),)),
    ]
    pair = Pair(
        [replace(c, extensions=extensions) for c in hers],
        [replace(c, extensions=extensions) for c in his],
        latency_s=latency_s,
        options=CrashOptions(spi_map=False),
    )
    pair.up()
    pair.feed("alice", Initiate("work", None, 2))
    pair.settle()
    assert pair.ike_sas() == (2, 2)
    assert all(pair.ping("alice", *path) for path in PATHS)
    return pair


def lose_child(pair: Pair, index: int) -> None:
    """Bob has the IKE SA and not its child any more."""
    sa = list(pair.bob.ike.views())[index]
    [child] = list(sa.children.values())
    sa.release(child)
    assert pair.bob.engine is not None
    pair.bob.engine.apply(pair.mono_ns, RemoveChild(child.number))


def back_after_s(pair: Pair, path: tuple[str, str], limit_s: float, every_s: float = 0.02) -> float | None:
    """Packets go out all the time: how long until one has made the round trip."""
    start_ns, heard = pair.mono_ns, len(pair.alice.behind.received)
    while pair.mono_ns - start_ns < limit_s * 1e9:
        pair.send("alice", *path)
        pair.run(every_s)
        if len(pair.alice.behind.received) > heard:
            return (pair.mono_ns - start_ns) / 1e9
    return None


@pytest.mark.parametrize("index", [0, 1])
def test_a_lost_child_of_either_sa_is_replaced(index: int) -> None:
    pair = two_sas()
    lose_child(pair, index)
    back_s = back_after_s(pair, PATHS[index], limit_s=5.0)
    assert back_s is not None
    assert back_s < 0.5
    assert pair.alice.ike.counters["lost_child.replaced"] == 1
    assert all(pair.ping("alice", *path) for path in PATHS)
    assert "verdict" not in pair.alice.kinds()
    assert pair.ike_children() == (2, 2)


# Alice                                  Bob, after a crash
#   (SA 1 is back, SA 2 still stands)
#   ESP of SA 2                     -->
#                                   <--  SK{ N(INVALID_SPI) } in the new SA 1
#   SK{} in SA 2                    -->  a hint about SA 2
#                                   <--  N(INVALID_IKE_SPI), N(QCD_TOKEN)
@pytest.mark.parametrize("methods", [(), (Method.SIR, Method.LIVENESS), (Method.RECONNECT, Method.LIVENESS)])
def test_what_is_told_in_one_sa_is_a_hint_about_the_other(methods: tuple[Method, ...]) -> None:
    pair = two_sas(*methods, latency_s=0.050)
    pair.crash("bob")
    pair.run(1.0)
    pair.boot("bob")
    assert back_after_s(pair, PATHS[0], limit_s=5.0) is not None
    assert [e.fields["connection"] for _, e in pair.alice.events if e.kind == "verdict"] == ["home"]
    pair.run(5.0)
    before = len(pair.alice.events)
    assert back_after_s(pair, PATHS[1], limit_s=5.0) is not None
    pair.run(1.0)
    hints = [
        e for _, e in pair.alice.events[before:] if e.kind == "hint" and e.fields["connection"] == "work"
    ]
    assert hints[0].fields["hint"] == "invalid-spi"
    verdicts = [e.fields["connection"] for _, e in pair.alice.events if e.kind == "verdict"]
    assert verdicts == ["home", "work"]
    assert all(pair.ping("alice", *path) for path in PATHS)


def test_how_often_all_sas_with_a_peer_are_told_is_limited() -> None:
    pair = two_sas()
    reported = pair.bob.ike.counters["invalid_spi_sent"]
    lose_child(pair, 1)
    # Alice's answer is lost on the way: she goes on, and replaces nothing.
    pair.drop_rule = lambda sent: sent.sender == "bob" and sent.reason != "ESP"
    back_after_s(pair, PATHS[1], limit_s=10.0)
    told = pair.bob.ike.counters["invalid_spi_sent"] - reported
    assert told <= 2 * (3 + 10)
