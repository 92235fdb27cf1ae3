"""The kernel's word on an address, in a network namespace of the test's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from deadpeer.gateway.addresses import AddressWatch, News
from deadpeer.gateway.errors import ConfigError
from deadpeer.gateway.notation import parse_host
from deadpeer.gateway.sockets import open_sockets
from deadpeer.values import Address

ROOT_ONLY = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
]
BOTH = pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
WENT = News.WENT | News.CHANGED
_CLONE_NEWNET = 0x40000000


def ip(*words: str, stdin: str = "") -> None:
    done = subprocess.run(
        ["ip", *words], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"


def enter(namespace: int) -> None:
    """setns(2), for this thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture
def alone() -> Iterator[None]:
    """In a namespace with nothing but a loopback device."""
    name = f"dpw{uuid.uuid4().hex[:6]}"
    ip("netns", "add", name)
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        enter(there)
        ip("link", "set", "lo", "up")
        yield
    finally:
        enter(here)
        os.close(here)
        os.close(there)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def words(verb: str, address: str) -> list[str]:
    # Else IPv6 checks for a duplicate first, even here, and the address is there a moment later.
    at_once = ["nodad"] if ":" in address and verb == "add" else []
    return ["addr", verb, f"{address}/{128 if ':' in address else 32}", "dev", "lo", *at_once]


def heard(watch: AddressWatch, awaited: News) -> News:
    """What the kernel has said by the time that it has said this; of IPv6 it tells from a queue."""
    news, end = watch.news(), time.monotonic() + 20.0
    while news & awaited != awaited and time.monotonic() < end:
        time.sleep(0.001)
        news |= watch.news()
    return news


def add(address: str) -> None:
    """It comes, and all has been said of that."""
    with closing(AddressWatch(parse_host(address))) as watch:
        ip(*words("add", address))
        assert heard(watch, News.CHANGED) == News.CHANGED


class TestAnAddress:
    pytestmark = ROOT_ONLY

    @BOTH
    def test_that_comes_and_goes(self, alone: None, address: str) -> None:
        with closing(AddressWatch(parse_host(address))) as watch:
            assert (watch.news(), watch.look()) == (News.NONE, False)
            ip(*words("add", address))
            assert (heard(watch, News.CHANGED), watch.look()) == (News.CHANGED, True)
            assert watch.news() is News.NONE
            ip(*words("del", address))
            assert (heard(watch, WENT), watch.look()) == (WENT, False)

    @BOTH
    def test_that_went_and_is_back_when_somebody_looks(self, alone: None, address: str) -> None:
        add(address)
        with closing(AddressWatch(parse_host(address))) as watch:
            assert (watch.news(), watch.look()) == (News.NONE, True)
            ip(*words("del", address))
            ip(*words("add", address))
            assert (heard(watch, WENT), watch.look()) == (WENT, True)

    @BOTH
    def test_another_one_is_no_news(self, alone: None, address: str) -> None:
        with closing(AddressWatch(parse_host(address))) as watch:
            for other in ("192.0.2.2", "2001:db8::2"):
                ip(*words("add", other))
                ip(*words("del", other))
            assert (watch.news(), watch.look()) == (News.NONE, False)

    @BOTH
    def test_more_news_than_the_queue_holds_count_as_its_loss(self, alone: None, address: str) -> None:
        add(address)
        with closing(AddressWatch(parse_host(address))) as watch:
            net = "2001:db8:1::{}" if ":" in address else "198.18.{}.1"
            others = [net.format(number) for number in range(250)]
            for verb in ("add", "del") * 2:
                lines = (" ".join(words(verb, other)) for other in others)
                ip("-batch", "-", stdin="\n".join(lines) + "\n")
            assert heard(watch, WENT) == WENT
            assert (watch.news(), watch.look()) == (News.NONE, True)

    def test_that_is_still_checked_for_a_duplicate(self, alone: None) -> None:
        ip("link", "add", "eth0", "type", "veth", "peer", "eth1")
        for device in ("eth0", "eth1"):
            ip("link", "set", device, "up")
        with closing(AddressWatch(parse_host("2001:db8::1"))) as watch:
            ip("addr", "add", "2001:db8::1/64", "dev", "eth0")
            assert watch.look() is False


@BOTH
def test_nobody_has_it(address: str) -> None:
    """Needs no privilege."""
    with closing(AddressWatch(parse_host(address))) as watch:
        assert watch.look() is False


def test_loopback_is_ours() -> None:
    with closing(AddressWatch(parse_host("127.0.0.1"))) as watch:
        assert watch.look() is True


@BOTH
def test_sockets_wait_for_the_address(address: str) -> None:
    with pytest.raises(ConfigError, match="is not an address of this host"):
        open_sockets([parse_host(address)], 15510, 15511, 1 << 16, "gw.toml")
    sockets = open_sockets([parse_host(address)], 15510, 15511, 1 << 16, "gw.toml", free=True)
    try:
        assert [each.local for each in sockets] == [Address(address, 15510), Address(address, 15511)]
    finally:
        sockets.close()
