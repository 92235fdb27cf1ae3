"""Packets against selectors: addresses, protocols, ports, ICMP types, fragments, extension headers."""

from ipaddress import ip_address
from struct import pack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.plane.pair import ts

from deadpeer.plane.packets import echo_request
from deadpeer.plane.routes import networks, preferred_source
from deadpeer.plane.selectors import OPAQUE, Flow, SelectorPair, parse_flow
from deadpeer.wire import OPAQUE_PORTS, TrafficSelector

TCP, UDP, ICMP, ICMPV6, MOBILITY, ESP = 6, 17, 1, 58, 135, 50
ANY4, ANY6 = ts("0.0.0.0/0"), ts("::/0")
PORTS = pack("!HH", 1000, 53) + bytes(4)


def v4(protocol: int, payload: bytes, *, fragment: int = 0, options: bytes = b"") -> bytes:
    length = 20 + len(options) + len(payload)
    ends = ip_address("10.1.0.1").packed + ip_address("10.2.0.1").packed
    words = 5 + len(options) // 4
    return pack("!BBHHHBBH", 0x40 | words, 0, length, 0, fragment, 64, protocol, 0) + ends + options + payload


def v6(next_header: int, payload: bytes) -> bytes:
    ends = ip_address("fd01::1").packed + ip_address("fd02::1").packed
    return pack("!IHBB", 6 << 28, len(payload), next_header, 64) + ends + payload


def fragment_header(next_header: int, offset: int) -> bytes:
    return pack("!BBHI", next_header, 0, offset << 3 | 1, 77)


def options_header(next_header: int, units: int = 0) -> bytes:
    return bytes([next_header, units]) + bytes(6 + 8 * units)


def seen(packet: bytes) -> tuple[int, int, int]:
    flow = parse_flow(packet)
    assert flow is not None
    return flow.protocol, flow.source_port, flow.destination_port


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (v4(UDP, PORTS), (UDP, 1000, 53)),
        (v4(TCP, PORTS, options=bytes(8)), (TCP, 1000, 53)),
        (v4(UDP, PORTS, fragment=0x4000), (UDP, 1000, 53)),
        (v4(UDP, PORTS, fragment=0x2000), (UDP, 1000, 53)),  # the first fragment shows ports
        (v4(UDP, PORTS, fragment=0x2001), (UDP, OPAQUE, OPAQUE)),
        (v4(UDP, PORTS, fragment=0x0001), (UDP, OPAQUE, OPAQUE)),
        (v4(UDP, PORTS[:3]), (UDP, OPAQUE, OPAQUE)),
        (v4(ICMP, b"\x03\x04rest"), (ICMP, 0x0304, OPAQUE)),
        (v4(ICMP, b"\x03\x04rest", fragment=5), (ICMP, OPAQUE, OPAQUE)),
        (v4(ESP, PORTS), (ESP, OPAQUE, OPAQUE)),
        (v6(UDP, PORTS), (UDP, 1000, 53)),
        (v6(ICMPV6, b"\x80\x00rest"), (ICMPV6, 0x8000, OPAQUE)),
        (v6(MOBILITY, b"\x3b\x00\x05\x00"), (MOBILITY, 0x0500, OPAQUE)),
        (v6(0, options_header(60) + options_header(43, 1) + options_header(UDP) + PORTS), (UDP, 1000, 53)),
        (v6(44, fragment_header(UDP, 0) + PORTS), (UDP, 1000, 53)),
        (v6(44, fragment_header(UDP, 185) + PORTS), (UDP, OPAQUE, OPAQUE)),
        (v6(44, fragment_header(60, 185) + PORTS), (OPAQUE, OPAQUE, OPAQUE)),
        (v6(0, options_header(44) + fragment_header(60, 0) + options_header(TCP) + PORTS), (TCP, 1000, 53)),
        (v6(ESP, PORTS), (ESP, OPAQUE, OPAQUE)),
        (v6(59, b""), (59, OPAQUE, OPAQUE)),
    ],
)
def test_what_a_packet_shows(packet: bytes, expected: tuple[int, int, int]) -> None:
    assert seen(packet) == expected


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        v4(UDP, PORTS)[:-1],
        b"\x44" + v4(UDP, PORTS)[1:],
        b"\x55" + v4(UDP, PORTS)[1:],
        v6(UDP, PORTS)[:-1],
        v6(0, options_header(UDP, 9)[:10]),
        v6(0, b"\x11"),
        v6(44, b"\x11\0\0\0"),
    ],
)
def test_what_is_no_packet(packet: bytes) -> None:
    assert parse_flow(packet) is None


@given(st.binary(max_size=120), st.sampled_from([0x45, 0x4F, 0x60, 0x6F]))
@example(bytes(39) + b"\0\0" * 30, 0x60)
def test_no_octets_raise(octets: bytes, first: int) -> None:
    for packet in (octets, bytes([first]) + octets):
        flow = parse_flow(packet)
        assert flow is None or str(flow)


def fits(packet: bytes, local: TrafficSelector, remote: TrafficSelector) -> bool:
    """Does the packet fit outbound here and, the same thing, inbound at the other side?"""
    flow = parse_flow(packet)
    assert flow is not None
    outbound = SelectorPair([local], [remote]).outbound(flow)
    assert SelectorPair([remote], [local]).inbound(flow) is outbound
    return outbound


def test_addresses_of_both_sides_count() -> None:
    packet = v4(UDP, PORTS)
    assert fits(packet, ts("10.1.0.1/32"), ts("10.2.0.1/32"))
    assert fits(packet, ANY4, ANY4)
    assert not fits(packet, ts("10.1.0.2/32"), ANY4)
    assert not fits(packet, ANY4, ts("10.2.0.0/32"))
    assert not fits(packet, ANY6, ANY6)
    assert not fits(packet, ts("10.2.0.0/24"), ts("10.1.0.0/24"))
    assert not fits(v6(UDP, PORTS), ANY4, ANY4)
    assert fits(v6(UDP, PORTS), ts("fd01::/64"), ts("fd02::/64"))


def test_a_range_need_not_be_a_prefix() -> None:
    edge = TrafficSelector(0, 0, 65535, ip_address("10.0.255.255"), ip_address("10.1.0.1"))
    assert fits(v4(UDP, PORTS), edge, ANY4)
    short = TrafficSelector(0, 0, 65535, ip_address("10.0.255.255"), ip_address("10.1.0.0"))
    assert not fits(v4(UDP, PORTS), short, ANY4)


def test_any_of_several_selectors_will_do() -> None:
    flow = parse_flow(v4(UDP, PORTS))
    assert flow is not None
    assert SelectorPair([ANY6, ts("10.1.0.0/24")], [ts("10.9.0.0/24"), ts("10.2.0.0/24")]).outbound(flow)
    assert not SelectorPair([], [ANY4]).outbound(flow)


def test_protocols_and_ports() -> None:
    packet = v4(UDP, PORTS)
    assert fits(packet, ANY4, ts("0.0.0.0/0", UDP, (53, 53)))
    assert fits(packet, ts("0.0.0.0/0", UDP, (1000, 1001)), ANY4)
    assert not fits(packet, ANY4, ts("0.0.0.0/0", UDP, (54, 65535)))
    assert not fits(packet, ts("0.0.0.0/0", UDP, (53, 53)), ANY4)
    assert not fits(packet, ANY4, ts("0.0.0.0/0", TCP))
    assert not fits(packet, ANY4, ts("0.0.0.0/0", UDP, OPAQUE_PORTS))


def test_a_fragment_without_ports_fits_any_and_opaque_ports_only() -> None:
    later = v4(UDP, PORTS, fragment=0x2001)
    assert fits(later, ANY4, ts("0.0.0.0/0", UDP))
    assert fits(later, ANY4, ts("0.0.0.0/0", UDP, OPAQUE_PORTS))
    assert not fits(later, ANY4, ts("0.0.0.0/0", UDP, (53, 53)))
    hidden = v6(44, fragment_header(60, 185) + PORTS)
    assert fits(hidden, ANY6, ANY6)
    assert not fits(hidden, ANY6, ts("::/0", UDP))


def test_the_type_of_an_icmp_message_belongs_to_its_sender() -> None:
    """RFC 4301 section 4.4.1.3: "may send echo requests, not receive any" is local 8/0, remote OPAQUE."""
    request = echo_request("10.1.0.1", "10.2.0.1", 1, 1)
    echo_only = ts("0.0.0.0/0", ICMP, (0x0800, 0x08FF))
    nothing = ts("0.0.0.0/0", ICMP, OPAQUE_PORTS)
    assert fits(request, echo_only, nothing)
    assert fits(request, echo_only, echo_only)
    assert not fits(request, nothing, echo_only)
    assert not fits(request, ts("0.0.0.0/0", ICMP, (0, 0)), ANY4)


def test_a_flow_is_readable() -> None:
    assert str(parse_flow(v4(UDP, PORTS))) == "10.1.0.1 -> 10.2.0.1 proto 17 ports 1000 -> 53"
    assert str(parse_flow(v6(ICMPV6, b"\x80\0"))) == "fd01::1 -> fd02::1 proto 58"
    assert str(Flow(4, UDP, 1, 2, OPAQUE, OPAQUE)) == "0.0.0.1 -> 0.0.0.2 proto 17"


def test_selectors_become_the_fewest_prefixes() -> None:
    odd = TrafficSelector(UDP, 0, 65535, ip_address("10.0.0.0"), ip_address("10.0.2.255"))
    found = networks(iter([ts("fd02::/65"), ts("fd02::8000:0:0:0/65"), odd, ts("10.0.0.7/32")]))
    assert [str(net) for net in found] == ["10.0.0.0/23", "10.0.2.0/24", "fd02::/64"]


def test_the_preferred_source_lies_in_a_local_selector() -> None:
    ours = [ip_address(text) for text in ("192.0.2.9", "10.1.0.4", "10.1.0.5", "fd01::4")]
    local = (ts("10.1.0.0/24"), ts("fd01::/64"))
    v4_source = preferred_source(local, ours, networks([ts("10.2.0.0/24")])[0])
    v6_source = preferred_source(local, ours, networks([ts("fd02::/64")])[0])
    assert (str(v4_source), str(v6_source)) == ("10.1.0.4", "fd01::4")
    assert preferred_source(local, ours[:1], networks([ts("10.2.0.0/24")])[0]) is None
