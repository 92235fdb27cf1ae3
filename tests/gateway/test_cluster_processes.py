"""Members of a cluster in processes of their own, with a real etcd: killed, stopped, cut off from etcd."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.cluster_processes import LEASE_S, Cluster, cluster_of
from tests.gateway.processes import PATIENCE_S, Gateway, environment, until
from tests.support import signals
from tests.support.etcd import needs_etcd

from deadpeer.cluster.steps import ttl_of

pytestmark = needs_etcd


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with cluster_of(place) as made:
        yield made


def test_one_of_three_is_killed_and_its_client_finds_another(place: Path) -> None:
    with cluster_of(place, 3) as cluster:
        only(cluster, "qcd")
        cluster.start()
        assert [other["leased"] for other in cluster.status(2)["members"]] == [True] * 3
        cluster.road.to = 2
        assert cluster.ping()  # handed to the first
        cluster.members[0].kill()
        cluster.ping_until_it_works()
        assert cluster.client.wait_for("verdict")["proof"] == "qcd-token"
        assert [len(cluster.members[number].sas()) for number in (1, 2)] == [0, 1]
        cluster.road.to = 1
        assert cluster.ping()  # handed to the third
        assert cluster.counters(1)["forwarding"]["sent"] >= 1


def test_without_the_client_of_etcd_it_says_what_to_install(cluster: Cluster) -> None:
    script = (
        "import sys; sys.modules['etcd3gw'] = None; import deadpeer.cli as c; sys.exit(c.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "gateway", str(cluster.members[0].config)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "cluster: needs the package etcd3gw; install it: pip install 'deadpeer[cluster]'\n"
    )


def only(cluster: Cluster, *methods: str) -> None:
    """Let the client find out in these ways only."""
    document = copy.deepcopy(cluster.client_document)
    document["connections"]["home"]["crash_methods"] = list(methods)
    cluster.client.write(document)


def spi_of(gateway: Gateway) -> list[str]:
    return [sa["spi_i"] for sa in gateway.sas()]


def kinds(gateway: Gateway, mark: int = 0) -> list[str]:
    return [event["event"] for event in gateway.events()[mark:]]


def test_a_killed_members_client_comes_back_by_token_and_the_member_by_a_new_life(cluster: Cluster) -> None:
    only(cluster, "qcd")
    cluster.start()
    first, second = cluster.members
    status = cluster.status(0)
    assert (status["member"], status["epoch"], status["serving"], status["fenced"]) == (0, 1, True, False)
    assert (status["lease_s"], status["ttl_s"]) == (LEASE_S, ttl_of(LEASE_S))
    assert 0 < status["lease_left_s"] <= ttl_of(LEASE_S)
    assert [other["leased"] for other in status["members"]] == [True, True]
    line = first.command("sas").stdout.splitlines()[0]
    assert line.startswith("member 0 of cluster test: serving, epoch 1, lease ")
    assert line.endswith(f" of {ttl_of(LEASE_S)} s, 1 other member alive")

    first.kill()
    cluster.road.to = 1
    cluster.ping_until_it_works()
    assert cluster.client.wait_for("verdict")["proof"] == "qcd-token"
    record = json.loads(cluster.etcd.contents()["/deadpeer/test/member/0"])
    assert (record["registered"], record["ended"]) == (1, 1)

    mark = len(first.events())
    first.start()
    assert first.wait_for("life_begins", mark)["epoch"] == 2
    second.kill()
    second.spawn()  # its lease is not over: the lock of its state directory says that its life is
    until(lambda: kinds(second).count("life_begins") == 2, second.log)
    times = {event["event"]: event["mono_ns"] for event in second.events()}
    assert times["life_begins"] - times["joining"] < LEASE_S * 10**9
    cluster.ping_until_it_works()
    assert len(cluster.etcd.contents()) == 5


@pytest.mark.parametrize("absence", ["killed", "frozen"])
def test_without_etcd_all_stands_still_and_then_goes_on_in_the_same_sas(
    cluster: Cluster, absence: str
) -> None:
    """A frozen etcd has forgotten all leases when it goes on: nobody is written off for that."""
    only(cluster, "qcd", "liveness")
    cluster.start()
    first = cluster.members[0]
    before = spi_of(first)
    cluster.etcd.kill() if absence == "killed" else cluster.etcd.freeze()
    stopped = first.wait_for("fenced")
    cluster.ping_in_vain(5)
    status = cluster.status(0)
    assert (status["fenced"], status["serving"], status["lease_left_s"]) == (True, False, 0)
    assert first.command("sas").stdout.startswith("member 0 of cluster test: fenced, epoch 1, ")
    done = first.command("down", "net")
    assert (done.returncode, "is fenced" in done.stderr) == (1, True)
    time.sleep(max(0.0, LEASE_S + 1 - (time.monotonic_ns() - stopped["mono_ns"]) / 1e9))
    cluster.etcd.start() if absence == "killed" else cluster.etcd.thaw()
    first.wait_for("unfenced")
    cluster.ping_until_it_works()
    gone_s = (time.monotonic_ns() - stopped["mono_ns"]) / 1e9 + LEASE_S
    cluster.members[1].wait_for("unfenced")
    assert spi_of(first) == before == spi_of(cluster.client)
    assert cluster.counters(0)["gateway"]["datagrams_fenced"] >= 5
    for member in cluster.members:
        told = [kinds(member).count(kind) for kind in ("life_begins", "epoch_ended", "ike_sa_down")]
        assert told == [1, 0, 0], member.log()
    calls = cluster.counters(0)["membership"]
    assert sum(count for what, count in calls.items() if what.startswith("failed: ")) < 6 * gone_s
    assert {"verdict", "internal_error"}.isdisjoint(kinds(cluster.client))


def test_a_stopped_member_finds_itself_fenced_before_it_serves_its_queue(cluster: Cluster) -> None:
    """And written off: the other one told the client meanwhile."""
    only(cluster, "qcd")
    cluster.start()
    first, second = cluster.members
    signals.freeze(first.process.pid)
    cluster.ping_in_vain(20)
    cluster.road.to = 1
    cluster.ping_until_it_works()
    assert cluster.client.wait_for("verdict")["proof"] == "qcd-token"
    cluster.road.to = 0
    cluster.ping_in_vain(20)
    signals.thaw(first.process.pid)
    first.wait_for("epoch_ended")
    assert first.wait_for("life_begins", epoch=2)
    told = [event for event in first.events() if event["event"] in ("fenced", "epoch_ended", "unfenced")]
    assert told[0]["event"] == "fenced"
    counters = cluster.counters(0)
    # What had come was dropped; ESP of the other's living SA that came later was handed to that one.
    assert counters["gateway"]["datagrams_fenced"] >= 20
    assert counters["esp_dropped"] == {}
    cluster.ping_until_it_works()
    assert len(second.sas()) == 1


def test_a_member_by_itself_that_was_stopped_goes_on_in_the_same_sas(place: Path) -> None:
    """Nobody wrote it off: its lease is gone, its life is not. What waited in its socket is not served."""
    with cluster_of(place, 1) as cluster:
        only(cluster, "qcd", "liveness")
        cluster.start()
        [member] = cluster.members
        before, mark = spi_of(member), len(member.events())
        signals.freeze(member.process.pid)
        cluster.ping_in_vain(10)
        time.sleep(LEASE_S + 1.0)
        signals.thaw(member.process.pid)
        member.wait_for("fenced", mark)
        member.wait_for("unfenced", mark)
        cluster.ping_until_it_works()
        assert spi_of(member) == before == spi_of(cluster.client)
        assert cluster.counters(0)["gateway"]["datagrams_fenced"] >= 10
        assert "epoch_ended" not in kinds(member)


def test_packets_of_another_members_sa_are_handed_to_it(cluster: Cluster) -> None:
    cluster.start()
    before = spi_of(cluster.client)
    cluster.road.to = 1
    for _ in range(5):
        assert cluster.ping()
    assert cluster.client.command("rekey", "home").returncode == 0  # IKE goes that way too
    assert cluster.ping()
    sent, received = cluster.counters(1)["forwarding"], cluster.counters(0)["forwarding"]
    assert sent["sent"] >= 7
    assert received == {"received": sent["sent"]}
    assert (len(cluster.members[0].sas()), cluster.members[1].sas()) == (1, [])
    assert len(before) == 1 and "verdict" not in kinds(cluster.client)


def test_with_forwarding_off_nothing_is_said_about_another_members_sa(place: Path) -> None:
    with cluster_of(place, forward=False) as cluster:
        only(cluster, "qcd", "liveness")
        cluster.start()
        before = spi_of(cluster.client)
        cluster.road.to = 1
        for _ in range(10):
            assert not cluster.ping(0.3)
        assert {"verdict", "hint_refused"}.isdisjoint(kinds(cluster.client))
        assert cluster.counters(1)["forwarding"] == {}
        cluster.road.to = 0
        cluster.ping_until_it_works()
        assert spi_of(cluster.client) == before


def test_a_member_that_is_told_to_stop_says_goodbye_and_gives_its_lease_back(cluster: Cluster) -> None:
    cluster.start()
    assert cluster.members[0].terminate() == 0
    cluster.client.wait_for("ike_sa_down")
    # It would have lasted for twice as long at least.
    until(lambda: "/deadpeer/test/lease/0" not in cluster.etcd.contents(), cluster.logs, LEASE_S / 3)
    # Whoever has just met the store writes nobody off for the time of a lease.
    until(
        lambda: json.loads(cluster.etcd.contents()["/deadpeer/test/member/0"])["ended"] == 1,
        cluster.members[1].log,
    )


def test_a_member_that_is_drained_sends_its_client_to_another_and_no_packet_is_lost(cluster: Cluster) -> None:
    cluster.start()
    first, second = cluster.members
    cluster.road.to = 1  # the balancer is told first; living SAs are handed over
    assert cluster.ping()
    wrong = first.command("drain", "--to", "elsewhere.example")
    assert (wrong.returncode, "not an IP address" in wrong.stderr) == (1, True)
    done = first.command("drain", "--to", cluster.road.here)
    assert (done.returncode, done.stdout) == (0, "1 IKE SAs have gone\n")
    for _ in range(10):
        assert cluster.ping()
    assert (first.sas(), len(second.sas())) == ([], 1)
    assert cluster.client.wait_for("redirected")["to"] == cluster.road.here
    assert "verdict" not in kinds(cluster.client)
    assert first.terminate() == 0


def test_a_rotation_reaches_all_members_and_survives_the_death_of_one(cluster: Cluster) -> None:
    only(cluster, "qcd")
    cluster.start()
    for words in (("rotate",), ("rotate", "--tickets"), ("rotate", "--spi")):
        done = cluster.members[0].command(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "all members use the new" in done.stdout
    until(lambda: cluster.status(1)["secrets_version"] == 7, cluster.logs)
    assert cluster.ping()
    cluster.members[0].kill()
    cluster.road.to = 1
    cluster.ping_until_it_works()
    assert cluster.client.wait_for("verdict")["proof"] == "qcd-token"


def test_a_number_that_another_machine_has_is_waited_for(cluster: Cluster) -> None:
    cluster.etcd.start()
    first, second = cluster.members
    first.start()
    other: dict[str, Any] = copy.deepcopy(cluster.documents[1])
    other["cluster"]["member"] = 0
    second.write(other)
    second.spawn()
    assert "another machine is member 0" in second.wait_for("member_number_taken")["why"]
    assert "ready" not in kinds(second)
    first.kill()
    assert second.wait_for("life_begins")["epoch"] == 2
    # The first one's disk and machine are fine, but its number is taken now.
    mark = len(first.events())
    first.spawn()
    first.wait_for("member_number_taken", mark)
    assert "ready" not in kinds(first, mark)


def test_a_member_with_another_cluster_key_never_serves(cluster: Cluster) -> None:
    cluster.etcd.start()
    first, second = cluster.members
    first.start()
    (cluster.place / "other.key").touch(mode=0o600)
    (cluster.place / "other.key").write_text("11" * 32)
    other: dict[str, Any] = copy.deepcopy(cluster.documents[1])
    other["cluster"]["key_file"] = "other.key"
    second.write(other)
    second.spawn()
    why = second.wait_for("cluster_key_wrong")["why"]
    assert why == "the secrets of cluster test can't be opened with this member's cluster key"
    time.sleep(1.0)
    assert {"ready", "life_begins"}.isdisjoint(kinds(second))
    assert kinds(second).count("cluster_key_wrong") == 1
    assert second.terminate() == 0


def test_a_member_waits_for_etcd_and_can_be_stopped_meanwhile(cluster: Cluster) -> None:
    first, second = cluster.members
    first.spawn()
    assert "connection refused" in first.wait_for("store_unreachable")["why"]
    assert cluster.status(0)["serving"] is False
    assert first.terminate() == 0
    second.spawn()
    second.wait_for("store_unreachable")
    cluster.etcd.start()
    second.wait_for("ready")


def test_a_damaged_epoch_file_is_refused(cluster: Cluster) -> None:
    state = cluster.place / "m0-state"
    state.mkdir(mode=0o700)
    (state / "epochs").write_text('{"test/0": "many"}')
    member = cluster.members[0]
    member.spawn()
    assert member.process.wait(PATIENCE_S) == 2
    assert "gateway.state_dir: " in member.log() and "epochs is damaged; delete it" in member.log()
