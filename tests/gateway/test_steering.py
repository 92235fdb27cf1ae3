"""A tunnel to everywhere: its routes never catch the packets of the gateway itself, in namespaces.

alice (192.0.2.1, 2001:db8:1::1) --- router --- bob (198.51.100.1, 2001:db8:2::1)

Alice sends everything through the tunnel; 203.0.113.1 and 2001:db8:3::1 are behind Bob, and the router
does not know them. Reverse path filtering is strict everywhere.
"""

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

OUTER = {4: ("192.0.2.1", "198.51.100.1"), 6: ("2001:db8:1::1", "2001:db8:2::1")}
ROUTERS = {4: ("192.0.2.254", "198.51.100.254"), 6: ("2001:db8:1::fe", "2001:db8:2::fe")}
INNER = {4: ("10.77.0.1", "203.0.113.1"), 6: ("fd77::1", "2001:db8:3::1")}
LENGTHS = {4: 24, 6: 64}
EVERYTHING = ["0.0.0.0/0", "::/0"]
WHOLE = {4: 32, 6: 128}


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@dataclass
class Road:
    """The three namespaces, and a gateway at either end."""

    names: dict[str, str]
    alice: Gateway
    bob: Gateway

    def ping(self, target: str, source: str = "", wait_s: int = 60) -> bool:
        words = ["ip", "netns", "exec", self.names["alice"], "ping", "-c", "1", "-W", str(wait_s)]
        words += ["-I", source] if source else []
        return subprocess.run([*words, target], capture_output=True, check=False).returncode == 0

    def rules(self, name: str, version: int = 4) -> list[str]:
        lines = ip("-n", self.names[name], f"-{version}", "rule").splitlines()
        return [line for line in lines if 6290 <= int(line.split(":")[0]) < 6590]

    def through(self, version: int) -> None:
        """A ping to behind Bob comes back, and both gateways counted it."""
        source, target = INNER[version]
        until(lambda: self.ping(target, source, 2), lambda: self.alice.log() + self.bob.log())

    def route(self, target: str) -> str:
        return ip("-n", self.names["alice"], "route", "get", target)


@pytest.fixture(params=[4, 6], ids=["over4", "over6"])
def road(request: pytest.FixtureRequest, place: Path) -> Iterator[Road]:
    version = request.param
    tag = uuid.uuid4().hex[:6]
    names = {who: f"dps{tag}{who}" for who in ("alice", "router", "bob")}
    secret = place / "home.psk"
    secret.touch(mode=0o600)
    secret.write_text("only for this test\n")
    gateways: list[Gateway] = []
    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            settings = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
            settings += ["net.ipv4.conf.all.rp_filter=1", "net.ipv6.conf.default.accept_dad=0"]
            ip("netns", "exec", name, "sysctl", "-q", "-w", *settings)
        for place_in_row, who in enumerate(("alice", "bob")):
            join(names, who, place_in_row)
        for own in INNER.values():
            ip("-n", names["bob"], "addr", "add", own[1], "dev", "lo")
        ends = OUTER[version]
        warrior = road_document("alice", "bob", *ends)
        home = road_document("bob", "alice", *ends[::-1])
        gateways.append(Gateway(place, "alice", warrior, namespace=names["alice"]))
        gateways.append(Gateway(place, "bob", home, namespace=names["bob"]))
        yield Road(names, *gateways)
    finally:
        for gateway in gateways:
            gateway.close()
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def join(names: dict[str, str], who: str, place_in_row: int) -> None:
    end, router = names[who], names["router"]
    ip("-n", end, "link", "add", "eth0", "type", "veth", "peer", who, "netns", router)
    ip("-n", end, "link", "set", "eth0", "up")
    ip("-n", router, "link", "set", who, "up")
    for version, length in LENGTHS.items():
        gate = ROUTERS[version][place_in_row]
        ip("-n", end, "addr", "add", f"{OUTER[version][place_in_row]}/{length}", "dev", "eth0")
        ip("-n", router, "addr", "add", f"{gate}/{length}", "dev", who)
        ip("-n", end, "route", "add", "default", "via", gate)


def road_document(us: str, them: str, here: str, there: str) -> dict[str, Any]:
    warrior = [f"{INNER[version][0]}/{WHOLE[version]}" for version in INNER]
    made = document(us, them, here, there, "", "")
    for key in ("port", "port_nat_t", "unix_local", "unix_peer"):
        del made["gateway"][key]
    made["gateway"] |= {"plane": "tun", "listen": [here]}
    home = made["connections"]["home"]
    del home["remote_port"], home["remote_port_nat_t"]
    net = home["children"]["net"]
    if us == "alice":
        made["gateway"]["tun_addresses"] = warrior
        net |= {"local_ts": warrior, "remote_ts": EVERYTHING, "start_action": "trap"}
        net |= {"dpd_action": "restart"}
    else:
        net |= {"local_ts": EVERYTHING, "remote_ts": warrior}
    return made


def test_a_tunnel_to_everywhere_carries_everything_but_our_own_packets(road: Road) -> None:
    road.bob.start()
    road.alice.start()
    for version in INNER:
        road.through(version)
    (child,) = road.alice.children()
    assert child["traffic"]["packets_in"] >= 2
    assert child["traffic"]["packets_out"] >= 2
    assert not [event for event in road.alice.events() if event["event"] == "route_failed"]
    # No more went through it than what the host sent: nothing of ours was wrapped again.
    assert child["traffic"]["packets_out"] < 30

    assert "dev deadpeer0" in road.route("198.51.100.77")
    assert "dev eth0" in road.route(ROUTERS[4][0])  # the host's own network has the longer route
    assert road.ping(ROUTERS[4][0]) and road.ping(ROUTERS[6][0])

    # Bob's own address is everywhere too: a ping to it goes through the tunnel.
    before = road.bob.children()[0]["traffic"]["packets_in"]
    assert road.ping(OUTER[4][1], INNER[4][0])
    assert road.bob.children()[0]["traffic"]["packets_in"] == before + 1

    assert road.alice.command("down", "home").returncode == 0
    road.bob.wait_for("child_down")
    assert road.alice.terminate() == 0
    assert road.bob.terminate() == 0
    for name in ("alice", "bob"):
        assert road.rules(name, 4) == road.rules(name, 6) == []
    assert "dev eth0" in road.route("198.51.100.77")


def test_what_a_killed_gateway_leaves_harms_nobody_and_the_next_one_removes_it(road: Road) -> None:
    road.bob.start()
    road.alice.start()
    road.through(4)
    rules = road.rules("alice")
    road.alice.kill()
    assert road.rules("alice") == rules
    assert "dev eth0" in road.route("198.51.100.77")
    assert road.ping(OUTER[4][1])  # in the clear, as without a gateway
    road.alice.start()
    road.through(4)
    assert road.rules("alice") == rules
    assert road.alice.terminate() == 0
    assert road.rules("alice") == []


def test_bob_crashes_and_is_found_out(road: Road) -> None:
    road.bob.start()
    road.alice.start()
    road.through(4)
    road.bob.kill()
    road.bob.start()
    road.through(4)
    assert road.alice.wait_for("verdict")["proof"] == "qcd-token"


def test_a_tunnel_between_the_outer_addresses_themselves(road: Road) -> None:
    version = 6 if ":" in road.alice.config.read_text().split("listen")[1][:30] else 4
    here, there = OUTER[version]
    for gateway, us, ends in ((road.alice, "alice", (here, there)), (road.bob, "bob", (there, here))):
        made = road_document(us, "bob" if us == "alice" else "alice", *ends)
        net = made["connections"]["home"]["children"]["net"]
        net |= {"local_ts": "dynamic", "remote_ts": "dynamic", "start_action": "start"}
        made["connections"]["home"]["children"] = {"net": net}
        if us == "bob":
            net |= {"start_action": "none"}
        gateway.write(made)
    road.bob.start()
    road.alice.start()
    road.alice.wait_for("child_up")
    until(lambda: road.ping(there, wait_s=2), lambda: road.alice.log() + road.bob.log())
    assert road.alice.children()[0]["traffic"]["packets_in"] >= 1
    assert "dev deadpeer0" in road.route(there)
    assert not [event for event in road.alice.events() if event["event"] == "route_failed"]


def test_in_the_main_table_a_route_to_everywhere_is_refused_and_said(road: Road) -> None:
    made = road_document("alice", "bob", *OUTER[4])
    made["gateway"]["route_table"] = 0
    road.alice.write(made)
    road.alice.start()
    event = road.alice.wait_for("route_failed", network="0.0.0.0/0")
    assert "holds the peer's own address" in event["reason"]
    assert road.rules("alice") == []


def test_a_second_gateway_needs_a_table_of_its_own(road: Road, place: Path) -> None:
    road.alice.start()
    made = road_document("alice", "bob", *OUTER[4])
    made["gateway"] |= {"tun": "deadpeer1", "state_dir": "other-state", "control": "other.sock"}
    made["gateway"] |= {"port": 1500, "port_nat_t": 14500}
    other = Gateway(place, "other", made, namespace=road.names["alice"])
    try:
        other.spawn()
        assert other.process.wait(60) == 2
        (line,) = [line for line in other.log().splitlines() if "route_table" in line]
        assert "routing table 6290 is in use by another gateway; choose another number" in line
        assert len(road.rules("alice")) > 2, "the first one's rules are as they were"
    finally:
        other.close()
