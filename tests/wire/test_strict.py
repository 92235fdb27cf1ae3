"""What is refused, and what the refusal says: the structure, the octet, the fault."""

import copy
from ipaddress import IPv4Address, IPv6Address

import pytest

from deadpeer.wire import (
    MAX_PAYLOADS,
    Attribute,
    ConfigAttribute,
    Configuration,
    Cursor,
    Delete,
    Encrypted,
    EncryptedFragment,
    Header,
    Identification,
    KeyExchange,
    Message,
    Nonce,
    Notify,
    Payload,
    PayloadType,
    Proposal,
    Protocol,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectors,
    Transform,
    UnknownPayload,
    UnsupportedCriticalPayload,
    VendorId,
    WireError,
    decode_header,
    decode_message,
    decode_payloads,
    encode_header,
    encode_message,
    encode_payloads,
)

SPI = bytes.fromhex("0011223344556677")


def body_error(kind: int, body: str) -> WireError:
    octets = bytes.fromhex(body)
    with pytest.raises(WireError) as caught:
        decode_payloads(kind, bytes(2) + (len(octets) + 4).to_bytes(2) + octets)
    return caught.value


def message_error(first: int, chain: str, length: int | None = None) -> WireError:
    octets = bytes.fromhex(chain)
    total = 28 + len(octets) if length is None else length
    header = encode_header(Header(SPI, SPI, first, 37, True, False, 0, total))
    with pytest.raises(WireError) as caught:
        decode_message(header + octets)
    return caught.value


ESP_PROPOSAL = "0000 0014 01 03 04 01 c0ffee01 0000 0008 01 00 001c"

SA_FAULTS = [
    ("", "SK/SA at octet 4: needs 8 octets, 0 are left"),
    ("0000 0007 01 01 00 00", "SK/SA at octet 12: length 7 of proposal 1 is less than its header"),
    ("0000 0009 01 01 00 00", "SK/SA at octet 12: needs 1 octets, 0 are left"),
    ("0100 0008 01 01 00 00", "SK/SA at octet 12: first octet of proposal 1 is 1, not 0 or 2"),
    ("0200 0008 01 01 00 00", "SK/SA at octet 12: needs 8 octets, 0 are left"),
    ("0000 0008 01 01 00 00 ff", "SK/SA at octet 12: 1 trailing octets"),
    ("0000 0008 00 01 00 00", "SK/SA at octet 12: proposal number 0"),
    ("0200 0008 01 01 00 00 0000 0008 01 01 00 00", "proposals numbered [1, 1], not from 1 in steps of 1"),
    ("0200 0008 02 01 00 00 0000 0008 03 01 00 00", "proposals numbered [2, 3], not from 1 in steps of 1"),
    ("0000 0008 01 01 00 01", "SK/SA/proposal 1 at octet 12: needs 8 octets, 0 are left"),
    ("0000 0008 01 01 00 81", "SK/SA/proposal 1 at octet 12: 129 transforms, more than 128"),
    ("0000 000c 01 01 04 00 c0ffee01", "SK/SA/proposal 1 at octet 16: SPI of 4 octets for protocol 1"),
    ("0000 0008 01 03 00 00", "SPI of 0 octets for protocol 3"),
    ("0000 0010 01 02 08 00 0011223344556677", "SPI of 8 octets for protocol 2"),
    ("0000 000c 01 03 04 00 000000ff", "SPI 000000ff is a reserved one"),
    ("0000 0008 01 01 08 00", "SK/SA/proposal 1 at octet 12: needs 8 octets, 0 are left"),
    # "last" marks and the count must agree
    (ESP_PROPOSAL.replace("04 01", "04 02"), "first octet of transform 1 is 0, against the number"),
    (ESP_PROPOSAL.replace("04 01", "04 00"), "SK/SA/proposal 1 at octet 16: 8 trailing octets"),
    (ESP_PROPOSAL.replace(" 0000 0008", " 0300 0008"), "first octet of transform 1 is 3, against the number"),
    (ESP_PROPOSAL.replace(" 0000 0008", " 0200 0008"), "first octet of transform 1 is 2, against the number"),
    (ESP_PROPOSAL.replace(" 0000 0008", " 0000 0007"), "length 7 of transform 1 is less than its header"),
    (ESP_PROPOSAL.replace(" 0000 0008", " 0000 0009"), "needs 1 octets, 0 are left"),
    # attributes
    (
        "0000 0012 01 01 00 01 0000 000a 01 00 0014 800e",
        "SK/SA/proposal 1/transform 1 at octet 20: needs 4 octets, 2",
    ),
    ("0000 0014 01 01 00 01 0000 000c 01 00 0014 000e 0002", "needs 2 octets, 0 are left"),
    ("0000 0016 01 01 00 01 0000 000e 01 00 0014 000e 0002 0100", "key length in the long attribute form"),
    ("0000 0018 01 01 00 01 0000 0010 01 00 0014 800e 0100 800e 0080", "more than one key length"),
    ("0000 0054 01 01 00 01 0000 004c 01 00 0014" + "80010000" * 17, "more than 16 attributes"),
]


@pytest.mark.parametrize(("body", "fault"), SA_FAULTS)
def test_security_association(body: str, fault: str) -> None:
    assert fault in str(body_error(PayloadType.SA, body))


def test_too_many_proposals() -> None:
    proposals = "".join(f"0200 0008 {number:02x} 01 00 00" for number in range(1, 65))
    assert "more than 64 proposals" in str(body_error(PayloadType.SA, proposals + "0000 0008 41 01 00 00"))


BODY_FAULTS = [
    (PayloadType.KE, "001f 00", "SK/KE at octet 4: needs 4 octets, 3 are left"),
    (PayloadType.NONCE, "00" * 15, "SK/Nonce at octet 4: 15 octets, not 16 to 256"),
    (PayloadType.NONCE, "00" * 257, "SK/Nonce at octet 4: 257 octets, not 16 to 256"),
    (PayloadType.IDI, "02 0000", "SK/IDi at octet 5: needs 3 octets, 2 are left"),
    (PayloadType.IDI, "01 000000 c00002", "SK/IDi at octet 8: address of 3 octets, not 4"),
    (PayloadType.IDR, "05 000000 c0000201", "SK/IDr at octet 8: address of 4 octets, not 16"),
    (PayloadType.CERT, "", "SK/CERT at octet 4: needs 1 octets, 0 are left"),
    (PayloadType.CERTREQ, "", "SK/CERTREQ at octet 4: needs 1 octets, 0 are left"),
    (PayloadType.AUTH, "02 0000", "SK/AUTH at octet 4: needs 4 octets, 3 are left"),
    (PayloadType.NOTIFY, "00 00 40", "SK/Notify at octet 4: needs 4 octets, 3 are left"),
    (PayloadType.NOTIFY, "01 08 4000 00112233", "SK/Notify at octet 8: needs 8 octets, 4 are left"),
    (PayloadType.NOTIFY, "00 04 4000 c0ffee01", "SPI of 4 octets for protocol 0"),
    (PayloadType.NOTIFY, "01 04 4000 c0ffee01", "SPI of 4 octets for protocol 1"),
    (PayloadType.NOTIFY, "03 08 4000 0011223344556677", "SPI of 8 octets for protocol 3"),
    (PayloadType.DELETE, "01 00", "SK/Delete at octet 4: needs 4 octets, 2 are left"),
    (PayloadType.DELETE, "01 08 0001 0011223344556677", "SPI size 8, not 0, for protocol 1"),
    (PayloadType.DELETE, "01 00 0001", "1 SPIs of no octets"),
    (PayloadType.DELETE, "03 08 0001 0011223344556677", "SPI size 8, not 4, for protocol 3"),
    (PayloadType.DELETE, "03 04 0002 c0ffee01", "SK/Delete at octet 8: 4 octets for 2 SPIs of 4 octets"),
    (PayloadType.DELETE, "03 04 0001 c0ffee01 c0ffee02", "8 octets for 1 SPIs of 4 octets"),
    (PayloadType.DELETE, "03 04 ffff c0ffee01", "4 octets for 65535 SPIs of 4 octets"),
    (PayloadType.TSI, "00 000000", "SK/TSi at octet 8: no traffic selector"),
    (PayloadType.TSI, "01 000000", "SK/TSi at octet 8: needs 4 octets, 0 are left"),
    (PayloadType.TSR, "01 000000 07 00 0003", "length 3 of selector 1 is less than its header"),
    (PayloadType.TSR, "01 000000 07 00 000f 0000 ffff 0a000000 0a0000", "needs 4 octets, 3 are left"),
    (
        PayloadType.TSR,
        "01 000000 07 00 0011 0000 ffff 0a000000 0a0000ff 00",
        "SK/TSr/selector 1 at octet 24: 1 trail",
    ),
    (
        PayloadType.TSR,
        "01 000000 07 00 0010 0000 ffff 0a000000 0a0000ff 00",
        "SK/TSr at octet 24: 1 trailing octets",
    ),
    (
        PayloadType.TSR,
        "01 000000 07 00 0010 0000 ffff 0a000001 0a000000",
        "start address 10.0.0.1 is after end",
    ),
    (PayloadType.TSR, "01 000000 07 00 0010 0002 0001 0a000000 0a000001", "start port 2 is after end port 1"),
    (PayloadType.TSR, "01 000000 08 00 0010 0000 ffff 0a000000 0a000001", "needs 16 octets, 8 are left"),
    (PayloadType.CP, "01", "SK/CP at octet 4: needs 4 octets, 1 are left"),
    (PayloadType.CP, "01 000000 0001 0005 c0", "SK/CP at octet 12: needs 5 octets, 1 are left"),
    (PayloadType.CP, "01 000000 0001", "SK/CP at octet 8: needs 4 octets, 2 are left"),
    (PayloadType.CP, "01 000000" + "00010000" * 257, "more than 256 attributes"),
]


@pytest.mark.parametrize(("kind", "body", "fault"), BODY_FAULTS)
def test_bodies(kind: PayloadType, body: str, fault: str) -> None:
    assert fault in str(body_error(kind, body))


CHAIN_FAULTS = [
    (41, "", "IKE at octet 28: Notify payload needs a header, 0 octets are left"),
    (41, "0000 00", "IKE at octet 28: Notify payload needs a header, 3 octets are left"),
    (41, "0000 0000", "IKE at octet 32: length 0 of Notify payload is less than its header"),
    (41, "2900 0003", "IKE at octet 32: length 3 of Notify payload is less than its header"),
    (200, "c800 0000", "length 0 of type 200 payload is less than its header"),
    (41, "0000 0009 00 00 4000", "IKE at octet 32: needs 5 octets, 4 are left"),
    (0, "00", "IKE at octet 28: 1 trailing octets"),
    (41, "0000 0008 00 00 4000 ff", "IKE at octet 36: 1 trailing octets"),
    (34, "2200 0008 001f 0000 0000 0008 001f 0000", "IKE at octet 36: KE payload more than once"),
    # SK and SKF end the message, whatever their next payload field says
    (46, "2900 0006 0102 0000 0008 00 00 4000", "IKE at octet 34: 8 trailing octets"),
    (53, "2900 000a 0001 0001 0102 0000 0008 00 00 4000", "IKE at octet 38: 8 trailing octets"),
    (53, "0000 0006 0001", "IKE/SKF at octet 32: needs 4 octets, 2 are left"),
    (53, "2900 0008 0000 0001", "IKE/SKF at octet 36: fragment 0 of 1"),
    (53, "2900 0008 0000 0000", "fragment 0 of 0"),
    (53, "0000 0008 0003 0002", "fragment 3 of 2"),
    (53, "2900 0008 0002 0002", "next payload 41 in fragment 2, not 0"),
]


@pytest.mark.parametrize(("first", "chain", "fault"), CHAIN_FAULTS)
def test_chains(first: int, chain: str, fault: str) -> None:
    assert fault in str(message_error(first, chain))


@pytest.mark.parametrize("kind", [33, 34, 35, 36, 39, 40, 44, 45])
def test_single_payloads_do_not_come_twice(kind: int) -> None:
    bodies = {33: ESP_PROPOSAL, 40: "00" * 16, 44: "01 000000 07 00 0010 0000 ffff 00000000 ffffffff"}
    bodies[45] = bodies[44]
    body = bytes.fromhex(bodies.get(kind, "02 000000"))
    one = (len(body) + 4).to_bytes(2) + body
    decode_payloads(kind, bytes(2) + one)
    with pytest.raises(WireError, match="payload more than once"):
        decode_payloads(kind, bytes([kind, 0]) + one + bytes(2) + one)


@pytest.mark.parametrize("kind", [37, 38, 41, 42, 43, 47, 48])
def test_other_payloads_may_come_twice(kind: int) -> None:
    one = (8).to_bytes(2) + bytes.fromhex("01000000")
    payloads, _ = decode_payloads(kind, bytes([kind, 0]) + one + bytes(2) + one)
    assert len(payloads) == 2


def test_the_number_of_payloads_is_bounded() -> None:
    full: tuple[Payload, ...] = (VendorId(b""),) * MAX_PAYLOADS
    first, octets = encode_payloads(full)
    assert decode_payloads(first, octets) == (full, ())
    with pytest.raises(WireError, match="more than 64 payloads"):
        decode_payloads(43, b"\x2b" + octets[1:4] + octets)
    # skipped ones count too
    with pytest.raises(WireError, match="more than 64 payloads"):
        decode_payloads(200, b"\x2b\x00\x00\x04" + octets)
    with pytest.raises(WireError, match="more than 64"):
        encode_payloads((*full, VendorId(b"")))


def test_unknown_critical_payload() -> None:
    error = message_error(200, "0080 0006 6869")
    assert isinstance(error, UnsupportedCriticalPayload)
    assert error.payload_type == 200
    assert str(error) == "IKE/type 200 at octet 32: payload type 200 is critical and not known"
    twin = copy.copy(error)
    assert (type(twin), twin.payload_type, str(twin)) == (type(error), 200, str(error))


def test_the_critical_bit_of_a_known_payload_is_ignored() -> None:
    assert decode_payloads(41, bytes.fromhex("0080 0008 00 00 4000")) == ((Notify(16384),), ())


@pytest.mark.parametrize("kind", [PayloadType.SK, PayloadType.SKF])
def test_sealed_content_has_no_sealed_payload(kind: PayloadType) -> None:
    sealed = "0000 000a 0001 0001 0102"
    with pytest.raises(WireError, match="inside protected content"):
        decode_payloads(kind, bytes.fromhex(sealed))
    with pytest.raises(WireError, match="inside protected content"):
        decode_payloads(41, bytes.fromhex(f"{kind:02x}00 0008 00 00 4000" + sealed))


def test_where_the_content_came_from_is_named() -> None:
    with pytest.raises(WireError) as caught:
        decode_payloads(40, bytes.fromhex("0000 0005 00"), where="fragments")
    assert caught.value.where == "fragments/Nonce at octet 4"
    assert caught.value.what == "1 octets, not 16 to 256"


def test_empty_content() -> None:
    assert decode_payloads(0, b"") == ((), ())
    assert encode_payloads(()) == (0, b"")
    with pytest.raises(WireError, match="trailing"):
        decode_payloads(0, b"\0")


def test_header() -> None:
    octets = encode_header(Header(SPI, SPI, 0, 37, False, True, 5, 28))
    for size in range(28):
        with pytest.raises(WireError, match="IKE header at octet 0: needs 28 octets"):
            decode_header(octets[:size])
    assert message_error(0, "", length=27).where == "IKE header at octet 24"
    assert message_error(0, "", length=29).what == "length 29 in a message of 28 octets"
    assert message_error(0, "", length=0xFFFFFFFF)


def test_another_major_version_has_a_header_but_no_message() -> None:
    octets = encode_header(Header(SPI, SPI, 0, 37, True, False, 5, 28, major=3, minor=1))
    header = decode_header(octets)
    assert (header.major, header.minor) == (3, 1)
    with pytest.raises(WireError, match="major version 3, not 2"):
        decode_message(octets)


V4, V6 = IPv4Address("10.0.0.1"), IPv6Address("::1")
TRANSFORM = Transform(1, 20)


def sa(*proposals: Proposal) -> SecurityAssociation:
    return SecurityAssociation(proposals)


def ike(number: int, *transforms: Transform) -> Proposal:
    return Proposal(number, Protocol.IKE, b"", transforms)


def ts(
    protocol: int, start: int, end: int, low: IPv4Address | IPv6Address, high: IPv4Address | IPv6Address
) -> Payload:
    return TrafficSelectors(True, (TrafficSelector(protocol, start, end, low, high),))


UNSENDABLE: list[Payload] = [
    sa(),
    sa(ike(0)),
    sa(ike(256)),
    sa(ike(1), ike(3)),
    sa(*(ike(number) for number in range(1, 66))),
    sa(ike(1, *[TRANSFORM] * 129)),
    sa(ike(1, Transform(256, 1))),
    sa(ike(1, Transform(1, 65536))),
    sa(ike(1, Transform(1, 20, (Attribute(14, b"\x01\x00"),)))),
    sa(ike(1, Transform(1, 20, (Attribute(14, 256), Attribute(14, 128))))),
    sa(ike(1, Transform(1, 20, (Attribute(14, 65536),)))),
    sa(ike(1, Transform(1, 20, (Attribute(0x8000, 1),)))),
    sa(ike(1, Transform(1, 20, (Attribute(-1, 1),)))),
    sa(ike(1, Transform(1, 20, (Attribute(1, bytes(65536)),)))),
    sa(ike(1, Transform(1, 20, (Attribute(1, bytes(65530)),)))),
    sa(ike(1, Transform(1, 20, (Attribute(1, 1),) * 17))),
    sa(Proposal(1, Protocol.ESP, b"", ())),
    sa(Proposal(1, Protocol.ESP, b"\0\0\0\1", ())),
    sa(Proposal(1, Protocol.IKE, bytes(4), ())),
    sa(Proposal(1, 200, bytes(256), ())),
    KeyExchange(65536, b""),
    KeyExchange(1, bytes(65536)),
    Nonce(bytes(15)),
    Nonce(bytes(257)),
    Identification(True, 256, b""),
    Identification(True, 1, bytes(5)),
    Identification(False, 2, b"", reserved=b""),
    Notify(65536),
    Notify(-1),
    Notify(1, protocol=Protocol.ESP, spi=bytes(8)),
    Notify(1, spi=bytes(4)),
    Delete(Protocol.IKE, (bytes(8),)),
    Delete(Protocol.ESP, (bytes(4), bytes(8))),
    Delete(Protocol.ESP, (bytes(8),)),
    Delete(200, (b"",)),
    TrafficSelectors(True, ()),
    ts(0, 0, 65536, V4, V4),
    ts(256, 0, 65535, V4, V4),
    ts(0, 2, 1, V4, V4),
    ts(0, 0, 65535, V4, V6),
    ts(0, 0, 65535, V4, IPv4Address("10.0.0.0")),
    TrafficSelectors(True, (TrafficSelector(0, 0, 0, V4, V4),) * 256),
    Configuration(256, ()),
    Configuration(1, (ConfigAttribute(0x8000, b""),)),
    Configuration(1, (ConfigAttribute(-1, b""),)),
    Configuration(1, (ConfigAttribute(1, b""),) * 257),
    UnknownPayload(PayloadType.NOTIFY, b""),
    UnknownPayload(0, b""),
    UnknownPayload(256, b""),
    VendorId(bytes(65532)),
]


@pytest.mark.parametrize("payload", UNSENDABLE, ids=lambda payload: type(payload).__name__)
def test_what_would_be_refused_is_not_sent(payload: Payload) -> None:
    with pytest.raises(WireError) as caught:
        encode_payloads((payload,))
    assert caught.value.where
    assert caught.value.what


@pytest.mark.parametrize(
    "payloads",
    [
        (Encrypted(0, b""), Notify(1)),
        (EncryptedFragment(0, 1, 1, b""), Notify(1)),
        (EncryptedFragment(0, 0, 1, b""),),
        (EncryptedFragment(0, 65536, 65536, b""),),
        (EncryptedFragment(41, 2, 2, b""),),
        (Encrypted(256, b""),),
        (Nonce(bytes(16)), Nonce(bytes(16))),
    ],
)
def test_chains_that_would_be_refused_are_not_sent(payloads: tuple[Payload, ...]) -> None:
    with pytest.raises(WireError):
        encode_message(Message(SPI, SPI, 37, 0, True, False, payloads))


@pytest.mark.parametrize(
    "header",
    [
        Header(b"", SPI, 0, 37, True, False, 0, 28),
        Header(SPI, SPI + b"\0", 0, 37, True, False, 0, 28),
        Header(SPI, SPI, 256, 37, True, False, 0, 28),
        Header(SPI, SPI, 0, 256, True, False, 0, 28),
        Header(SPI, SPI, 0, 37, True, False, 2**32, 28),
        Header(SPI, SPI, 0, 37, True, False, -1, 28),
        Header(SPI, SPI, 0, 37, True, False, 0, 28, major=16),
        Header(SPI, SPI, 0, 37, True, False, 0, 28, minor=-1),
    ],
)
def test_headers_that_do_not_fit_are_not_sent(header: Header) -> None:
    with pytest.raises(WireError):
        encode_header(header)


def test_cursor() -> None:
    cursor = Cursor(bytes.fromhex("01 0203 04050607 0809 0a0b"), "top")
    assert (cursor.u8(), cursor.u16(), cursor.u32(), cursor.remaining) == (1, 0x0203, 0x04050607, 4)
    inner = cursor.sub(2, "inner")
    assert (inner.u8(), inner.offset) == (8, 8)
    with pytest.raises(WireError) as caught:
        inner.u16()
    assert str(caught.value) == "top/inner at octet 8: needs 2 octets, 1 are left"
    with pytest.raises(WireError, match="top/inner at octet 8: 1 trailing octets"):
        inner.expect_end()
    assert inner.rest() == b"\x09"
    inner.expect_end()
    with pytest.raises(WireError, match="top/inner at octet 9: needs 1 octets, 0 are left"):
        inner.u8()
    with pytest.raises(WireError, match="needs -1 octets"):
        cursor.take(-1)
    assert cursor.take(0) == b""
    assert cursor.rest() == b"\x0a\x0b"
