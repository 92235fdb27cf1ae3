"""deploy/standby with Debian's keepalived: two gateways, one address, a client, and ping through the tunnel.

    client ───┬── one   203.0.113.11 ┐ eth0, and eth1 for what
              └── two   203.0.113.12 ┘ the two ask each other

203.0.113.10, or 2001:db8::10, is where keepalived puts it. The files are those of deploy/standby, but for
`number`, `listen` and `partner`, and the address where that is IPv6.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.machines import DEPLOY, Lan, Machine, Ping, client_files, ip, lan, needs, until

pytestmark = needs("keepalived", "ping", "setpriv")

SHARED = {4: "203.0.113.10", 6: "2001:db8::10"}
CLIENT = {4: "203.0.113.7", 6: "2001:db8::7"}
PARTNERS = ("192.0.2.11", "192.0.2.12")


class Site:
    """The two, and the client, whose inner address pings theirs."""

    def __init__(self, network: Lan, family: int, by: str) -> None:
        self.lan = network
        self.by = by
        self.shared = SHARED[family]
        self.pair: list[Machine] = []
        for number, name in enumerate(("one", "two")):
            own = [f"203.0.113.{11 + number}/24", f"2001:db8::{11 + number}/64"]
            one = network.machine(name, eth0=own, eth1=[f"{PARTNERS[number]}/24"])
            one.install("opt/deadpeer/gateway.toml", self._gateway(number))
            one.install("opt/deadpeer/standby.key", "6b" * 32 + "\n", 0o600)
            one.install("opt/deadpeer/clients.psk", "only for this test\n", 0o600)
            one.install("etc/keepalived.conf", self._keepalived())
            one.install("etc/notify", (DEPLOY / "standby/notify").read_text(), 0o755)
            self.pair.append(one)
        self.client = network.machine("client", eth0=["203.0.113.7/24", "2001:db8::7/64"])
        client_files(self.client, CLIENT[family], self.shared)

    def start(self) -> Ping:
        """All of it; the first gets the address, since its keepalived is started first."""
        one, two = self.pair
        for each in (*self.pair, self.client):
            each.spawn_gateway()
        one.wait_for("ready")
        one.start_keepalived()
        self.serves(one)
        two.wait_for("ready")
        two.start_keepalived()
        self.backs_up(two, 1)
        self.client.wait_for("child_up")
        ping = Ping(self.client, "10.1.0.1", "10.10.2.1")
        ping.flows()
        return ping

    def backs_up(self, one: Machine, times: int) -> None:
        """Wait until its keepalived has come to stand by so many times (more, if a check was late)."""
        until(lambda: one.log("keepalived").count("Entering BACKUP STATE") >= times, self.lan.logs)

    def serves(self, one: Machine, lives: int = 1) -> None:
        """Wait until this one has the address, and has begun so many lives."""
        until(lambda: one.holds(self.shared), self.lan.logs)
        until(lambda: len(self.kinds(one, "active")) >= lives, self.lan.logs)

    def recovers(self, ping: Ping, times: int) -> None:
        """Wait until the client has been told by tokens so many times, and ping flows."""
        until(lambda: len(self.proofs()) >= times, self.lan.logs)
        ping.flows()
        assert set(self.proofs()) == {"qcd-token"}

    def kinds(self, one: Machine, kind: str) -> list[dict[str, object]]:
        return [event for event in one.events() if event["event"] == kind]

    def proofs(self) -> list[object]:
        return [event["proof"] for event in self.kinds(self.client, "verdict")]

    def _gateway(self, number: int) -> str:
        text = self._moved((DEPLOY / "standby/gateway.toml").read_text())
        if number == 1:
            ours, theirs = PARTNERS
            text = text.replace("number = 0", "number = 1")
            text = text.replace(ours, "ours").replace(theirs, ours).replace("ours", theirs)
        return text.replace("[standby]", f'[standby]\nby = "{self.by}"')

    def _keepalived(self) -> str:
        text = self._moved((DEPLOY / "standby/keepalived.conf").read_text())
        if self.by == "address":
            return text
        text = text.replace('script "/usr/bin/timeout', '# script "').replace("# notify /", "notify /")
        return text.replace('# script "/etc/', 'script "/etc/')

    def _moved(self, text: str) -> str:
        if self.shared == SHARED[4]:
            return text
        return text.replace(f"{SHARED[4]}/24", f"{SHARED[6]}/64").replace(SHARED[4], SHARED[6])


@pytest.fixture
def site(place: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    with lan(place) as network:
        yield Site(network, *request.param)


@pytest.mark.parametrize("site", [(6, "address"), (4, "command")], ids=["IPv6", "told"], indirect=True)
def test_the_address_moves_and_the_other_answers_with_tokens(site: Site) -> None:
    one, two = site.pair
    ping = site.start()
    for words in ("sas", "counters"):  # the second costs the same however many SAs there are
        assert two.ask(words)["standby"]["state"] == "standby"

    # The active daemon is killed; keepalived's check says so.
    since = time.time()
    one.kill("gateway")
    site.serves(two)
    site.recovers(ping, 1)
    print(f"daemon killed: {ping.gap_s(since):.2f} s")
    until(lambda: not one.holds(site.shared), site.lan.logs)

    # It comes back, and the address stays where it is.
    one.start_gateway()
    site.backs_up(one, 2)
    until(lambda: two.holds(site.shared), site.lan.logs)

    # keepalived of the active one is killed.
    since = time.time()
    two.kill("keepalived")
    site.serves(one, 2)
    site.recovers(ping, 2)
    print(f"keepalived killed: {ping.gap_s(since):.2f} s")
    two.wait_for("standby")
    assert two.ask("sas")["sas"] == []
    assert "10.1.0.0/16" not in ip("-n", two.namespace, "route", "show", "table", "all")
    assert "10.1.0.0/16" in ip("-n", one.namespace, "route", "show", "table", "all")

    if site.by == "address":
        return

    # A daemon that was started anew is told again that the address is its own.
    since = time.time()
    one.kill("gateway")
    one.start_gateway()
    site.recovers(ping, 3)
    print(f"daemon back: {ping.gap_s(since):.2f} s")


@pytest.mark.parametrize("site", [(4, "address")], ids=["IPv4"], indirect=True)
def test_two_masters_tell_nothing_of_each_others_living_sas(site: Site) -> None:
    """After a cable was pulled and put back, neither hears the other's VRRP; both hear the client, and each
    other on the other link."""
    one, two = site.pair
    ping = site.start()

    # First the active one's cable is pulled, and put back.
    since = time.time()
    site.lan.cable("one", "eth0", plugged=False)
    site.serves(two)
    site.recovers(ping, 1)
    print(f"cable pulled: {ping.gap_s(since):.2f} s")
    site.lan.cable("one", "eth0", plugged=True)
    site.backs_up(one, 2)

    # Then neither hears the other's VRRP.
    before = (site.proofs(), site.kinds(one, "invalid_ike_spi_sent"), site.kinds(two, "standby"))
    site.lan.isolate("one", "two")
    site.serves(one, 2)
    assert two.holds(site.shared)
    for each in site.pair:
        each.wait_for("both_active")

    # Gratuitous ARP brings the client to the first. Its SA lives with the second, and it asks in it.
    def asked() -> bool:
        endpoint = one.ask("counters")["counters"]["endpoint"]
        return bool(endpoint.get("orphan: protected request of an unknown SA", 0) >= 2)

    until(asked, site.lan.logs)
    status, sas = one.ask("sas")["standby"], two.ask("sas")["sas"]
    after = (site.proofs(), site.kinds(one, "invalid_ike_spi_sent"), site.kinds(two, "standby"))
    if after[2] == before[2]:  # else its check was late, and the address went
        assert after == before
        assert (status["both_active"], len(sas)) == (True, 1)

    # They hear each other again: one gives way.
    site.lan.isolate("one", "two", on=False)
    until(lambda: one.holds(site.shared) != two.holds(site.shared), site.lan.logs)
    ping.flows()
    assert set(site.proofs()) == {"qcd-token"}
