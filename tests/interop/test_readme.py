"""What README.md tells people to do with their strongSwan works as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.interop.harness.charon import Charon
from tests.interop.harness.gateway import Gateway
from tests.interop.harness.netns import Namespace, connect, namespaces
from tests.interop.harness.traffic import Count, ping

pytestmark = pytest.mark.interop

README = (Path(__file__).parents[2] / "README.md").read_text()
ALICE, BOB = "192.0.2.1", "198.51.100.1"


@contextmanager
def joined() -> Iterator[tuple[Namespace, Namespace]]:
    """Alice's and Bob's namespaces, with their outer addresses and the host behind Bob."""
    with namespaces("alice", "bob") as (alice, bob):
        connect(alice, bob, "eth0", "eth0")
        for space, own, other in ((alice, ALICE, BOB), (bob, BOB, ALICE)):
            space.batch([f"addr add {own}/32 dev eth0", f"route add {other}/32 dev eth0 src {own}"])
        bob.add_inner(["10.10.2.1"])
        yield alice, bob


def test_the_files_of_the_readme_build_a_tunnel_with_strongswan(tmp_path: Path) -> None:
    [toml] = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    [swanctl] = re.findall(r"^```\n(connections \{.*?)^```", README, re.MULTILINE | re.DOTALL)
    [secret] = re.findall(r"echo '(.*)' > /etc/deadpeer/bob.psk", README)
    (tmp_path / "bob.psk").touch(0o600)
    (tmp_path / "bob.psk").write_text(secret + "\n")
    places = f'[gateway]\nstate_dir = "{tmp_path}/state"\ncontrol = "control.sock"\n'

    with joined() as (alice, bob):
        charon = Charon(tmp_path / "bob", bob.name)
        gateway = Gateway(tmp_path, alice.name, toml.replace("[gateway]\n", places))
        try:
            charon.start()
            charon.load(swanctl)
            gateway.start()
            pinged = ping(alice, "10.10.1.1", "10.10.2.1", 5)
            assert pinged == Count(5, 5), gateway.explain(f"{pinged} {charon.log()[-3000:]}")
            [sa] = gateway.sas()
            [child] = sa["children"]
            assert child["traffic"]["packets_in"] >= 5
            [ours] = [child for sa in charon.list_sas("alice") for child in sa.children]
            assert (ours.packets_in, ours.packets_out) >= (5, 5)
        finally:
            gateway.kill()
            charon.kill()
