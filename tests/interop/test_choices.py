"""What we and strongSwan agree on where offers differ, and what both refuse."""

from __future__ import annotations

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.pair import Pair
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

pytestmark = pytest.mark.interop

_WIDE = {"local_ts": "10.10.0.0/16", "remote_ts": "10.10.0.0/16"}


def _wide(side: Side) -> Tunnel:
    """One side offers, or takes, whole networks; the other one host on each end."""
    return Tunnel(f"wide-{side}", 1 + SIDES.index(side), child_settings={side: _WIDE})


# The same outer addresses for both: the identity decides (RFC 7296 section 2.15 and 3.5).
_SHARED = [Tunnel(f"shared-{number}", number, addressed_as=10) for number in (10, 11, 12)]
_ESN = [
    Tunnel("esn-a", 20, esp_proposals={"a": "aes128gcm16-esn-noesn", "b": "aes128gcm16"}),
    Tunnel("esn-b", 21, esp_proposals={"a": "aes128gcm16", "b": "aes128gcm16-esn-noesn"}),
]
_MANY = Tunnel(
    "many",
    30,
    proposals={
        "a": "aes256-aes128-sha512-sha256-modp4096-ecp384-ecp256",
        "b": "aes128-sha256-sha384-ecp521-ecp256-modp2048",
    },
    esp_proposals={"a": "aes256-aes128-sha512-sha256-ecp256", "b": "aes128-sha256-sha384-ecp256"},
)


@pytest.fixture(scope="module")
def pair(start_shared_pair: StartPair) -> Pair:
    return start_shared_pair([_wide("a"), _wide("b"), *_SHARED, *_ESN, _MANY])


@pytest.mark.parametrize("by", SIDES)
@pytest.mark.parametrize("wide", SIDES)
def test_selectors_are_narrowed(pair: Pair, wide: Side, by: Side) -> None:
    tunnel = _wide(wide)
    pair.up(tunnel, by)
    pair.carries(tunnel, by=by)
    pair.rekey_child(tunnel, other(by))
    pair.carries(tunnel, by=by)
    pair.down(tunnel, by)


@pytest.mark.parametrize("by", SIDES)
@pytest.mark.parametrize("tunnel", _SHARED, ids=lambda tunnel: tunnel.name)
def test_identity_chooses_among_connections_of_one_address(pair: Pair, tunnel: Tunnel, by: Side) -> None:
    pair.up(tunnel, by)
    pair.carries(tunnel, by=by)
    pair.down(tunnel, by)


@pytest.mark.parametrize("by", SIDES)
@pytest.mark.parametrize("tunnel", [*_ESN, _MANY], ids=lambda tunnel: tunnel.name)
def test_what_both_have_is_chosen(pair: Pair, tunnel: Tunnel, by: Side) -> None:
    pair.up(tunnel, by)
    pair.rekey_child(tunnel, by)
    pair.rekey_ike(tunnel, by)
    pair.carries(tunnel, by=by)
    pair.down(tunnel, by)


# What differs, and what strongSwan's log says if we ask, and if it asks.
_REFUSED = {
    "secret": (
        Tunnel("secret", 1, secrets={"a": "one", "b": "another"}),
        r"tried 1 shared key for .*, but MAC mismatched",
        r"received AUTHENTICATION_FAILED notify error",
    ),
    "identity": (
        Tunnel("identity", 2, expected={"a": "somebody.else.example"}),
        r"no matching peer config found|peer requested|AUTHENTICATION_FAILED|AUTH_FAILED",
        r"received AUTHENTICATION_FAILED notify error",
    ),
    "ike": (
        Tunnel("ike", 3, proposals={"a": "aes256-sha512-ecp521", "b": "aes128gcm16-prfsha256-x25519"}),
        r"no matching proposal found|received proposals unacceptable|NO_PROP",
        r"received NO_PROPOSAL_CHOSEN notify error",
    ),
    "esp": (
        Tunnel("esp", 4, esp_proposals={"a": "aes256-sha512", "b": "aes128gcm16"}),
        r"no acceptable proposal found",
        r"received NO_PROPOSAL_CHOSEN notify",
    ),
    "selectors": (
        Tunnel("selectors", 5, child_settings={"a": {"local_ts": "10.77.0.0/24"}}),
        r"traffic selectors .* unacceptable",
        r"received TS_UNACCEPTABLE notify",
    ),
}


@pytest.fixture(scope="module")
def refusing(start_shared_pair: StartPair) -> Pair:
    return start_shared_pair([tunnel for tunnel, _, _ in _REFUSED.values()])


@pytest.mark.parametrize("by", SIDES)
@pytest.mark.parametrize("what", _REFUSED)
def test_what_does_not_match_is_refused_by_both(refusing: Pair, what: str, by: Side) -> None:
    tunnel, we_asked, it_asked = _REFUSED[what]
    mark = refusing.marks()["b"]
    with pytest.raises(RuntimeError):
        refusing.peers[by].up(tunnel)
    refusing.log_has("b", we_asked if by == "a" else it_asked, mark)

    def refused() -> bool:
        """No child. Without one the IKE SA may stay (RFC 7296 section 1.2): then both sides have it."""
        sas = [refusing.sas(tunnel, side) for side in SIDES]
        return not any(sa.children for each in sas for sa in each) and bool(sas[0]) == bool(sas[1])

    refusing.wait(refused, "refused by both")
    assert not refusing.answers(tunnel)
    assert refused()
    if refusing.sas(tunnel, "a"):
        refusing.down(tunnel, by)


@pytest.mark.parametrize("by", SIDES)
@pytest.mark.parametrize("distrusted", SIDES)
def test_certificate_of_another_authority_is_refused(
    start_pair: StartPair, distrusted: Side, by: Side
) -> None:
    """The authority that is trusted has the same name as the true one, and another key."""
    tunnel = Tunnel("stranger", 1, auth="ecdsa", distrusted=distrusted)
    pair = start_pair([tunnel])
    with pytest.raises(RuntimeError):
        pair.peers[by].up(tunnel)
    pair.wait(lambda: not pair.sas(tunnel, "a") and not pair.sas(tunnel, "b"), "no SA on either side")


def test_rsa_pss_signatures(start_pair: StartPair) -> None:
    tunnel = Tunnel("pss", 1, auth="rsa")
    pair = start_pair([tunnel], charon={"rsa_pss": "yes"})
    for by in SIDES:
        mark = pair.marks()["b"]
        pair.up(tunnel, by)
        pair.log_has("b", r"authentication of 'b\.pss\.example' \(myself\) with RSA_EMSA_PSS", mark)
        pair.carries(tunnel)
        pair.down(tunnel, by)
