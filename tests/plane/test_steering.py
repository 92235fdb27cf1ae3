"""The rules around a routing table, against a kernel in memory; the real one is asked in tests/gateway."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pyroute2 import NetlinkError

from deadpeer.plane.host import PlaneError
from deadpeer.plane.steering import RULES, Steering

# Of this process: the name that claims it is one for the whole machine.
TABLE = 1000 + os.getpid() % 30_000


class Entry(dict[str, Any]):
    """A rule or a route as the kernel tells it."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


class Kernel:
    """What pyroute2 shows of one: rules, routes, and what it lacks."""

    def __init__(self, *, lacks: set[int] | None = None, connected: tuple[str, ...] = ()) -> None:
        self.rules: list[dict[str, Any]] = []
        self.routes: list[dict[str, Any]] = []
        self.lacks = lacks or set()
        self.connected = [ip_network(each) for each in connected]

    def rule(self, command: str, **rule: Any) -> None:
        if rule["family"] in self.lacks:
            raise NetlinkError(errno.EAFNOSUPPORT)
        if command == "add":
            if rule in self.rules:
                raise NetlinkError(errno.EEXIST)
            self.rules.append(rule)
            return
        wanted = {key: value for key, value in rule.items() if (key, value) != ("action", 0)}
        for each in self.rules:
            if wanted.items() <= each.items():
                self.rules.remove(each)
                return
        raise NetlinkError(errno.ENOENT)

    def get_rules(self, family: int) -> Iterator[Entry]:
        for rule in self.rules:
            if rule["family"] == family:
                yield Entry(rule, FRA_PRIORITY=rule["priority"], FRA_PROTOCOL=rule.get("protocol"))

    def get_routes(self, family: int, table: int, proto: int) -> list[Entry]:
        assert (table, proto) == (254, 2)
        versions = {2: 4, 10: 6}
        return [
            Entry(dst_len=net.prefixlen, RTA_DST=str(net.network_address))
            for net in self.connected
            if net.version == versions[family]
        ]

    def route(self, command: str, **route: Any) -> None:
        if command == "add":
            self.routes.append(route)
        elif route in self.routes:
            self.routes.remove(route)
        else:
            raise NetlinkError(errno.ESRCH)

    def asked(self, family: int = 2) -> list[str]:
        """What a packet that is not our own asks, from the top."""
        order = sorted((r for r in self.rules if r["family"] == family), key=lambda r: int(r["priority"]))
        return [
            f"{rule['table']}>{rule['suppress_prefixlen']}"
            if "suppress_prefixlen" in rule
            else str(rule["table"])
            for rule in order
            if "table" in rule
        ]


@pytest.fixture
def steering() -> Iterator[Steering]:
    made = Steering(TABLE, [(ip_address("192.0.2.1"), 500), (ip_address("2001:db8::1"), 4500)])
    yield made
    made.release()


def request(network: str) -> dict[str, Any]:
    return {"dst": network, "oif": 7, "family": 6 if ":" in network else 2}


def test_the_longest_match_of_both_tables_wins_whatever_is_added_and_removed(steering: Steering) -> None:
    kernel = Kernel()
    steering.open(kernel)
    assert steering.works(4) and steering.works(6)
    assert kernel.asked() == []
    for network in ("10.0.0.0/8", "0.0.0.0/0", "10.1.0.0/16", "10.2.0.0/16"):
        steering.add(kernel, ip_network(network), request(network))
    both = ["254>16", f"{TABLE}>15", "254>8", f"{TABLE}>7", "254>0", str(TABLE)]
    assert kernel.asked() == both
    assert all(route["table"] == TABLE for route in kernel.routes)
    steering.remove(kernel, ip_network("10.1.0.0/16"), request("10.1.0.0/16"))
    assert kernel.asked() == both, "another one of this length is there"
    steering.remove(kernel, ip_network("10.2.0.0/16"), request("10.2.0.0/16"))
    steering.remove(kernel, ip_network("0.0.0.0/0"), request("0.0.0.0/0"))
    assert kernel.asked() == ["254>8", f"{TABLE}>7"]
    steering.close(kernel)
    assert kernel.rules == []


def test_our_own_packets_jump_over_every_question(steering: Steering) -> None:
    kernel = Kernel()
    steering.open(kernel)
    for network in ("0.0.0.0/0", "10.0.0.1/32"):
        steering.add(kernel, ip_network(network), request(network))
    (jump,) = [rule for rule in kernel.rules if rule["family"] == 2 and rule.get("action") == "goto"]
    chosen = {key: jump[key] for key in ("src", "ip_proto", "sport_range")}
    assert chosen == {"src": "192.0.2.1", "ip_proto": 17, "sport_range": "500:500"}
    questions = [rule["priority"] for rule in kernel.rules if "table" in rule]
    assert jump["priority"] < min(questions) and max(questions) < jump["goto"]
    assert any(rule["priority"] == jump["goto"] and rule["action"] == "nop" for rule in kernel.rules)
    assert all(TABLE <= rule["priority"] < TABLE + RULES for rule in kernel.rules)


def test_only_rules_of_ours_in_our_range_are_swept_away(steering: Steering) -> None:
    kernel = Kernel()
    foreign = [
        {"family": 2, "priority": TABLE + 5, "table": 100},
        {"family": 2, "priority": TABLE - 1, "table": 100, "protocol": 98},
        {"family": 2, "priority": TABLE + RULES, "table": 100, "protocol": 98},
    ]
    kernel.rules = [*foreign, {"family": 2, "priority": TABLE + 9, "table": 254, "protocol": 98}]
    steering.open(kernel)
    assert {"family": 2, "priority": TABLE + 9, "table": 254, "protocol": 98} not in kernel.rules
    steering.close(kernel)
    assert kernel.rules == foreign


def test_a_kernel_that_lacks_rules_for_one_version(steering: Steering) -> None:
    kernel = Kernel(lacks={10})
    steering.open(kernel)
    assert steering.works(4) and not steering.works(6)
    assert {rule["family"] for rule in kernel.rules} == {2}


def test_a_network_that_the_host_is_in_is_never_taken(steering: Steering) -> None:
    kernel = Kernel(connected=("10.0.0.0/24", "2001:db8::/64"))
    steering.open(kernel)
    for network in ("10.0.0.0/24", "2001:db8::/64"):
        with pytest.raises(PlaneError, match="is in that network itself"):
            steering.add(kernel, ip_network(network), request(network))
    steering.add(kernel, ip_network("10.0.0.0/16"), request("10.0.0.0/16"))
    assert kernel.asked() == ["254>16", f"{TABLE}>15"]


def test_one_table_is_for_one_gateway(steering: Steering) -> None:
    with pytest.raises(PlaneError, match="choose another number, 300 away"):
        Steering(TABLE, [])
    steering.release()
    Steering(TABLE, []).release()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_stranger_on_this_machine_can_not_keep_a_table_from_us() -> None:
    other = TABLE + RULES
    hold = (
        "import os, socket, sys\nos.setuid(65534)\nheld = socket.socket(socket.AF_UNIX)\n"
        f"held.bind('\\0deadpeer-routing-table-{other}')\nheld.listen(1)\nprint('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-I", "-S", "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "held\n"
        steering = Steering(other, [])
        kernel = Kernel()
        steering.open(kernel)
        assert steering.works(4)
        steering.release()
        stranger.communicate()


def test_who_takes_the_name_and_never_listens_is_no_gateway() -> None:
    other = TABLE + 2 * RULES
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taken:
        taken.bind(f"\0deadpeer-routing-table-{other}")
        Steering(other, []).release()
