"""UDP sockets on loopback: losses are counted, errors name the key and the remedy."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from tests.support.loopback import LoopbackNet

from deadpeer.gateway.errors import ConfigError
from deadpeer.gateway.sockets import DRAIN, UdpSocket, UdpSockets, open_sockets
from deadpeer.values import Address, Datagram

LOOPBACK = ip_address("127.0.0.1")


@pytest.fixture
def pair() -> Iterator[tuple[UdpSocket, UdpSocket]]:
    one, other = UdpSocket(LOOPBACK, 0, 1 << 20), UdpSocket(LOOPBACK, 0, 1 << 20)
    yield one, other
    one.close()
    other.close()


def receive(sock: UdpSocket, wanted: int = 1) -> list[Datagram]:
    """At least so many datagrams."""
    found: list[Datagram] = []
    while len(found) < wanted:
        readable, _, _ = select.select([sock], [], [], 60)
        assert readable
        found += sock.receive()
    return found


def test_there_and_back(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    assert one.send(b"hello", other.local)
    assert receive(other) == [Datagram(b"hello", other.local, one.local)]
    assert list(other.receive()) == []
    assert (one.counters["sent"], other.counters["received"]) == (1, 1)


def test_ipv6_is_a_socket_of_its_own(net: LoopbackNet) -> None:
    six = UdpSocket(ip_address("::1"), 0, 1 << 20)
    four = UdpSocket(ip_address(f"{net.prefix}.1"), six.local.port, 1 << 20)
    try:
        assert six.send(b"x", six.local)
        assert receive(six) == [Datagram(b"x", six.local, six.local)]
        assert four.local.port == six.local.port
    finally:
        six.close()
        four.close()


def test_one_wake_up_takes_a_bounded_number(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    for _ in range(DRAIN + 6):
        one.send(b"x", other.local)
    select.select([other], [], [], 60)
    assert len(list(other.receive())) == DRAIN
    assert len(list(other.receive())) == 6


def test_large_datagrams_may_be_fragmented(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    assert one.send(b"x" * 65_507, other.local)
    assert len(receive(other)[0].payload) == 65_507


def test_a_closed_port_disturbs_nobody(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    closed = UdpSocket(LOOPBACK, 0, 1 << 20)
    closed.close()
    for _ in range(3):
        one.send(b"x", closed.local)
    assert list(one.receive()) == []
    assert one.send(b"y", other.local)
    assert receive(other)[0].payload == b"y"


def test_what_can_not_be_sent_is_counted(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    assert not one.send(b"x" * 65_508, other.local)
    assert not one.send(b"x", Address("2001:db8::1", 500))
    assert one.counters["send_emsgsize"] == 1
    assert sum(one.counters.values()) == 2


def test_what_would_block_is_dropped_and_counted(
    pair: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair

    class Full:
        def sendto(self, *_: object) -> int:
            raise BlockingIOError

        def close(self) -> None: ...

    monkeypatch.setattr(one, "_socket", Full())
    assert not one.send(b"x", other.local)
    assert one.counters["send_would_block"] == 1


def test_an_error_on_receiving_is_counted_and_reading_goes_on(
    pair: tuple[UdpSocket, UdpSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    answers: list[object] = [
        OSError(errno.ECONNREFUSED, "refused"),
        (b"x", ("192.0.2.1", 500)),
        BlockingIOError(),
    ]

    class Stub:
        def recvfrom(self, _: int) -> object:
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return answer

        def close(self) -> None: ...

    monkeypatch.setattr(one, "_socket", Stub())
    assert [d.remote for d in one.receive()] == [Address("192.0.2.1", 500)]
    assert one.counters["receive_econnrefused"] == 1


def test_what_the_kernel_dropped_is_counted() -> None:
    small = UdpSocket(LOOPBACK, 0, 4096)
    sender = UdpSocket(LOOPBACK, 0, 1 << 20)
    try:
        for _ in range(500):
            sender.send(b"x" * 1000, small.local)
        received = 0
        while taken := len(list(small.receive())):
            received += taken
        assert received + small.dropped() == 500
        assert UdpSockets([small]).counters()["kernel_dropped"] == small.dropped() > 0
    finally:
        small.close()
        sender.close()


def test_the_sender_is_chosen_by_local_address(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    sockets = UdpSockets([one])
    assert sockets.send(Datagram(b"x", one.local, other.local))
    assert receive(other)[0].remote == one.local
    assert not sockets.send(Datagram(b"x", Address("192.0.2.9", 500), other.local))
    assert sockets.counters()["send_no_socket"] == 1


def test_an_address_in_use() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            open_sockets([LOOPBACK], port, port, 4096, "gw.toml")
    assert str(caught.value) == (
        f"gw.toml: gateway.port: port {port} on 127.0.0.1 is in use by another program; stop it (to find it:"
        f" ss -lunp sport = :{port}) or choose another port"
    )


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.listen: 192\.0\.2\.77 is not an address of this host"):
        open_sockets([ip_address("192.0.2.77")], 15500, 15501, 4096, "gw.toml")


def test_a_port_without_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(UdpSocket, "__init__", refuse)
    with pytest.raises(ConfigError, match=r"gateway\.port: port 500 .* needs the capability CAP_NET_BIND"):
        open_sockets([LOOPBACK], 500, 4500, 4096, "gw.toml")


def test_nothing_stays_open_after_an_error(net: LoopbackNet) -> None:
    host = ip_address(f"{net.prefix}.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((str(host), 15501))
        with pytest.raises(ConfigError, match=r"gateway\.port_nat_t"):
            open_sockets([host], 15500, 15501, 4096, "gw.toml")
        UdpSocket(host, 15500, 4096).close()
