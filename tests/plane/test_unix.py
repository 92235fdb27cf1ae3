"""The host behind a UNIX datagram socket: there, not there yet, gone, slow."""

import select
import socket
import stat
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from tests.plane.pair import ping

from deadpeer.plane.host import Host, PlaneError
from deadpeer.plane.unix import BACKLOG_PACKETS, UnixHost


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[UnixHost]:
    host = UnixHost(tmp_path / "gateway", tmp_path / "host")
    yield host
    host.close()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(tmp_path / "host"))
        yield sock


def test_packets_go_both_ways(plane: UnixHost, peer: socket.socket, tmp_path: Path) -> None:
    as_host: Host = plane
    assert as_host.read() is None
    peer.sendto(ping(1), str(tmp_path / "gateway"))
    peer.sendto(ping(2, size=1400), str(tmp_path / "gateway"))
    assert select.select([plane], [], [], 60)[0] == [plane]
    assert [plane.read(), plane.read(), plane.read()] == [ping(1), ping(2, size=1400), None]
    assert plane.write(ping(3))
    assert peer.recv(2000) == ping(3)


def test_a_host_that_is_missing_or_gone_is_a_drop(plane: UnixHost, tmp_path: Path) -> None:
    assert not plane.write(ping(1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as first:
        first.bind(str(tmp_path / "host"))
        assert plane.write(ping(2))
    assert not plane.write(ping(3)), "the file is there, nobody listens"
    (tmp_path / "host").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(str(tmp_path / "host"))
        assert plane.write(ping(4))
        assert second.recv(2000) == ping(4)


def test_packets_for_a_slow_host_wait_in_order_and_bounded(plane: UnixHost, peer: socket.socket) -> None:
    written = 0
    while plane.waiting < BACKLOG_PACKETS:
        assert plane.write(ping(written))
        written += 1
    assert not plane.write(ping(written))
    received = []
    while plane.waiting or len(received) < written:
        received.append(peer.recv(2000))
        plane.flush()
    assert received == [ping(n) for n in range(written)]
    assert plane.dropped == 0


def test_what_waits_for_a_host_that_goes_is_counted(plane: UnixHost, peer: socket.socket) -> None:
    while not plane.waiting:
        plane.write(ping(1))
    peer.close()
    assert not plane.write(ping(2))
    assert (plane.waiting, plane.dropped) == (0, 1)


def test_the_socket_is_private_and_replaces_a_left_one(tmp_path: Path) -> None:
    first = UnixHost(tmp_path / "gateway", tmp_path / "host")
    assert stat.S_IMODE((tmp_path / "gateway").stat().st_mode) == 0o600
    second = UnixHost(tmp_path / "gateway", tmp_path / "host")  # the first was killed and could not clean up
    second.close()
    second.close()
    assert not (tmp_path / "gateway").exists()
    first.close()


@pytest.mark.parametrize(
    ("path", "remedy"),
    [("nowhere/gateway", "make the directory"), ("file", "another kind of file"), ("x" * 120, "107 octets")],
)
def test_a_path_that_can_not_be_bound_is_explained(tmp_path: Path, path: str, remedy: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(PlaneError, match=remedy) as caught:
        UnixHost(tmp_path / path, tmp_path / "host")
    assert path in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "precious"


def test_routes_are_noted(plane: UnixHost) -> None:
    plane.add_route(ip_network("10.2.0.0/24"), ip_address("10.1.0.1"))
    assert plane.routes == {ip_network("10.2.0.0/24"): ip_address("10.1.0.1")}
    plane.remove_route(ip_network("10.2.0.0/24"))
    plane.remove_route(ip_network("10.2.0.0/24"))
    assert plane.routes == {}
