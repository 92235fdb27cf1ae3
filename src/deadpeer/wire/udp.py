"""What shares a UDP port with IKE: the non-ESP marker, ESP and keepalives (RFC 3948 section 2)."""

from enum import Enum

from deadpeer.wire.errors import WireError

NON_ESP_MARKER = bytes(4)
KEEPALIVE = b"\xff"


class UdpKind(Enum):
    """What a UDP payload looks like from its first octets and its length."""

    IKE = "ike"
    ESP = "esp"
    KEEPALIVE = "keepalive"
    GARBAGE = "garbage"


def classify(payload: bytes, port_4500: bool) -> UdpKind:
    """Sort a UDP payload received on a port where ESP and IKE mix (`port_4500`) or IKE is alone.

    IKE needs its header of 28 octets (after the marker); ESP its 8 octets and an SPI that is not reserved.
    """
    if not port_4500:
        return UdpKind.IKE if len(payload) >= _IKE_HEADER else UdpKind.GARBAGE
    if payload == KEEPALIVE:
        return UdpKind.KEEPALIVE
    if len(payload) < _ESP_HEADER:
        return UdpKind.GARBAGE
    if payload[:3] != b"\0\0\0":
        return UdpKind.ESP
    if payload[3] == 0 and len(payload) >= _IKE_HEADER + len(NON_ESP_MARKER):
        return UdpKind.IKE
    return UdpKind.GARBAGE


def add_marker(octets: bytes) -> bytes:
    """An IKE message as it goes out on port 4500."""
    return NON_ESP_MARKER + octets


def strip_marker(payload: bytes) -> bytes:
    """The IKE message in a payload of port 4500. Raises WireError if the marker is not there."""
    if not payload.startswith(NON_ESP_MARKER):
        raise WireError("UDP at octet 0", "no non-ESP marker")
    return payload[len(NON_ESP_MARKER) :]


_IKE_HEADER = 28
_ESP_HEADER = 8
