"""Chains of payloads: the generic header (RFC 7296 section 3.2), and which type is whose."""

from collections import Counter
from collections.abc import Callable, Sequence
from struct import Struct

from deadpeer.wire.configuration import Configuration
from deadpeer.wire.constants import PayloadType
from deadpeer.wire.cursor import Cursor, pack
from deadpeer.wire.encrypted import Encrypted, EncryptedFragment
from deadpeer.wire.errors import UnsupportedCriticalPayload, WireError
from deadpeer.wire.exchange_data import KeyExchange, Nonce
from deadpeer.wire.identity import Authentication, Certificate, CertificateRequest, Identification
from deadpeer.wire.notify import Delete, Notify, VendorId
from deadpeer.wire.opaque import Eap, UnknownPayload
from deadpeer.wire.sa import SecurityAssociation
from deadpeer.wire.selectors import TrafficSelectors

Payload = (
    SecurityAssociation
    | KeyExchange
    | Identification
    | Certificate
    | CertificateRequest
    | Authentication
    | Nonce
    | Notify
    | Delete
    | VendorId
    | TrafficSelectors
    | Encrypted
    | EncryptedFragment
    | Configuration
    | Eap
    | UnknownPayload
)

Chain = tuple[tuple[Payload, ...], tuple[UnknownPayload, ...]]
"""The known payloads of a chain in their order, and the unknown ones that were skipped."""

MAX_PAYLOADS = 64
"""Payloads in one chain, skipped ones included."""


def encode_payloads(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """The type of the first payload (0 if there is none) and the octets of the chain, to be sealed.

    Raises WireError for a value that has no valid octets, a chain that `decode_payloads` would refuse, or
    a protected payload.
    """
    for payload in payloads:
        if isinstance(payload, Encrypted | EncryptedFragment):
            raise WireError(_NAMES[payload.payload_type], "inside protected content")
    return encode_chain(payloads)


def decode_payloads(first_type: int, octets: bytes, where: str = "SK") -> Chain:
    """Read a decrypted chain that begins with a payload of `first_type`. Raises WireError."""
    cursor = Cursor(octets, where)
    if first_type in _PROTECTED:
        raise cursor.error(f"{_NAMES[first_type]} payload inside protected content")
    payloads, skipped = decode_chain(first_type, cursor)
    if payloads and isinstance(payloads[-1], Encrypted | EncryptedFragment):
        raise cursor.error(f"{_NAMES[payloads[-1].payload_type]} payload inside protected content")
    return payloads, skipped


def encode_chain(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """As `encode_payloads`, but the last payload may be a protected one."""
    if len(payloads) > MAX_PAYLOADS:
        raise WireError("payloads", f"{len(payloads)}, more than {MAX_PAYLOADS}")
    types = [payload.payload_type for payload in payloads]
    for type_, count in Counter(types).items():
        if count > 1 and type_ in _ONCE:
            raise WireError(_name(type_), "more than once")
    parts: list[bytes] = []
    for index, payload in enumerate(payloads):
        last = index == len(payloads) - 1
        if isinstance(payload, Encrypted | EncryptedFragment):
            if not last:
                raise WireError(_name(types[index]), "not the last payload")
            following = payload.first_payload
        else:
            following = PayloadType.NONE if last else types[index + 1]
        parts.append(_encode_payload(payload, following))
    return (types[0] if types else PayloadType.NONE), b"".join(parts)


def decode_chain(first_type: int, cursor: Cursor) -> Chain:
    """Read payloads to the cursor's end. A protected payload ends the chain. Raises WireError."""
    payloads: list[Payload] = []
    skipped: list[UnknownPayload] = []
    seen: set[int] = set()
    type_ = first_type
    while type_ != PayloadType.NONE:
        name = _name(type_)
        if len(payloads) + len(skipped) == MAX_PAYLOADS:
            raise cursor.error(f"more than {MAX_PAYLOADS} payloads")
        if type_ in _ONCE:
            if type_ in seen:
                raise cursor.error(f"{name} payload more than once")
            seen.add(type_)
        if cursor.remaining < _GENERIC.size:
            raise cursor.error(f"{name} payload needs a header, {cursor.remaining} octets are left")
        following, flags, length = cursor.unpack(_GENERIC)
        if length < _GENERIC.size:
            raise cursor.error(f"length {length} of {name} payload is less than its header")
        body = cursor.sub(length - _GENERIC.size, name)
        if type_ in _PROTECTED:
            payloads.append(_PROTECTED[type_](body, following))
            following = PayloadType.NONE
        elif decode := _DECODERS.get(type_):
            payloads.append(decode(body))
            body.expect_end()
        elif flags & _CRITICAL:
            raise UnsupportedCriticalPayload(body.place, type_)
        else:
            skipped.append(UnknownPayload(type_, body.rest()))
        type_ = following
    cursor.expect_end()
    return tuple(payloads), tuple(skipped)


# next payload, critical bit, length with this header
_GENERIC = Struct("!BBH")
_CRITICAL = 0x80

_DECODERS: dict[int, Callable[[Cursor], Payload]] = {
    PayloadType.SA: SecurityAssociation.decode_body,
    PayloadType.KE: KeyExchange.decode_body,
    PayloadType.IDI: lambda cursor: Identification.decode_body(cursor, initiator=True),
    PayloadType.IDR: lambda cursor: Identification.decode_body(cursor, initiator=False),
    PayloadType.CERT: Certificate.decode_body,
    PayloadType.CERTREQ: CertificateRequest.decode_body,
    PayloadType.AUTH: Authentication.decode_body,
    PayloadType.NONCE: Nonce.decode_body,
    PayloadType.NOTIFY: Notify.decode_body,
    PayloadType.DELETE: Delete.decode_body,
    PayloadType.VENDOR: VendorId.decode_body,
    PayloadType.TSI: lambda cursor: TrafficSelectors.decode_body(cursor, initiator=True),
    PayloadType.TSR: lambda cursor: TrafficSelectors.decode_body(cursor, initiator=False),
    PayloadType.CP: Configuration.decode_body,
    PayloadType.EAP: Eap.decode_body,
}
_PROTECTED: dict[int, Callable[[Cursor, int], Encrypted | EncryptedFragment]] = {
    PayloadType.SK: lambda cursor, first: Encrypted.decode_body(cursor, first_payload=first),
    PayloadType.SKF: lambda cursor, first: EncryptedFragment.decode_body(cursor, first_payload=first),
}
_NAMES: dict[int, str] = {
    PayloadType.SA: "SA",
    PayloadType.KE: "KE",
    PayloadType.IDI: "IDi",
    PayloadType.IDR: "IDr",
    PayloadType.CERT: "CERT",
    PayloadType.CERTREQ: "CERTREQ",
    PayloadType.AUTH: "AUTH",
    PayloadType.NONCE: "Nonce",
    PayloadType.NOTIFY: "Notify",
    PayloadType.DELETE: "Delete",
    PayloadType.VENDOR: "Vendor ID",
    PayloadType.TSI: "TSi",
    PayloadType.TSR: "TSr",
    PayloadType.SK: "SK",
    PayloadType.CP: "CP",
    PayloadType.EAP: "EAP",
    PayloadType.SKF: "SKF",
}
# SK and SKF end a chain, so they can't come twice
_ONCE = frozenset(
    {
        PayloadType.SA,
        PayloadType.KE,
        PayloadType.IDI,
        PayloadType.IDR,
        PayloadType.AUTH,
        PayloadType.NONCE,
        PayloadType.TSI,
        PayloadType.TSR,
    }
)


def _name(type_: int) -> str:
    return _NAMES.get(type_) or f"type {type_}"


def _encode_payload(payload: Payload, following: int) -> bytes:
    name = _name(payload.payload_type)
    flags = 0
    if isinstance(payload, UnknownPayload):
        if payload.type in _NAMES or not 0 < payload.type <= 0xFF:
            raise WireError(name, "not a type of unknown payloads")
        flags = _CRITICAL if payload.critical else 0
    body = payload.encode_body()
    length = _GENERIC.size + len(body)
    if length > 0xFFFF:
        raise WireError(name, f"{length} octets do not fit a payload")
    return pack(name, _GENERIC, following, flags, length) + body
