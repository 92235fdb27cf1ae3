"""Who somebody is: the identity of an ID payload, in swanctl.conf's notation (RFC 7296 section 3.5)."""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from deadpeer.wire import Identification, IdType

from .der import DistinguishedName, NameValue, read_name, write_name
from .errors import IdentityError

_ANY = 0

# Short names of a DN's attributes, as strongSwan and OpenSSL write them. An OID's first is the one shown.
_NAME_OIDS: dict[str, str] = {
    "C": "2.5.4.6",
    "ST": "2.5.4.8",
    "S": "2.5.4.8",
    "L": "2.5.4.7",
    "STREET": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "CN": "2.5.4.3",
    "T": "2.5.4.12",
    "G": "2.5.4.42",
    "GN": "2.5.4.42",
    "SN": "2.5.4.5",
    "SERIALNUMBER": "2.5.4.5",
    "SURNAME": "2.5.4.4",
    "INITIALS": "2.5.4.43",
    "DNQ": "2.5.4.46",
    "DNQUALIFIER": "2.5.4.46",
    "PC": "2.5.4.17",
    "POSTALCODE": "2.5.4.17",
    "N": "2.5.4.41",
    "NAME": "2.5.4.41",
    "DC": "0.9.2342.19200300.100.1.25",
    "UID": "0.9.2342.19200300.100.1.1",
    "E": "1.2.840.113549.1.9.1",
    "EMAIL": "1.2.840.113549.1.9.1",
    "EMAILADDRESS": "1.2.840.113549.1.9.1",
}
_SHOWN: dict[str, str] = {oid: name for name, oid in reversed(_NAME_OIDS.items())}
_IA5_OIDS = frozenset({_NAME_OIDS["DC"], _NAME_OIDS["E"]})
_DOTTED = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,9})){1,20}")
_HOST = re.compile(r"[A-Za-z0-9_*]([A-Za-z0-9_.*-]*[A-Za-z0-9_*])?\.?")

_PREFIXES: dict[str, int] = {
    "fqdn": IdType.FQDN,
    "dns": IdType.FQDN,
    "rfc822": IdType.RFC822,
    "email": IdType.RFC822,
    "keyid": IdType.KEY_ID,
    "asn1dn": IdType.DER_DN,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity: `id_type` (deadpeer.wire.IdType; 0 is %any, for expectations only) and its octets.

    `==` compares octets; `matches` compares meaning.
    """

    id_type: int
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read swanctl.conf's notation.

        %any; an IPv4 or IPv6 address; CN=..., O=... (a DN, first RDN first); user@host; @fqdn; a bare FQDN;
        keyid:HEX or @#HEX; fqdn:, email:, asn1dn: before a text that would else be taken for something else
        (with 0x and hexadecimal after them, for octets that are no text).
        Raises IdentityError with what is wrong.
        """
        text = text.strip()
        if not text:
            raise IdentityError("an identity must not be empty; %any stands for any")
        if text == "%any":
            return cls(_ANY, b"")
        prefix, colon, rest = text.partition(":")
        if colon and prefix.lower() in _PREFIXES:
            return cls(*_prefixed(prefix.lower(), rest.strip()))
        return cls(*_guessed(text))

    @classmethod
    def from_payload(cls, payload: Identification) -> Self:
        """The identity that an IDi or IDr payload holds."""
        return cls(payload.id_type, payload.data)

    def to_payload(self, initiator: bool) -> Identification:
        """IDi or IDr with this identity. Raises IdentityError for %any, which nobody is."""
        if self.is_any:
            raise IdentityError("%any can't be sent as one's own identity")
        return Identification(initiator, self.id_type, self.data)

    @property
    def is_any(self) -> bool:
        """Whether this is %any."""
        return self.id_type == _ANY

    def matches(self, presented: "Identity") -> bool:
        """Whether `presented` is who is expected here.

        %any expects anybody. Names of hosts and mail addresses compare without regard to case, DNs RDN by RDN
        without regard to case, white space and string type (RFC 5280 section 7.1), all else octet by octet.
        """
        if presented.is_any:
            return False
        if self.is_any:
            return True
        if self.id_type != presented.id_type:
            return False
        if self.id_type in (IdType.FQDN, IdType.RFC822):
            return self.data.lower() == presented.data.lower()
        if self.id_type == IdType.DER_DN:
            return same_name(self.data, presented.data)
        return self.data == presented.data

    def __str__(self) -> str:
        """Readable, printable whatever a peer sent, and read back by `parse` to what matches."""
        if self.is_any:
            return "%any"
        if self.id_type in (IdType.IPV4, IdType.IPV6) and len(self.data) in (4, 16):
            return str(ipaddress.ip_address(self.data))
        if self.id_type in (IdType.FQDN, IdType.RFC822):
            return _show_text(self.id_type, self.data)
        if self.id_type == IdType.DER_DN:
            try:
                return _show_name(read_name(self.data))
            except ValueError:
                return f"asn1dn:0x{self.data.hex()}"
        if self.id_type == IdType.KEY_ID:
            return f"keyid:{self.data.hex()}"
        return f"id{int(self.id_type)}:0x{self.data.hex()}"


def matches(expected: Identity, presented: Identity) -> bool:
    """Identity.matches as a function."""
    return expected.matches(presented)


def same_name(one: bytes, other: bytes) -> bool:
    """Whether two DER names mean the same; octets that can't be read are the same only as themselves."""
    if one == other:
        return True
    try:
        return _normal(read_name(one)) == _normal(read_name(other))
    except ValueError:
        return False


def _normal(name: DistinguishedName) -> list[frozenset[tuple[str, str]]]:
    return [frozenset((pair.oid, " ".join(pair.value.casefold().split())) for pair in rdn) for rdn in name]


def _prefixed(prefix: str, rest: str) -> tuple[int, bytes]:
    kind = _PREFIXES[prefix]
    if kind == IdType.KEY_ID or rest.startswith("0x"):
        return kind, _hex(rest, prefix)
    if not rest:
        raise IdentityError(f"nothing after {prefix}:")
    if kind == IdType.DER_DN:
        return kind, write_name(_parse_name(rest), _IA5_OIDS)
    return kind, _ascii(rest)


def _guessed(text: str) -> tuple[int, bytes]:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        return (IdType.IPV4 if address.version == 4 else IdType.IPV6), address.packed
    if text.startswith("@#"):
        return IdType.KEY_ID, _hex(text[2:], "@#")
    if text.startswith("@@"):
        return IdType.RFC822, _ascii(text[2:])
    if text.startswith("@"):
        return IdType.FQDN, _host(text[1:])
    if "=" in text:
        return IdType.DER_DN, write_name(_parse_name(text), _IA5_OIDS)
    if "@" in text:
        return IdType.RFC822, _ascii(text)
    return IdType.FQDN, _host(text)


def _host(text: str) -> bytes:
    if not _HOST.fullmatch(text):
        raise IdentityError(
            f"{text!r} is not a host name, address, mail address or DN (write fqdn: to insist)"
        )
    return text.encode()


def _ascii(text: str) -> bytes:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise IdentityError(f"{text!r} holds what an identity of this type can't")
    return text.encode()


def _hex(text: str, where: str) -> bytes:
    try:
        octets = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise IdentityError(f"{text!r} after {where} is not hexadecimal") from None
    if not octets:
        raise IdentityError(f"nothing after {where}")
    return octets


def _parse_name(text: str) -> DistinguishedName:
    """The RDNs in the order written. A backslash or double quotes protect a comma or plus."""
    rdns = [tuple(_parse_pair(pair, text) for pair in _split(rdn, "+")) for rdn in _split(text, ",")]
    return tuple(rdns)


def _parse_pair(pair: str, text: str) -> NameValue:
    key, equals, value = pair.partition("=")
    key = key.strip()
    value = _unescape(value.strip())
    if not equals or not value:
        raise IdentityError(f"{pair.strip()!r} in the DN {text!r} is not of the form TYPE=value")
    oid = _NAME_OIDS.get(key.upper())
    if oid is None and _DOTTED.fullmatch(key) and (key[0] == "2" or int(key.split(".")[1]) < 40):
        oid = key
    if oid is None:
        raise IdentityError(f"unknown type {key!r} in the DN {text!r}; known are {', '.join(_NAME_OIDS)}")
    return NameValue(oid, value)


def _split(text: str, separator: str) -> list[str]:
    parts, quoted, at, start = [], False, 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == '"':
            quoted = not quoted
        elif text[at] == separator and not quoted:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]]


def _unescape(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return re.sub(r"\\(.)", r"\1", value)


def _show_name(name: DistinguishedName) -> str:
    return ", ".join(
        "+".join(f"{_SHOWN.get(pair.oid, pair.oid)}={_escape(pair.value)}" for pair in rdn) for rdn in name
    )


def _escape(value: str) -> str:
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
    return re.sub(r'([\\,+"])', r"\\\1", shown)


@lru_cache(maxsize=1024)
def _show_text(id_type: int, data: bytes) -> str:
    word = "fqdn" if id_type == IdType.FQDN else "email"
    text = data.decode("ascii", "replace")
    if not text.isascii() or not text.isprintable() or " " in text or not text:
        return f"{word}:0x{data.hex()}"
    try:
        plain = Identity.parse(text) == Identity(id_type, data)
    except IdentityError:
        plain = False
    if plain:
        return text
    return f"{word}:0x{data.hex()}" if text.startswith("0x") else f"{word}:{text}"
