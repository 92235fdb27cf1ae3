"""Members of a cluster as processes on loopback, a real etcd, and a client gateway.

The client talks to one address; `Road` is what brings its packets to a member, as a balancer would.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.gateway.processes import PATIENCE_S, PORT, PORT_NAT_T, SOON_S, Gateway, until
from tests.support.etcd import EtcdServer
from tests.support.loopback import LoopbackNet

from deadpeer.plane.packets import decode_echo, echo_reply, echo_request

FORWARD = 15502
LEASE_S = 6
"""So long that a busy machine, which holds up a member or etcd for a second or two, costs nobody a lease."""


class Road:
    """Packets between the client and the member that its packets are brought to, for both ports."""

    def __init__(self, here: str, members: list[str]) -> None:
        self.here = here
        self.members = members
        self.to = 0
        """Number of the member to which the client's packets go."""
        self.brought: Counter[int] = Counter()
        """Packets of the client that each member got."""
        self._client: dict[int, tuple[str, int]] = {}
        self._outside = [self._bound(here, port) for port in (PORT, PORT_NAT_T)]
        self._inside = [self._bound(here, 0) for _ in (PORT, PORT_NAT_T)]
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._running = False
        self._thread.join()
        for each in (*self._outside, *self._inside):
            each.close()

    def _run(self) -> None:
        ports = (PORT, PORT_NAT_T)
        while self._running:
            readable, _, _ = select.select([*self._outside, *self._inside], [], [], 0.05)
            for each in readable:
                with contextlib.suppress(OSError):
                    octets, source = each.recvfrom(65535)
                    if each in self._outside:
                        lane = self._outside.index(each)
                        self._client[lane] = source
                        to = self.to
                        self._inside[lane].sendto(octets, (self.members[to], ports[lane]))
                        self.brought[to] += 1
                    else:
                        lane = self._inside.index(each)
                        self._outside[lane].sendto(octets, self._client[lane])

    @staticmethod
    def _bound(host: str, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((host, port))
        return made


class Cluster:
    """etcd, members, and one client. Nothing is started at first."""

    def __init__(self, place: Path, members: int = 2, **cluster_keys: Any) -> None:
        self._net = LoopbackNet()
        net = self._net.prefix
        self.place = place
        self.etcd = EtcdServer(place, host=f"{net}.200")
        for name, text in (("home.psk", "all of them\n"), ("cluster.key", "7e" * 32 + "\n")):
            (place / name).touch(mode=0o600)
            (place / name).write_text(text)
        self.hosts = [f"{net}.{10 + number}" for number in range(members)]
        self.documents = [self._member(number, cluster_keys) for number in range(members)]
        self.members = [
            Gateway(place, f"m{number}", document) for number, document in enumerate(self.documents)
        ]
        self.road = Road(f"{net}.2", self.hosts)
        self.client_document = self._client(f"{net}.1", f"{net}.2")
        self.client = Gateway(place, "client", self.client_document)
        self._sequence = 0

    def start(self) -> None:
        """All of it, and the tunnel, by way of member 0."""
        self.etcd.start()
        for member in self.members:
            member.spawn()
        for member in self.members:
            member.wait_for("ready")
        self.client.start()
        self.client.wait_for("child_up")
        self.ping_until_it_works()

    def ping(self, wait_s: float = PATIENCE_S / 2) -> bool:
        """One echo request from the host behind the client to the one behind the cluster, and its answer."""
        self._sequence += 1
        request = echo_request("10.0.0.7", "10.0.1.7", 0x6290, self._sequence, b"inner")
        with contextlib.suppress(OSError):
            self.client.host.sendto(request, str(self.place / "client-gw"))
        end = time.monotonic() + wait_s
        hosts = {member.host: str(self.place / f"{member.name}-gw") for member in self.members}
        while (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select([self.client.host, *hosts], [], [], left)
            for host in readable:
                octets = host.recv(2000)
                if host in hosts:
                    if answer := echo_reply(octets):
                        with contextlib.suppress(OSError):
                            host.sendto(answer, hosts[host])
                else:
                    echo = decode_echo(octets)
                    if echo is not None and not echo.request and echo.seq == self._sequence:
                        return True
        return False

    def ping_until_it_works(self) -> None:
        until(lambda: self.ping(SOON_S), self.logs)

    def ping_in_vain(self, count: int) -> None:
        """Echo requests without an answer, until so many of the client's packets have come to the member."""
        before = self.road.brought[self.road.to]

        def look() -> bool:
            assert not self.ping(0.02)
            return self.road.brought[self.road.to] >= before + count

        until(look, self.logs)

    def status(self, number: int) -> dict[str, Any]:
        """What `deadpeer sas --json` says of a member."""
        done = self.members[number].command("sas", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)["cluster"]
        return found

    def counters(self, number: int) -> dict[str, dict[str, int]]:
        done = self.members[number].command("counters", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, int]] = json.loads(done.stdout)["counters"]
        return found

    def logs(self) -> str:
        return "\n---\n".join(each.log()[-6000:] for each in (self.client, *self.members))

    def close(self) -> None:
        for each in (self.client, *self.members):
            each.close()
        self.road.close()
        self.etcd.close()
        self._net.close()

    def _member(self, number: int, keys: dict[str, Any]) -> dict[str, Any]:
        name, host = f"m{number}", self.hosts[number]
        return {
            "gateway": _gateway(name, host),
            "cluster": {
                "name": "test",
                "member": number,
                "key_file": "cluster.key",
                "etcd": [self.etcd.endpoint],
                "lease": f"{LEASE_S}s",
                "forward_listen": f"{host}:{FORWARD}",
            }
            | keys,
            "connections": {
                "net": {
                    "remote_addrs": "%any",
                    "local": {"auth": "psk", "id": "cluster.example", "secret_file": "home.psk"},
                    "remote": {"auth": "psk"},
                    "children": {"net": {"local_ts": "10.0.1.0/24", "remote_ts": "10.0.0.0/24"}},
                }
            },
        }

    def _client(self, here: str, there: str) -> dict[str, Any]:
        child = {"local_ts": "10.0.0.0/24", "remote_ts": "10.0.1.0/24"}
        return {
            "gateway": _gateway("client", here),
            "connections": {
                "home": {
                    "local_addrs": here,
                    "remote_addrs": there,
                    "remote_port": PORT,
                    "remote_port_nat_t": PORT_NAT_T,
                    "local": {"auth": "psk", "id": "client.example", "secret_file": "home.psk"},
                    "remote": {"auth": "psk", "id": "cluster.example"},
                    "children": {"net": child | {"start_action": "start", "dpd_action": "restart"}},
                }
            },
        }


@contextlib.contextmanager
def cluster_of(place: Path, members: int = 2, **cluster_keys: Any) -> Iterator[Cluster]:
    """All of it, ended in any case."""
    cluster = Cluster(place, members, **cluster_keys)
    try:
        yield cluster
    finally:
        cluster.close()


def _gateway(name: str, host: str) -> dict[str, Any]:
    return {
        "state_dir": f"{name}-state",
        "control": f"{name}.sock",
        "listen": [host],
        "port": PORT,
        "port_nat_t": PORT_NAT_T,
        "plane": "unix",
        "unix_local": f"{name}-gw",
        "unix_peer": f"{name}-host",
    }
