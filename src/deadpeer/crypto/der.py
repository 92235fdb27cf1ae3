"""Just enough DER for distinguished names: reading a peer's, and writing one that a configuration spells out.

The `cryptography` package reads names inside certificates only, and an ID payload holds a bare one.
"""

from typing import NamedTuple

SEQUENCE, SET, OID = 0x30, 0x31, 0x06
_UTF8, _PRINTABLE, _IA5 = 0x0C, 0x13, 0x16
# What a name's value may be in, and how its octets are text.
_CODECS = {
    _UTF8: "utf-8",
    0x12: "ascii",  # NumericString
    _PRINTABLE: "ascii",
    0x14: "latin-1",  # TeletexString, as it is used
    _IA5: "ascii",
    0x1A: "ascii",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}
_PRINTABLE_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")


class NameValue(NamedTuple):
    """One attribute of a name: its type as a dotted OID, its value as text."""

    oid: str
    value: str


DistinguishedName = tuple[tuple[NameValue, ...], ...]
"""The RDNs of a name, first as encoded; each nearly always of one value."""


class _Element(NamedTuple):
    tag: int
    body: bytes


def read_name(octets: bytes) -> DistinguishedName:
    """Read the DER of an X.501 Name. Raises ValueError on anything but one whole Name."""
    return tuple(
        tuple(_read_value(pair) for pair in _elements(_body(rdn, SET)))
        for rdn in _elements(_only(octets, SEQUENCE))
    )


def write_name(name: DistinguishedName, ia5: frozenset[str] = frozenset()) -> bytes:
    """Write a Name: IA5String for the OIDs in `ia5`, else PrintableString if that does, else UTF8String."""
    return _tlv(SEQUENCE, b"".join(_write_rdn(rdn, ia5) for rdn in name))


def _write_rdn(rdn: tuple[NameValue, ...], ia5: frozenset[str]) -> bytes:
    # DER sorts the members of a SET OF.
    return _tlv(SET, b"".join(sorted(_write_value(pair, ia5) for pair in rdn)))


def _write_value(pair: NameValue, ia5: frozenset[str]) -> bytes:
    if pair.oid in ia5 and pair.value.isascii():
        tag = _IA5
    elif set(pair.value) <= _PRINTABLE_CHARS:
        tag = _PRINTABLE
    else:
        tag = _UTF8
    return _tlv(SEQUENCE, _tlv(OID, _encode_oid(pair.oid)) + _tlv(tag, pair.value.encode(_CODECS[tag])))


def _read_value(pair: _Element) -> NameValue:
    members = _elements(_body(pair, SEQUENCE))
    if len(members) != 2:
        raise ValueError(f"{len(members)} members in a name's attribute instead of two")
    codec = _CODECS.get(members[1].tag)
    # A value of another kind is kept as its octets: it still compares.
    text = "#" + members[1].body.hex() if codec is None else members[1].body.decode(codec)
    return NameValue(_decode_oid(_body(members[0], OID)), text)


def _tlv(tag: int, body: bytes) -> bytes:
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + body


def _only(octets: bytes, tag: int) -> bytes:
    elements = _elements(octets)
    if len(elements) != 1:
        raise ValueError(f"{len(elements)} DER elements instead of one")
    return _body(elements[0], tag)


def _body(element: _Element, tag: int) -> bytes:
    if element.tag != tag:
        raise ValueError(f"DER tag {element.tag:#04x} instead of {tag:#04x}")
    return element.body


def _elements(octets: bytes) -> list[_Element]:
    found, at = [], 0
    while at < len(octets):
        if at + 2 > len(octets):
            raise ValueError("DER element cut off")
        tag, size = octets[at], octets[at + 1]
        at += 2
        if size >= 0x80:
            count = size & 0x7F
            if not 1 <= count <= 3 or at + count > len(octets):
                raise ValueError("DER length is indefinite, huge or cut off")
            size = int.from_bytes(octets[at : at + count], "big")
            at += count
        if at + size > len(octets):
            raise ValueError("DER element longer than what holds it")
        found.append(_Element(tag, octets[at : at + size]))
        at += size
    return found


def _encode_oid(dotted: str) -> bytes:
    arcs = [int(arc) for arc in dotted.split(".")]
    out = bytearray()
    for arc in (arcs[0] * 40 + arcs[1], *arcs[2:]):
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | arc & 0x7F)
        out += bytes(reversed(digits))
    return bytes(out)


def _decode_oid(body: bytes) -> str:
    if not body or body[-1] & 0x80:
        raise ValueError("object identifier cut off")
    arcs, value = [], 0
    for octet in body:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))
