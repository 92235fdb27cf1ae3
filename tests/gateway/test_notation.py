from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.gateway.notation import (
    parse_host,
    parse_interface,
    parse_networks,
    parse_selector,
    parse_time,
    show_selector,
)
from deadpeer.wire import OPAQUE_PORTS, TrafficSelector


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (1.5, 1.5),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("7", 7.0),
        (" 2 s ", 2.0),
        ("0.5h", 1800.0),
    ],
)
def test_times(value: object, seconds: float) -> None:
    assert parse_time(value) == seconds


@pytest.mark.parametrize(
    "value", [-1, float("nan"), float("inf"), "", "s", "1w", "1h30m", "-3s", True, [], {}]
)
def test_bad_times(value: object) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(value)


@pytest.mark.parametrize("text", ["host.example", "", "10.0.0", "10.0.0.256", "fe80::1%eth0", "10.0.0.1/32"])
def test_bad_hosts(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|zone"):
        parse_host(text)


def test_any_address_is_no_restriction() -> None:
    assert parse_networks(["%any"]) == ()
    assert parse_networks(["%any4", "%any6"]) == ()


def test_any_of_one_version_is_a_network() -> None:
    assert parse_networks(["%any6"]) == (ip_network("::/0"),)


def test_an_address_beside_any_stays_the_one_to_call() -> None:
    assert parse_networks(["192.0.2.1", "%any4"]) == (ip_network("192.0.2.1/32"), ip_network("0.0.0.0/0"))


@pytest.mark.parametrize(
    ("text", "protocol", "ports", "start", "end"),
    [
        ("10.0.0.0/24", 0, (0, 65535), "10.0.0.0", "10.0.0.255"),
        ("10.0.0.0/24[tcp/443]", 6, (443, 443), "10.0.0.0", "10.0.0.255"),
        ("10.0.0.1-10.0.0.9", 0, (0, 65535), "10.0.0.1", "10.0.0.9"),
        ("10.0.0.7", 0, (0, 65535), "10.0.0.7", "10.0.0.7"),
        ("2001:db8::/64[udp/1000-2000]", 17, (1000, 2000), "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"),
        ("10.0.0.7[47]", 47, (0, 65535), "10.0.0.7", "10.0.0.7"),
        ("10.0.0.7[any/any]", 0, (0, 65535), "10.0.0.7", "10.0.0.7"),
        ("10.0.0.7[udp/opaque]", 17, OPAQUE_PORTS, "10.0.0.7", "10.0.0.7"),
        ("10.0.0.7[icmp/2048]", 1, (2048, 2048), "10.0.0.7", "10.0.0.7"),
        (" 10.0.0.1 - 10.0.0.9 [ tcp / 1 - 2 ] ", 6, (1, 2), "10.0.0.1", "10.0.0.9"),
    ],
)
def test_selectors(text: str, protocol: int, ports: tuple[int, int], start: str, end: str) -> None:
    assert parse_selector(text) == TrafficSelector(protocol, *ports, ip_address(start), ip_address(end))


def test_dynamic_selector() -> None:
    assert parse_selector("dynamic") is None
    assert show_selector(None) == "dynamic"


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("10.0.0.1/24", "write 10.0.0.0/24"),
        ("10.0.0.9-10.0.0.1", "write 10.0.0.1-10.0.0.9"),
        ("10.0.0.1-2001:db8::1", "mixes"),
        ("10.0.0.0/33", "not an IP network"),
        ("10.0.0.0/24[tpc/443]", "unknown protocol"),
        ("10.0.0.0/24[tcp/70000]", "0 to 65535"),
        ("10.0.0.0/24[tcp/9-8]", "0 to 65535"),
        ("10.0.0.0/24[tcp/http]", "not a port"),
        ("10.0.0.0/24[256]", "unknown protocol"),
        ("10.0.0.0/24[tcp", "not a traffic selector"),
        ("10.0.0.0/24[icmpv6]", "icmpv6"),
        ("2001:db8::/64[icmp]", "icmpv6"),
        ("dynamic[tcp/443]", "dynamic takes no"),
        ("", "not a traffic selector"),
    ],
)
def test_bad_selectors(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        parse_selector(text)
    assert remedy in str(caught.value)


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(0, 2**20),
    st.sampled_from([0, 6, 17, 47, 132, 200]),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted),
)
def test_what_is_shown_is_read_back(start: object, span: int, protocol: int, ports: list[int]) -> None:
    first = ip_address(str(start))
    last = ip_address(min(int(first) + span, int(type(first)(b"\xff" * len(first.packed)))))
    if last.version != first.version:  # small IPv6 addresses: ip_address(int) would make them IPv4
        last = first
    low, high = (0, 65535) if protocol == 0 else ports
    selector = TrafficSelector(protocol, low, high, first, last)
    assert parse_selector(show_selector(selector)) == selector


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_selector, parse_host, parse_time, parse_interface, lambda t: parse_networks([t])):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)
