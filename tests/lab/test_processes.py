"""The lab's own processes, for real: the relay between two sockets, the hosts behind two made-up gateways."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deadpeer.lab.hosts import HostsConfig
from deadpeer.lab.options import LabError
from deadpeer.lab.process import Process, Record, launch, run
from deadpeer.lab.relay import RelayConfig
from deadpeer.lab.sites import Site, lab_directory, loopback_site
from deadpeer.plane.packets import decode_echo

ESP = bytes.fromhex("c1d2e3f400000001") + b"sealed"
RTT_MS = 40.0


@asynccontextmanager
async def child(module: str, config: str, take: Callable[[Record], None]) -> AsyncIterator[Process]:
    process = await launch(module, [sys.executable, "-m", module, config], take)
    try:
        await process.expect("ready", 60)
        yield process
    finally:
        await process.stop()


def udp(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(60)
    sock.bind((host, port))
    return sock


def test_the_relay_delays_translates_and_traces(tmp_path: Path) -> None:
    async def story() -> None:
        site = loopback_site(tmp_path)
        records: list[Record] = []
        config = RelayConfig(RTT_MS, 0, 1, site.lanes())
        alice, bob = (udp(site.outer[side].host, site.port_nat_t) for side in ("alice", "bob"))
        stranger = udp(site.outer["alice"].host, 0)
        with alice, bob, stranger:
            async with child("deadpeer.lab.relay", config.to_json(), records.append):
                stranger.sendto(b"not from a gateway", (site.outer["alice"].relay, site.port_nat_t))
                begin = time.monotonic_ns()
                alice.sendto(ESP, (site.outer["alice"].relay, site.port_nat_t))
                payload, source = await asyncio.to_thread(bob.recvfrom, 2000)
                assert payload == ESP
                assert source == (site.outer["bob"].relay, site.port_nat_t)
                bob.sendto(b"answer..answer..", source)
                payload, source = await asyncio.to_thread(alice.recvfrom, 2000)
                assert payload == b"answer..answer.."
                assert source == (site.outer["alice"].relay, site.port_nat_t)
                assert time.monotonic_ns() - begin >= RTT_MS * 1e6
        first, second = (r for r in records if "way" in r)
        assert first["way"] == "a>b"
        assert first["seen"] == {"esp": {"spi": "c1d2e3f4", "seq": 1}}
        assert first["delivered_ns"] - first["arrived_ns"] >= RTT_MS / 2 * 1e6
        assert second["way"] == "b>a"
        assert records[-1]["stats"]["stranger"] == 1
        assert records[-1]["stats"]["a>b delivered"] == 1

    asyncio.run(story())


def test_the_relay_outlives_a_dead_bob_and_loses_what_it_is_told_to(tmp_path: Path) -> None:
    async def story() -> None:
        site = loopback_site(tmp_path)
        records: list[Record] = []
        config = RelayConfig(0, 0.5, 1, site.lanes())
        relay = (site.outer["alice"].relay, site.port_nat_t)
        with udp(site.outer["alice"].host, site.port_nat_t) as alice:
            async with child("deadpeer.lab.relay", config.to_json(), records.append):
                for _ in range(100):
                    alice.sendto(ESP, relay)
                await eventually(lambda: sum("way" in r for r in records) == 100)
                with udp(site.outer["bob"].host, site.port_nat_t) as bob:
                    for _ in range(20):
                        alice.sendto(ESP, relay)
                    assert await asyncio.to_thread(bob.recv, 2000) == ESP
                await eventually(lambda: sum("way" in r for r in records) == 120)
        stats = records[-1]["stats"]
        assert stats["a>b lost"] + stats["a>b delivered"] == stats["a>b arrived"] == 120
        lost = [r for r in records if "way" in r and r["delivered_ns"] is None]
        assert 0 < len(lost) == stats["a>b lost"] < 120

    asyncio.run(story())


async def eventually(look: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.01)


def unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(60)
    sock.bind(path)
    return sock


def test_the_hosts_ask_and_answer_through_their_gateways(tmp_path: Path) -> None:
    async def story() -> None:
        records: list[Record] = []
        site = Site(tmp_path, "loopback", {}, 1, 2)
        a_host, a_gw = site.socket_path("alice", "host"), site.socket_path("alice", "gw")
        b_host, b_gw = site.socket_path("bob", "host"), site.socket_path("bob", "gw")
        config = HostsConfig((a_host, a_gw, "10.10.1.1"), (b_host, b_gw, "10.10.2.1"), 10, 77)
        with unix(a_gw) as alice, unix(b_gw) as bob:
            async with child("deadpeer.lab.hosts", config.to_json(), records.append) as hosts:
                hosts.tell("start")
                for _ in range(3):
                    request = await asyncio.to_thread(alice.recv, 2000)
                    bob.sendto(request, b_host)
                    reply = await asyncio.to_thread(bob.recv, 2000)
                    alice.sendto(reply, a_host)
                alice.sendto(b"no packet", a_host)
                hosts.tell("stop")
                await eventually(lambda: any(r["event"] == "strange" for r in records))
        echo = decode_echo(reply)
        assert echo is not None
        assert not echo.request
        assert [r["seq"] for r in records if r["event"] == "reply"] == [1, 2, 3]
        sent = {r["seq"]: r["mono_ns"] for r in records if r["event"] == "sent"}
        assert sent[2] - sent[1] >= 5e6

    asyncio.run(story())


def test_a_child_that_ends_is_told_with_its_last_words() -> None:
    async def story() -> None:
        code = "print('{\"event\": \"hello\"}'); print('out of', 'cheese')"
        records: list[Record] = []
        process = await launch("the mouse", [sys.executable, "-c", code], records.append)
        with pytest.raises(LabError, match=r"the mouse ended unexpectedly.*out of cheese"):
            await process.expect("ready", 60)
        assert records == [{"event": "hello"}]
        assert await process.wait() == 0
        with pytest.raises(LabError, match="ended unexpectedly"):
            await process.expect("ready", 60)
        await process.stop()

    asyncio.run(story())


def test_stopping_kills_what_does_not_end_and_only_that() -> None:
    async def story() -> None:
        code = (
            "import signal, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            'print(\'{"event": "up"}\', flush=True)\n'
            "time.sleep(60)\n"
        )
        deaf = await launch("deaf", [sys.executable, "-c", code])
        await deaf.expect("up", 60)
        await deaf.stop(timeout_s=0.1)
        assert not deaf.running

    asyncio.run(story())


def test_a_child_dies_with_its_parent() -> None:
    code = (
        "import asyncio, os, sys\n"
        "from deadpeer.lab.process import launch\n"
        "async def main():\n"
        "    child = await launch('c', [sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )

    async def story() -> None:
        pids: list[str] = []
        parent = await launch(
            "parent", [sys.executable, "-c", code], on_text=pids.append, env={"PYTHONPATH": "src"}
        )
        await parent.wait()
        await eventually(lambda: not lives(int(pids[0])))

    asyncio.run(story())


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_fails_is_told_in_one_line() -> None:
    with pytest.raises(LabError, match="no such thing") as caught:
        asyncio.run(run(["sh", "-c", "echo no such thing >&2; echo two >&2; exit 3"]))
    assert "\n" not in str(caught.value)
    with pytest.raises(LabError, match="can't start"):
        asyncio.run(run(["/no/such/program"]))


def test_loopback_sites_are_free_and_apart(tmp_path: Path) -> None:
    with lab_directory() as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        site = loopback_site(directory)
        hosts = {o for outer in site.outer.values() for o in (outer.host, outer.relay)}
        assert len(hosts) == 4
        assert all(host.startswith("127.77.") for host in hosts)
    assert not directory.exists()
