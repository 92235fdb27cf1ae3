"""When a responder begins to send on a child that serves beside another one: not before its peer has it."""

from __future__ import annotations

import pytest
from tests.support.invariants import check_one_tunnel
from tests.support.pair import Pair, child_config

from deadpeer.crash.options import Method, PolicyOptions
from deadpeer.ike.exchanges.child import CreateChild
from deadpeer.ike.io import Initiate, Timeout
from deadpeer.ike.sa import IkeSa
from deadpeer.ike.switch import LONGEST_S, limit_s

LATENCY_S = 0.010
ANSWER = "IKE_AUTH response"
QUIET = PolicyOptions((Method.LIVENESS,))
"""No method acts but the slowest: the stories are about the core alone."""


def up(**options: object) -> Pair:
    """One tunnel that Alice has built, traffic has gone both ways."""
    pair = Pair.with_psk(**{"latency_s": LATENCY_S, "both": {"extensions": (QUIET,)}, **options})  # type: ignore[arg-type]
    pair.up()
    assert pair.ping()
    return pair


def only_sa(pair: Pair, name: str) -> IkeSa:
    [sa] = pair.side(name).ike.views()
    assert isinstance(sa, IkeSa)
    return sa


def newest(pair: Pair, name: str) -> IkeSa:
    sa = list(pair.side(name).ike.views())[-1]
    assert isinstance(sa, IkeSa)
    return sa


def build_beside(pair: Pair) -> IkeSa:
    """Alice begins a new IKE SA with the same child; returns her old one."""
    old = only_sa(pair, "alice")
    assert pair.alice.ike.rebuild(pair.now, old, "a test")
    pair.feed("alice", Timeout())
    return old


def bob_waits(pair: Pair) -> IkeSa:
    """Bob has answered IKE_AUTH of the new SA, and his answer is held. Returns Alice's old SA."""
    pair.hold(ANSWER, sender="bob")
    old = build_beside(pair)
    pair.run(8 * LATENCY_S)
    assert [sent.reason for sent in pair.held] == [ANSWER]
    assert pair.ike_children() == (1, 2)
    return old


def bob_sends(pair: Pair) -> bytes:
    """A host behind Bob sends a packet. Returns the SPI that it goes out with, b"" if it does not."""
    sent = len(pair.trace)
    pair.send("bob", "10.10.2.1", "10.10.1.1")
    spis = [s.datagram.payload[:4] for s in pair.trace[sent:] if (s.sender, s.reason) == ("bob", "ESP")]
    return spis[0] if spis else b""


def spi_of(sa: IkeSa) -> bytes:
    """The SPI of the SA's one child, outbound."""
    [child] = sa.children.values()
    return child.spi_out.to_bytes(4, "big")


def drops(pair: Pair) -> list[dict[str, int]]:
    found = []
    for side in (pair.alice, pair.bob):
        assert side.engine is not None
        found.append(dict(side.engine.drops))
    return found


def test_what_the_responder_sends_before_the_initiator_has_the_answer_goes_on_the_old_child() -> None:
    """
    Alice, old child                       Bob, old child
      IKE_AUTH            ────────────▶
                      (held)  ◀────────    IKE_AUTH: the new child is installed
                          ◀────────────    ESP, old child: the new one is unknown to Alice
      the answer          ◀────────────
      ESP, new child      ────────────▶
                          ◀────────────    ESP, new child
    """
    pair = up()
    bob_waits(pair)
    old, new = pair.bob.ike.views()
    assert isinstance(old, IkeSa) and isinstance(new, IkeSa)
    heard = len(pair.alice.behind.received)
    assert bob_sends(pair) == spi_of(old)
    pair.settle()
    assert len(pair.alice.behind.received) == heard + 1
    pair.release()
    pair.settle()
    assert pair.ping()
    assert bob_sends(pair) == spi_of(new)
    assert drops(pair) == [{}, {}]


def test_the_delete_of_the_old_sa_is_a_word_too() -> None:
    """
    Alice has nothing to send              Bob
                          ◀────────────    IKE_AUTH
      DELETE, old SA      ────────────▶
                          ◀────────────    ESP, new child
    """
    pair = up()
    old = build_beside(pair)
    pair.run(8 * LATENCY_S)
    assert bob_sends(pair) != spi_of(newest(pair, "bob"))
    pair.alice.ike.dismiss(pair.now, old, "a test")
    pair.feed("alice", Timeout())
    pair.settle()
    assert bob_sends(pair) == spi_of(only_sa(pair, "bob"))
    check_one_tunnel(pair)


def test_a_request_in_the_new_sa_is_a_word_too() -> None:
    """Who asks something in the new IKE SA has taken in the answer that made it."""
    pair = up()
    build_beside(pair)
    pair.run(8 * LATENCY_S)
    pair.alice.ike.probe(pair.now, newest(pair, "alice"), "a test")
    pair.feed("alice", Timeout())
    pair.run(2 * LATENCY_S)
    assert bob_sends(pair) == spi_of(newest(pair, "bob"))


def test_without_a_word_the_responder_switches_after_the_limit() -> None:
    """The old SA may be one that Alice has lost, and traffic may go one way by nature."""
    pair = up(both={"extensions": (QUIET,), "silence_s": 0.0})
    build_beside(pair)
    pair.run(4 * LATENCY_S)
    new = newest(pair, "bob")
    [child] = new.children.values()
    pair.run(limit_s(new.rtt_s) - 2 * LATENCY_S)
    assert child.deferred
    pair.run(2 * LATENCY_S)
    assert bob_sends(pair) == spi_of(new)


def test_where_no_other_child_serves_the_responder_sends_at_once() -> None:
    """After a crash of Bob, too: the way back is not one round trip longer."""
    pair = Pair.with_psk(latency_s=LATENCY_S)
    pair.hold(ANSWER, sender="bob")
    pair.feed("alice", Initiate("home", None))
    pair.run(8 * LATENCY_S)
    assert bob_sends(pair) == spi_of(only_sa(pair, "bob"))


def test_a_child_for_other_selectors_does_not_serve_in_its_place() -> None:
    one = child_config("one")
    two = child_config("two", local_ts=one.remote_ts, remote_ts=one.local_ts)
    pair = Pair.with_psk(children=[one, two], latency_s=LATENCY_S)
    pair.up(child="one")
    pair.hold("CREATE_CHILD_SA response", sender="bob")
    pair.feed("alice", Initiate("home", "two"))
    pair.run(4 * LATENCY_S)
    second = list(only_sa(pair, "bob").children.values())[1]
    sent = len(pair.trace)
    pair.send("bob", "10.10.1.1", "10.10.2.1")
    spis = [s.datagram.payload[:4] for s in pair.trace[sent:] if s.reason == "ESP"]
    assert spis == [second.spi_out.to_bytes(4, "big")]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_old_sa_in_doubt_is_left_at_once(when: str) -> None:
    """
    Alice, restarted                       Bob, old child
                          ◀────────────    is she alive?   (a hint, silence)
      IKE_AUTH            ────────────▶
                          ◀────────────    IKE_AUTH, and ESP on the new child
    """
    pair = up()
    pair.hold_rule = lambda sent: sent.sender == "bob" and sent.reason != "IKE_SA_INIT response"
    old = only_sa(pair, "bob")
    if when == "before":
        pair.bob.ike.probe(pair.now, old, "a test")
        pair.feed("bob", Timeout())
    build_beside(pair)
    pair.run(4 * LATENCY_S)
    new = newest(pair, "bob")
    assert new is not old
    if when == "after":
        assert bob_sends(pair) == spi_of(old)
        pair.bob.ike.probe(pair.now, old, "a test")
        pair.feed("bob", Timeout())
    assert bob_sends(pair) == spi_of(new)


@pytest.mark.parametrize("condemns", [True, False])
def test_initial_contact_leaves_no_old_sa_to_wait_for(condemns: bool) -> None:
    """Alice has lost everything and says so; a cluster's member believes it and yet keeps the old SA."""
    pair = up(alice={"initial_contact": True})
    if not condemns:
        pair.bob.ike._recovery.condemned = lambda *_: None  # type: ignore[method-assign]
    old = spi_of(only_sa(pair, "bob"))
    pair.crash("alice")
    pair.boot("alice")
    pair.hold(ANSWER, sender="bob")
    pair.feed("alice", Initiate("home", None))
    pair.run(4 * LATENCY_S)
    assert len(pair.held) == 1
    assert bob_sends(pair) == spi_of(newest(pair, "bob")) != old


def test_packets_that_wait_for_a_recovery_do_not_go_out_on_an_sa_that_is_closed_with_its_old_one() -> None:
    """The old SA goes while the new one waits for its turn: nothing is held back, nothing is lost."""
    pair = up()
    bob_waits(pair)
    old, new = pair.bob.ike.views()
    assert isinstance(old, IkeSa) and isinstance(new, IkeSa)
    spi = spi_of(new)
    old.close(pair.now, "a test")
    pair.feed("bob", Timeout())
    assert bob_sends(pair) == spi


def test_an_answer_that_was_lost_is_waited_for_again() -> None:
    """
    Alice                                  Bob
      IKE_AUTH            ────────────▶
                              x────────    IKE_AUTH
                          ◀────────────    ESP, old child, all the while
      IKE_AUTH again      ────────────▶
                          ◀────────────    IKE_AUTH again: the limit counts from here
    """
    pair = up()
    pair.lose(ANSWER, 1, sender="bob")
    before = [len(side.behind.received) for side in (pair.alice, pair.bob)]
    build_beside(pair)
    for seq in range(200):
        pair.send("alice", seq=seq)
        pair.send("bob", "10.10.2.1", "10.10.1.1", seq)
        pair.run(0.004)
    pair.settle()
    assert pair.bob.ike.counters["sent: response again"] == 1
    assert pair.ike_children() == (2, 2)
    received = [len(s.behind.received) - old for s, old in zip((pair.alice, pair.bob), before, strict=True)]
    assert received == [400, 400]


def test_who_repeats_a_captured_request_can_hold_the_switch_up_only_for_so_long() -> None:
    pair = up()
    pair.hold_rule = lambda sent: sent.reason in (ANSWER, "response again")
    build_beside(pair)
    pair.run(4 * LATENCY_S)
    new = newest(pair, "bob")
    pair.drop_rule = lambda sent: sent.sender == "alice" and sent.reason != "ESP"
    captured = [s.datagram for s in pair.trace if s.reason == "IKE_AUTH request"][-1]
    begun_ns = pair.mono_ns
    while bob_sends(pair) != spi_of(new):
        pair.inject(captured)
        pair.run(0.3)
        assert pair.mono_ns - begun_ns < (LONGEST_S + 1.0) * 1e9
    assert pair.mono_ns - begun_ns > 2 * limit_s(new.rtt_s) * 1e9


def test_a_second_child_for_the_same_selectors_waits_its_turn_too() -> None:
    """CREATE_CHILD_SA without REKEY_SA: some daemons reauthenticate so, and all may ask for it."""
    pair = up()
    old = spi_of(only_sa(pair, "bob"))
    [child] = only_sa(pair, "alice").children.values()
    child.config, asked = child_config("another name"), child.config
    pair.hold("CREATE_CHILD_SA response", sender="bob")
    only_sa(pair, "alice").submit(pair.now, CreateChild(asked))
    pair.feed("alice", Timeout())
    pair.run(3 * LATENCY_S)
    assert pair.ike_children() == (1, 2)
    assert bob_sends(pair) == old
    pair.release()
    pair.settle()
    assert pair.ping()
    assert bob_sends(pair) != old
    assert drops(pair) == [{}, {}]


def test_of_a_rekeying_whose_delete_never_comes_the_responder_goes_on_with_the_new_child() -> None:
    """Alice rekeys and then neither sends on the new child nor deletes the old one: Bob does, in the end."""
    pair = up()
    alice = only_sa(pair, "alice")
    [child] = alice.children.values()
    pair.alice.ike.rekey_child(pair.now, alice, child.spi_out, "a test")
    pair.drop_rule = lambda sent: sent.sender == "alice" and sent.reason != "child SA rekey request"
    pair.feed("alice", Timeout())
    pair.run(3 * LATENCY_S)
    alice.active = None
    alice.send.close()
    alice.env.timers.cancel(alice.number, "retransmission")
    pair.drop_rule = lambda sent: False
    pair.run(61.0)
    [new] = only_sa(pair, "bob").children.values()
    assert bob_sends(pair) == new.spi_out.to_bytes(4, "big")


@pytest.mark.parametrize("seed", range(12))
def test_no_reauthentication_loses_a_packet(seed: int) -> None:
    """Make before break by either side, under traffic, where ESP overtakes the answer that it needs."""
    pair = up(seed=seed, latency_s=(0.001, 0.010, 0.040)[seed % 3])
    slow = (0.0, 0.030, 0.120)[seed // 3 % 3]
    pair.delays_rule = lambda sent: (pair.latency_s + (slow if sent.reason == ANSWER else 0.0),)
    before = [len(side.behind.received) for side in (pair.alice, pair.bob)]
    sent = 0
    for by in ("alice", "bob", "alice"):
        old = only_sa(pair, by)
        assert pair.side(by).ike.rebuild(pair.now, old, "a test")
        pair.feed(by, Timeout())
        for seq in range(150):
            pair.send("alice", seq=seq)
            pair.send("bob", "10.10.2.1", "10.10.1.1", seq)
            pair.run(0.004)
            sent += 1
        pair.side(by).ike.dismiss(pair.now, old, "a test")
        pair.feed(by, Timeout())
        for seq in range(50):
            pair.send("alice", seq=seq)
            pair.send("bob", "10.10.2.1", "10.10.1.1", seq)
            pair.run(0.004)
            sent += 1
        pair.run(1.0)
    received = [len(s.behind.received) - old for s, old in zip((pair.alice, pair.bob), before, strict=True)]
    assert received == [2 * sent, 2 * sent], drops(pair)
    check_one_tunnel(pair)
