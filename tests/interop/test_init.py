"""The first exchanges with strongSwan when they don't go straight: cookies, another group, fragments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.pair import LINK, Pair
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

from deadpeer.crypto import SystemEntropy, generate_key, offer, parse_proposal
from deadpeer.wire import KeyExchange, Message, Nonce, Protocol, decode_header, encode_message

pytestmark = pytest.mark.interop

_UDP = Path(__file__).parent / "harness" / "udp.py"
_X25519, _ECP256 = "aes128gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-ecp256"
_STRANGER = "10.9.1.250"
_BOTH_GROUPS = "aes128gcm16-prfsha256-x25519-ecp256"


def test_cookie_demanded_by_strongswan(start_pair: StartPair) -> None:
    tunnel, bystander = Tunnel("cookie", 1), Tunnel("bystander", 2, via={"b": "%any"})
    pair = start_pair([tunnel, bystander], charon={"cookie_threshold": "1"})
    # One half-open SA of somebody who never comes back is as many as it takes.
    ends = bystander.outer_address("a"), bystander.outer_address("b")
    pair.spaces["a"].ip("addr", "add", f"{_STRANGER}/16", "dev", LINK)
    asked = pair.spaces["a"].run(sys.executable, str(_UDP), _STRANGER, ends[1], "500", _ike_sa_init().hex())
    assert asked.returncode == 0, f"charon did not answer the stranger: {asked.stderr}{pair.tails()}"
    assert any(decode_header(bytes.fromhex(asked.stdout)).spi_r)
    mark = pair.marks()["b"]
    pair.up(tunnel, by="a")
    pair.log_has("b", r"parsed IKE_SA_INIT request 0 \[ N\(COOKIE\) SA KE No", mark)
    pair.carries(tunnel)
    pair.down(tunnel, by="b")


def test_cookie_demanded_by_us(start_pair: StartPair) -> None:
    tunnel = Tunnel("cookie", 1)
    pair = start_pair([tunnel], deadpeer={"cookie_threshold": 0})
    mark = pair.marks()["b"]
    pair.up(tunnel, by="b")
    pair.log_has("b", r"parsed IKE_SA_INIT response 0 \[ N\(COOKIE\) \]", mark)
    pair.log_has("b", r"generating IKE_SA_INIT request 0 \[ N\(COOKIE\) SA KE No", mark)
    pair.carries(tunnel)
    pair.down(tunnel, by="a")


def test_cookie_and_another_group_demanded_by_us(start_pair: StartPair) -> None:
    """After a cookie the retry with another group brings the cookie again (RFC 7296 section 2.6.1)."""
    tunnel = Tunnel("cookie", 1, proposals={"a": _ECP256, "b": _BOTH_GROUPS})
    pair = start_pair([tunnel], deadpeer={"cookie_threshold": 0})
    mark = pair.marks()["b"]
    pair.up(tunnel, by="b")
    pair.log_has("b", r"parsed IKE_SA_INIT response 0 \[ N\(INVAL_KE\) \]", mark)
    pair.carries(tunnel)


def _ike_sa_init() -> bytes:
    """A first message of a new initiator."""
    entropy = SystemEntropy()
    proposal = parse_proposal(_X25519, Protocol.IKE)
    payloads = (
        offer([proposal], b""),
        KeyExchange(proposal.groups[0].transform_id, generate_key(proposal.groups[0], entropy).public),
        Nonce(entropy.octets(32)),
    )
    return encode_message(Message(entropy.octets(8), bytes(8), 34, 0, True, False, payloads))


@pytest.fixture(scope="module")
def groups(start_shared_pair: StartPair) -> Pair:
    return start_shared_pair([_wrong_group(by, number) for number, by in enumerate(SIDES, 1)])


def _wrong_group(by: Side, number: int) -> Tunnel:
    """The side `by` begins with a group that the other does not take, for IKE and for the child."""
    return Tunnel(
        f"group-{by}",
        number,
        proposals={by: _BOTH_GROUPS, other(by): _ECP256},
        esp_proposals={by: "aes128gcm16-x25519-ecp256", other(by): "aes128gcm16-ecp256"},
    )


@pytest.mark.parametrize(("by", "number"), [("a", 1), ("b", 2)])
def test_wrong_group_first(groups: Pair, by: Side, number: int) -> None:
    tunnel = _wrong_group(by, number)
    mark = groups.marks()["b"]
    groups.up(tunnel, by=by)
    said = "generating" if by == "a" else "parsed"
    groups.log_has("b", rf"{said} IKE_SA_INIT response 0 \[ N\(INVAL_KE\) \]", mark)
    groups.carries(tunnel)
    groups.rekey_child(tunnel, by)
    groups.log_has("b", rf"{said} CREATE_CHILD_SA response \d+ \[ N\(INVAL_KE\) \]", mark)
    groups.carries(tunnel)
    groups.rekey_ike(tunnel, by)
    groups.rekey_ike(tunnel, other(by))
    groups.carries(tunnel)
    groups.down(tunnel, by=by)


@pytest.fixture(scope="module")
def fragmenting(start_shared_pair: StartPair) -> Pair:
    return start_shared_pair([_chain()], charon={"fragment_size": "600"})


def _chain() -> Tunnel:
    """RSA certificates beneath an intermediate authority, in packets of at most 600 octets."""
    return Tunnel(
        "chain", 1, auth="rsa", settings={"a": {"fragment_size": 600}, "b": {"fragmentation": "yes"}}
    )


@pytest.mark.parametrize("by", SIDES)
def test_fragmented_ike_auth(fragmenting: Pair, by: Side) -> None:
    mark = fragmenting.marks()["b"]
    fragmenting.up(_chain(), by=by)
    for verb, kind in (("parsed", "request"), ("generating", "response")):
        here = verb if by == "a" else {"parsed": "generating", "generating": "parsed"}[verb]
        match = fragmenting.log_has("b", rf"{here} IKE_AUTH {kind} 1 \[ EF\(1/(\d+)\) \]", mark)
        assert int(match[1]) >= 4
    fragmenting.carries(_chain(), by=by)
    fragmenting.down(_chain(), by=by)


def test_unfragmented_where_strongswan_refuses_fragments(start_pair: StartPair) -> None:
    tunnel = Tunnel(
        "whole", 1, auth="rsa", settings={"a": {"fragment_size": 600}, "b": {"fragmentation": False}}
    )
    pair = start_pair([tunnel])
    mark = pair.marks()["b"]
    pair.up(tunnel, by="a")
    assert "EF(" not in pair.peers["b"].log_since(mark)
    pair.carries(tunnel)
    pair.down(tunnel, by="a")
