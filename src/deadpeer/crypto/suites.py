"""The algorithms that exist here, under the names of swanctl.conf and IANA's transform IDs.

What is not in these tables does not exist: no null cipher, no null integrity, nothing below 128 bits of
strength save MODP 2048 (112), which RFC 8247 makes mandatory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

HashName = Literal["sha256", "sha384", "sha512"]
GroupKind = Literal["x25519", "ecp", "modp"]


@dataclass(frozen=True, slots=True)
class Encryption:
    """An encryption transform (type 1).

    `key_bits` is the Key Length attribute's value, None where the transform has none (RFC 7634 section 4);
    `key_octets` is the cipher's key alone and `salt_octets` what follows it in the key material;
    `icv_octets` is the AEAD's tag, 0 for CBC, whose ICV is the integrity algorithm's;
    `block_octets` is what the plaintext must be a multiple of (1 for AEAD; ESP aligns to 4 all the same).
    """

    name: str
    transform_id: int
    key_bits: int | None
    key_octets: int
    salt_octets: int
    iv_octets: int
    icv_octets: int
    aead: bool
    block_octets: int

    @property
    def material_octets(self) -> int:
        """Octets of key material the transform takes: key and salt."""
        return self.key_octets + self.salt_octets


@dataclass(frozen=True, slots=True)
class Integrity:
    """An integrity transform (type 3): HMAC-SHA-2 truncated to half (RFC 4868)."""

    name: str
    transform_id: int
    key_octets: int
    icv_octets: int
    hash: HashName


@dataclass(frozen=True, slots=True)
class Prf:
    """A pseudorandom function (type 2): HMAC-SHA-2; `octets` is its output and its preferred key length."""

    name: str
    transform_id: int
    octets: int
    hash: HashName


@dataclass(frozen=True, slots=True)
class Group:
    """A key exchange method (type 4): lengths of the KE payload's data and of g^ir."""

    name: str
    transform_id: int
    kind: GroupKind
    public_octets: int
    shared_octets: int


@dataclass(frozen=True, slots=True)
class IkeSuite:
    """What an IKE SA was negotiated to use. `integrity` is None exactly when `encryption` is an AEAD."""

    encryption: Encryption
    integrity: Integrity | None
    prf: Prf
    group: Group

    def __post_init__(self) -> None:
        _check_pair(self.encryption, self.integrity)

    @property
    def name(self) -> str:
        """The suite as swanctl.conf would write it, for example aes256gcm16-prfsha256-x25519."""
        parts = (self.encryption, self.integrity, self.prf, self.group)
        return "-".join(part.name for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class EspSuite:
    """What a child SA was negotiated to use; `group` is None where its keys come from the IKE SA alone."""

    encryption: Encryption
    integrity: Integrity | None
    group: Group | None
    esn: bool

    def __post_init__(self) -> None:
        _check_pair(self.encryption, self.integrity)

    @property
    def name(self) -> str:
        """The suite as swanctl.conf would write it, for example aes128-sha256-ecp256-esn."""
        parts = [part.name for part in (self.encryption, self.integrity, self.group) if part is not None]
        return "-".join([*parts, "esn"] if self.esn else parts)


def _check_pair(encryption: Encryption, integrity: Integrity | None) -> None:
    if encryption.aead is not (integrity is None):
        raise ValueError(
            f"{encryption.name} and integrity {integrity.name if integrity else 'none'} do not pair"
        )


def _gcm(bits: int) -> Encryption:
    return Encryption(f"aes{bits}gcm16", 20, bits, bits // 8, 4, 8, 16, aead=True, block_octets=1)


def _cbc(bits: int) -> Encryption:
    return Encryption(f"aes{bits}", 12, bits, bits // 8, 0, 16, 0, aead=False, block_octets=16)


AES128GCM16 = _gcm(128)
AES256GCM16 = _gcm(256)
CHACHA20POLY1305 = Encryption("chacha20poly1305", 28, None, 32, 4, 8, 16, aead=True, block_octets=1)
AES128 = _cbc(128)
AES256 = _cbc(256)

SHA256 = Integrity("sha256", 12, 32, 16, "sha256")
SHA384 = Integrity("sha384", 13, 48, 24, "sha384")
SHA512 = Integrity("sha512", 14, 64, 32, "sha512")

PRFSHA256 = Prf("prfsha256", 5, 32, "sha256")
PRFSHA384 = Prf("prfsha384", 6, 48, "sha384")
PRFSHA512 = Prf("prfsha512", 7, 64, "sha512")

X25519 = Group("x25519", 31, "x25519", 32, 32)
ECP256 = Group("ecp256", 19, "ecp", 64, 32)
ECP384 = Group("ecp384", 20, "ecp", 96, 48)
ECP521 = Group("ecp521", 21, "ecp", 132, 66)
MODP2048 = Group("modp2048", 14, "modp", 256, 256)
MODP3072 = Group("modp3072", 15, "modp", 384, 384)
MODP4096 = Group("modp4096", 16, "modp", 512, 512)

_ENCRYPTIONS = (AES128GCM16, AES256GCM16, CHACHA20POLY1305, AES128, AES256)
_INTEGRITIES = (SHA256, SHA384, SHA512)
_PRFS = (PRFSHA256, PRFSHA384, PRFSHA512)
_GROUPS = (X25519, ECP256, ECP384, ECP521, MODP2048, MODP3072, MODP4096)

# By name, with the spellings strongSwan also takes.
ENCRYPTIONS: Mapping[str, Encryption] = MappingProxyType(
    {e.name: e for e in _ENCRYPTIONS}
    | {"aes": AES128, "aes128gcm": AES128GCM16, "aes256gcm": AES256GCM16}
    | {"aes128gcm128": AES128GCM16, "aes256gcm128": AES256GCM16}
)
INTEGRITIES: Mapping[str, Integrity] = MappingProxyType(
    {i.name: i for i in _INTEGRITIES} | {"sha2_256": SHA256, "sha2_384": SHA384, "sha2_512": SHA512}
)
PRFS: Mapping[str, Prf] = MappingProxyType({p.name: p for p in _PRFS})
GROUPS: Mapping[str, Group] = MappingProxyType({g.name: g for g in _GROUPS} | {"curve25519": X25519})

# By what is on the wire. An encryption is its ID and its Key Length together.
ENCRYPTION_BY_WIRE: Mapping[tuple[int, int | None], Encryption] = MappingProxyType(
    {(e.transform_id, e.key_bits): e for e in _ENCRYPTIONS}
)
INTEGRITY_BY_ID: Mapping[int, Integrity] = MappingProxyType({i.transform_id: i for i in _INTEGRITIES})
PRF_BY_ID: Mapping[int, Prf] = MappingProxyType({p.transform_id: p for p in _PRFS})
GROUP_BY_ID: Mapping[int, Group] = MappingProxyType({g.transform_id: g for g in _GROUPS})
PRF_OF_INTEGRITY: Mapping[str, Prf] = MappingProxyType(
    {i.name: p for i, p in zip(_INTEGRITIES, _PRFS, strict=True)}
)
