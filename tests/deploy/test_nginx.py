"""deploy/nginx with Debian's nginx and etcd: two members behind it, and a client of each.

client 203.0.113.70 ┐                                 ┌ one 192.0.2.11
                    ├── 203.0.113.10 nginx 192.0.2.1 ─┼ two 192.0.2.12
client 203.0.113.71 ┘                                 └ etcd
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.deploy.cluster import SHARED, Etcd, member_files
from tests.deploy.machines import DEPLOY, Lan, Machine, Ping, client_files, ip, lan, needs, until

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
pytestmark = [
    *needs("nginx", "etcd", "etcdctl", "ping", "setpriv"),
    pytest.mark.skipif(not MODULE.exists(), reason="needs the Debian package libnginx-mod-stream"),
]
CONFIG = (DEPLOY / "nginx/stream.conf").read_text()
NGINX = f"""\
load_module {MODULE};
user www-data;
worker_processes 2;
worker_shutdown_timeout 1s;
pid /run/nginx.pid;
error_log /run/nginx.log info;
events {{
}}
include /opt/stream.conf;
"""
ETCDCTL = """\
ETCDCTL_ENDPOINTS=https://192.0.2.21:2379
ETCDCTL_CACERT=/etc/keepalived/etcd-ca.pem
ETCDCTL_USER=deadpeer:secret
"""


def balancer(network: Lan, etcd: Etcd) -> Machine:
    made = network.machine("nginx", eth0=[f"{SHARED}/24"], eth1=["192.0.2.1/24"])
    made.install("opt/nginx.conf", NGINX)
    made.install("opt/stream.conf", CONFIG)
    made.install("opt/members", (DEPLOY / "nginx/members").read_text(), 0o755)
    made.install("opt/has-lease", (DEPLOY / "ipvs/has-lease").read_text(), 0o755)
    made.install("etc/etcdctl.env", ETCDCTL)
    made.install("etc/etcd-ca.pem", etcd.ca)
    for line in CONFIG.splitlines():
        if line.startswith("#     ip "):
            done = made.run(*line[1:].split())
            assert done.returncode == 0, done.stderr
    return made


def member(network: Lan, number: int, etcd: Etcd) -> Machine:
    host = f"192.0.2.{11 + number}"
    made = network.machine(("one", "two")[number], eth1=[f"{host}/24"])
    ip("-n", made.namespace, "route", "add", "default", "via", "192.0.2.1")
    member_files(made, number, etcd, listen=host)
    text = made.read("opt/deadpeer/gateway.toml").replace(
        "forward_listen", "forward = false  # forward_listen"
    )
    made.install("opt/deadpeer/gateway.toml", text)
    return made


def client(network: Lan, number: int) -> Machine:
    made = network.machine(f"client{number}", eth0=[f"203.0.113.{number}/24"])
    client_files(made, f"203.0.113.{number}", SHARED)
    text = made.read("opt/deadpeer/gateway.toml").replace("10.1.0.1/", f"10.1.{number}.1/")
    text = text.replace("10.1.0.0/16", f"10.1.{number}.0/24").replace("client.example", f"{number}.example")
    made.install("opt/deadpeer/gateway.toml", text)
    return made


def test_a_member_dies_behind_nginx(place: Path) -> None:
    with lan(place) as network:
        etcd = Etcd(network)
        nginx = balancer(network, etcd)
        members = [member(network, number, etcd) for number in (0, 1)]
        clients = [client(network, number) for number in (70, 71)]

        def proofs(each: Machine) -> list[object]:
            return [event["proof"] for event in each.events() if event["event"] == "verdict"]

        def at(each: Machine) -> set[str]:
            return {f"{sa['identity']} {sa['remote']}" for sa in each.ask("sas")["sas"]}

        etcd.start()
        nginx.spawn("nginx", nginx.command("nginx", "-c", "/opt/nginx.conf", "-g", "daemon off;"))
        for each in members:
            each.spawn_gateway()
        for each in members:
            each.wait_for("ready")
        for each in clients:
            each.spawn_gateway()
        for each in clients:
            each.wait_for("child_up")
        pings = [Ping(each, f"10.1.{n}.1", "10.10.2.1") for n, each in zip((70, 71), clients, strict=True)]
        for ping in pings:
            ping.flows()
        # Both ports of a client are at one member, which sees the client's own address and port.
        one, two = members
        assert at(one) == {"71.example 203.0.113.71:4500"}
        assert at(two) == {"70.example 203.0.113.70:4500"}

        # nginx reads its configuration anew: nobody notices.
        since = time.time()
        assert nginx.run("sh", "-c", "kill -HUP $(cat /run/nginx.pid)").returncode == 0
        until(
            lambda: "gracefully shutting down" in nginx.read("run/nginx.log"),
            lambda: nginx.read("run/nginx.log"),
        )
        for ping in pings:
            ping.flows()
            print(f"reload: {ping.gap_s(since):.2f} s, {ping.lost()} lost")
        assert [proofs(each) for each in clients] == [[], []]

        # One is killed: its client is at the other when its lease has ended, and the other client stays.
        look = "while sleep 1; do /opt/members /opt/stream.conf /opt/has-lease; done"
        nginx.spawn("members", nginx.command("sh", "-c", look))
        since = time.time()
        one.kill("gateway")
        until(lambda: proofs(clients[1]), lambda: nginx.log("members") + network.logs())
        for ping in pings:
            ping.flows()
            print(f"killed: {ping.gap_s(since):.2f} s")
        assert [proofs(each) for each in clients] == [[], ["qcd-token"]]
        assert at(two) == {"70.example 203.0.113.70:4500", "71.example 203.0.113.71:4500"}
        marked = nginx.read("opt/stream.conf")
        assert marked == CONFIG.replace(";   # member 0", " down;   # member 0").replace(
            ";  # member 0", " down;  # member 0"
        )
        print(nginx.log("members"))
