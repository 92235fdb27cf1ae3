"""The key schedule: SKEYSEED, the SK_ keys, the keys of child SAs (RFC 7296 sections 2.14, 2.17, 2.18)."""

from dataclasses import dataclass, field

from .prf import prf, prf_plus
from .suites import Encryption, EspSuite, IkeSuite, Integrity, Prf


@dataclass(frozen=True, slots=True)
class IkeKeys:
    """The keys of an IKE SA. SK_ai and SK_ar are empty with an AEAD; SK_ei and SK_er hold key | salt."""

    sk_d: bytes = field(repr=False)
    sk_ai: bytes = field(repr=False)
    sk_ar: bytes = field(repr=False)
    sk_ei: bytes = field(repr=False)
    sk_er: bytes = field(repr=False)
    sk_pi: bytes = field(repr=False)
    sk_pr: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EspKeys:
    """Key material of one direction. `salt` is empty with CBC, `integrity_key` with an AEAD."""

    encryption_key: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    integrity_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChildKeys:
    """`initiator` protects what the initiator of the exchange that made the child SA sends."""

    initiator: EspKeys = field(repr=False)
    responder: EspKeys = field(repr=False)


def initial_skeyseed(p: Prf, ni: bytes, nr: bytes, shared: bytes) -> bytes:
    """SKEYSEED = prf(Ni | Nr, g^ir) (RFC 7296 section 2.14)."""
    return prf(p, ni + nr, shared)


def rekey_skeyseed(old_prf: Prf, old_sk_d: bytes, shared: bytes, ni: bytes, nr: bytes) -> bytes:
    """SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr), with the old SA's PRF (RFC 7296 section 2.18)."""
    return prf(old_prf, old_sk_d, shared + ni + nr)


def resumption_skeyseed(p: Prf, old_sk_d: bytes, ni: bytes, nr: bytes) -> bytes:
    """SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr) (RFC 5723 section 5.1)."""
    return prf(p, old_sk_d, b"Resumption" + ni + nr)


def derive_ike_keys(
    suite: IkeSuite, skeyseed: bytes, ni: bytes, nr: bytes, spi_i: bytes, spi_r: bytes
) -> IkeKeys:
    """{SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr).

    Raises ValueError where an SPI is not 8 octets long.
    """
    if len(spi_i) != 8 or len(spi_r) != 8:
        raise ValueError("an IKE SPI is 8 octets")
    prf_octets = suite.prf.octets
    mac_octets = suite.integrity.key_octets if suite.integrity else 0
    enc_octets = suite.encryption.material_octets
    lengths = (prf_octets, mac_octets, mac_octets, enc_octets, enc_octets, prf_octets, prf_octets)
    stream = prf_plus(suite.prf, skeyseed, ni + nr + spi_i + spi_r, sum(lengths))
    return IkeKeys(*_cut(stream, lengths))


def derive_child_keys(
    p: Prf, sk_d: bytes, esp_suite: EspSuite, ni: bytes, nr: bytes, shared: bytes = b""
) -> ChildKeys:
    """KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr), the initiator's keys first (RFC 7296 section 2.17)."""
    mac_octets = esp_suite.integrity.key_octets if esp_suite.integrity else 0
    lengths = (esp_suite.encryption.material_octets, mac_octets) * 2
    stream = prf_plus(p, sk_d, shared + ni + nr, sum(lengths))
    enc_i, mac_i, enc_r, mac_r = _cut(stream, lengths)
    return ChildKeys(
        split_keys(esp_suite.encryption, esp_suite.integrity, enc_i, mac_i),
        split_keys(esp_suite.encryption, esp_suite.integrity, enc_r, mac_r),
    )


def split_keys(
    encryption: Encryption, integrity: Integrity | None, material: bytes, integrity_key: bytes
) -> EspKeys:
    """Cut `material` (key | salt) of one direction into an EspKeys.

    Raises ValueError where a length is not the algorithm's.
    """
    if len(material) != encryption.material_octets:
        raise ValueError(f"{encryption.name} takes {encryption.material_octets} octets of key material")
    if len(integrity_key) != (integrity.key_octets if integrity else 0):
        raise ValueError("an integrity key of the wrong length")
    at = encryption.key_octets
    return EspKeys(material[:at], material[at:], integrity_key)


def _cut(stream: bytes, lengths: tuple[int, ...]) -> list[bytes]:
    pieces, at = [], 0
    for length in lengths:
        pieces.append(stream[at : at + length])
        at += length
    return pieces
