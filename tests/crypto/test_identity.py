"""Identities: swanctl.conf's notation, what matches what, and printing whatever a peer sends."""

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crypto import Identity, IdentityError, matches
from deadpeer.crypto.der import NameValue, read_name, write_name
from deadpeer.wire import Identification, IdType


@pytest.mark.parametrize(
    ("text", "id_type", "data"),
    [
        ("moon.strongswan.org", IdType.FQDN, b"moon.strongswan.org"),
        ("moon", IdType.FQDN, b"moon"),
        ("@moon.example.org", IdType.FQDN, b"moon.example.org"),
        ("fqdn:10.0.0.1", IdType.FQDN, b"10.0.0.1"),
        ("carol@strongswan.org", IdType.RFC822, b"carol@strongswan.org"),
        ("@@carol@strongswan.org", IdType.RFC822, b"carol@strongswan.org"),
        ("email:carol", IdType.RFC822, b"carol"),
        ("10.1.0.1", IdType.IPV4, bytes((10, 1, 0, 1))),
        ("2001:db8::1", IdType.IPV6, bytes.fromhex("20010db8000000000000000000000001")),
        ("keyid:0A0b", IdType.KEY_ID, b"\x0a\x0b"),
        ("keyid:0x0a0b", IdType.KEY_ID, b"\x0a\x0b"),
        ("@#0a0b", IdType.KEY_ID, b"\x0a\x0b"),
        ("  spaced.example ", IdType.FQDN, b"spaced.example"),
    ],
)
def test_parse(text: str, id_type: int, data: bytes) -> None:
    identity = Identity.parse(text)
    assert identity == Identity(id_type, data)
    assert Identity.parse(str(identity)) == identity


def test_a_dn_is_encoded_in_the_order_written_as_any_x509_library_does() -> None:
    expected = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Linux strongSwan"),
            x509.NameAttribute(NameOID.COMMON_NAME, "moon"),
        ]
    )
    identity = Identity.parse("C=CH, O=Linux strongSwan, CN=moon")
    assert str(identity) == "C=CH, O=Linux strongSwan, CN=moon"
    assert identity.matches(Identity(IdType.DER_DN, expected.public_bytes()))
    assert identity.data.count(b"\x13") == 3  # PrintableString, as strongSwan's pki writes them
    assert not identity.matches(Identity.parse("CN=moon, O=Linux strongSwan, C=CH"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('O="Acme, Inc.",CN=a', r"O=Acme\, Inc., CN=a"),
        (r"O=Acme\, Inc., CN=a", r"O=Acme\, Inc., CN=a"),
        ("CN=a+UID=7, O=x", "CN=a+UID=7, O=x"),
        ("cn=Zürich, emailAddress=a@b", "CN=Zürich, E=a@b"),
        ("2.5.4.3=a, 1.2.3.4=b", "CN=a, 1.2.3.4=b"),
        ("DC=org, DC=example, CN=a=b", "DC=org, DC=example, CN=a=b"),
        ("asn1dn:CN=x", "CN=x"),
    ],
)
def test_dn_notation(text: str, shown: str) -> None:
    identity = Identity.parse(text)
    assert identity.id_type == IdType.DER_DN
    assert str(identity) == shown
    assert Identity.parse(shown).matches(identity)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must not be empty"),
        ("   ", "must not be empty"),
        ("CN=", "not of the form"),
        ("CN=a,", "not of the form"),
        ("XX=a", "unknown type 'XX'.*CN"),
        ("1.99=a", "unknown type"),
        ("a b", "not a host name"),
        ("-x-", "not a host name"),
        ("@", "not a host name"),
        ("keyid:", "nothing after"),
        ("keyid:xyz", "not hexadecimal"),
        ("keyid:abc", "not hexadecimal"),
        ("fqdn:", "nothing after"),
        ("fqdn:a b", "can't"),
        ("email:é@b", "can't"),
        ("a\nb@c", "can't"),
    ],
)
def test_what_is_no_identity(text: str, reason: str) -> None:
    with pytest.raises(IdentityError, match=reason):
        Identity.parse(text)


@pytest.mark.parametrize(
    ("expected", "presented", "same"),
    [
        ("Moon.Example.org", "moon.example.ORG", True),
        ("moon.example.org", "sun.example.org", False),
        ("Carol@example.org", "carol@Example.org", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("fqdn:10.0.0.1", "10.0.0.1", False),
        ("keyid:aa", "keyid:AA", True),
        ("keyid:61", "fqdn:a", False),
        ("C=CH, CN=Moon", "C=ch, CN= moon ", True),
        ("C=CH, CN=moon", "CN=moon", False),
        ("CN=moon", "C=CH, CN=moon", False),
        ("O=a  b, CN=x", "O=A b, CN=x", True),
        ("CN=a+UID=b", "UID=b+CN=a", True),
        ("CN=a, UID=b", "CN=a+UID=b", False),
        ("%any", "moon", True),
        ("%any", "CN=moon", True),
        ("%any", "%any", False),
        ("moon", "%any", False),
    ],
)
def test_matches(expected: str, presented: str, same: bool) -> None:
    one, other = Identity.parse(expected), Identity.parse(presented)
    assert one.matches(other) is same
    assert matches(one, other) is same


def test_string_types_of_a_dn_do_not_matter() -> None:
    # CN=moon as UTF8String, BMPString and TeletexString.
    for value in ("0c046d6f6f6e", "1e08006d006f006f006e", "14046d6f6f6e"):
        pair = "0603550403" + value
        octets = bytes.fromhex(f"30{len(pair) // 2:02x}{pair}")
        octets = b"\x31" + bytes((len(octets),)) + octets
        name = b"\x30" + bytes((len(octets),)) + octets
        assert Identity.parse("CN=moon").matches(Identity(IdType.DER_DN, name))
        assert str(Identity(IdType.DER_DN, name)) == "CN=moon"


def test_payloads() -> None:
    identity = Identity.parse("moon.example.org")
    payload = identity.to_payload(initiator=True)
    assert payload == Identification(True, IdType.FQDN, b"moon.example.org")
    assert Identity.from_payload(payload) == identity
    assert identity.to_payload(initiator=False).initiator is False
    with pytest.raises(IdentityError, match="%any"):
        Identity.parse("%any").to_payload(initiator=True)


def test_what_can_not_be_read_is_shown_in_hexadecimal() -> None:
    assert str(Identity(IdType.FQDN, b"a\nb")) == "fqdn:0x610a62"
    assert str(Identity(IdType.FQDN, b"")) == "fqdn:0x"
    assert str(Identity(IdType.RFC822, b"no at")) == "email:0x6e6f206174"
    assert str(Identity(IdType.DER_DN, b"\x30\x80")) == "asn1dn:0x3080"
    assert str(Identity(IdType.DER_GN, b"\x01")) == "id10:0x01"
    assert str(Identity(200, b"\x01")) == "id200:0x01"
    assert str(Identity(IdType.IPV4, b"\x01")) == "id1:0x01"
    assert Identity.parse("%any").is_any


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x30",
        b"\x30\x01",
        b"\x30\x80\x00\x00",  # indefinite
        b"\x30\x84\x00\x00\x00\x00",
        b"\x31\x00",  # not a SEQUENCE
        b"\x30\x00\x30\x00",  # two
        b"\x30\x02\x30\x00",  # an RDN that is no SET
        b"\x30\x04\x31\x02\x30\x00",  # an attribute without members
        b"\x30\x09\x31\x07\x30\x05\x06\x01\x83\x13\x00",  # an OID cut off
        b"\x30\x0b\x31\x09\x30\x07\x06\x03\x55\x04\x03\x0c\x01\xff"[:13],
        b"\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\xff",  # not UTF-8
    ],
)
def test_broken_names_match_only_themselves(octets: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_name(octets)
    broken = Identity(IdType.DER_DN, octets)
    assert broken.matches(broken)
    assert not broken.matches(Identity.parse("CN=moon"))
    assert not Identity.parse("CN=moon").matches(broken)


OIDS = st.sampled_from(
    ["2.5.4.3", "2.5.4.10", "1.3.6.1.4.1.99999.1", "2.999.3", "0.9.2342.19200300.100.1.25"]
)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
NAMES = st.lists(
    st.lists(st.builds(NameValue, OIDS, VALUES), min_size=1, max_size=2).map(tuple), max_size=6
).map(tuple)


@given(NAMES)
def test_names_come_back_as_they_were_written(name: tuple[tuple[NameValue, ...], ...]) -> None:
    back = read_name(write_name(name))
    assert [sorted(rdn) for rdn in back] == [sorted(rdn) for rdn in name]


@given(st.sampled_from([*IdType, 0, 77]), st.binary(max_size=60))
def test_anything_can_be_printed_on_one_line_and_compared(id_type: int, data: bytes) -> None:
    identity = Identity(id_type, data)
    shown = str(identity)
    assert shown.isprintable()
    assert identity.matches(identity) is not identity.is_any
    if id_type in (IdType.FQDN, IdType.RFC822, IdType.KEY_ID) and data:
        assert Identity.parse(shown) == identity


@given(st.text(max_size=40))
def test_any_text_is_an_identity_or_an_error(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except IdentityError:
        return
    assert identity.is_any or identity.data
    assert (
        Identity.parse(str(identity)).matches(identity)
        or identity.is_any
        or "\N{REPLACEMENT CHARACTER}" in str(identity)
    )
