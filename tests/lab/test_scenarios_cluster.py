"""`deadpeer lab --scenario cluster`: its plan, its judge and its roads, and a small run on real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deadpeer.cli import main
from deadpeer.gateway.config import load
from deadpeer.lab.options import LabError
from deadpeer.lab.scenarios import config_files
from deadpeer.lab.scenarios.etcd import Road
from deadpeer.lab.scenarios.outcome import Check, Client, Outcome, client_of, losses, none, within
from deadpeer.lab.scenarios.plan import ClusterPlan, home_of, layout
from deadpeer.lab.scenarios.truth import Said, Truth
from deadpeer.lab.traffic import TrafficLog

S = 1_000_000_000
PAIR = ("0a" * 8, "0b" * 8)
needs_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="needs the Debian package etcd-server")


# --- the plan ------------------------------------------------------------------------------------


def test_only_the_clients_of_a_member_that_leaves_move_and_they_come_back() -> None:
    hosts = [f"127.77.0.{last}" for last in range(20, 120)]
    all_in = {host: home_of(host, range(4)) for host in hosts}
    without = {host: home_of(host, [0, 1, 3]) for host in hosts}
    assert set(all_in.values()) == {0, 1, 2, 3}
    assert all(all_in[host] in (2, without[host]) for host in hosts)
    assert {without[host] for host in hosts if all_in[host] == 2} == {0, 1, 3}


def test_each_member_has_as_many_clients_as_any_other(tmp_path: Path) -> None:
    place = layout(tmp_path, ClusterPlan(members=8, clients=32))
    assert [client.home for client in place.clients] == [n % 8 for n in range(32)]
    assert all(client.home == home_of(client.host, range(8)) for client in place.clients)
    addresses = [place.address, place.stranger, *place.members]
    addresses += [address for client in place.clients for address in (client.host, client.inside)]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize(
    "plan", [ClusterPlan(members=1), ClusterPlan(clients=0), ClusterPlan(lease_s=1), ClusterPlan(beyond_s=0)]
)
def test_a_plan_that_can_not_be_run_is_refused(plan: ClusterPlan) -> None:
    with pytest.raises(LabError) as caught:
        plan.check()
    assert caught.value.usage


def test_the_files_are_valid_configurations(tmp_path: Path) -> None:
    plan = ClusterPlan(members=2, clients=1, lease_s=3)
    place = layout(tmp_path, plan)
    config_files.write_keys(place)
    member = load(config_files.write_member(place, plan, 1, "http://127.0.0.1:1"))
    assert member.cluster is not None
    assert (member.cluster.member, member.cluster.lease_s) == (1, 3)
    client = config_files.write_client(place, plan, place.clients[0])
    assert load(client).cluster is None
    pair = ClusterPlan.of_standby(1, ("both",), 1)
    other = load(config_files.write_member(layout(tmp_path, pair), pair, 1))
    assert other.standby is not None
    assert (other.cluster, other.standby.number, other.standby.by) == (None, 1, "command")
    table = tomllib.loads(client.read_text())["connections"]["cluster"]
    assert table["remote_addrs"] == [place.address]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--scenario", "failover", "--members", "3"), "--members does not go"),
        (("--scenario", "failover", "--event", "cut"), "failover has takeover, stall, both"),
        (("--scenario", "cluster", "--event", "both"), "cluster has kill, freeze, cut, split, drain, drift"),
        (("--scenario", "failover", "--clients", "0"), "between 1 and 32"),
        (("--scenario", "cluster", "--rtt", "5"), "--rtt does not go"),
        (("--scenario", "cluster", "--method", "liveness"), "--method liveness does not go"),
        (("--scenario", "cluster", "--members", "1"), "between 2 and 8"),
        (("--scenario", "robustness", "--members", "3"), "belongs to --scenario cluster"),
        (("--lease", "3"), "belongs to --scenario cluster"),
    ],
)
def test_wrong_usage_is_one_line(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["lab", *words])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    printed = capsys.readouterr()
    assert (status, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert says in printed.err


def test_a_missing_etcd_names_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["lab", "--scenario", "cluster"]) == 2
    assert "apt-get install etcd-server" in capsys.readouterr().err


# --- the judge -----------------------------------------------------------------------------------


def up(member: int = 0, at_s: float = 2, number: int = 1) -> dict[str, Any]:
    return event("ike_sa_up", at_s, sa=number, remote="127.0.0.1:4500", spi_i=PAIR[0], spi_r=PAIR[1])


def event(kind: str, at_s: float, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "mono_ns": int(at_s * S), **fields}


def judge(*records: dict[str, Any]) -> Truth:
    """Member 0 has a life from the first second on, and what else is in its log."""
    truth = Truth(2)
    for record in (event("life_begins", 1), *records):
        truth.event(0, record)
    return truth


def said(truth: Truth, at_s: float) -> bool:
    """Whether a token at that moment would be for a living SA."""
    truth.said.clear()
    truth.say(Said(PAIR, int(at_s * S), 1))
    return bool(truth.told_of_living())


def test_an_sa_lives_from_its_beginning_until_it_is_closed() -> None:
    truth = judge(up(at_s=2), event("ike_sa_down", 5, sa=1))
    assert [said(truth, at_s) for at_s in (1.5, 2, 4.9, 5)] == [False, True, True, False]


def test_an_sa_of_a_killed_member_is_dead_at_once() -> None:
    truth = judge(up())
    truth.stopped(0, 4 * S, dead=True)
    assert [said(truth, at_s) for at_s in (3.9, 4, 9)] == [True, False, False]
    truth.event(0, event("life_begins", 6))
    truth.event(0, {**up(at_s=7), "spi_i": "0c" * 8})
    assert not said(truth, 8)
    assert truth.pairs(8 * S) == {("0c" * 8, PAIR[1]): 0}


def test_a_fenced_member_serves_no_sa_but_has_it_and_goes_on_with_it() -> None:
    truth = judge(up(), event("fenced", 4), event("unfenced", 6))
    assert [said(truth, at_s) for at_s in (3, 5, 7)] == [True, False, True]
    assert truth.owner(PAIR, 5 * S) == 0
    assert truth.made_since(3 * S) == 0


def test_a_frozen_member_serves_nothing_and_an_ended_life_has_nothing() -> None:
    truth = judge(up())
    truth.stopped(0, 4 * S, dead=False)
    assert not said(truth, 5)
    assert truth.owner(PAIR, 5 * S) == 0
    for record in (event("epoch_ended", 8), event("unfenced", 8.1), event("life_begins", 8.2)):
        truth.event(0, record)
    assert not said(truth, 9)
    assert truth.owner(PAIR, 9 * S) is None
    assert truth.serving(0, 9 * S)


def test_one_of_two_that_loses_the_address_has_nothing_any_more() -> None:
    truth = Truth(2)
    for record in (event("active", 1), up(at_s=2), event("standby", 4)):
        truth.event(0, record)
    assert [said(truth, at_s) for at_s in (3, 5)] == [True, False]
    assert truth.owner(PAIR, 5 * S) is None


def test_a_token_for_an_sa_that_its_owner_uses_afterwards_is_found_whatever_the_logs_say() -> None:
    truth = judge(up(), event("child_up", 2, sa=1, spi_out="00000abc"), event("fenced", 4))
    truth.say(Said(PAIR, 5 * S))
    assert truth.told_of_living() == []
    assert truth.used_after([(0, "00000abc", 4 * S)]) == []
    assert truth.used_after([(0, "00000abc", 6 * S)]) == truth.said
    assert truth.used_after([(0, ":".join(PAIR), 6 * S)]) == truth.said
    assert truth.used_after([(1, "00000abc", 6 * S)]) == []
    assert truth.told_of([PAIR], 6 * S) == []


def test_a_token_for_an_sa_whose_beginning_was_lost_from_the_log_is_found() -> None:
    """Then the judgement of what lived says nothing; but a client has had it."""
    truth = judge()
    truth.say(Said(PAIR, 5 * S, 1))
    assert truth.told_of_living() == []
    assert truth.told_of_unheard({PAIR}) == truth.said
    assert truth.told_of_unheard({PAIR}, 6 * S) == []
    assert truth.told_of_unheard(set()) == [], "made up by a stranger, or not up at the client either"
    truth.event(0, up(at_s=6))
    assert truth.told_of_unheard({PAIR}) == []


# --- the outcome ---------------------------------------------------------------------------------


def outcome(*checks: Check, clients: tuple[Client, ...]) -> Outcome:
    return Outcome(
        plan=ClusterPlan(seed=9),
        happening="kill",
        member=1,
        clients=clients,
        checks=checks,
        sent=10,
        lost=2,
        others=3,
        others_lost=0,
        told_of_living=0,
        asked={"own address": 5, "victim's address": 4},
    )


def test_the_slowest_client_is_what_counts() -> None:
    two = (Client(0, 900.0, 950.0, "qcd-token", ("seen",)), Client(4, 1900.0, 2000.0, "qcd-token"))
    result = outcome(within("clients are back", 2000.0, 8), none("tokens for living SAs", 0), clients=two)
    record = result.to_record()
    assert result.ok
    assert (record["scenario"], record["lost"], record["verdict"]) == ("cluster", "kill", "qcd-token")
    assert (record["detect_ms"], record["recover_ms"], record["evidence"]) == (1900.0, 2000.0, ["seen"])
    assert result.summary().startswith("Member 1 was killed; its 2 client(s) were back 2.0 s later.")
    json.dumps(record)


def test_a_check_that_does_not_hold_is_the_failure() -> None:
    late = (Client(0, None, None, None),)
    result = outcome(within("clients are back", float("inf"), 8), none("tokens", 2), clients=late)
    assert not result.ok
    assert result.failure == "clients are back: never, not at most 8 s"
    assert "did not all come back" in result.summary()
    assert result.to_record()["recover_ms"] is None


def test_a_clients_log_tells_what_it_found_out() -> None:
    log = [event("verdict", 1, proof="liveness"), event("verdict", 4, proof="qcd-token", evidence=["a"])]
    assert client_of(7, log, 3 * S, 5 * S) == Client(7, 1000.0, 2000.0, "qcd-token", ("a",))
    assert client_of(7, log, 5 * S, None) == Client(7, None, None, None)


def test_what_this_machine_had_no_room_for_is_not_lost() -> None:
    log = TrafficLog(sent={1: 10, 2: 20, 3: 30, 4: 40}, replies={1: 15}, no_room={3})
    assert losses([log], 10, 40) == (2, 1)


# --- roads ---------------------------------------------------------------------------------------


def test_a_road_that_is_cut_delivers_late_what_was_sent_meanwhile() -> None:
    async def story() -> tuple[bytes, bool, bytes]:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while octets := await reader.read(100):
                writer.write(octets)

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        road = Road(server.sockets[0].getsockname()[1])
        port = int((await road.start()).rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        before = await reader.readexactly(3)
        road.cut()
        writer.write(b"two")
        reading = asyncio.create_task(reader.readexactly(3))
        done, _ = await asyncio.wait([reading], timeout=0.2)
        road.mend()
        after = await reading
        writer.close()
        await road.stop()
        server.close()
        return before, bool(done), after

    assert asyncio.run(story()) == (b"one", False, b"two")


# --- for real ------------------------------------------------------------------------------------


PATIENCE_S = 250.0
OF_THE_MACHINE = {
    "clients are back",
    "packets that the other clients lost",
    "packets that clients lost once they were back",
}
"""Checks that a busy machine may fail: how fast, and how much it loses for want of time."""


def scenario(*words: str) -> dict[str, Any]:
    """The one run of `deadpeer lab --json --scenario`; all held that does not depend on the machine."""
    command = [sys.executable, "-m", "deadpeer", "lab", "--json", "--scenario", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stdout, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    broken = [check for check in run["checks"] if not check["holds"]]
    assert [check for check in broken if check["what"] not in OF_THE_MACHINE] == [], done.stderr
    assert done.returncode == (1 if broken else 0), done.stderr
    assert run["ok"] is not bool(broken)
    assert isinstance(run, dict)
    return run


@needs_etcd
def test_a_killed_members_clients_are_back_and_nobody_sells_a_token_for_a_living_sa() -> None:
    # Without forwarding each member must know by itself whose SAs live.
    sizes = ("--members", "3", "--clients", "3", "--lease", "5", "--seed", "1", "--no-forward")
    run = scenario("cluster", "--event", "kill", *sizes)
    assert run["forward"] is False
    assert run["verdict"] == "qcd-token"
    assert any("qcd-token" in line for line in run["evidence"])
    assert 0 < run["detect_ms"] <= run["recover_ms"]
    assert [client["client"] for client in run["concerned"]] == [run["member"]]
    assert run["packets_lost"] > 0
    assert run["others"] == 2
    assert run["tokens_for_living_sas"] == 0
    assert min(run["asked_by_attackers"].values()) > 0


def test_a_standby_takes_over_with_tokens_for_the_sas_of_the_one_that_died() -> None:
    run = scenario("failover", "--event", "takeover", "--clients", "2", "--seed", "1")
    assert (run["scenario"], run["lost"]) == ("failover", "takeover")
    assert run["verdict"] == "qcd-token"
    assert [client["client"] for client in run["concerned"]] == [0, 1]
    assert 0 < run["detect_ms"] <= run["recover_ms"]
    assert run["tokens_for_living_sas"] == 0


def test_an_interrupted_scenario_leaves_nothing_behind(short_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(short_path)}
    command = [sys.executable, "-m", "deadpeer", "lab", "--scenario", "failover", "--clients", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if "packets flow" in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 1
        assert "interrupted" in process.stderr.read()
    assert len(children) == 5  # two gateways and a client, the balancer, the hosts
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert list(short_path.iterdir()) == []
