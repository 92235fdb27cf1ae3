"""IKE_AUTH: secrets, certificates, identities, refusals (RFC 7296 sections 1.2, 2.15, 2.21.2; RFC 7427)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.crypto.pki import DAY, key, leaf, root
from tests.support.invariants import check_no_leaks, check_one_tunnel
from tests.support.pair import START_UNIX_S, Pair, child_config, connection, host_selector, mirrored

from deadpeer.crypto import Credential, Identity, TrustStore, parse_proposal
from deadpeer.ike.connection import Connection, LocalAuth, RemoteAuth
from deadpeer.ike.io import Initiate
from deadpeer.wire import Protocol

VALID = {"start": START_UNIX_S - DAY, "end": START_UNIX_S + DAY}
SECRET = b"correct horse battery staple"
ROOT = root(**VALID)


def credential(kind: str, **changes: float) -> Credential:
    """moon's certificate under ROOT, with a key of this kind."""
    return Credential(key(kind, 9), leaf(kind, **{**VALID, **changes}))


def pubkey_pair(kind: str, *, trust: TrustStore | None = None, identity: str = "@moon.example.org") -> Pair:
    """Alice is moon, by certificate; Bob has a shared key."""
    hosts = ("192.0.2.1", "192.0.2.2")
    hers = connection("home", hosts, "alice", "bob", (child_config(),))
    his = connection("home", hosts[::-1], "bob", "alice", (mirrored(child_config()),))
    hers = replace(
        hers,
        local=LocalAuth("pubkey", Identity.parse(identity), credential=credential(kind)),
    )
    his = replace(
        his,
        remote=RemoteAuth("pubkey", Identity.parse("@moon.example.org"), trust=trust or TrustStore([ROOT])),
    )
    return Pair([hers], [his])


def refused(pair: Pair) -> str:
    """Alice's up fails; both sides have forgotten it soon; returns the reason that Bob logged."""
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(10.0)
    assert not pair.alice.done[1].ok
    assert pair.ike_sas() == (0, 0)
    check_no_leaks(pair.alice)
    check_no_leaks(pair.bob)
    return str(pair.bob.last("authentication_failed").fields["reason"])


@pytest.mark.parametrize("kind", ["ecp256", "ecp384", "ecp521", "rsa", "ed25519"])
def test_a_certificate_proves_who_alice_is(kind: str) -> None:
    pair = pubkey_pair(kind)
    pair.up()
    assert pair.bob.last("ike_sa_up").fields["identity"] == "moon.example.org"
    check_one_tunnel(pair)


def test_both_sides_by_certificate() -> None:
    auth = LocalAuth("pubkey", Identity.parse("@moon.example.org"), credential=credential("ecp256"))
    other = LocalAuth("pubkey", Identity.parse("moon@example.org"), credential=credential("ed25519"))
    trust = TrustStore([ROOT])
    pair = Pair.with_psk(
        alice={"local": auth, "remote": RemoteAuth("pubkey", other.identity, trust=trust)},
        bob={"local": other, "remote": RemoteAuth("pubkey", auth.identity, trust=trust)},
    )
    pair.up()
    check_one_tunnel(pair)


def test_an_expired_certificate_is_refused() -> None:
    pair = pubkey_pair("ecp256")
    pair.mono_ns += int(2 * DAY * 1e9)
    assert "expired" in refused(pair)


def test_an_unknown_ca_is_refused() -> None:
    stranger = TrustStore([root("C=CH, CN=another", "ecp384", **VALID)])
    reason = refused(pubkey_pair("ecp256", trust=stranger))
    assert "root" in reason or "CA" in reason or "trusted" in reason


def test_a_certificate_does_not_speak_for_another_identity() -> None:
    pair = pubkey_pair("ecp256", identity="@sun.example.org")
    (his,) = pair.bob.connections
    trusting = replace(his, remote=RemoteAuth("pubkey", None, trust=TrustStore([ROOT])))
    pair.bob.connections[:] = [trusting]
    pair.crash("bob")
    pair.boot("bob")
    assert "does not speak for" in refused(pair)


def test_a_wrong_secret_is_refused() -> None:
    """
    Alice                          Bob
      IKE_AUTH         ──────────▶
                       ◀──────────  N(AUTHENTICATION_FAILED)
    """
    wrong = LocalAuth("psk", Identity.parse("alice"), b"wrong")
    pair = Pair.with_psk(alice={"local": wrong})
    assert "differ" in refused(pair)
    assert "AUTHENTICATION_FAILED" in pair.alice.done[1].text
    assert pair.bob.ike.counters["authentication failures"] == 1


def test_a_wrong_identity_is_refused() -> None:
    pair = Pair.with_psk(alice={"local": LocalAuth("psk", Identity.parse("eve"), SECRET)})
    assert "no connection" in refused(pair)


def test_a_shared_key_where_a_certificate_is_wanted_is_refused() -> None:
    remote = RemoteAuth("pubkey", Identity.parse("alice"), trust=TrustStore([ROOT]))
    pair = Pair.with_psk(bob={"remote": remote})
    refused(pair)


def test_a_responder_that_is_not_bob_is_told_and_dropped() -> None:
    """
    Alice                          Mallory
      IKE_AUTH         ──────────▶
                       ◀──────────  IKE_AUTH, wrong AUTH
      INFORMATIONAL, N(AUTHENTICATION_FAILED)  ──────────▶
                       ◀──────────  INFORMATIONAL
    """
    pair = Pair.with_psk(bob={"local": LocalAuth("psk", Identity.parse("bob"), b"a guess")})
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(10.0)
    assert not pair.alice.done[1].ok
    assert "could not authenticate" in pair.alice.done[1].text
    assert "initiate_failed" in pair.alice.kinds()
    assert pair.alice.kinds().count("ike_sa_up") == 0
    assert pair.bob.last("ike_sa_down").fields["reason"] == "the peer could not authenticate us"
    assert pair.ike_sas() == (0, 0)
    assert pair.alice.engine is not None
    assert not pair.alice.engine._children
    check_no_leaks(pair.alice)
    check_no_leaks(pair.bob)


def test_a_responder_with_another_identity_is_refused() -> None:
    pair = Pair.with_psk(bob={"local": LocalAuth("psk", Identity.parse("mallory"), SECRET)})
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(10.0)
    assert not pair.alice.done[1].ok
    assert pair.ike_sas() == (0, 0)


# --- the child ---------------------------------------------------------------------------------------


def test_selectors_without_anything_in_common_cost_the_child_not_the_ike_sa() -> None:
    elsewhere = child_config(local_ts=(host_selector("10.99.0.1"),), remote_ts=(host_selector("10.99.0.2"),))
    pair = Pair.with_psk(bob={"children": (elsewhere,)})
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(2.0)
    assert not pair.alice.done[1].ok
    assert "TS_UNACCEPTABLE" in pair.alice.done[1].text
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (0, 0)
    check_no_leaks(pair.alice)


def test_no_esp_proposal_in_common_costs_the_child_not_the_ike_sa() -> None:
    other = mirrored(child_config(esp_proposals=(parse_proposal("aes128-sha256", Protocol.ESP),)))
    pair = Pair.with_psk(bob={"children": (other,)})
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(2.0)
    assert "NO_PROPOSAL_CHOSEN" in pair.alice.done[1].text
    assert pair.ike_sas() == (1, 1)
    assert pair.ike_children() == (0, 0)


# --- several connections -------------------------------------------------------------------------------


def road_warriors(**changes: object) -> tuple[list[Connection], list[Connection]]:
    """Bob has two connections for any address, told apart by the peer's identity."""
    hosts = ("192.0.2.1", "192.0.2.2")
    hers = connection("home", hosts, "carol", "bob", (child_config(),))
    alice = connection("alice", hosts[::-1], "bob", "alice", (mirrored(child_config()),))
    carol = connection("carol", hosts[::-1], "bob", "carol", (mirrored(child_config()),))
    return [hers], [replace(alice, remote_addrs=()), replace(carol, remote_addrs=(), **changes)]  # type: ignore[arg-type]


def test_the_connection_is_chosen_by_identity() -> None:
    pair = Pair(*road_warriors())
    pair.up()
    assert pair.bob.last("ike_sa_up").fields["connection"] == "carol"
    (sa,) = pair.bob.ike.views()
    assert pair.bob.ike._env.table.of_connection("carol") == [sa]
    assert pair.bob.ike._env.table.of_connection("alice") == []
    check_one_tunnel(pair)


def test_a_connection_keeps_to_its_own_proposals_whatever_another_one_allows() -> None:
    """The suite is chosen before the identity is known; Carol's must be strong."""
    strong = parse_proposal("aes256gcm16-prfsha512-ecp521", Protocol.IKE)
    hers, his = road_warriors(proposals=(strong,))
    pair = Pair(hers, his)
    refused(pair)


def test_each_of_two_peers_behind_one_connection_has_its_own_policy() -> None:
    hosts = ("192.0.2.1", "192.0.2.2")
    hers = [connection(name, hosts, name, "bob", (child_config(),)) for name in ("home", "work")]
    his = connection("any", hosts[::-1], "bob", "x", (mirrored(child_config()),))
    his = replace(his, remote_addrs=(), remote=RemoteAuth("psk", None, SECRET))
    pair = Pair(hers, [his])
    for name in ("home", "work"):
        pair.feed("alice", Initiate(name, None, 1))
        pair.settle()
    policies = {child.policy for sa in pair.bob.ike.views() for child in sa.child_views}
    assert len(policies) == 2
