"""Every suite, group, credential and IP version against strongSwan, initiated by either side.

One pair of daemons carries all the tunnels of this file; each has addresses of its own.
"""

from __future__ import annotations

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.pair import Pair
from tests.interop.harness.tunnels import SIDES, Side, Tunnel

pytestmark = pytest.mark.interop

# The group in a child's proposal is the one its rekeying uses, so that each group is tried both in
# IKE_SA_INIT and in CREATE_CHILD_SA.
TUNNELS = [
    Tunnel("gcm128", 1, "aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"),
    Tunnel("gcm256", 2, "aes256gcm16-prfsha384-ecp256", "aes256gcm16-ecp256"),
    Tunnel("chacha", 3, "chacha20poly1305-prfsha512-ecp384", "chacha20poly1305-ecp384"),
    Tunnel("cbc128-sha256", 4, "aes128-sha256-ecp521", "aes128-sha256-ecp521"),
    Tunnel("cbc256-sha384", 5, "aes256-sha384-modp2048", "aes256-sha384-modp2048"),
    Tunnel("cbc256-sha512", 6, "aes256-sha512-modp3072", "aes256-sha512-modp3072"),
    Tunnel("cbc128-sha512", 7, "aes128-sha512-prfsha256-modp4096", "aes128-sha512-modp4096"),
    Tunnel("cbc256-sha256", 8, "aes256-sha256-prfsha512-x25519", "aes256-sha256"),
    Tunnel("ecdsa", 9, auth="ecdsa"),
    Tunnel("rsa", 10, auth="rsa"),
    Tunnel("ed25519", 11, auth="ed25519"),
    Tunnel("v6-in-v6", 12, outer=6, inner=6),
    Tunnel("v6-in-v4", 13, outer=4, inner=6),
    Tunnel("v4-in-v6", 14, outer=6, inner=4),
    Tunnel("v6-certificates", 15, outer=6, inner=6, auth="rsa", esp="aes256-sha256-x25519"),
]


@pytest.fixture(scope="module")
def pair(start_shared_pair: StartPair) -> Pair:
    return start_shared_pair(TUNNELS)


@pytest.mark.parametrize("by", SIDES)
@pytest.mark.parametrize("tunnel", TUNNELS, ids=lambda tunnel: tunnel.name)
def test_tunnel_lives(pair: Pair, tunnel: Tunnel, by: Side) -> None:
    marks = pair.marks()
    pair.up(tunnel, by)
    pair.logged("ike_sa_up", tunnel, marks)
    pair.carries(tunnel, by=by)
    pair.rekey_child(tunnel, by)
    pair.carries(tunnel, by=by)
    pair.rekey_ike(tunnel, by)
    pair.carries(tunnel, by=by)
    pair.down(tunnel, by)
    assert not pair.answers(tunnel, by=by), "a ping came back without a tunnel"
