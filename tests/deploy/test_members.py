"""deploy/member and deploy/keepalived with Debian's keepalived and etcd: two members with one address."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.deploy.cluster import SHARED, Etcd, member_files
from tests.deploy.machines import DEPLOY, Lan, Machine, Ping, client_files, lan, needs, until

pytestmark = needs("keepalived", "etcd", "etcdctl", "ping", "setpriv", "sysctl")
CONFIG = (DEPLOY / "keepalived/member.conf").read_text()


def member(network: Lan, number: int, etcd: Etcd) -> Machine:
    own = {"eth0": [f"203.0.113.{11 + number}/24"], "eth1": [f"192.0.2.{11 + number}/24"]}
    made = network.machine(("one", "two")[number], **own)
    member_files(made, number, etcd)
    made.install("etc/keepalived.conf", CONFIG)
    made.install("etc/serving", (DEPLOY / "keepalived/serving").read_text(), 0o755)
    for line in CONFIG.splitlines():
        if line.startswith("#     "):
            done = made.run(*line[1:].split())
            assert done.returncode == 0, done.stderr
    return made


def test_the_address_moves_between_members(place: Path) -> None:
    with lan(place) as network:
        etcd = Etcd(network)
        one, two = (member(network, number, etcd) for number in (0, 1))
        client = network.machine("client", eth0=["203.0.113.7/24"])
        client_files(client, "203.0.113.7", SHARED)

        etcd.start()
        for each in (one, two, client):
            each.spawn_gateway()
        one.wait_for("ready")
        one.start_keepalived()
        until(lambda: "Entering MASTER STATE" in one.log("keepalived"), network.logs)
        two.wait_for("ready")
        two.start_keepalived()
        until(lambda: "Entering BACKUP STATE" in two.log("keepalived"), network.logs)
        client.wait_for("child_up")
        ping = Ping(client, "10.1.0.1", "10.10.2.1")
        ping.flows()

        # The active one is killed: the second gets the address, and speaks for it when its lease has ended.
        since = time.time()
        one.kill("gateway")
        until(lambda: [e for e in client.events() if e["event"] == "verdict"], network.logs)
        ping.flows()
        print(f"killed: {ping.gap_s(since):.2f} s")
        one.start_gateway()
        until(lambda: one.log("keepalived").count("Entering BACKUP STATE") >= 2, network.logs)

        # The address moves, and the second lives: the first hands it what belongs to its SA.
        since, before = time.time(), ping.lost()
        two.kill("keepalived", signal.SIGTERM)
        until(lambda: one.log("keepalived").count("Entering MASTER STATE") >= 2, network.logs)
        until(lambda: two.ask("counters")["counters"]["forwarding"].get("received"), network.logs)
        ping.flows()
        print(f"moved: {ping.lost() - before} lost, {ping.gap_s(since):.2f} s")
        assert not two.holds(SHARED)
        assert [e["proof"] for e in client.events() if e["event"] == "verdict"] == ["qcd-token"]
        assert len(two.ask("sas")["sas"]) == 1
        if not [e for e in two.events() if e["event"] == "fenced"]:  # for want of time
            assert ping.lost() == before
