"""deploy/ipvs with Debian's keepalived and etcd: three members behind a director, and eight clients.

clients 203.0.113.70 ... 77 ┐                                      ┌ one 192.0.2.11
                            ├─ 203.0.113.10 director 192.0.2.2 ────┼ two, three
                            └──────── (what members answer) ───────┴ etcd

The director is a guest with Debian's kernel, since not each kernel has IPVS; all others run here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.deploy.cluster import LEASE_S, SHARED, Etcd, member_files
from tests.deploy.director import MEMBERS, Director, remarks
from tests.deploy.machines import Lan, Machine, Ping, lan, needs, until
from tests.support.guest import Kernel, kernel, needs_guest

from deadpeer.gateway.client import call

pytestmark = [*needs("keepalived", "etcd", "etcdctl", "ping", "setpriv", "sysctl"), *needs_guest()]
CLIENTS = range(70, 78)
STRANGERS = range(90, 102)
_BEGAN = time.monotonic()


def say(*words: object) -> None:
    print(f"{time.monotonic() - _BEGAN:6.1f} s", *words, flush=True)


def member(network: Lan, number: int, etcd: Etcd) -> Machine:
    own = {"eth0": [f"203.0.113.{11 + number}/24"], "eth1": [f"192.0.2.{11 + number}/24"]}
    made = network.machine(MEMBERS[number], **own)
    member_files(made, number, etcd)
    text = made.read("opt/deadpeer/gateway.toml").replace(f'lease = "{LEASE_S}s"', 'lease = "5s"')
    made.install("opt/deadpeer/gateway.toml", text)
    for line in remarks("members"):
        done = made.run("sh", "-c", line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    return made


def clients(network: Lan) -> Machine:
    """One gateway that is many clients, each with an address of its own."""
    hosts = {number: f"203.0.113.{number}" for number in CLIENTS}
    made = network.machine("clients", eth0=[f"{host}/24" for host in hosts.values()])
    inner = [f"10.1.{number}.1/32" for number in CLIENTS]
    text = f"[gateway]\nlisten = {list(hosts.values())}\ntun_addresses = {inner}\n".replace("'", '"')
    for number, host in hosts.items():
        text += f'''
[connections.c{number}]
local_addrs = "{host}"
remote_addrs = "{SHARED}"
crash_methods = ["qcd", "liveness"]
local = {{ auth = "psk", id = "{number}.example", secret_file = "clients.psk" }}
remote = {{ auth = "psk", id = "edge.example" }}

[connections.c{number}.children.net]
local_ts = "10.1.{number}.0/24"
remote_ts = "10.10.2.0/24"
start_action = "start"
dpd_action = "restart"
'''
    made.install("opt/deadpeer/gateway.toml", text)
    made.install("opt/deadpeer/clients.psk", "only for this test\n", 0o600)
    return made


class Scene:
    """All that there is, and what is to be seen of it."""

    def __init__(self, network: Lan, place: Path, which: Kernel) -> None:
        self.network = network
        self.etcd = Etcd(network)
        self.members = {name: member(network, n, self.etcd) for n, name in enumerate(MEMBERS)}
        self.many = clients(network)
        strangers = [f"203.0.113.{number}/24" for number in STRANGERS]
        self.stranger = network.machine("stranger", eth0=strangers)
        self.first, self.second = (Director(network, place / f"d{n}", which, n) for n in (0, 1))
        self.directors = (self.first, self.second)
        self.stopped = 0

    def logs(self) -> str:
        found = [self.network.logs()]
        for each in self.directors:
            found.append(f"=== director: console\n{each.guest.console()}\n=== its keepalived\n{each.log()}")
        return "\n".join(found)

    def until(self, condition: Callable[[], Any], timeout_s: float = 90.0) -> Any:
        return until(condition, lambda: "the logs are in what was printed", timeout_s)

    def up(self) -> None:
        """Start everything. The second director has nothing to do yet, and nobody checks who has a lease."""
        self.etcd.start()
        for each in self.members.values():
            each.spawn_gateway()
        for director in self.directors:
            director.set_up(self.etcd)
        for each in self.members.values():
            each.wait_for("ready")
        # Only with the right file, user and etcd does the check ever say no.
        self.until(lambda: [self.first.has_lease(n) for n in range(4)] == [True, True, True, False])
        self.first.start()
        self.until(self.first.serves)
        self.until(lambda: self.first.members() == set(MEMBERS))

    def calm(self) -> bool:
        """Whether no member has closed its fence but those that were stopped: for want of time, that is."""
        fenced = [e for each in self.members.values() for e in each.events() if e["event"] == "fenced"]
        return len(fenced) <= self.stopped

    def at(self) -> dict[int, set[str]]:
        """Client -> the members that have an SA with it."""
        found: dict[int, set[str]] = {}
        for name, machine in self.members.items():
            if "gateway" in machine.processes:
                for sa in ask(machine, "sas")["sas"]:
                    found.setdefault(int(sa["identity"].partition(".")[0]), set()).add(name)
        return found

    def proofs(self) -> dict[int, list[str]]:
        """Client -> how it was told that its SA is gone."""
        found: dict[int, list[str]] = {}
        for event in self.many.events():
            if event["event"] == "verdict":
                found.setdefault(int(event["connection"][1:]), []).append(event["proof"])
        return found

    def answers(self, sas: list[str]) -> list[bytes]:
        """What strangers are answered, of whom some come to each member, who ask about these IKE SAs."""
        script = str(Path(__file__).with_name("stranger.py"))
        sources = ",".join(f"203.0.113.{number}" for number in STRANGERS)
        done = self.stranger.run(sys.executable, script, sources, SHARED, ",".join(sas))
        assert done.returncode == 0, done.stderr
        return [bytes.fromhex(line) for line in done.stdout.split()]

    def reassembled(self) -> int:
        """Datagrams that came to members in fragments."""
        found = 0
        for each in self.members.values():
            names, values = each.run("grep", "^Ip:", "/proc/net/snmp").stdout.splitlines()
            found += int(dict(zip(names.split(), values.split(), strict=True))["ReasmOKs"])
        return found


def ask(machine: Machine, command: str) -> Any:
    """What the gateway answers."""
    answer = call(machine.place / "run/deadpeer/control.sock", command)
    assert answer["ok"], answer
    return answer["data"]


def handed_over(machine: Machine) -> int:
    """Datagrams that other members have handed to this one."""
    return int(ask(machine, "counters")["counters"]["forwarding"].get("received", 0))


def spis(machine: Machine) -> list[str]:
    """The IKE SAs that a member has."""
    return [sa["spi_i"] + sa["spi_r"] for sa in ask(machine, "sas")["sas"]]


def test_members_behind_directors(place: Path) -> None:
    chosen = kernel()
    assert chosen is not None
    with lan(place) as network:
        scene = Scene(network, place, chosen)
        with scene.first.guest, scene.second.guest:
            try:
                story(scene)
            except BaseException:
                print(scene.logs())
                raise


def story(scene: Scene) -> None:
    scene.up()
    say("up")
    pings = clients_come(scene)
    nobody_learns_of_living_sas(scene)
    one_dies(scene, pings)
    one_is_taken_out(scene, pings)
    the_director_dies(scene, pings)
    etcd_is_silent(scene, pings)


def clients_come(scene: Scene) -> dict[int, Ping]:
    """Both ports of a client are at one member, which sees the client's own address; each member has some."""
    scene.many.spawn_gateway()
    scene.until(lambda: len([e for e in scene.many.events() if e["event"] == "child_up"]) == len(CLIENTS))
    pings = {number: Ping(scene.many, f"10.1.{number}.1", "10.10.2.1", interval_s=0.1) for number in CLIENTS}
    for ping in pings.values():
        ping.flows()
    home = scene.at()
    say("clients", home)
    sessions = scene.first.sessions()
    if scene.calm():
        assert sessions == home
        assert sorted(map(len, home.values())) == [1] * len(CLIENTS)
        assert set.union(*home.values()) == set(MEMBERS)
    seen = [sa["remote"] for each in scene.members.values() for sa in ask(each, "sas")["sas"]]
    assert set(seen) == {f"203.0.113.{number}:4500" for number in CLIENTS}
    # What is too large for one packet comes, too.
    before = scene.reassembled()
    script = f"import socket; socket.socket(2, 2).sendto(bytes(3000), ('{SHARED}', 4500))"
    assert scene.stranger.run(sys.executable, "-c", script).returncode == 0
    scene.until(lambda: scene.reassembled() > before)
    return pings


def nobody_learns_of_living_sas(scene: Scene) -> None:
    """Each member is asked about the SAs of all, by strangers whom the director brings to it."""
    living = [pair for each in scene.members.values() for pair in spis(each)]
    answers, came = scene.answers(living), scene.first.sessions()
    if not scene.calm():
        return
    assert answers == []
    assert set.union(*(came[number] for number in STRANGERS)) == set(MEMBERS)
    say("nothing about", len(living), "living SAs")


def one_dies(scene: Scene, pings: dict[int, Ping]) -> None:
    """Its clients are told by another one, once its lease has ended. It comes back, and nobody notices."""
    home, dead = scene.at(), spis(scene.members["two"])
    lost = {number for number in CLIENTS if home[number] == {"two"}}
    missed = {number: ping.lost() for number, ping in pings.items()}
    since = time.time()
    scene.members["two"].kill("gateway")
    scene.until(lambda: "two" not in scene.first.members())
    say(f"taken out after {time.time() - since:.1f} s")
    scene.until(lambda: scene.proofs().keys() >= lost)
    for number, ping in pings.items():
        ping.flows()
        say(f"{number}: away for {ping.gap_s(since):.2f} s, {ping.lost() - missed[number]} lost")
    proofs = scene.proofs()
    now = scene.until(lambda: len(found := scene.at()) == len(CLIENTS) and found)
    if scene.calm():
        assert proofs == {number: ["qcd-token"] for number in lost}
        assert all(now[number] == home[number] for number in set(CLIENTS) - lost)
    assert scene.answers(dead) != []
    scene.members["two"].start_gateway()
    scene.until(lambda: scene.first.members() == set(MEMBERS))
    for ping in pings.values():
        ping.flows()
    at = scene.at()
    assert at == now or not scene.calm()
    say("and is back")


def one_is_taken_out(scene: Scene, pings: dict[int, Ping]) -> None:
    """As docs/cluster.md says: the director sends it nobody any more, then it drains, then it is stopped."""
    told, home = scene.proofs(), scene.at()
    mine = {number for number in CLIENTS if home[number] == {"one"}}
    one = scene.members["one"]
    assert mine or not scene.calm()
    missed = {number: ping.lost() for number, ping in pings.items()}
    since = time.time()
    scene.first.must("touch", "/etc/keepalived/out.0")
    scene.until(lambda: "one" not in scene.first.members())
    # Others hand it what belongs to its SAs.
    before = handed_over(one)
    scene.until(lambda: handed_over(one) >= before + 10 or not scene.calm())
    for ping in pings.values():
        ping.flows()
    at = scene.at()
    assert at == home or not scene.calm()
    done = one.run("deadpeer", "drain", timeout_s=60.0)
    assert done.returncode == 0, done.stderr
    scene.until(lambda: len(found := scene.at()) == len(CLIENTS) and {"one"} not in found.values())
    scene.stopped += 1
    one.kill("gateway", signal.SIGTERM)
    for number, ping in pings.items():
        ping.flows()
        say(f"{number}: away for {ping.gap_s(since):.2f} s, {ping.lost() - missed[number]} lost")
    proofs = scene.proofs()
    assert proofs == told or not scene.calm()
    one.start_gateway()
    scene.first.must("rm", "/etc/keepalived/out.0")
    scene.until(lambda: scene.first.members() == set(MEMBERS))
    say("drained")


def the_director_dies(scene: Scene, pings: dict[int, Ping]) -> None:
    """The second takes over. It knows of no session, and sends each client where the first one would."""
    told, home = scene.proofs(), scene.at()
    scene.second.start()
    scene.until(lambda: "Entering BACKUP STATE" in scene.second.log())
    scene.until(lambda: scene.second.log().count("succeeded") >= len(MEMBERS))
    since = time.time()
    scene.first.guest.kill()
    scene.until(scene.second.serves)
    for number, ping in pings.items():
        ping.flows()
        say(f"{number}: away for {ping.gap_s(since):.2f} s")
    now = (scene.proofs(), scene.at())
    assert now == (told, home) or not scene.calm()
    say("the second director serves")


def etcd_is_silent(scene: Scene, pings: dict[int, Ping]) -> None:
    """While nobody knows who lives, nobody is taken out; when etcd is back, all goes on."""
    etcd = scene.etcd.machine.processes["etcd"]
    scene.second.patience(1)
    os.killpg(etcd.pid, signal.SIGSTOP)
    try:
        assert scene.second.has_lease(9)
        assert scene.second.members() == set(MEMBERS)
        assert "Removing service" not in scene.second.log()
        say("etcd is silent")
    finally:
        os.killpg(etcd.pid, signal.SIGCONT)
    for ping in pings.values():
        ping.flows()
    say("etcd is back")
