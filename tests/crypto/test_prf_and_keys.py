"""PRF, prf+ and the key schedule: RFC 4231, NIST's IKEv2 KDF vectors, and where RFC 7296 cuts."""

import hmac

import pytest

from deadpeer.crypto import (
    ENCRYPTIONS,
    GROUPS,
    INTEGRITIES,
    PRFS,
    EspSuite,
    IkeSuite,
    derive_child_keys,
    derive_ike_keys,
    initial_skeyseed,
    prf,
    prf_plus,
    rekey_skeyseed,
    resumption_skeyseed,
    split_keys,
)

# RFC 4231 sections 4.2, 4.3 and 4.7 (a key longer than the hash's block): key, data, what begins the MAC.
RFC_4231 = [
    (
        "prfsha256",
        b"\x0b" * 20,
        b"Hi There",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        "prfsha256",
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (
        "prfsha384",
        b"Jefe",
        b"what do ya want for nothing?",
        "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
    ),
    (
        "prfsha512",
        b"Jefe",
        b"what do ya want for nothing?",
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
    ),
    (
        "prfsha256",
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
]

# NIST ACVP, IKEv2, SHA2-256. Of the long outputs, what begins them.
NIST_NI = bytes.fromhex(
    "0a58fea9c1d4fee2e74e1aad6fb02dd5f318eb127465a112be8dc3c04d5dba62eae708f9dc1b2362"
    "afd6ba4bda3cf5000f4979fbcbadbcfda9291593829c4e905c21db0c2ee15175ce77a8a0dadf25c7"
    "f175bc53fd91b636a9b3c50b203de9b9d6dc463dcb4048f101e26498ceaed3afbcd931394a7e0993"
    "92dfff82e5d6fa85c2e8a8ab90ad363a66795dc32798847e405acd87988140f973058917273a6b0b"
    "afb962c75e2b1a21e79c08beeb82168bf8b4b57f3dce867bf7862a7b8acbc21be838021913daf643"
    "40c055ed17aaf7b6e1d0ca33ae890ddbdb83f4e615aad5e3bff58c3db70bac81a0dfbabe5391fc62"
    "bca4659e22a0741e01d8d06e67d9bb41"
)
NIST_NR = bytes.fromhex(
    "e4fdfa68df6171d9eaff8b7b5ad31e7c6098d259f3397c9854cbefe7449b0864c1df16ddece8b265"
    "67560f8d59182a44c19149c2d0d72606a160021ade3d23c7c6936c91a4b6bec37adf38cfc84b851c"
    "68dcee06f81306f63abbefc07e231e3058c49437a557df617eac01663593d2a3e594699284c0a35e"
    "ae6931492ccb2a43db72a600a3899205d681d2b76b1280e456339bb10e0c584aecfdae31c77a4c40"
    "dbcb345f782ac32835d4c220c1e97254ded6a40075dd717b00b69c86a49e801773026536ae02d58a"
    "649827f1ba67610ee936dffd11c9d5a9156631916a0a0046ec0ba42f56f2a18de83d5d71a985b0cc"
    "9eec2c06b3d907ca58454419f374069d"
)
NIST_GIR = bytes.fromhex("9d469de41b4739c7dd01f19aa94f17e48150ae9dbede94832142db19")
NIST_GIR_NEW = bytes.fromhex("c2987b0767006c3b9aea491bfed1646a3d7194639492b8d45b23b383")
NIST_SPI_I = bytes.fromhex("c8de93111750e409")
NIST_SPI_R = bytes.fromhex("32d51b33508997fa")
NIST_SKEYSEED = "eec13ac67c2e072abb684ab4e7b6ce3e7f400af8b96bed48e113497ed337f8d4"
NIST_DKM = (
    "bc83518f63b762874ac57947cdfae33a8d9724df0b83ee4b6df38c23fc2ad829"
    "f4d70b5a68dd1f5a52416f09758638aedf919c09a17c5298cdb703bb75b1005c"
    "ba0109739aaa4efd2fe7534c95ad05e546e4419931270eddcab68ac1589d7fde"
    "47f5b9e8d5b614cb24ec3caf515497a9e99ee6f1b318ff153b539ef071dcaff9"
    "b41945dcb780700d69e5dc888a91de195c52825badfd0ab4c33cec71ab5c2b4b"
    "adefe5455455ce5d8ae91721a2091bcccc1514e69482c9c8da1d9f0f187eedda"
    "916393570a8c0a8dfabc26d8ed31e8ea47662515972a22d11d692bc1fac6395a"
)
NIST_CHILD = (
    "c725012285d56e53244a9baaaf95abfca543708d333a3f3a86ba660e00edd4d4"
    "89bcd631819fda0413382edd9f53d1ed718e056c2ad91d38de90f06cd434de70"
    "141d051c021e7ddd6e4137946b4770dca59a4decabdd866852eb557fdd995646"
)
NIST_CHILD_DH = (
    "140a1f2a3c94318ece6edfa8c63f37d8d45982de8b6cbfe34011150db0253e34"
    "de3796d4aa579954a0bbf234794eb6e7ece2a8f91100f5507df4ee8e66c7813d"
    "4c0ff64d484a3494c54b0d9c605ea24234a49a010ce5c352feb9e1060c8c7872"
)
NIST_REKEY = "05f796c8df322a7e33283ae5fa2f376d8d5efa0ac3745fc548e430031424c121"

SHA256 = PRFS["prfsha256"]
CBC_SUITE = IkeSuite(ENCRYPTIONS["aes256"], INTEGRITIES["sha256"], SHA256, GROUPS["x25519"])
GCM_SUITE = IkeSuite(ENCRYPTIONS["aes128gcm16"], None, SHA256, GROUPS["x25519"])


@pytest.mark.parametrize(("name", "key", "data", "mac"), RFC_4231)
def test_prf_is_hmac(name: str, key: bytes, data: bytes, mac: str) -> None:
    assert prf(PRFS[name], key, data).hex() == mac
    assert len(bytes.fromhex(mac)) == PRFS[name].octets


@pytest.mark.parametrize("name", sorted(PRFS))
def test_prf_plus_chains_as_rfc_7296_section_2_13_says(name: str) -> None:
    p = PRFS[name]
    t1 = hmac.digest(b"key", b"seed\x01", p.hash)
    t2 = hmac.digest(b"key", t1 + b"seed\x02", p.hash)
    t3 = hmac.digest(b"key", t2 + b"seed\x03", p.hash)
    stream = t1 + t2 + t3
    for n in (0, 1, p.octets, p.octets + 1, 3 * p.octets):
        assert prf_plus(p, b"key", b"seed", n) == stream[:n]


def test_prf_plus_ends_where_its_counter_ends() -> None:
    assert len(prf_plus(SHA256, b"k", b"s", 255 * 32)) == 255 * 32
    with pytest.raises(ValueError, match="at most 8160"):
        prf_plus(SHA256, b"k", b"s", 255 * 32 + 1)


def test_nist_skeyseed_and_ike_keys() -> None:
    skeyseed = initial_skeyseed(SHA256, NIST_NI, NIST_NR, NIST_GIR)
    assert skeyseed.hex() == NIST_SKEYSEED

    keys = derive_ike_keys(CBC_SUITE, skeyseed, NIST_NI, NIST_NR, NIST_SPI_I, NIST_SPI_R)
    stream = keys.sk_d + keys.sk_ai + keys.sk_ar + keys.sk_ei + keys.sk_er + keys.sk_pi + keys.sk_pr
    assert stream.hex() == NIST_DKM
    assert {len(k) for k in (keys.sk_d, keys.sk_ai, keys.sk_ar, keys.sk_ei, keys.sk_er, keys.sk_pr)} == {32}


def test_nist_child_keys_with_and_without_key_exchange() -> None:
    sk_d = bytes.fromhex(NIST_DKM)[:32]
    suite = EspSuite(ENCRYPTIONS["aes128"], INTEGRITIES["sha256"], None, esn=False)
    for shared, expected in ((b"", NIST_CHILD), (NIST_GIR_NEW, NIST_CHILD_DH)):
        child = derive_child_keys(SHA256, sk_d, suite, NIST_NI, NIST_NR, shared)
        i, r = child.initiator, child.responder
        assert (i.encryption_key + i.integrity_key + r.encryption_key + r.integrity_key).hex() == expected
        assert i.salt == r.salt == b""


def test_nist_rekey_skeyseed() -> None:
    sk_d = bytes.fromhex(NIST_DKM)[:32]
    assert rekey_skeyseed(SHA256, sk_d, NIST_GIR_NEW, NIST_NI, NIST_NR).hex() == NIST_REKEY


def test_resumption_skeyseed_is_rfc_5723_section_5_1() -> None:
    expected = hmac.digest(b"old sk_d", b"Resumption" + b"ni" + b"nr", "sha256")
    assert resumption_skeyseed(SHA256, b"old sk_d", b"ni", b"nr") == expected


def test_an_aead_has_salts_and_no_sk_a() -> None:
    keys = derive_ike_keys(GCM_SUITE, b"s" * 32, b"ni", b"nr", b"i" * 8, b"r" * 8)
    stream = prf_plus(SHA256, b"s" * 32, b"ni" + b"nr" + b"i" * 8 + b"r" * 8, 32 + 20 + 20 + 32 + 32)
    assert (keys.sk_ai, keys.sk_ar) == (b"", b"")
    assert (keys.sk_ei, keys.sk_er) == (stream[32:52], stream[52:72])
    assert (keys.sk_d, keys.sk_pi, keys.sk_pr) == (stream[:32], stream[72:104], stream[104:])

    child = derive_child_keys(
        SHA256, b"d" * 32, EspSuite(ENCRYPTIONS["chacha20poly1305"], None, None, True), b"n", b"m"
    )
    stream = prf_plus(SHA256, b"d" * 32, b"nm", 72)
    assert (child.initiator.encryption_key, child.initiator.salt) == (stream[:32], stream[32:36])
    assert (child.responder.encryption_key, child.responder.salt) == (stream[36:68], stream[68:])


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="SPI"):
        derive_ike_keys(GCM_SUITE, b"s", b"ni", b"nr", b"i" * 4, b"r" * 8)
    with pytest.raises(ValueError, match="20 octets"):
        split_keys(GCM_SUITE.encryption, None, bytes(16), b"")
    with pytest.raises(ValueError, match="integrity key"):
        split_keys(CBC_SUITE.encryption, CBC_SUITE.integrity, bytes(32), b"")
    with pytest.raises(ValueError, match="do not pair"):
        IkeSuite(ENCRYPTIONS["aes256"], None, SHA256, GROUPS["x25519"])
    with pytest.raises(ValueError, match="do not pair"):
        EspSuite(ENCRYPTIONS["aes256gcm16"], INTEGRITIES["sha256"], None, esn=False)


def test_no_repr_shows_a_key() -> None:
    keys = derive_ike_keys(CBC_SUITE, b"s" * 32, b"ni", b"nr", b"i" * 8, b"r" * 8)
    child = derive_child_keys(
        SHA256, keys.sk_d, EspSuite(ENCRYPTIONS["aes128gcm16"], None, None, False), b"n", b"m"
    )
    assert repr(keys) == "IkeKeys()"
    assert repr(child) == "ChildKeys()"
    assert repr(child.initiator) == "EspKeys()"
