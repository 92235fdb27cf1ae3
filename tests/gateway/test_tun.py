"""Two gateways with TUN devices in namespaces of their own: routes come and go, the real ping passes."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.processes import Gateway, document, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and TUN devices"),
]


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@dataclass
class Sites:
    """Two namespaces joined by a veth pair, a gateway in each."""

    names: dict[str, str]
    alice: Gateway
    bob: Gateway

    def ping(self, wait_s: int) -> bool:
        words = ["ip", "netns", "exec", self.names["alice"], "ping", "-c", "1", "-W", str(wait_s)]
        words += ["-I", "10.77.0.1"]
        return subprocess.run([*words, "10.77.1.1"], capture_output=True, check=False).returncode == 0

    def route(self, name: str) -> str:
        return ip("-n", self.names[name], "route", "show", "table", "all", "dev", "deadpeer0")


@pytest.fixture
def sites(place: Path) -> Iterator[Sites]:
    tag = uuid.uuid4().hex[:6]
    names = {"alice": f"dpa{tag}", "bob": f"dpb{tag}"}
    (place / "home.psk").touch(mode=0o600)
    (place / "home.psk").write_text("only for this test\n")
    gateways: list[Gateway] = []
    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names["alice"], "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", names["bob"])
        for name, number in (("alice", 1), ("bob", 2)):
            ip("-n", names[name], "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")
            ip("-n", names[name], "link", "set", "eth0", "up")
        for us, them, here, there in (("alice", "bob", 1, 2), ("bob", "alice", 2, 1)):
            inner = [f"10.77.{here - 1}.0/24", f"10.77.{there - 1}.0/24"]
            gateways.append(
                Gateway(
                    place,
                    us,
                    tun_document(us, them, f"192.0.2.{here}", f"192.0.2.{there}", *inner),
                    namespace=names[us],
                )
            )
        yield Sites(names, *gateways)
    finally:
        for gateway in gateways:
            gateway.close()
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def tun_document(us: str, them: str, here: str, there: str, local: str, remote: str) -> dict[str, Any]:
    made = document(us, them, here, there, local, remote)
    for key in ("listen", "port", "port_nat_t", "unix_local", "unix_peer"):
        del made["gateway"][key]
    made["gateway"] |= {"plane": "tun", "tun_addresses": [local.replace(".0/24", ".1/32")]}
    home = made["connections"]["home"]
    del home["remote_port"], home["remote_port_nat_t"]
    home["children"]["net"]["start_action"] = "trap" if us == "alice" else "none"
    return made


def test_a_trapped_packet_brings_the_tunnel_up_over_tun_devices(sites: Sites) -> None:
    sites.bob.start()
    sites.alice.start()
    # No `listen`: every address of the namespace, and only those.
    assert sites.alice.wait_for("ready")["listen"] == ["192.0.2.1"]
    assert sites.alice.sas() == []
    assert "10.77.1.0/24" in sites.route("alice")
    assert "src 10.77.0.1" in sites.route("alice")
    assert "10.77.0.0/24" not in sites.route("bob")

    # The first packet of all waits for the tunnel, and goes.
    assert sites.ping(60), sites.alice.log() + sites.bob.log()
    assert "10.77.0.0/24" in sites.route("bob")
    assert sites.alice.children()[0]["traffic"]["packets_in"] == 1
    assert sites.bob.children()[0]["traffic"]["packets_in"] == 1

    assert sites.alice.command("down", "home").returncode == 0
    sites.bob.wait_for("child_down")
    until(lambda: "10.77.0.0/24" not in sites.route("bob"), lambda: sites.route("bob"))
    assert sites.alice.terminate() == 0
    assert "deadpeer0" not in ip("-n", sites.names["alice"], "link")


def test_a_killed_gateway_leaves_nothing_that_stops_the_next(sites: Sites) -> None:
    sites.bob.start()
    sites.alice.start()
    assert sites.ping(60), sites.alice.log() + sites.bob.log()
    sites.alice.kill()
    sites.alice.start()
    assert sites.ping(60), sites.alice.log() + sites.bob.log()
