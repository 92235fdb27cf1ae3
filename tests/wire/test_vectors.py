"""Octets written by hand from the figures of the RFCs, in both directions."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from deadpeer.wire import (
    Attribute,
    Authentication,
    AuthMethod,
    CertEncoding,
    Certificate,
    CertificateRequest,
    ConfigAttribute,
    Configuration,
    Delete,
    Eap,
    Encrypted,
    EncryptedFragment,
    ExchangeType,
    Header,
    Identification,
    IdType,
    KeyExchange,
    Message,
    Nonce,
    Notify,
    NotifyType,
    Payload,
    PayloadType,
    Proposal,
    Protocol,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectors,
    Transform,
    TransformType,
    UnknownPayload,
    VendorId,
    decode_header,
    decode_message,
    decode_payloads,
    encode_message,
    encode_payloads,
    label,
)

SPI_I = bytes.fromhex("0011223344556677")
SPI_R = bytes.fromhex("8899aabbccddeeff")

AES_256 = Transform(TransformType.ENCR, 20, (Attribute(14, 256),))
CHILD_PROPOSALS = SecurityAssociation(
    (
        Proposal(1, Protocol.ESP, bytes.fromhex("c0ffee01"), (AES_256, Transform(TransformType.ESN, 0))),
        Proposal(2, Protocol.ESP, bytes.fromhex("c0ffee02"), (Transform(TransformType.ENCR, 28),)),
    )
)
CHILD_PROPOSALS_HEX = (
    "0200 0020 01 03 04 02 c0ffee01"
    " 0300 000c 01 00 0014 800e 0100"
    " 0000 0008 05 00 0000"
    " 0000 0014 02 03 04 01 c0ffee02"
    " 0000 0008 01 00 001c"
)
V4 = TrafficSelector(6, 80, 443, IPv4Address("10.1.0.0"), IPv4Address("10.1.255.255"))
V6 = TrafficSelector(0, 0, 65535, IPv6Address("2001:db8::"), IPv6Address("2001:db8::ffff"))
HIDDEN_PORTS = TrafficSelector(17, 65535, 0, IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255"))  # noqa: S104

BODIES: list[tuple[PayloadType, Payload, str]] = [
    (PayloadType.SA, CHILD_PROPOSALS, CHILD_PROPOSALS_HEX),
    (
        PayloadType.SA,
        # an attribute in the long form, and the SPI of an IKE rekey
        SecurityAssociation(
            (Proposal(7, Protocol.IKE, SPI_I, (Transform(250, 9, (Attribute(1, b"xyz"),)),)),)
        ),
        "0000 001f 07 01 08 01 0011223344556677 0000 000f fa 00 0009 0001 0003 78797a",
    ),
    (PayloadType.KE, KeyExchange(31, b"\x01\x02\x03"), "001f 0000 010203"),
    (PayloadType.IDI, Identification(True, IdType.FQDN, b"alice"), "02 000000 616c696365"),
    (PayloadType.IDR, Identification(False, IdType.IPV4, bytes([192, 0, 2, 1])), "01 000000 c0000201"),
    (PayloadType.CERT, Certificate(CertEncoding.X509_SIGNATURE, b"\x30\x00"), "04 3000"),
    (PayloadType.CERTREQ, CertificateRequest(CertEncoding.X509_SIGNATURE, b"\xaa" * 20), "04" + "aa" * 20),
    (PayloadType.AUTH, Authentication(AuthMethod.SHARED_KEY, b"\xbb" * 4), "02 000000 bbbbbbbb"),
    (PayloadType.NONCE, Nonce(bytes(range(16))), "000102030405060708090a0b0c0d0e0f"),
    (PayloadType.NOTIFY, Notify(NotifyType.COOKIE, b"\xcc"), "00 00 4006 cc"),
    (
        PayloadType.NOTIFY,
        Notify(NotifyType.REKEY_SA, protocol=Protocol.ESP, spi=bytes.fromhex("c0ffee01")),
        "03 04 4009 c0ffee01",
    ),
    (PayloadType.NOTIFY, Notify(NotifyType.QCD_TOKEN, b"\xdd" * 16, Protocol.IKE), "01 00 4023" + "dd" * 16),
    (
        PayloadType.NOTIFY,
        Notify(40970, b"\x01", 1, SPI_I + SPI_R),
        "01 10 a00a 0011223344556677 8899aabbccddeeff 01",
    ),
    (PayloadType.DELETE, Delete(Protocol.IKE, ()), "01 00 0000"),
    (
        PayloadType.DELETE,
        Delete(Protocol.ESP, (bytes.fromhex("c0ffee01"), bytes.fromhex("c0ffee02"))),
        "03 04 0002 c0ffee01 c0ffee02",
    ),
    (PayloadType.VENDOR, VendorId(b"deadpeer"), "6465616470656572"),
    (
        PayloadType.TSI,
        TrafficSelectors(True, (V4, HIDDEN_PORTS)),
        "02 000000 07 06 0010 0050 01bb 0a010000 0a01ffff 07 11 0010 ffff 0000 00000000 ffffffff",
    ),
    (
        PayloadType.TSR,
        TrafficSelectors(False, (V6,)),
        "01 000000 08 00 0028 0000 ffff 20010db8000000000000000000000000 20010db800000000000000000000ffff",
    ),
    (
        PayloadType.CP,
        Configuration(1, (ConfigAttribute(1, b""), ConfigAttribute(3, bytes([192, 0, 2, 53])))),
        "01 000000 0001 0000 0003 0004 c0000235",
    ),
    (PayloadType.EAP, Eap(b"\x03\x02\x00\x04"), "03020004"),
]


@pytest.mark.parametrize(("kind", "payload", "body"), BODIES, ids=lambda value: type(value).__name__)
def test_body(kind: PayloadType, payload: Payload, body: str) -> None:
    octets = bytes.fromhex(body)
    chain = bytes(2) + (len(octets) + 4).to_bytes(2) + octets
    assert encode_payloads((payload,)) == (kind, chain)
    assert decode_payloads(kind, chain) == ((payload,), ())


IKE_SA_INIT_HEX = (
    "0011223344556677 0000000000000000 21 20 22 08 00000000 0000007c"
    # SA: one proposal, AES-GCM-16-256, PRF-HMAC-SHA-256, X25519
    "2200 0028 0000 0024 01 01 00 03"
    " 0300 000c 01 00 0014 800e 0100  0300 0008 02 00 0005  0000 0008 04 00 001f"
    # KE, Nonce
    "2800 0010 001f 0000 a1a2a3a4a5a6a7a8"
    "2900 0014 b0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
    # N(IKEV2_FRAGMENTATION_SUPPORTED), N(SIGNATURE_HASH_ALGORITHMS)
    "2900 0008 00 00 402e"
    "0000 000c 00 00 402f 00020005"
)


def test_ike_sa_init() -> None:
    octets = bytes.fromhex(IKE_SA_INIT_HEX)
    message = Message(
        SPI_I,
        bytes(8),
        ExchangeType.IKE_SA_INIT,
        0,
        True,
        False,
        (
            SecurityAssociation(
                (
                    Proposal(
                        1,
                        Protocol.IKE,
                        b"",
                        (AES_256, Transform(TransformType.PRF, 5), Transform(TransformType.KEY_EXCHANGE, 31)),
                    ),
                )
            ),
            KeyExchange(31, bytes.fromhex("a1a2a3a4a5a6a7a8")),
            Nonce(bytes.fromhex("b0b1b2b3b4b5b6b7b8b9babbbcbdbebf")),
            Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),
            Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, bytes.fromhex("00020005")),
        ),
    )
    assert decode_message(octets) == message
    assert encode_message(message) == octets


def test_header_of_a_response_of_the_original_responder() -> None:
    octets = bytes.fromhex("0011223344556677 8899aabbccddeeff 00 20 25 20 00000102 0000001c")
    assert decode_header(octets) == Header(
        SPI_I, SPI_R, 0, ExchangeType.INFORMATIONAL, False, True, 0x102, 28
    )


def test_sealed_message() -> None:
    octets = bytes.fromhex(
        "0011223344556677 8899aabbccddeeff 2e 20 23 08 00000001 00000028 2300 000c 0102030405060708"
    )
    sealed = Encrypted(PayloadType.IDI, bytes(range(1, 9)))
    message = Message(SPI_I, SPI_R, ExchangeType.IKE_AUTH, 1, True, False, (sealed,))
    assert decode_message(octets) == message
    assert encode_message(message) == octets
    assert message.protected == sealed


@pytest.mark.parametrize(
    ("fragment", "chain"),
    [
        (EncryptedFragment(PayloadType.IDI, 1, 2, b"\x01\x02"), "2300 000a 0001 0002 0102"),
        (EncryptedFragment(0, 2, 2, b"\x03\x04"), "0000 000a 0002 0002 0304"),
    ],
)
def test_fragments(fragment: EncryptedFragment, chain: str) -> None:
    octets = bytes.fromhex("0011223344556677 8899aabbccddeeff 35 20 23 08 00000001 00000026" + chain)
    message = Message(SPI_I, SPI_R, ExchangeType.IKE_AUTH, 1, True, False, (fragment,))
    assert decode_message(octets) == message
    assert encode_message(message) == octets


def test_answer_to_an_unknown_ike_spi_with_a_token() -> None:
    octets = bytes.fromhex(
        "0011223344556677 8899aabbccddeeff 29 20 25 20 00000007 0000003c"
        "2900 0008 00 00 0004"
        "0000 0018 01 00 4023" + "5a" * 16
    )
    message = decode_message(octets)
    assert message.notify(NotifyType.INVALID_IKE_SPI) == Notify(NotifyType.INVALID_IKE_SPI)
    assert message.notifies(NotifyType.QCD_TOKEN) == (
        Notify(NotifyType.QCD_TOKEN, b"\x5a" * 16, Protocol.IKE),
    )
    assert encode_message(message) == octets


def test_reserved_bits_are_ignored() -> None:
    octets = bytearray.fromhex(IKE_SA_INIT_HEX)
    expected = decode_message(bytes(octets))
    octets[17] |= 0x05  # minor version
    octets[19] |= 0xD7  # every flag but Initiator and Response
    octets[29] |= 0xFF  # critical bit (known payload) and reserved bits of the SA payload
    octets[33] |= 0xFF  # reserved octet of the proposal
    octets[29 + 40 + 5] |= 0xFF  # reserved octets of KE
    assert decode_message(bytes(octets)) == expected


def test_reserved_octets_of_an_identity_are_kept_for_auth_but_not_compared() -> None:
    chain = bytes.fromhex("0000 000a 02 a1b2c3 6869")
    (payload,), _ = decode_payloads(PayloadType.IDI, chain)
    assert payload == Identification(True, IdType.FQDN, b"hi")
    assert isinstance(payload, Identification)
    assert payload.body == bytes.fromhex("02 a1b2c3 6869")
    assert Identification(True, IdType.FQDN, b"hi").body == bytes.fromhex("02 000000 6869")


def test_selectors_of_unknown_types_are_left_out() -> None:
    label_selector = "0a 00 0007 616263"
    v4 = "07 06 0010 0050 01bb 0a010000 0a01ffff"
    body = bytes.fromhex("02 000000" + label_selector + v4)
    chain = bytes(2) + (len(body) + 4).to_bytes(2) + body
    assert decode_payloads(PayloadType.TSI, chain) == ((TrafficSelectors(True, (V4,), unknown=(10,)),), ())


def test_unknown_numbers_stay_plain_ints() -> None:
    octets = bytes.fromhex(
        "0011223344556677 8899aabbccddeeff 29 20 c8 08 00000000 00000024 0000 0008 00 00 fffe"
    )
    message = decode_message(octets)
    assert type(message.exchange) is int
    assert message.exchange == 200
    notify = message.first(Notify)
    assert notify is not None
    assert type(notify.type) is int
    assert notify.name == "65534"
    assert label(ExchangeType, message.exchange) == "200"
    assert label(ExchangeType, 34) == "IKE_SA_INIT"


def test_unknown_payload_is_skipped() -> None:
    octets = bytes.fromhex(
        "0011223344556677 8899aabbccddeeff c8 20 25 08 00000000 0000002a 2900 0006 6869 0000 0008 00 00 4000"
    )
    message = decode_message(octets)
    assert message.payloads == (Notify(NotifyType.INITIAL_CONTACT),)
    assert message.skipped == (UnknownPayload(200, b"hi"),)


def test_secrets_are_not_in_the_repr() -> None:
    token = b"\x5a" * 16
    for payload in (
        Notify(NotifyType.QCD_TOKEN, token),
        Authentication(AuthMethod.SHARED_KEY, token),
        Eap(token),
        UnknownPayload(200, token),
    ):
        assert repr(token) not in repr(payload)
        assert token.hex() not in repr(payload)
