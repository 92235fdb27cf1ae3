"""The socket between members: what is handed over, what is refused, and that each is counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest
from tests.support.loopback import LoopbackNet

from deadpeer.cluster.forward import Forwarder
from deadpeer.cluster.ownership import Cluster
from deadpeer.cluster.records import LeaseRecord, MemberRecord, View
from deadpeer.cluster.router import Foreign, trace
from deadpeer.cluster.spi import EpochSpis, EspCodec, SpiRing
from deadpeer.crypto import SeededEntropy
from deadpeer.gateway.errors import ConfigError
from deadpeer.gateway.forwarding import Forwarding
from deadpeer.gateway.sockets import UdpSocket, UdpSockets
from deadpeer.rates import Rate
from deadpeer.values import Address, Datagram, Now

KEY = bytes(32)
CLIENT = Address("198.51.100.1", 40001)
NOW = Now(10**9, 0.0)
PLENTY = Rate(1000, 1000)


class Nothing:
    """A member that has no SA."""

    def alive(self, spi: bytes) -> bool:
        return False

    def find_by_inbound(self, spi_in: int) -> object | None:
        return None


class Member:
    """One end: two sockets for peers, one for members."""

    def __init__(self, number: int, host: str, rate: Rate) -> None:
        self.number = number
        self.taken: list[Datagram] = []
        self.view = View()
        ports = [UdpSocket(ip_address(host), 0, 1 << 16) for _ in range(2)]
        self.sockets = UdpSockets(ports)
        self.ports = ports[0].local.port, ports[1].local.port
        self.listen = Address(host, 15502)
        self.forwarding = Forwarding(
            self.listen, self.sockets, 1 << 16, lambda: self.view, self._trace, self.taken.append
        )
        ring, esp = SpiRing([KEY]), EspCodec(KEY)
        self.spis = EpochSpis(ring, 1, number, SeededEntropy(number), esp)
        self._ownership = Cluster(ring, esp, 1, number, self.view)
        self._rate = rate

    def begin(self, view: View, key: bytes = KEY) -> None:
        self.view = self._ownership.view = view
        entropy = SeededEntropy(self.number)
        forwarder = Forwarder(key, self.number, 1, self.ports, entropy, self._rate)
        self.forwarding.begin(forwarder)

    def _trace(self, datagram: Datagram) -> Foreign | None:
        return trace(datagram, self._ownership, Nothing(), self.ports[1])

    def arrives(self, owner: Member) -> Datagram:
        """A packet here of a child of that member."""
        payload = owner.spis.esp_spi().to_bytes(4, "big") + bytes(40)
        return Datagram(payload, Address(self.listen.host, self.ports[1]), CLIENT)

    def close(self) -> None:
        self.forwarding.close()
        self.sockets.close()


def run(work: Callable[[Member, Member], Awaitable[None]], rate: Rate = PLENTY) -> None:
    async def main() -> None:
        net = LoopbackNet()
        both = [Member(number, f"{net.prefix}.{1 + number}", rate) for number in (0, 1)]
        leases = {m.number: LeaseRecord(1, f"machine {m.number}", str(m.listen), 1) for m in both}
        view = View(1, {m.number: MemberRecord(1, 0) for m in both}, leases)
        for member in both:
            member.begin(view)
        try:
            await work(both[0], both[1])
        finally:
            for member in both:
                member.close()
            net.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not within 60 s")


def test_a_packet_of_the_others_child_reaches_it_at_its_own_address() -> None:
    async def work(one: Member, two: Member) -> None:
        packet = one.arrives(two)
        assert one.forwarding.route(NOW, packet)
        await until(lambda: len(two.taken) == 1)
        # Each has an address of its own here; the port is that of NAT traversal on both sides.
        assert two.taken == [Datagram(packet.payload, Address(two.listen.host, two.ports[1]), CLIENT)]
        assert one.forwarding.counters == {"sent": 1}
        assert two.forwarding.counters == {"received": 1}
        assert not two.forwarding.route(NOW, two.taken[0])  # its own
        assert not one.forwarding.route(NOW, one.arrives(one))

    run(work)


def test_what_can_not_be_handed_over_is_dropped_and_counted() -> None:
    async def work(one: Member, two: Member) -> None:
        packet = one.arrives(two)
        nowhere = [
            "",
            "192.0.2.1",
            "192.0.2.1:0",
            "192.0.2.1:65536",
            "192.0.2.1:-1",
            "gw.example:4501",
            ":4501",
        ]
        for text in nowhere:
            one.view = View(1, one.view.members, {1: LeaseRecord(1, "machine 1", text, 1)})
            assert one.forwarding.route(NOW, packet)
        assert one.forwarding.counters == {"not_sent: no address": len(nowhere)}
        one.forwarding.counters.clear()
        one.view = View(1, one.view.members, {1: LeaseRecord(1, "machine 1", "[2001:db8::1]:4501", 1)})
        assert one.forwarding.route(NOW, packet)  # of the other family
        assert one.forwarding.counters == {"not_sent: socket": 1}
        one.forwarding.over()
        assert not one.forwarding.route(NOW, packet)  # between lives there is nothing to tell by

    run(work)


def test_the_limit_holds() -> None:
    async def work(one: Member, two: Member) -> None:
        for _ in range(5):
            assert one.forwarding.route(NOW, one.arrives(two))
        assert one.forwarding.counters == {"sent": 2, "not_sent: limited": 3}

    run(work, Rate(1, 2))


@pytest.mark.parametrize(
    ("octets", "reason"),
    [(b"", "too short"), (bytes(100), "malformed"), (b"\x01\x00" + bytes(100), "sender has no such lease")],
)
def test_what_no_member_sent_is_refused(octets: bytes, reason: str) -> None:
    async def work(one: Member, two: Member) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(octets, two.listen)
            await until(lambda: bool(two.forwarding.counters))
        assert two.forwarding.counters == {f"refused: {reason}": 1}
        assert two.taken == []

    run(work)


def test_another_key_and_a_replay_are_refused() -> None:
    async def work(one: Member, two: Member) -> None:
        one.begin(one.view, b"\x01" * 32)
        one.forwarding.route(NOW, one.arrives(two))
        await until(lambda: two.forwarding.counters["refused: forged"] == 1)
        forwarder = Forwarder(KEY, 0, 1, two.ports, SeededEntropy(7))
        octets = forwarder.wrap(0, 1, one.view, two.arrives(two))
        assert isinstance(octets, bytes)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
            for _ in range(3):
                wire.sendto(octets, two.listen)
            await until(lambda: two.forwarding.counters["refused: replayed"] == 2)
            assert len(two.taken) == 1
            two.forwarding.over()
            wire.sendto(octets, two.listen)
            await until(lambda: two.forwarding.counters["refused: between lives"] == 1)

    run(work)


def test_an_address_that_is_taken_is_said_with_its_key() -> None:
    async def work(one: Member, two: Member) -> None:
        with pytest.raises(ConfigError, match=r"cluster\.forward_listen: .* can't be listened on: .*"):
            Forwarding(one.listen, one.sockets, 1 << 16, View, one._trace, one.taken.append, "gw.toml")

    run(work)
