"""The balancer as a process between a client and two members, all on loopback."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from deadpeer.lab.attacks.forgery import KnownSa, ike_datagram, invalid_ike_spi
from deadpeer.lab.scenarios.balancer import BalancerConfig
from deadpeer.lab.scenarios.plan import home_of
from deadpeer.lab.trace import Lane

PAIR = KnownSa(b"\x0a" * 8, b"\x0b" * 8, True)


class Place:
    """A balancer, a client and two members; the port is that of NAT-T."""

    def __init__(self, stack: ExitStack, directory: Path, *, sticky: bool) -> None:
        dice = random.SystemRandom()
        net, self.port = f"127.77.{dice.randrange(256)}", dice.randrange(20_000, 30_000, 4)
        self.address, self.inside = f"{net}.1", f"{net}.150"
        members = (f"{net}.2", f"{net}.3")
        self.host = next(f"{net}.{n}" for n in range(20, 150) if home_of(f"{net}.{n}", (0, 1)) == 0)
        self.client = self._socket(stack, self.host)
        self.members = [self._socket(stack, member) for member in members]
        self.inject = str(directory / "inject")
        clients = ((self.host, self.inside),)
        config = BalancerConfig(
            self.address, (self.port - 1, self.port), members, clients, self.inject, sticky
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deadpeer.lab.scenarios.balancer", config.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(self._end)
        assert self.line()["event"] == "ready"

    def _socket(self, stack: ExitStack, host: str) -> socket.socket:
        made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((host, self.port))
        made.settimeout(60)
        return made

    def _end(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)

    def tell(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self.line()

    def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        record: dict[str, Any] = json.loads(self._process.stdout.readline())
        return record

    def reaches(self, member: int) -> bool:
        """Whether a packet of the client comes to this member, from the address that stands for it."""
        self.client.sendto(b"\x00\x00\x01\x00 ESP", (self.address, self.port))
        payload, source = self.members[member].recvfrom(100)
        return payload.endswith(b"ESP") and source == (self.inside, self.port)


@contextmanager
def placed(directory: Path, *, sticky: bool = False) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack, directory, sticky=sticky)


@pytest.mark.parametrize("sticky", [False, True])
def test_a_client_moves_when_its_member_is_taken_out_and_comes_back_unless_it_sticks(
    tmp_path: Path, sticky: bool
) -> None:
    with placed(tmp_path, sticky=sticky) as place:
        assert place.reaches(0)
        assert place.tell("out 0")["members"] == [1]
        assert place.reaches(1)
        assert place.tell("in 0")["members"] == [0, 1]
        assert place.reaches(1 if sticky else 0)


def test_any_members_answer_reaches_the_client_and_what_is_in_the_clear_is_told(tmp_path: Path) -> None:
    with placed(tmp_path) as place:
        token = ike_datagram(invalid_ike_spi(PAIR, False, 3, [bytes(16)]), Lane.NAT_T)
        place.members[1].sendto(token, (place.inside, place.port))
        assert place.client.recvfrom(1000) == (token, (place.address, place.port))
        told = place.line()
        assert (told["event"], told["member"], told["client"]) == ("said", 1, 0)
        assert told["notifies"] == ["INVALID_IKE_SPI", "QCD_TOKEN"]
        assert (told["spi_i"], told["spi_r"]) == (PAIR.spi_i.hex(), PAIR.spi_r.hex())

        esp = bytes.fromhex("00000abc") + bytes(40)
        place.members[0].sendto(esp, (place.inside, place.port))
        assert place.client.recv(1000) == esp
        ((member, client, spi, count, _),) = place.tell("spoken")["spoken"]
        assert (member, client, spi, count) == (0, 0, "00000abc", 1)


def test_a_forgery_arrives_as_the_clients(tmp_path: Path) -> None:
    with placed(tmp_path) as place, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as forger:
        forger.sendto(bytes([1, 0, 1]) + b"forged", place.inject)
        assert place.members[1].recvfrom(100) == (b"forged", (place.inside, place.port))
