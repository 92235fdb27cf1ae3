"""Two gateways with one address as real processes in network namespaces, and a client on the same bridge.

    client ───┬── one   192.0.2.11 ┐
              └── two   192.0.2.12 ┘ 192.0.2.1 is on one of them

The address is moved with `ip address`, and announced as keepalived does, by gratuitous ARP.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.processes import PORT, SOON_S, Gateway, document, until
from tests.support import signals

from deadpeer.plane.packets import decode_echo, echo_reply, echo_request
from deadpeer.wire import NotifyType, decode_message

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
]

SHARED = "192.0.2.1"
CLIENT = "192.0.2.7"
OWN = {"one": "192.0.2.11", "two": "192.0.2.12"}
# By a token. A client that finds out by itself needs a minute of silence.
BY_TOKEN_S = 30.0


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


class Site:
    """The bridge, the three namespaces, a gateway in each, and the hosts behind them."""

    def __init__(self, place: Path, tag: str, by: str) -> None:
        self.place = place
        self.bridge = f"dph{tag}lan"
        self.names = {who: f"dph{tag}{who}" for who in ("client", *OWN)}
        self.by = by
        self._made: list[str] = []
        self._gateways: list[Gateway] = []
        self._sequence = 0
        self.client: Gateway
        self.pair: dict[str, Gateway] = {}

    def make(self) -> None:
        ip("netns", "add", self.bridge)
        self._made.append(self.bridge)
        ip("-n", self.bridge, "link", "add", "lan", "type", "bridge")
        ip("-n", self.bridge, "link", "set", "lan", "up")
        for who, name in self.names.items():
            ip("netns", "add", name)
            self._made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", who, "netns", self.bridge)
            ip("-n", self.bridge, "link", "set", who, "master", "lan", "up")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "addr", "add", f"{OWN.get(who, CLIENT)}/24", "dev", "eth0")
        for name, text in (("home.psk", "only for this test\n"), ("standby.key", "6b" * 32 + "\n")):
            (self.place / name).touch(mode=0o600)
            (self.place / name).write_text(text)
        self.client = self._gateway("client", self._client())
        for number, who in enumerate(OWN):
            self.pair[who] = self._gateway(who, self._one(who, number))

    def start(self) -> None:
        """Both, the address on the first, and the tunnel."""
        for each in self.pair.values():
            each.start()
        self.give("one")
        self.pair["one"].wait_for("active")
        self.client.start()
        self.client.wait_for("child_up")
        self.ping_until_it_works()

    def give(self, who: str) -> None:
        """The address comes, and the network is told."""
        ip("-n", self.names[who], "addr", "add", f"{SHARED}/32", "dev", "eth0")
        self.announce(who)
        if self.by == "command" and self.running(who):
            assert self.pair[who].command("activate").returncode == 0

    def take(self, who: str) -> None:
        """The address goes."""
        if self.by == "command" and self.running(who):
            assert self.pair[who].command("standby").returncode == 0
        ip("-n", self.names[who], "addr", "del", f"{SHARED}/32", "dev", "eth0")

    def running(self, who: str) -> bool:
        return self.pair[who].process.poll() is None

    def announce(self, who: str) -> None:
        """Gratuitous ARP: the address is at this one now."""
        link = json.loads(ip("-j", "-n", self.names[who], "link", "show", "eth0"))[0]
        mac = bytes.fromhex(link["address"].replace(":", ""))
        packed = ipaddress.ip_address(SHARED).packed
        body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, packed, bytes(6), packed)
        frame = b"\xff" * 6 + mac + struct.pack("!H", 0x0806) + body
        code = (
            "import socket,sys; s=socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0));"
            " s.send(bytes.fromhex(sys.argv[1]))"
        )
        words = ["ip", "netns", "exec", self.names[who], sys.executable, "-S", "-c", code, frame.hex()]
        subprocess.run(words, check=True, timeout=30)

    def ping(self, wait_s: float = 0.05) -> bool:
        """One echo request from the host behind the client to the one behind the pair, and its answer."""
        self._sequence += 1
        request = echo_request("10.0.0.7", "10.0.1.7", 0x6290, self._sequence, b"inner")
        with contextlib.suppress(OSError):
            self.client.host.sendto(request, str(self.place / "client-gw"))
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            for who, each in self.pair.items():
                self._echo(each.host, self.place / f"{who}-gw")
            with contextlib.suppress(BlockingIOError):
                echo = decode_echo(self.client.host.recv(2000, socket.MSG_DONTWAIT))
                if echo is not None and not echo.request and echo.seq == self._sequence:
                    return True
            time.sleep(0.001)
        return False

    def ping_until_it_works(self) -> None:
        until(lambda: self.ping(SOON_S), self.logs)

    def verdicts(self) -> list[str]:
        return [event["proof"] for event in self.client.events() if event["event"] == "verdict"]

    def bought(self, spis: bytes) -> bool:
        """Whether somebody else at the client's address, who asks in its SA's name, gets a token."""
        # An INFORMATIONAL request of the initiator, with an Encrypted payload that nobody can open.
        body = struct.pack("!BBH", 0, 0, 4 + 64) + bytes(64)
        request = spis + struct.pack("!BBBBII", 46, 0x20, 37, 0x08, 7, 28 + len(body)) + body
        code = (
            "import socket,sys; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5)\n"
            "s.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], int(sys.argv[3])))\n"
            "try: print(s.recv(2000).hex())\n"
            "except TimeoutError: print()\n"
        )
        name, python = self.names["client"], [sys.executable, "-S", "-c", code]
        words = ["ip", "netns", "exec", name, *python, request.hex(), SHARED, str(PORT)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
        octets = bytes.fromhex(done.stdout.strip())
        return bool(octets) and bool(decode_message(octets).notifies(NotifyType.QCD_TOKEN))

    def status(self, who: str) -> dict[str, Any]:
        done = self.pair[who].command("sas", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)["standby"]
        return found

    def counters(self, who: str) -> dict[str, dict[str, int]]:
        done = self.pair[who].command("counters", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, int]] = json.loads(done.stdout)["counters"]
        return found

    def logs(self) -> str:
        return "\n---\n".join(each.log()[-5000:] for each in self._gateways)

    def close(self) -> None:
        for each in self._gateways:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                signals.thaw(each.process.pid)
            each.close()
        for name in self._made:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    @staticmethod
    def _echo(host: socket.socket, gateway: Path) -> None:
        with contextlib.suppress(BlockingIOError):
            if answer := echo_reply(host.recv(2000, socket.MSG_DONTWAIT)):
                with contextlib.suppress(OSError):
                    host.sendto(answer, str(gateway))

    def _gateway(self, who: str, made: dict[str, Any]) -> Gateway:
        gateway = Gateway(self.place, who, made, namespace=self.names[who])
        self._gateways.append(gateway)
        return gateway

    def _client(self) -> dict[str, Any]:
        made = document("client", "gw", CLIENT, SHARED, "10.0.0.0/24", "10.0.1.0/24")
        home = made["connections"]["home"]
        home["crash_methods"] = ["qcd", "liveness"]
        home["children"]["net"] |= {"start_action": "start", "dpd_action": "restart"}
        return made

    def _one(self, who: str, number: int) -> dict[str, Any]:
        made = document("gw", "client", SHARED, CLIENT, "10.0.1.0/24", "10.0.0.0/24")
        made["gateway"] |= {
            "state_dir": f"{who}-state",
            "control": f"{who}.sock",
            "listen": [],
            "unix_local": f"{who}-gw",
            "unix_peer": f"{who}-host",
        }
        made["standby"] = {
            "number": number,
            "address": SHARED,
            "key_file": "standby.key",
            "listen": f"{OWN[who]}:4502",
            "partner": f"{OWN['two' if who == 'one' else 'one']}:4502",
            "by": self.by,
        }
        return made


@contextlib.contextmanager
def made_site(place: Path, by: str) -> Iterator[Site]:
    site = Site(place, uuid.uuid4().hex[:5], by)
    try:
        site.make()
        yield site
    finally:
        site.close()


@pytest.fixture
def site(place: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with made_site(place, getattr(request, "param", "address")) as made:
        yield made


both_ways = pytest.mark.parametrize("site", ["address", "command"], indirect=True)


@both_ways
def test_who_gains_the_address_speaks_for_the_other(site: Site) -> None:
    site.start()
    assert (site.status("one")["state"], site.status("two")["state"]) == ("active", "standby")
    site.take("one")
    site.pair["one"].wait_for("standby")
    assert site.pair["one"].sas() == []
    site.give("two")
    began = time.monotonic()
    site.pair["two"].wait_for("active", epoch=1)
    site.ping_until_it_works()
    took_s = time.monotonic() - began
    assert took_s < BY_TOKEN_S, f"{took_s:.3f} s\n{site.logs()}"
    assert site.verdicts() == ["qcd-token"]
    assert (site.status("one")["state"], site.status("two")["state"]) == ("standby", "active")
    site.take("two")
    site.give("one")
    site.ping_until_it_works()
    assert site.verdicts() == ["qcd-token"] * 2
    assert site.status("one")["epoch"] == 2


def test_the_first_answer_of_the_one_that_takes_over_has_the_token(site: Site) -> None:
    """
    one: SA up   ──────▶  two: the child's SPI, and the IKE SA that it is of
    one is killed; two gains the address

    ESP, old SA                   ──────▶  two
    N(INVALID_SPI), N(QCD_TOKEN)  ◀──────  two
    """
    site.start()
    two = site.pair["two"]
    until(lambda: site.counters("two")["standby"]["map of the partner"] == 1, two.log)
    site.pair["one"].kill()
    site.take("one")
    site.give("two")
    two.wait_for("active")
    site.ping_until_it_works()
    assert site.verdicts() == ["qcd-token"]
    [told] = [event for event in two.events() if event["event"] == "invalid_spi_sent"]
    assert told["tokens"] == 1


def test_the_active_one_is_killed_and_comes_back_as_the_standby(site: Site) -> None:
    site.start()
    site.pair["one"].kill()
    site.take("one")
    site.give("two")
    began = time.monotonic()
    site.ping_until_it_works()
    took_s = time.monotonic() - began
    assert took_s < BY_TOKEN_S, f"{took_s:.3f} s\n{site.logs()}"
    assert site.verdicts() == ["qcd-token"]
    site.pair["one"].start()
    assert site.status("one")["state"] == "standby"
    site.take("two")
    site.give("one")
    site.ping_until_it_works()
    assert site.verdicts() == ["qcd-token"] * 2
    assert site.status("one")["epoch"] == 2


def test_two_that_hold_the_address_tell_nothing_of_each_other(site: Site) -> None:
    """The network brings the client's packets to the second, while the first lives."""
    site.start()
    [sa] = site.client.sas()
    spis = bytes.fromhex(sa["spi_i"] + sa["spi_r"])
    assert not site.bought(spis), "its owner has the SA"
    site.give("two")
    site.pair["two"].wait_for("active")
    assert not site.bought(spis), "the partner was just asked"
    site.pair["two"].wait_for("both_active")
    site.pair["one"].wait_for("both_active")
    for _ in range(12):
        assert not site.ping()
        assert not site.bought(spis)
    assert site.verdicts() == []
    assert site.counters("two")["udp"]["received"] >= 20
    assert site.status("two")["both_active"] is True
    site.announce("one")
    site.ping_until_it_works()  # its SA has lost nothing
    assert site.verdicts() == []
    site.announce("two")
    site.take("one")  # somebody settles it
    site.ping_until_it_works()
    assert site.verdicts() == ["qcd-token"]
    until(lambda: site.bought(spis), lambda: f"that SA is no more\n{site.logs()}")


def test_a_process_that_was_stopped_while_the_address_moved_serves_nothing_of_its_queue(site: Site) -> None:
    """SIGSTOP; packets queue up; the address goes, and comes back: SIGCONT. It was lost meanwhile."""
    site.start()
    one = site.pair["one"]
    before = site.counters("one")
    signals.freeze(one.process.pid)
    for _ in range(10):
        assert not site.ping(0.01)
    site.take("one")
    site.give("one")
    signals.thaw(one.process.pid)
    assert one.wait_for("active", epoch=2)
    kinds = [(event["event"], event.get("epoch")) for event in one.events()]
    assert kinds.index(("standby", None)) < kinds.index(("active", 2))
    after = site.counters("one")
    assert after["udp"]["received"] >= before["udp"]["received"] + 10
    assert after["gateway"]["host_sent"] == before["gateway"]["host_sent"]
    site.ping_until_it_works()
    assert site.verdicts() == ["qcd-token"]


def test_drain_moves_a_client_to_another_address(site: Site) -> None:
    """The second serves an address of its own, which the first sends its clients to."""
    made = site._one("two", 1)
    other = "192.0.2.2"
    ip("-n", site.names["two"], "addr", "add", f"{other}/24", "dev", "eth0")
    made["standby"]["address"] = made["connections"]["home"]["local_addrs"] = other
    site.pair["two"].write(made)
    site.start()
    site.pair["two"].wait_for("active")
    refused = site.pair["one"].command("drain")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "name another one to go to" in refused.stderr
    assert "is not an IP address" in site.pair["one"].command("drain", "--to", "two.example").stderr
    done = site.pair["one"].command("drain", "--to", other)
    assert (done.returncode, done.stdout) == (0, "1 IKE SAs have gone\n"), done.stderr + site.logs()
    assert site.pair["one"].sas() == []
    [sa] = site.pair["two"].sas()
    assert sa["local"].startswith(other)
    assert site.verdicts() == []
    site.ping_until_it_works()
    site.client.wait_for("redirected", to=other)


def test_the_commands_are_for_by_command_only(site: Site) -> None:
    site.pair["one"].start()
    for word in ("activate", "standby"):
        done = site.pair["one"].command(word)
        assert (done.returncode, done.stdout) == (1, "")
        assert "the gateway watches the address itself" in done.stderr
    site.client.start()
    assert "no table [standby]" in site.client.command("activate").stderr
    table = site.pair["one"].command("sas").stdout
    assert table.startswith("gateway 0 of the two at 192.0.2.1: standby, epoch 0\n")
