"""The hosts behind clients and members, as a process: what a busy gateway's socket does not take is told."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from deadpeer.lab.scenarios.crowd import CrowdConfig

CLIENT, SERVER = "10.21.0.1", "10.20.0.1"


def bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(20)
    return sock


def test_a_reply_that_a_member_has_no_room_for_is_told_with_its_number(tmp_path: Path) -> None:
    """The member reads nothing. Its socket takes a handful of datagrams, and no more."""
    with bound(tmp_path / "c-gw") as client, bound(tmp_path / "m-gw") as member:
        config = CrowdConfig(
            clients=((str(tmp_path / "c-host"), str(tmp_path / "c-gw"), CLIENT),),
            members=((str(tmp_path / "m-host"), str(tmp_path / "m-gw")),),
            server=SERVER,
            interval_ms=5.0,
        )
        command = [sys.executable, "-m", "deadpeer.lab.scenarios.crowd", config.to_json()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
            assert crowd.stdin is not None and crowd.stdout is not None
            try:
                told = answers(crowd, client, member, str(tmp_path / "m-host"))
            finally:
                crowd.kill()
    sent = {record["seq"] for record in told if record["event"] == "sent"}
    refused = [record for record in told if record["event"] == "no room"]
    assert refused[0]["client"] == 0
    assert {record["seq"] for record in refused} <= sent


def answers(
    crowd: subprocess.Popen[str], client: socket.socket, member: socket.socket, host: str
) -> list[dict[str, Any]]:
    """What is told until something did not fit. The client's packets go straight to the member's host."""
    assert crowd.stdin is not None and crowd.stdout is not None
    told = [json.loads(crowd.stdout.readline())]
    crowd.stdin.write("start\n")
    crowd.stdin.flush()
    while told[-1]["event"] != "no room":
        member.sendto(client.recv(2000), host)
        told.append(json.loads(crowd.stdout.readline()))
    return told
