"""What arrives on the UDP ports, and ESP's own header."""

import pytest

from deadpeer.wire import (
    KEEPALIVE,
    NON_ESP_MARKER,
    EspHeader,
    EspPacket,
    UdpKind,
    WireError,
    add_marker,
    classify,
    decode_esp,
    decode_esp_header,
    encode_esp,
    encode_esp_header,
    strip_marker,
)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", UdpKind.GARBAGE),
        (KEEPALIVE, UdpKind.KEEPALIVE),
        (b"\xfe", UdpKind.GARBAGE),
        (b"\xff\xff", UdpKind.GARBAGE),
        (NON_ESP_MARKER, UdpKind.GARBAGE),
        (NON_ESP_MARKER + bytes(27), UdpKind.GARBAGE),
        (NON_ESP_MARKER + bytes(28), UdpKind.IKE),
        (bytes.fromhex("00000100 000000"), UdpKind.GARBAGE),
        (bytes.fromhex("00000100 00000001"), UdpKind.ESP),
        (bytes.fromhex("ffffffff 00000001"), UdpKind.ESP),
        (bytes.fromhex("00000001 00000001") + bytes(40), UdpKind.GARBAGE),
        (bytes.fromhex("000000ff 00000001") + bytes(40), UdpKind.GARBAGE),
    ],
)
def test_port_4500(payload: bytes, kind: UdpKind) -> None:
    assert classify(payload, True) is kind


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", UdpKind.GARBAGE),
        (KEEPALIVE, UdpKind.GARBAGE),
        (bytes(27), UdpKind.GARBAGE),
        (bytes(28), UdpKind.IKE),
    ],
)
def test_port_500(payload: bytes, kind: UdpKind) -> None:
    assert classify(payload, False) is kind


def test_marker() -> None:
    assert add_marker(b"ike") == b"\0\0\0\0ike"
    assert strip_marker(b"\0\0\0\0ike") == b"ike"
    for payload in (b"", b"\0\0\0", b"\0\0\1\0ike"):
        with pytest.raises(WireError, match="no non-ESP marker"):
            strip_marker(payload)


def test_esp_vector() -> None:
    octets = bytes.fromhex("c0ffee01 00000007 0102030405")
    packet = EspPacket(0xC0FFEE01, 7, bytes.fromhex("0102030405"))
    assert decode_esp(octets) == packet
    assert encode_esp(packet) == octets
    assert decode_esp_header(octets) == EspHeader(0xC0FFEE01, 7)
    assert encode_esp_header(EspHeader(0xC0FFEE01, 7)) == octets[:8]


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        ("", "ESP at octet 0: needs 8 octets, 0 are left"),
        ("c0ffee01 000000", "ESP at octet 0: needs 8 octets, 7 are left"),
        ("c0ffee01 00000001", "ESP at octet 8: no body"),
        ("00000000 00000001 ff", "ESP at octet 0: SPI 0 is a reserved one"),
        ("000000ff 00000001 ff", "ESP at octet 0: SPI 255 is a reserved one"),
    ],
)
def test_esp_faults(octets: str, fault: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_esp(bytes.fromhex(octets))
    assert str(caught.value) == fault


@pytest.mark.parametrize(
    "packet",
    [EspPacket(255, 1, b"x"), EspPacket(2**32, 1, b"x"), EspPacket(256, 2**32, b"x"), EspPacket(256, 1, b"")],
)
def test_esp_that_does_not_fit_is_not_sent(packet: EspPacket) -> None:
    with pytest.raises(WireError):
        encode_esp(packet)
