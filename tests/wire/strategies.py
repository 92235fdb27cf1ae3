"""Hypothesis strategies for every valid value of the wire room."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from hypothesis import strategies as st

from deadpeer.wire import (
    OPAQUE_PORTS,
    Attribute,
    Authentication,
    Certificate,
    CertificateRequest,
    ConfigAttribute,
    Configuration,
    Delete,
    Eap,
    Encrypted,
    EncryptedFragment,
    EspPacket,
    Identification,
    KeyExchange,
    Message,
    Nonce,
    Notify,
    Payload,
    PayloadType,
    Proposal,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectors,
    Transform,
    UnknownPayload,
    VendorId,
)

u8 = st.integers(0, 0xFF)
u15 = st.integers(0, 0x7FFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)
blob = st.binary(max_size=40)
spi8 = st.binary(min_size=8, max_size=8)
esp_spi = st.integers(256, 0xFFFF_FFFF)
esp_spi_octets = esp_spi.map(lambda spi: spi.to_bytes(4))


def tuples_of(items: st.SearchStrategy[Any], low: int, high: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, min_size=low, max_size=high).map(tuple)


key_length = st.builds(Attribute, st.just(14), u16)
other_attribute = st.builds(Attribute, u15.filter(lambda type_: type_ != 14), u16 | blob)
attributes = tuples_of(other_attribute, 0, 3).flatmap(
    lambda others: st.just(others) | key_length.map(lambda length: (length, *others))
)
transforms = st.builds(Transform, u8, u16, attributes)


@st.composite
def proposals(draw: st.DrawFn, number: int) -> Proposal:
    protocol = draw(st.sampled_from([1, 2, 3]) | st.integers(4, 0xFF))
    spis = {1: st.just(b"") | spi8, 2: esp_spi_octets, 3: esp_spi_octets}
    return Proposal(number, protocol, draw(spis.get(protocol, blob)), draw(tuples_of(transforms, 0, 4)))


@st.composite
def security_associations(draw: st.DrawFn) -> SecurityAssociation:
    count = draw(st.integers(1, 4))
    if count == 1:
        return SecurityAssociation((draw(proposals(draw(st.integers(1, 0xFF)))),))
    return SecurityAssociation(tuple(draw(proposals(number)) for number in range(1, count + 1)))


@st.composite
def identifications(draw: st.DrawFn, initiator: bool) -> Identification:
    id_type = draw(u8)
    size = {1: 4, 5: 16}.get(id_type)
    data = draw(blob if size is None else st.binary(min_size=size, max_size=size))
    reserved = draw(st.just(bytes(3)) | st.binary(min_size=3, max_size=3))
    return Identification(initiator, id_type, data, reserved)


@st.composite
def notifies(draw: st.DrawFn) -> Notify:
    protocol = draw(st.sampled_from([0, 1, 2, 3]) | st.integers(4, 0xFF))
    sizes = {0: [0], 1: [0, 8, 16], 2: [0, 4], 3: [0, 4]}.get(protocol, list(range(20)))
    size = draw(st.sampled_from(sizes))
    return Notify(draw(u16), draw(blob), protocol, draw(st.binary(min_size=size, max_size=size)))


@st.composite
def deletes(draw: st.DrawFn) -> Delete:
    protocol = draw(st.sampled_from([1, 2, 3]) | u8)
    if protocol == 1:
        return Delete(1, ())
    size = 4 if protocol in (2, 3) else draw(st.integers(1, 16))
    return Delete(protocol, draw(tuples_of(st.binary(min_size=size, max_size=size), 0, 5)))


ADDRESSES: list[tuple[type[IPv4Address | IPv6Address], int]] = [(IPv4Address, 32), (IPv6Address, 128)]


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    address, bits = draw(st.sampled_from(ADDRESSES))
    low, high = sorted(draw(st.tuples(*[st.integers(0, 2**bits - 1)] * 2)))
    ports = draw(st.just(OPAQUE_PORTS) | st.tuples(u16, u16).map(sorted).map(tuple))
    return TrafficSelector(draw(u8), ports[0], ports[1], address(low), address(high))


def traffic_selectors(initiator: bool) -> st.SearchStrategy[TrafficSelectors]:
    return st.builds(TrafficSelectors, st.just(initiator), tuples_of(selectors(), 1, 4))


@st.composite
def fragments(draw: st.DrawFn) -> EncryptedFragment:
    total = draw(st.integers(1, 0xFFFF))
    number = draw(st.just(1) | st.integers(1, total))
    return EncryptedFragment(draw(u8) if number == 1 else 0, number, total, draw(blob))


unknown_types = u8.filter(lambda type_: type_ not in set(PayloadType))
unknown_payloads = st.builds(UnknownPayload, unknown_types, blob)
protected = st.builds(Encrypted, u8, blob) | fragments()

# payloads that may come at most once, and the others
once: list[st.SearchStrategy[Any]] = [
    security_associations(),
    st.builds(KeyExchange, u16, blob),
    st.builds(Nonce, st.binary(min_size=16, max_size=256)),
    identifications(True),
    identifications(False),
    st.builds(Authentication, u8, blob),
    traffic_selectors(True),
    traffic_selectors(False),
]
repeatable: list[st.SearchStrategy[Any]] = [
    st.builds(Certificate, u8, blob),
    st.builds(CertificateRequest, u8, blob),
    notifies(),
    deletes(),
    st.builds(VendorId, blob),
    st.builds(Configuration, u8, tuples_of(st.builds(ConfigAttribute, u15, blob), 0, 4)),
    st.builds(Eap, blob),
]
clear_payload = st.one_of(*once, *repeatable)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Payload, ...]:
    """Payloads that may stand together, none of them protected."""
    singles = draw(st.lists(st.sampled_from(range(len(once))), unique=True, max_size=len(once)))
    chosen = [draw(once[index]) for index in singles]
    chosen += draw(st.lists(st.one_of(*repeatable), max_size=5))
    return tuple(draw(st.permutations(chosen)))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    payloads = draw(chains())
    if draw(st.booleans()):
        payloads = (*draw(st.just(()) | st.just(payloads)), draw(protected))
    return Message(
        draw(spi8), draw(spi8), draw(u8), draw(u32), draw(st.booleans()), draw(st.booleans()), payloads
    )


esp_packets = st.builds(EspPacket, esp_spi, u32, st.binary(min_size=1, max_size=100))


@st.composite
def mutations(draw: st.DrawFn, encode: Callable[[Any], bytes], values: st.SearchStrategy[Any]) -> bytes:
    """The octets of a value with some overwritten, inserted or cut out, in most places off by a little."""
    octets = bytearray(encode(draw(values)))
    for _ in range(draw(st.integers(1, 4))):
        if not octets:
            break
        at = draw(st.integers(0, len(octets) - 1))
        match draw(st.sampled_from(["overwrite", "nudge", "insert", "cut"])):
            case "overwrite":
                octets[at] = draw(u8)
            case "nudge":
                octets[at] = (octets[at] + draw(st.sampled_from([-4, -1, 1, 4]))) % 256
            case "insert":
                octets[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del octets[at : at + draw(st.integers(1, 8))]
    return bytes(octets)


def with_length(octets: bytes) -> bytes:
    """An IKE message whose header has the right length, so that the payloads get looked at."""
    return octets if len(octets) < 28 else octets[:24] + len(octets).to_bytes(4) + octets[28:]
