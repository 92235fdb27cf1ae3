"""Echo messages that real hosts would take, and what a careful host does not answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.plane.memory import MemoryHost
from deadpeer.plane.packets import decode_echo, echo_reply, echo_request, internet_checksum


def words(octets: bytes) -> int:
    """The ones' complement sum of RFC 1071, word by word with end-around carry."""
    total = 0
    for at in range(0, len(octets), 2):
        total += int.from_bytes(octets[at : at + 2].ljust(2, b"\0"))
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=100))
def test_checksum_agrees_with_the_sum_of_words(octets: bytes) -> None:
    assert internet_checksum(octets) == 0xFFFF - words(octets)


def test_checksum_example_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.sampled_from([4, 6]), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=64))
def test_request_reply_and_back(version: int, ident: int, seq: int, data: bytes) -> None:
    ends = ("10.1.0.1", "10.2.0.1") if version == 4 else ("fd01::1", "fd02::1")
    request = echo_request(*ends, ident, seq, data)
    answer = echo_reply(request + b"trailing octets are not part of it")
    assert answer is not None
    assert echo_reply(answer) is None
    asked, told = decode_echo(request), decode_echo(answer)
    assert asked is not None and told is not None
    assert (asked.request, told.request) == (True, False)
    assert (told.source, told.destination) == (asked.destination, asked.source)
    assert (told.ident, told.seq, told.data) == (ident, seq, data)


def test_checksums_cover_headers_and_pseudo_header() -> None:
    v4, v6 = echo_request("10.0.0.1", "10.0.1.1", 1, 2, b"x"), echo_request("fd00::1", "fd00::2", 1, 2, b"x")
    assert words(v4[:20]) == words(v4[20:]) == 0xFFFF
    length = (len(v6) - 40).to_bytes(4)
    assert words(v6[8:40] + length + b"\0\0\0\x3a" + v6[40:]) == 0xFFFF


@pytest.mark.parametrize("version", [4, 6])
def test_a_damaged_request_is_not_answered(version: int) -> None:
    ends = ("10.1.0.1", "10.2.0.1") if version == 4 else ("fd01::1", "fd02::1")
    request = echo_request(*ends, 3, 4, b"payload")
    start = 0 if version == 4 else 8  # flow label and hop limit of IPv6 have no checksum
    for at in range(start, len(request)):
        damaged = bytearray(request)
        damaged[at] ^= 0x20
        assert echo_reply(bytes(damaged)) is None
    assert echo_reply(b"") is None
    assert echo_reply(request[:-1]) is None


def test_ends_of_two_versions_are_refused() -> None:
    with pytest.raises(ValueError, match="two IP versions"):
        echo_request("10.0.0.1", "fd00::1", 1, 1)


def test_memory_host_answers_echo_requests_only() -> None:
    host, silent = MemoryHost(echo=True), MemoryHost()
    request = echo_request("10.1.0.1", "10.2.0.1", 1, 1)
    assert host.write(request) and host.write(b"other") and silent.write(request)
    assert host.received == [request, b"other"]
    assert host.read() == echo_reply(request)
    assert host.read() is None and silent.read() is None
    host.send(b"out")
    assert host.read() == b"out"
    host.close()
    assert not host.write(request)
