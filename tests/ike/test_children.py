"""CREATE_CHILD_SA: more children, rekeying, refusals, retries, no packet lost (RFC 7296 1.3, 2.8, 2.25)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.invariants import check_agreement, check_no_leaks, check_one_tunnel
from tests.support.pair import ESP_PROPOSAL, Pair, Sent, child_config, host_selector, mirrored

from deadpeer.crypto import parse_proposal
from deadpeer.ike import child as child_module
from deadpeer.ike.io import Command, Initiate, Rekey, Terminate
from deadpeer.ike.sa import IkeSa
from deadpeer.plane.packets import echo_request
from deadpeer.wire import Protocol

MORE = child_config("more", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),))
PFS_BOTH = parse_proposal("aes256gcm16-x25519-ecp256", Protocol.ESP)
PFS_ECP = parse_proposal("aes256gcm16-ecp256", Protocol.ESP)


def sa_of(pair: Pair, name: str) -> IkeSa:
    """The one established IKE SA of a side."""
    (sa,) = [sa for sa in pair.side(name).ike.views() if sa.established]
    return sa


def lose_child(pair: Pair, name: str) -> None:
    """One side forgets its child, as if its kernel had flushed it."""
    sa = sa_of(pair, name)
    for child in list(sa.children.values()):
        sa.drop_child(pair.now, child, "flushed by hand")
    pair._drain(pair.side(name))


def rekey(pair: Pair, name: str, command: Command) -> None:
    pair.feed(name, command)
    pair.run(10.0)
    assert pair.side(name).done[9].ok, pair.side(name).done[9].text


# --- further children ----------------------------------------------------------------------------------


def test_an_up_of_a_connection_brings_all_its_children_and_is_answered_once() -> None:
    """
    Alice                              Bob
      IKE_AUTH (net)         ────────▶
                             ◀────────  IKE_AUTH
      CREATE_CHILD_SA (more) ────────▶
                             ◀────────  CREATE_CHILD_SA
    """
    pair = Pair.with_psk(children=[child_config(), MORE])
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(0.05)
    assert 1 not in pair.alice.done, "the second child is not up yet"
    pair.run(1.0)
    assert pair.alice.done[1].ok
    check_one_tunnel(pair, children=2)
    assert pair.ping("alice", "10.10.1.2", "10.10.2.2")


def test_one_child_of_several_that_is_refused_fails_the_command_and_leaves_the_others() -> None:
    pair = Pair.with_psk(children=[child_config(), MORE], bob={"children": (mirrored(child_config()),)})
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(1.0)
    assert not pair.alice.done[1].ok
    assert "TS_UNACCEPTABLE" in pair.alice.done[1].text
    assert "established" not in pair.alice.done[1].text
    check_one_tunnel(pair)


def test_an_up_of_what_is_up_says_so() -> None:
    pair = Pair.with_psk()
    pair.up()
    pair.feed("alice", Initiate("home", "net", 5))
    assert pair.alice.done[5].ok
    assert "already" in pair.alice.done[5].text
    check_one_tunnel(pair)


def test_two_ups_in_a_row_make_one_child() -> None:
    pair = Pair.with_psk(children=[child_config(), MORE])
    pair.up(child="net")
    pair.feed("alice", Initiate("home", "more", 5))
    pair.feed("alice", Initiate("home", None, 6))
    pair.run(2.0)
    assert pair.alice.done[5].ok
    assert pair.alice.done[6].ok
    assert "already" in pair.alice.done[6].text
    check_one_tunnel(pair, children=2)


def test_an_up_does_not_double_a_child_of_another_ike_sa() -> None:
    """Both sides began at once: net in the IKE SA of one, more in that of the other; that may stay so."""
    pair = Pair.with_psk(children=[child_config(), MORE])
    pair.feed("alice", Initiate("home", "net", 1))
    pair.feed("bob", Initiate("home", "more", 1))
    pair.run(20.0)
    assert pair.ike_children() == (2, 2)
    before = pair.ike_sas()
    for who in ("alice", "bob"):
        pair.feed(who, Initiate("home", None, 5))
        pair.run(1.0)
        assert pair.side(who).done[5].ok
        assert pair.side(who).done[5].text.count("already") == 2
    assert pair.ike_children() == (2, 2)
    assert pair.ike_sas() == before
    check_agreement(pair)


def test_a_second_child_with_forward_secrecy_and_the_wrong_group_first() -> None:
    hers = replace(MORE, esp_proposals=(PFS_BOTH,))
    his = mirrored(replace(MORE, esp_proposals=(PFS_ECP,)))
    pair = Pair.with_psk(
        alice={"children": (child_config(), hers)}, bob={"children": (mirrored(child_config()), his)}
    )
    pair.up()
    pair.run(1.0)
    check_one_tunnel(pair, children=2)
    (child,) = [c for c in sa_of(pair, "alice").children.values() if c.name == "more"]
    assert child.suite.group is not None
    assert child.suite.group.name == "ecp256"
    assert_only_asked_for_another_group(pair)


def test_more_children_than_an_ike_sa_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deadpeer.ike.exchanges.child.MAX_CHILDREN", 1)
    assert child_module.MAX_CHILDREN == 128
    pair = Pair.with_psk(children=[child_config(), MORE])
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(1.0)
    assert "NO_ADDITIONAL_SAS" in pair.alice.done[1].text
    rekey(pair, "alice", Rekey("home", "net", 9))
    check_one_tunnel(pair)


# --- rekeying ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("esp", [ESP_PROPOSAL, PFS_BOTH])
def test_rekeying_a_child_gives_new_keys_and_deletes_the_old_one(who: str, esp: object) -> None:
    """
    Alice                                          Bob
      CREATE_CHILD_SA, N(REKEY_SA), SA, Ni[, KE] ──▶
                                                 ◀──  SA, Nr[, KE]
      INFORMATIONAL, Delete(old)                 ──▶
                                                 ◀──  INFORMATIONAL, Delete(old)
    """
    pair = Pair.with_psk(children=[child_config(esp_proposals=(esp,))])
    pair.up()
    (before,) = sa_of(pair, "alice").children.values()
    rekey(pair, who, Rekey("home", "net", 9))
    (after,) = sa_of(pair, "alice").children.values()
    assert (after.spi_in, after.spi_out) != (before.spi_in, before.spi_out)
    assert after.policy == before.policy
    check_one_tunnel(pair)


def test_rekeying_with_the_wrong_group_first() -> None:
    """The first child is made without a group (in IKE_AUTH); its rekeying asks for one."""
    hers, his = child_config(esp_proposals=(PFS_BOTH,)), mirrored(child_config(esp_proposals=(PFS_ECP,)))
    pair = Pair.with_psk(alice={"children": (hers,)}, bob={"children": (his,)})
    pair.up()
    rekey(pair, "alice", Rekey("home", "net", 9))
    assert pair.reasons("alice").count("child SA rekey request") == 2
    assert_only_asked_for_another_group(pair)
    check_one_tunnel(pair)


def assert_only_asked_for_another_group(pair: Pair) -> None:
    """Bob's answer INVALID_KE_PAYLOAD is part of an exchange that succeeds: nothing to warn of."""
    assert "child_failed" not in pair.bob.kinds()
    assert pair.bob.last("child_other_group").level == "debug"


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_rekeying_the_ike_sa_with_the_wrong_group_first(who: str) -> None:
    both = parse_proposal("aes256gcm16-prfsha256-x25519-ecp256", Protocol.IKE)
    pair = Pair.with_psk(both={"proposals": (both,)})
    pair.up()
    other = parse_proposal("aes256gcm16-prfsha256-ecp256", Protocol.IKE)
    responder = "bob" if who == "alice" else "alice"
    sa = sa_of(pair, responder)
    sa.connection = replace(sa.connection, proposals=(other,))
    rekey(pair, who, Rekey("home", None, 9))
    assert pair.reasons(who).count("IKE SA rekey request") == 2
    assert sa_of(pair, who).suite.group.name == "ecp256"
    check_one_tunnel(pair)


@pytest.mark.parametrize("command", [Rekey("home", "net", 9), Rekey("home", None, 9)])
@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("latency_s", [0.001, 0.04, 0.2])
def test_rekeying_under_traffic_loses_no_packet(command: Command, who: str, latency_s: float) -> None:
    """An echo each way every 3 ms, three rekeyings, not one reply missing, none twice."""
    pair = Pair.with_psk(latency_s=latency_s, both={"dpd_delay_s": 0.0})
    pair.up()
    seen = {"alice": len(pair.alice.behind.received), "bob": len(pair.bob.behind.received)}
    ends = {"alice": ("10.10.1.1", "10.10.2.1"), "bob": ("10.10.2.1", "10.10.1.1")}
    count = 600
    for seq in range(count):
        if seq in (50, 250, 450):
            pair.feed(who, command)
        for name, (source, target) in ends.items():
            side = pair.side(name)
            side.behind.send(echo_request(source, target, 7, seq, b"deadpeer"))
            pair._drain(side)
        pair.run(0.003)
    pair.run(2.0)
    for name, before in seen.items():
        arrived = pair.side(name).behind.received[before:]
        assert len(arrived) == 2 * count, name  # the replies to one's own, and the other's requests
    for side in (pair.alice, pair.bob):
        assert side.engine is not None
        assert not side.engine.drops
    pair.run(10.0)
    check_one_tunnel(pair)


@pytest.mark.parametrize(
    "reason", ["child SA rekey request", "CREATE_CHILD_SA response", "child SA delete request",
               "INFORMATIONAL response", "IKE SA rekey request", "IKE SA delete request"],
)  # fmt: skip
@pytest.mark.parametrize("times", [1, 3])
def test_the_loss_of_any_message_of_a_rekeying_is_made_good(reason: str, times: int) -> None:
    for command in (Rekey("home", "net", 9), Rekey("home", None, 9)):
        pair = Pair.with_psk(both={"dpd_delay_s": 0.0})
        pair.up()
        left = [times]

        def rule(sent: Sent, left: list[int] = left) -> bool:
            begun = left[0] < times and sent.reason in ("retransmission", "response again")
            if left[0] and (sent.reason == reason or begun):
                left[0] -= 1
                return True
            return False

        pair.drop_rule = rule
        rekey(pair, "alice", command)
        pair.run(60.0)
        check_one_tunnel(pair)


# --- refusals --------------------------------------------------------------------------------------------


def test_temporary_failure_is_tried_again_a_little_later() -> None:
    """
    Alice                              Bob
      CREATE_CHILD_SA (rekey IKE) ──▶   (his rekeying of the child is under way)
                             ◀────────  N(TEMPORARY_FAILURE)
      CREATE_CHILD_SA (rekey IKE) ──▶   1 to 3 s later
                             ◀────────  CREATE_CHILD_SA
    """
    pair = Pair.with_psk()
    pair.up()
    pair.hold("child SA rekey request")
    pair.feed("bob", Rekey("home", "net", 8))
    began = pair.mono_ns
    pair.feed("alice", Rekey("home", None, 9))
    pair.settle()
    pair.release()
    pair.run(5.0)
    sent = [s.at_ns for s in pair.trace if s.reason == "IKE SA rekey request"]
    assert len(sent) == 2
    assert 1.0 <= (sent[1] - began) / 1e9 <= 3.1
    assert pair.alice.done[9].ok
    assert pair.bob.done[8].ok
    pair.run(10.0)
    check_one_tunnel(pair)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_child_that_the_peer_does_not_know_is_made_anew(who: str) -> None:
    """
    Alice                              Bob (lost the child)
      CREATE_CHILD_SA, N(REKEY_SA) ──▶
                             ◀────────  N(CHILD_SA_NOT_FOUND)
      CREATE_CHILD_SA        ────────▶
                             ◀────────  CREATE_CHILD_SA      what waited goes
    """
    pair = Pair.with_psk()
    pair.up()
    lose_child(pair, "bob" if who == "alice" else "alice")
    rekey(pair, who, Rekey("home", "net", 9))
    check_one_tunnel(pair)


def test_a_peer_that_lost_one_child_says_so_and_packets_wait_for_the_new_one() -> None:
    """
    Alice                              Bob (lost the child)
      ESP                    ────────▶
      ESP                    ────────▶
                             ◀────────  INFORMATIONAL, N(INVALID_SPI)     protected
      CREATE_CHILD_SA        ────────▶                                    packets wait
                             ◀────────  CREATE_CHILD_SA                   and go
    """
    pair = Pair.with_psk()
    pair.up()
    lose_child(pair, "bob")
    for seq in range(100):
        pair.send("alice", seq=seq)
        pair.run(0.01)
    pair.run(2.0)
    assert pair.alice.kinds().count("child_up") == 2
    assert "verdict" not in pair.alice.kinds(), "the IKE SA lives"
    pair.run(5.0)
    check_one_tunnel(pair)


def test_a_new_child_that_fails_for_good_leaves_the_packets_waiting_and_asking() -> None:
    """Bob lost the child and will not have it back: Alice asks again whenever a packet comes."""
    pair = Pair.with_psk()
    pair.up()
    lose_child(pair, "bob")
    sa = sa_of(pair, "bob")
    willing, sa.connection = sa.connection, replace(sa.connection, children=())
    pair.feed("alice", Rekey("home", "net", 9))
    pair.run(5.0)
    assert pair.ike_children() == (0, 0)
    pair.send("alice")
    pair.run(2.0)
    assert pair.alice.kinds().count("child_failed") >= 2
    sa.connection = willing
    received = len(pair.alice.behind.received)
    pair.send("alice")
    pair.run(2.0)
    assert len(pair.alice.behind.received) > received
    pair.run(10.0)
    check_one_tunnel(pair)


def test_a_refused_rekeying_is_tried_again_until_the_child_ends() -> None:
    pair = Pair.with_psk()
    pair.up()
    (his,) = sa_of(pair, "bob").children.values()
    his.config = replace(his.config, esp_proposals=(parse_proposal("aes128-sha256", Protocol.ESP),))
    pair.feed("alice", Rekey("home", "net", 9))
    pair.run(100.0)
    assert not pair.alice.done[9].ok
    assert pair.alice.kinds().count("child_failed") >= 3
    assert pair.ping(), "the old child goes on"
    his.config = replace(his.config, esp_proposals=(ESP_PROPOSAL,))
    pair.run(40.0)
    assert pair.alice.kinds().count("child_rekeyed") == 1
    check_one_tunnel(pair)


def test_a_retry_moves_to_the_ike_sa_that_replaces_its_own() -> None:
    """A request that waits to be tried again is not lost when its IKE SA is rekeyed meanwhile."""
    pair = Pair.with_psk()
    pair.up()
    (his,) = sa_of(pair, "bob").children.values()
    his.config = replace(his.config, esp_proposals=(parse_proposal("aes128-sha256", Protocol.ESP),))
    pair.feed("alice", Rekey("home", "net", 9))
    pair.run(2.0)
    his.config = replace(his.config, esp_proposals=(ESP_PROPOSAL,))
    rekey(pair, "bob", Rekey("home", None, 9))
    pair.run(40.0)
    assert pair.alice.kinds().count("child_rekeyed") == 1
    check_one_tunnel(pair)


# --- deleting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_down_of_one_child_leaves_the_other(who: str) -> None:
    pair = Pair.with_psk(children=[child_config(), MORE])
    pair.up()
    pair.run(1.0)
    pair.feed(who, Terminate("home", "more", 9))
    pair.run(1.0)
    assert pair.side(who).done[9].ok
    check_one_tunnel(pair)
    assert not pair.ping("alice", "10.10.1.2", "10.10.2.2")


def test_a_replaced_child_whose_delete_never_comes_is_deleted_by_the_other_side() -> None:
    """Alice (by fault) never deletes the old child; Bob does after a minute."""
    pair = Pair.with_psk(both={"dpd_delay_s": 0.0})
    pair.up()
    sa = sa_of(pair, "alice")
    pair.hold("child SA delete request")
    pair.feed("alice", Rekey("home", "net", 9))
    pair.settle()
    pair.held.clear()
    exchange, sa.active = sa.active, None
    assert exchange is not None
    sa.send.close()
    sa.env.timers.cancel(sa.number, "retransmission")
    pair.bob.ike._env.table.get(1).recv.next_id += 1  # type: ignore[union-attr]
    pair.hold_rule = lambda sent: False
    assert pair.ike_children() == (2, 2)
    pair.run(70.0)
    assert pair.ike_children() == (1, 1)
    check_agreement(pair)
    check_no_leaks(pair.bob)


def test_a_deleted_child_that_is_not_known_is_answered_without_a_delete() -> None:
    pair = Pair.with_psk()
    pair.up()
    lose_child(pair, "bob")
    pair.feed("alice", Terminate("home", "net", 9))
    pair.run(1.0)
    assert pair.alice.done[9].ok
    assert pair.ike_children() == (0, 0)
    assert pair.ike_sas() == (1, 1)
