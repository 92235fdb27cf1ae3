"""What the configuration asks for: start, trap, close_action, retries, reload, %any, shutdown."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from tests.support.invariants import check_no_leaks, check_one_tunnel
from tests.support.pair import Pair, child_config, connection, host_selector, mirrored

from deadpeer.crypto import Identity
from deadpeer.ike.connection import EndpointConfig, LocalAuth, RemoteAuth
from deadpeer.ike.io import Initiate, Rekey, Reload, Shutdown, Terminate

SECRET = b"correct horse battery staple"
MORE = child_config("more", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),))


def started(action: str, **options: object) -> Pair:
    """Alice's child has this start_action; Bob's has none."""
    kids = {"children": (child_config(start_action=action),)}
    return Pair.with_psk(alice={**kids, **options.pop("alice", {})}, **options)  # type: ignore[arg-type,dict-item]


def test_start_brings_the_tunnel_up_at_once() -> None:
    pair = started("start")
    pair.run(1.0)
    check_one_tunnel(pair)


def test_start_goes_on_until_the_peer_is_there() -> None:
    pair = started("start", alice_config=EndpointConfig(init_timeout_s=5.0))
    pair.crash("bob")
    pair.run(60.0)
    assert pair.alice.kinds().count("initiate_failed") >= 4
    pair.boot("bob")
    pair.run(40.0)
    check_one_tunnel(pair)


def test_keyingtries_bounds_the_rounds_of_a_start() -> None:
    pair = started("start", alice={"keyingtries": 3}, alice_config=EndpointConfig(init_timeout_s=5.0))
    pair.crash("bob")
    pair.run(300.0)
    assert pair.alice.kinds().count("initiate") == 3
    check_no_leaks(pair.alice)
    assert pair.alice.ike.deadline() is None or pair.alice.ike.deadline().reason != "try again"  # type: ignore[union-attr]


def test_up_makes_one_round() -> None:
    pair = Pair.with_psk(alice_config=EndpointConfig(init_timeout_s=5.0))
    pair.crash("bob")
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(60.0)
    assert pair.alice.kinds().count("initiate") == 1
    assert not pair.alice.done[1].ok


def test_a_trap_waits_for_the_first_packet_which_goes_then() -> None:
    """
    host ── packet ──▶ Alice (trap)             Bob
                         IKE_SA_INIT  ─────────▶
                         ...                        the packet waits
                         ESP          ─────────▶    and goes
    """
    pair = started("trap")
    pair.run(5.0)
    assert pair.trace == []
    received = len(pair.bob.behind.received)
    for seq in range(5):
        pair.send("alice", seq=seq)
    pair.run(2.0)
    assert len(pair.bob.behind.received) == received + 5
    assert pair.alice.kinds().count("initiate") == 1
    check_one_tunnel(pair)


def test_a_trap_is_armed_again_after_down() -> None:
    pair = started("trap")
    assert pair.ping()
    pair.feed("alice", Terminate("home", None, 9))
    pair.run(2.0)
    assert pair.ike_sas() == (0, 0)
    assert pair.ping()


@pytest.mark.parametrize(("action", "back", "on_traffic"), [("none", 0, 0), ("trap", 0, 1), ("start", 1, 1)])
def test_close_action_when_the_peer_deletes_the_child(action: str, back: int, on_traffic: int) -> None:
    pair = Pair.with_psk(alice={"children": (child_config(close_action=action),)})
    pair.up()
    pair.feed("bob", Terminate("home", "net", 9))
    pair.run(3.0)
    assert pair.ike_children() == (back, back)
    pair.ping()
    assert pair.ike_children() == (on_traffic, on_traffic)
    assert pair.ike_sas() == (1, 1)


@pytest.mark.parametrize(("action", "back", "on_traffic"), [("none", 0, 0), ("trap", 0, 1), ("start", 1, 1)])
def test_close_action_when_the_peer_deletes_the_ike_sa(action: str, back: int, on_traffic: int) -> None:
    kids = (child_config(close_action=action), replace(MORE, close_action=action))
    pair = Pair.with_psk(alice={"children": kids}, bob={"children": tuple(map(mirrored, kids))})
    pair.bob.connections[0] = replace(
        pair.bob.connections[0], children=tuple(replace(mirrored(k), close_action="none") for k in kids)
    )
    pair.crash("bob")
    pair.boot("bob")
    pair.up()
    pair.run(1.0)
    pair.feed("bob", Terminate("home", None, 9))
    pair.run(3.0)
    assert pair.ike_sas() == (back, back)
    assert pair.ike_children() == (2 * back, 2 * back)
    assert pair.ping() == bool(on_traffic)
    assert pair.ike_sas() == (on_traffic, on_traffic)
    assert pair.alice.kinds().count("initiate") == 1 + on_traffic


def test_down_lets_nothing_wait_any_more() -> None:
    """A hold that close_action made ends with down: packets are dropped, and nobody initiates."""
    pair = Pair.with_psk(alice={"children": (child_config(close_action="trap"),)})
    pair.up()
    pair.feed("bob", Terminate("home", "net", 9))
    pair.run(1.0)
    pair.feed("alice", Terminate("home", None, 9))
    pair.run(1.0)
    assert not pair.ping()
    assert pair.ike_sas() == (0, 0)
    check_no_leaks(pair.alice)


# --- reload ----------------------------------------------------------------------------------------------


def test_a_reload_of_the_same_changes_nothing() -> None:
    pair = started("trap")
    assert pair.ping()
    before = pair.alice.ike.snapshot(pair.now)[0]["spi_i"]
    pair.feed("alice", Reload(tuple(pair.alice.connections)))
    pair.run(1.0)
    assert pair.alice.ike.snapshot(pair.now)[0]["spi_i"] == before
    check_one_tunnel(pair)


def test_a_connection_that_is_added_is_started() -> None:
    pair = started("none")
    (mine,) = pair.alice.connections
    pair.feed("alice", Reload((replace(mine, children=(child_config(start_action="start"),)),)))
    pair.run(1.0)
    check_one_tunnel(pair)


def test_a_connection_that_is_removed_keeps_its_sas_and_is_not_tried_any_more() -> None:
    pair = started("trap")
    assert pair.ping()
    pair.feed("alice", Reload(()))
    pair.run(1.0)
    assert pair.ping(), "the living SA stays"
    pair.feed("alice", Initiate("home", None, 7))
    assert not pair.alice.done[7].ok
    pair.feed("bob", Terminate("home", None, 9))
    pair.run(1.0)
    assert not pair.ping()
    assert pair.ike_sas() == (0, 0)


def test_a_setup_under_way_ends_with_its_connection() -> None:
    pair = started("start")
    pair.crash("bob")
    pair.run(1.0)
    pair.feed("alice", Initiate("home", None, 7))
    pair.feed("alice", Reload(()))
    assert not pair.alice.done[7].ok
    pair.run(200.0)
    assert pair.alice.kinds().count("initiate") == 1
    check_no_leaks(pair.alice)


def test_packets_that_wait_for_a_removed_connection_wait_no_more() -> None:
    pair = Pair.with_psk(alice={"children": (child_config(close_action="trap"),)})
    pair.up()
    pair.feed("bob", Terminate("home", "net", 9))
    pair.run(1.0)
    pair.feed("alice", Reload(()))
    pair.send("alice")
    assert pair.alice.engine is not None
    assert pair.alice.engine.held == 0
    assert pair.alice.ike._recovery._held == {}


def test_a_changed_child_is_used_by_the_next_sa() -> None:
    pair = started("none")
    pair.up()
    (mine,) = pair.alice.connections
    (his,) = pair.bob.connections
    pair.feed("alice", Reload((replace(mine, children=(MORE,)),)))
    pair.feed("bob", Reload((replace(his, children=(mirrored(MORE),)),)))
    pair.feed("alice", Rekey("home", "net", 8))
    pair.run(2.0)
    assert pair.alice.done[8].ok, "what lives keeps what it was made with"
    pair.feed("alice", Terminate("home", None, 9))
    pair.run(2.0)
    pair.feed("alice", Initiate("home", None, 10))
    pair.run(2.0)
    assert pair.alice.done[10].ok
    assert pair.ping("alice", "10.10.1.2", "10.10.2.2")


# --- any peer --------------------------------------------------------------------------------------------


def gateway_for_anybody(**changes: object) -> Pair:
    """Bob takes any peer with the right secret and loses nobody: dpd_action restart, close_action start."""
    kids = (
        mirrored(child_config(close_action="start")),
        mirrored(replace(MORE, close_action="start")),
    )
    any_peer = {"remote_addrs": (), "remote": RemoteAuth("psk", None, SECRET), "children": kids, **changes}
    return Pair.with_psk(children=[child_config(), MORE], bob=any_peer)


def test_nobody_can_be_initiated_to_at_any_address() -> None:
    pair = gateway_for_anybody()
    pair.feed("bob", Initiate("home", None, 1))
    assert not pair.bob.done[1].ok
    assert "no single remote address" in pair.bob.done[1].text
    check_no_leaks(pair.bob)


def test_a_peer_of_any_address_is_found_again_where_it_was_with_all_its_children_in_one_sa() -> None:
    pair = gateway_for_anybody()
    pair.up()
    pair.run(1.0)
    pair.feed("alice", Terminate("home", None, 9))
    pair.run(5.0)
    assert pair.bob.kinds().count("initiate") == 1
    check_one_tunnel(pair, children=2)


def test_policies_of_peers_that_have_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deadpeer.ike.environment.POLICIES_BEFORE_SWEEP", 10)
    kids = (mirrored(child_config()),)
    pair = gateway_for_anybody(children=kids)
    pair.bob.ike._env._sweep_at = 10
    (mine,) = pair.alice.connections
    for number in range(60):
        local = LocalAuth("psk", Identity.parse(f"peer{number}"), SECRET)
        pair.feed("alice", Reload((replace(mine, children=(child_config(),), local=local),)))
        pair.feed("alice", Initiate("home", None, 1))
        pair.settle()
        pair.feed("alice", Terminate("home", None, 2))
        pair.settle()
    env = pair.bob.ike._env
    assert pair.bob.kinds().count("ike_sa_up") == 60
    assert len(env._policies) <= 20
    assert len(env._policies) == len(env._policy_keys)
    assert len(set(env._policies.values())) == len(env._policies)


# --- shutdown --------------------------------------------------------------------------------------------


def test_shutdown_deletes_everything_and_says_when_it_is_done() -> None:
    pair = started("start")
    pair.run(1.0)
    pair.feed("alice", Rekey("home"))
    pair.run(0.03)  # a replaced IKE SA is still about
    pair.feed("alice", Shutdown())
    assert "shutdown_done" not in pair.alice.kinds()
    pair.run(6.0)
    assert pair.alice.kinds().count("shutdown_done") == 1
    assert pair.ike_sas() == (0, 0)
    check_no_leaks(pair.alice)
    pair.feed("alice", Initiate("home", None, 7))
    assert not pair.alice.done[7].ok


def test_shutdown_is_bounded_where_the_peer_is_gone() -> None:
    pair = started("start")
    pair.run(1.0)
    pair.crash("bob")
    pair.feed("alice", Shutdown())
    pair.run(5.1)
    assert "shutdown_done" in pair.alice.kinds()
    assert pair.alice.ike.sizes()["ike_sas"] == 0


@pytest.mark.parametrize("state", ["idle", "setting up"])
def test_shutdown_of_nothing_is_done_at_once(state: str) -> None:
    pair = started("none")
    if state == "setting up":
        pair.crash("bob")
        pair.feed("alice", Initiate("home", None, 1))
        pair.run(0.1)
    pair.feed("alice", Shutdown())
    assert pair.alice.kinds().count("shutdown_done") == 1
    assert state == "idle" or not pair.alice.done[1].ok


def test_two_connections_to_one_peer_stay_apart() -> None:
    hosts = ("192.0.2.1", "192.0.2.2")
    hers = [
        connection("home", hosts, "alice", "bob", (child_config(),)),
        connection("work", hosts, "alice2", "bob", (MORE,)),
    ]
    his = [
        connection("home", hosts[::-1], "bob", "alice", (mirrored(child_config()),)),
        connection("work", hosts[::-1], "bob", "alice2", (mirrored(MORE),)),
    ]
    pair = Pair(hers, his)
    pair.up()
    pair.feed("alice", Initiate("work", None, 2))
    pair.run(1.0)
    assert pair.ike_sas() == (2, 2)
    pair.feed("alice", Terminate("home", None, 3))
    pair.run(1.0)
    assert pair.ike_sas() == (1, 1)
    assert pair.ping("alice", "10.10.1.2", "10.10.2.2")


def test_a_connection_whose_local_addrs_are_a_network_initiates_from_our_address_in_it() -> None:
    """The first of our addresses is in another network."""
    here = {"local_addrs": (ip_network("192.0.2.0/25"),)}
    pair = Pair.with_psk(alice=here)
    pair.alice.config = replace(pair.alice.config, local_hosts=("198.51.100.1", "192.0.2.1"))
    pair.crash("alice")
    pair.boot("alice")
    pair.up()
    check_one_tunnel(pair)


def test_up_says_why_it_has_no_address_to_initiate_from() -> None:
    pair = Pair.with_psk(alice={"local_addrs": (ip_network("198.51.100.0/24"),)})
    pair.feed("alice", Initiate("home", None, 1))
    assert not pair.alice.done[1].ok
    assert "local_addrs" in pair.alice.done[1].text
