"""A road warrior who sends everything through strongSwan: its own packets to it must not go in there too."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.interop.harness.charon import Charon
from tests.interop.harness.gateway import Gateway
from tests.interop.harness.netns import connect, namespaces
from tests.interop.harness.traffic import Count, ping

from deadpeer.lab.strongswan import responder_conf

pytestmark = pytest.mark.interop

ALICE, BOB = "192.0.2.1", "198.51.100.1"
ANY = "0.0.0.0"  # noqa: S104 -- to send from
INNER, BEHIND = "10.10.1.1", "203.0.113.1"
SHARED = "a secret of this test"
TOML = f"""
[gateway]
state_dir = "state"
control = "control.sock"
listen = ["{ALICE}"]
tun_addresses = ["{INNER}/32"]

[connections.bob]
local_addrs = "{ALICE}"
remote_addrs = "{BOB}"
proposals = "aes256gcm16-prfsha384-x25519"
local = {{ auth = "psk", id = "alice.example", secret_file = "bob.psk" }}
remote = {{ auth = "psk", id = "bob.example" }}
children.net = {{ local_ts = "{INNER}", remote_ts = "0.0.0.0/0", esp_proposals = "aes256gcm16", \
start_action = "trap" }}
"""


def test_everything_goes_through_strongswan_but_what_carries_it(tmp_path: Path) -> None:
    (tmp_path / "bob.psk").touch(0o600)
    (tmp_path / "bob.psk").write_text(SHARED + "\n")
    with namespaces("alice", "bob") as (alice, bob):
        connect(alice, bob, "eth0", "eth0")
        # Alice reaches Bob by her default route only, which the tunnel's is to come before.
        alice.batch([f"addr add {ALICE}/32 dev eth0", f"route add default dev eth0 src {ALICE}"])
        bob.batch([f"addr add {BOB}/32 dev eth0", f"route add {ALICE}/32 dev eth0 src {BOB}"])
        bob.add_inner([BEHIND])
        charon, gateway = Charon(tmp_path / "bob", bob.name), Gateway(tmp_path, alice.name, TOML)
        try:
            charon.start()
            charon.load(
                responder_conf(
                    local=BOB,
                    remote=ALICE,
                    local_id="bob.example",
                    remote_id="alice.example",
                    local_ts="0.0.0.0/0",
                    remote_ts=f"{INNER}/32",
                    secret=SHARED,
                    ike="aes256gcm16-prfsha384-x25519",
                    esp="aes256gcm16",
                )
            )
            gateway.start()
            # From no address: the route has the source.
            pinged = ping(alice, ANY, BEHIND, 5)
            assert pinged == Count(5, 5), gateway.explain(f"{pinged} {charon.log()[-3000:]}")
            [ours] = [child for sa in charon.list_sas("lab") for child in sa.children]
            assert (ours.packets_in, ours.packets_out) == (5, 5), "the pings, and nothing of ours"
        finally:
            gateway.kill()
            charon.kill()
