"""Key exchange: RFC 7748 and RFC 5903 vectors, agreement in every group, and every kind of bad peer value."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadpeer.crypto import (
    GROUP_BY_ID,
    GROUPS,
    BadPublicValue,
    Group,
    SeededEntropy,
    SystemEntropy,
    generate_key,
)
from deadpeer.crypto.modp import PRIMES

ALL = list(GROUP_BY_ID.values())
ECP = [g for g in ALL if g.kind == "ecp"]
MODP = [g for g in ALL if g.kind == "modp"]


class FixedEntropy:
    """Gives out what it was given, once."""

    def __init__(self, octets: bytes) -> None:
        self.left = octets

    def octets(self, n: int) -> bytes:
        assert len(self.left) >= n
        out, self.left = self.left[:n], self.left[n:]
        return out


# RFC 7748 section 6.1.
X25519_A = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
X25519_A_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
X25519_B_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
X25519_SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# RFC 5903 sections 8.1 to 8.3: i, r, girx.
RFC_5903 = [
    (
        "ecp256",
        "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
        "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
        "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
    ),
    (
        "ecp384",
        "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
        "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942E0308312916B8ED2960E4BD55A7448FC",
        "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
    ),
    (
        "ecp521",
        "0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A0"
        "95AA85A30FE1C2952C6771D937BA9777F5957B2639BAB072462F68C27A57382D4A52",
        "0145BA99A847AF43793FDD0E872E7CDFA16BE30FDC780F97BCCC3F078380201E"
        "9C677D600B343757A3BDBF2A3163E4C2F869CCA7458AA4A4EFFC311F5CB151685EB9",
        "01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04"
        "D1427E73CA4BAA240A34786859810C06B3C715A3A8CC3151F2BEE417996D19F3DDEA",
    ),
]
P256_I_PUBLIC = (
    "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180"
    "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3"
)


def scalar_octets(group: Group, scalar: str) -> bytes:
    """What the entropy must give for this scalar: of 66 octets P-521 takes the top 521 bits."""
    octets = bytes.fromhex(scalar)
    return (int.from_bytes(octets, "big") << (7 if group.name == "ecp521" else 0)).to_bytes(
        len(octets), "big"
    )


def test_rfc_7748_x25519() -> None:
    pair = generate_key(GROUPS["curve25519"], FixedEntropy(bytes.fromhex(X25519_A)))
    assert pair.public.hex() == X25519_A_PUBLIC
    assert pair.shared(bytes.fromhex(X25519_B_PUBLIC)).hex() == X25519_SHARED


@pytest.mark.parametrize(("name", "i", "r", "girx"), RFC_5903)
def test_rfc_5903_ecp(name: str, i: str, r: str, girx: str) -> None:
    group = GROUPS[name]
    one = generate_key(group, FixedEntropy(scalar_octets(group, i)))
    other = generate_key(group, FixedEntropy(scalar_octets(group, r)))
    assert one.shared(other.public) == other.shared(one.public) == bytes.fromhex(girx)
    if name == "ecp256":
        assert one.public == bytes.fromhex(P256_I_PUBLIC)


@pytest.mark.parametrize("group", MODP, ids=lambda g: g.name)
def test_modp_is_exponentiation_of_two(group: Group) -> None:
    prime = PRIMES[group.transform_id]
    drawn = SeededEntropy(5).octets(64)
    exponent = int.from_bytes(drawn, "big") | 1 << 511
    pair = generate_key(group, FixedEntropy(drawn))
    assert pair.public == pow(2, exponent, prime).to_bytes(group.public_octets, "big")
    peer = pow(2, 0xABCDEF, prime)
    assert pair.shared(peer.to_bytes(group.public_octets, "big")) == pow(peer, exponent, prime).to_bytes(
        group.shared_octets, "big"
    )


@pytest.mark.parametrize("group", MODP, ids=lambda g: g.name)
def test_modp_primes_are_safe_primes_of_their_size(group: Group) -> None:
    prime = PRIMES[group.transform_id]
    half = (prime - 1) // 2
    assert prime.bit_length() == 8 * group.public_octets
    assert prime >> (8 * group.public_octets - 64) == prime & (2**64 - 1) == 2**64 - 1
    assert pow(3, prime - 1, prime) == 1
    assert pow(3, half - 1, half) == 1
    assert pow(2, half, prime) == 1  # 2 generates the large subgroup


@pytest.mark.parametrize("group", ALL, ids=lambda g: g.name)
def test_both_sides_agree(group: Group) -> None:
    one, other = generate_key(group, SeededEntropy(1)), generate_key(group, SystemEntropy())
    assert one.shared(other.public) == other.shared(one.public)
    assert len(one.public) == group.public_octets
    assert len(one.shared(other.public)) == group.shared_octets
    assert generate_key(group, SeededEntropy(1)).public == one.public
    assert generate_key(group, SeededEntropy(2)).public != one.public
    assert repr(one) == f"KeyPair({group.name})"


def test_a_short_modp_secret_keeps_its_leading_zeros() -> None:
    group = GROUPS["modp2048"]
    prime = PRIMES[14]
    exponent = int.from_bytes(SeededEntropy(5).octets(64), "big") | 1 << 511
    # The peer value whose secret is 4: the order of 4 is q, so the exponent is inverted modulo q.
    q = (prime - 1) // 2
    peer = pow(4, pow(exponent, -1, q), prime)
    pair = generate_key(group, SeededEntropy(5))
    assert pair.shared(peer.to_bytes(256, "big")) == (4).to_bytes(256, "big")


@pytest.mark.parametrize("group", ALL, ids=lambda g: g.name)
@pytest.mark.parametrize("delta", [-1, 1, "empty"])
def test_wrong_length_is_refused(group: Group, delta: int | str) -> None:
    pair = generate_key(group, SeededEntropy(1))
    bad = {-1: pair.public[:-1], 1: pair.public + b"\0", "empty": b""}[delta]
    with pytest.raises(BadPublicValue, match="octets"):
        pair.shared(bad)


@pytest.mark.parametrize("group", MODP, ids=lambda g: g.name)
@pytest.mark.parametrize("offset", ["zero", "one", "p-1", "p", "p+1", "top"])
def test_modp_values_out_of_range_are_refused(group: Group, offset: str) -> None:
    prime = PRIMES[group.transform_id]
    top = (1 << 8 * group.public_octets) - 1
    value = {"zero": 0, "one": 1, "p-1": prime - 1, "p": prime, "p+1": prime + 1, "top": top}[offset]
    with pytest.raises(BadPublicValue, match="outside"):
        generate_key(group, SeededEntropy(1)).shared(value.to_bytes(group.public_octets, "big"))


@pytest.mark.parametrize("group", ECP, ids=lambda g: g.name)
def test_points_off_the_curve_are_refused(group: Group) -> None:
    pair = generate_key(group, SeededEntropy(1))
    good = generate_key(group, SeededEntropy(2)).public
    for bad in (bytes(len(good)), b"\xff" * len(good), good[:-1] + bytes((good[-1] ^ 1,))):
        with pytest.raises(BadPublicValue, match="point"):
            pair.shared(bad)


# Points of small order and their like, little-endian: 0, 1, p-1, p, p+1, and one of order 8.
X25519_SMALL = [
    "00" * 32,
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
]


@pytest.mark.parametrize("value", X25519_SMALL)
def test_x25519_values_of_small_order_are_refused(value: str) -> None:
    with pytest.raises(BadPublicValue, match="small order"):
        generate_key(GROUPS["x25519"], SeededEntropy(1)).shared(bytes.fromhex(value))


def test_ecp_scalars_out_of_range_are_drawn_again() -> None:
    group = GROUPS["ecp256"]
    good = bytes.fromhex(RFC_5903[0][1])
    pair = generate_key(group, FixedEntropy(bytes(32) + b"\xff" * 32 + good))
    assert pair.public == bytes.fromhex(P256_I_PUBLIC)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_garbage_gives_a_secret_or_bad_public_value(group: Group, data: st.DataObject) -> None:
    pair = generate_key(group, SeededEntropy(3))
    size = group.public_octets
    garbage = data.draw(st.binary(min_size=size, max_size=size))
    try:
        assert len(pair.shared(garbage)) == group.shared_octets
    except BadPublicValue:
        assert group.kind != "x25519" or garbage.hex() in X25519_SMALL


@given(st.lists(st.integers(0, 70), max_size=8), st.integers())
def test_seeded_entropy_is_one_stream_however_it_is_cut(cuts: list[int], seed: int) -> None:
    whole = SeededEntropy(seed).octets(sum(cuts))
    pieces = SeededEntropy(seed)
    assert b"".join(pieces.octets(n) for n in cuts) == whole


def test_seeds_of_either_type_and_their_streams_differ() -> None:
    streams = {SeededEntropy(seed).octets(16) for seed in (0, 1, -1, b"", b"\0", b"\1")}
    assert len(streams) == 6
    assert SystemEntropy().octets(16) != SystemEntropy().octets(16)
