"""Run by test_tun.py inside a network namespace of its own: prints one JSON document of what it saw.

The kernel's ping goes through a TUN device, Alice's engine, Bob's engine, to a host in memory and back.
"""

import asyncio
import json
import os
import subprocess
import sys
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from tests.plane.pair import Pair, datagrams, packets

from deadpeer.plane.host import PlaneError
from deadpeer.plane.memory import MemoryHost
from deadpeer.plane.tun import TunDevice, local_addresses


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def refusal(work: object, *arguments: object, **options: object) -> str:
    assert callable(work)
    try:
        work(*arguments, **options)
    except PlaneError as error:
        return str(error)
    return "no error"


async def scenario() -> dict[str, object]:
    tun = TunDevice("deadpeer%d", addresses=[ip_interface("10.1.0.1/24"), ip_interface("fd01::1/64")])
    tun.add_route(ip_network("10.2.0.0/24"), ip_address("10.1.0.1"))
    tun.add_route(ip_network("10.2.0.0/24"), ip_address("10.1.0.1"))
    tun.add_route(ip_network("fd02::/64"), ip_address("fd01::1"))
    tun.add_route(ip_network("10.3.0.0/16"))
    run("ip", "route", "add", "10.4.0.0/16", "dev", tun.name)
    pair, far = Pair(), MemoryHost(echo=True)
    child = pair.install()

    def from_kernel() -> None:
        while (packet := tun.read()) is not None:
            for each in pair.arrive(*pair.send(packet)):
                far.write(each)
        while (reply := far.read()) is not None:
            pair.b.outbound(pair.now_ns, reply)
            for datagram in datagrams(pair.b):
                pair.a.inbound(pair.now_ns, datagram.payload, datagram.remote, datagram.local)
            for inner in packets(pair.a):
                tun.write(inner)

    asyncio.get_running_loop().add_reader(tun.fileno(), from_kernel)

    async def ping(host: str) -> int:
        command = ("ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", host)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        return await process.wait()

    seen: dict[str, object] = {
        "name": tun.name,
        "ping4": await ping("10.2.0.1"),
        "ping6": await ping("fd02::1"),
        "addresses": sorted(map(str, local_addresses())),
        "link": run("ip", "link", "show", tun.name),
        "routes": run("ip", "route"),
        "routes6": run("ip", "-6", "route"),
        "nonsense_written": tun.write(b"\0nonsense"),
        "busy": refusal(TunDevice, tun.name),
        "taken": refusal(tun.add_route, ip_network("10.4.0.0/16")),
        "kind": refusal(TunDevice, "lo"),
        "name_too_long": refusal(TunDevice, "x" * 16),
    }
    counters = pair.b.counters(child)
    assert counters is not None
    seen["esp_in"] = counters.packets_in
    tun.remove_route(ip_network("10.3.0.0/16"))
    tun.remove_route(ip_network("10.3.0.0/16"))
    run("ip", "route", "del", "10.2.0.0/24")
    tun.remove_route(ip_network("10.2.0.0/24"))
    seen["routes_after_removal"] = run("ip", "route")
    asyncio.get_running_loop().remove_reader(tun.fileno())
    tun.close()
    tun.close()
    seen["after_close"] = run("ip", "link") + run("ip", "route") + run("ip", "-6", "route")
    other = TunDevice("dp-lost")
    run("ip", "link", "set", "dp-lost", "down")
    seen["written_while_down"] = other.write(b"\x45")
    run("ip", "link", "del", "dp-lost")
    seen["deleted"] = refusal(other.read)
    other.close()
    return seen


if __name__ == "__main__":
    if sys.argv[1:] == ["unprivileged"]:
        print(json.dumps({"refusal": refusal(TunDevice, "deadpeer0")}))
    elif sys.argv[1:] == ["no-device"]:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/net"], check=True)
        print(json.dumps({"refusal": refusal(TunDevice, "deadpeer0")}))
    else:
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("0")
        os.environ["LC_ALL"] = "C"
        print(json.dumps(asyncio.run(scenario())))
