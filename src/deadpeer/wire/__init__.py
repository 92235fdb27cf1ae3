"""IKEv2 and ESP octets to frozen values and back. No keys, no state, no I/O.

Decoding raises `WireError`, and nothing else, whatever octets come in. All numbers decode to plain ints,
known or not; they compare equal to the members of the enumerations in `constants`.
"""

from deadpeer.wire.configuration import ConfigAttribute, Configuration
from deadpeer.wire.constants import (
    AttributeType,
    AuthMethod,
    CertEncoding,
    ConfigType,
    ExchangeType,
    IdType,
    NotifyType,
    PayloadType,
    Protocol,
    TransformType,
    TsType,
    label,
)
from deadpeer.wire.cursor import Cursor
from deadpeer.wire.encrypted import Encrypted, EncryptedFragment
from deadpeer.wire.errors import UnsupportedCriticalPayload, WireError
from deadpeer.wire.esp import (
    ESP_HEADER_SIZE,
    EspHeader,
    EspPacket,
    decode_esp,
    decode_esp_header,
    encode_esp,
    encode_esp_header,
)
from deadpeer.wire.exchange_data import KeyExchange, Nonce
from deadpeer.wire.identity import Authentication, Certificate, CertificateRequest, Identification
from deadpeer.wire.message import (
    HEADER_SIZE,
    Header,
    Message,
    decode_header,
    decode_message,
    encode_header,
    encode_message,
)
from deadpeer.wire.notify import Delete, Notify, VendorId
from deadpeer.wire.opaque import Eap, UnknownPayload
from deadpeer.wire.payloads import MAX_PAYLOADS, Payload, decode_payloads, encode_payloads
from deadpeer.wire.sa import FIRST_ESP_SPI, Attribute, Proposal, SecurityAssociation, Transform
from deadpeer.wire.selectors import OPAQUE_PORTS, TrafficSelector, TrafficSelectors
from deadpeer.wire.udp import KEEPALIVE, NON_ESP_MARKER, UdpKind, add_marker, classify, strip_marker

__all__ = [
    "Attribute",
    "AttributeType",
    "AuthMethod",
    "Authentication",
    "CertEncoding",
    "Certificate",
    "CertificateRequest",
    "ConfigAttribute",
    "ConfigType",
    "Configuration",
    "Cursor",
    "Delete",
    "ESP_HEADER_SIZE",
    "Eap",
    "Encrypted",
    "EncryptedFragment",
    "EspHeader",
    "EspPacket",
    "ExchangeType",
    "FIRST_ESP_SPI",
    "HEADER_SIZE",
    "Header",
    "IdType",
    "Identification",
    "KEEPALIVE",
    "KeyExchange",
    "MAX_PAYLOADS",
    "Message",
    "NON_ESP_MARKER",
    "Nonce",
    "Notify",
    "NotifyType",
    "OPAQUE_PORTS",
    "Payload",
    "PayloadType",
    "Proposal",
    "Protocol",
    "SecurityAssociation",
    "TrafficSelector",
    "TrafficSelectors",
    "Transform",
    "TransformType",
    "TsType",
    "UdpKind",
    "UnknownPayload",
    "UnsupportedCriticalPayload",
    "VendorId",
    "WireError",
    "add_marker",
    "classify",
    "decode_esp",
    "decode_esp_header",
    "decode_header",
    "decode_message",
    "decode_payloads",
    "encode_esp",
    "encode_esp_header",
    "encode_header",
    "encode_message",
    "encode_payloads",
    "label",
    "strip_marker",
]
