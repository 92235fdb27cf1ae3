"""What an AUTH payload holds: shared key (RFC 7296 section 2.15), signatures (RFC 7427, 4754, 8420)."""

from dataclasses import dataclass, field
from enum import IntEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from deadpeer.wire import AuthMethod, CertEncoding, Certificate

from .certs import PrivateKey, check_public_key
from .errors import AuthFailure, CertificateError, CredentialError
from .prf import hash_algorithm, prf
from .suites import HashName, Prf

_KEY_PAD = b"Key Pad for IKEv2"


class SignatureHash(IntEnum):
    """Hash algorithms of RFC 7427 section 7, but SHA-1; IDENTITY (RFC 8420) is for Ed25519."""

    SHA2_256 = 2
    SHA2_384 = 3
    SHA2_512 = 4
    IDENTITY = 5


def shared_key_auth(p: Prf, secret: bytes, signed: bytes) -> bytes:
    """AUTH = prf(prf(secret, "Key Pad for IKEv2"), signed octets). Compare with hmac.compare_digest."""
    return prf(p, prf(p, secret, _KEY_PAD), signed)


def signed_octets(p: Prf, real_message: bytes, peer_nonce: bytes, sk_p: bytes, id_body: bytes) -> bytes:
    """RealMessage1 | NonceR | prf(SK_pi, IDi body) for the initiator, and the mirror for the responder.

    `real_message` is the signer's own IKE_SA_INIT message from the header's first octet, without the non-ESP
    marker; `peer_nonce` the other side's nonce data; `sk_p` the signer's SK_pi or SK_pr; `id_body` the
    signer's ID payload without its generic header.
    """
    return real_message + peer_nonce + prf(p, sk_p, id_body)


def supported_hashes_notify_data() -> bytes:
    """The data of our SIGNATURE_HASH_ALGORITHMS notify (RFC 7427 section 4): two octets for each hash."""
    return b"".join(hash_id.to_bytes(2, "big") for hash_id in SignatureHash)


def parse_hashes(data: bytes) -> frozenset[int]:
    """The hash IDs in a peer's SIGNATURE_HASH_ALGORITHMS; empty where its data has an odd length."""
    if len(data) % 2:
        return frozenset()
    return frozenset(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


@dataclass(frozen=True, slots=True)
class Credential:
    """A private key, the certificate for it, and the CAs between that and what peers trust.

    Raises CredentialError where key and certificate are not of one pair, or too weak.
    """

    private_key: PrivateKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)
    intermediates: tuple[x509.Certificate, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_public_key(self.private_key.public_key(), "the private key", CredentialError)
        if self.private_key.public_key() != self.certificate.public_key():
            raise CredentialError("the private key is not that of the certificate")

    def payloads(self) -> tuple[Certificate, ...]:
        """The CERT payloads: the certificate first, then the intermediates (RFC 7296 section 3.6)."""
        chain = (self.certificate, *self.intermediates)
        return tuple(Certificate(CertEncoding.X509_SIGNATURE, c.public_bytes(Encoding.DER)) for c in chain)

    def sign(self, signed: bytes, peer_hashes: frozenset[int] | None) -> tuple[int, bytes]:
        """Return the AUTH payload's (method, data) over `signed`.

        `peer_hashes` are those of the peer's SIGNATURE_HASH_ALGORITHMS, None (or empty) where it sent none:
        then only the classic ECDSA methods remain, because the classic RSA method is bound to SHA-1.
        Raises CredentialError where the peer can't verify what this key can sign.
        """
        if not peer_hashes:
            return self._sign_classic(signed)
        key = self.private_key
        if isinstance(key, ed25519.Ed25519PrivateKey):
            if SignatureHash.IDENTITY not in peer_hashes:
                raise CredentialError("the peer does not verify Ed25519 (its hash algorithms lack IDENTITY)")
            return AuthMethod.DIGITAL_SIGNATURE, _prefixed(_ED25519, key.sign(signed))
        name = _pick_hash(key, peer_hashes)
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(signed, padding.PKCS1v15(), hash_algorithm(name))
            return AuthMethod.DIGITAL_SIGNATURE, _prefixed(_RSA_PKCS1[name], signature)
        signature = key.sign(signed, ec.ECDSA(hash_algorithm(name)))
        return AuthMethod.DIGITAL_SIGNATURE, _prefixed(_ECDSA[name], signature)

    def _sign_classic(self, signed: bytes) -> tuple[int, bytes]:
        key = self.private_key
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            kind = "RSA" if isinstance(key, rsa.RSAPrivateKey) else "Ed25519"
            raise CredentialError(
                f"the peer does not know RFC 7427 signatures, and without them {kind} means SHA-1 or "
                "nothing: use an ECDSA certificate or a shared key"
            )
        classic = next(c for c in _CLASSIC.values() if c.curve == key.curve.name)
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hash_algorithm(classic.hash))))
        half = classic.half_octets
        return classic.method, r.to_bytes(half, "big") + s.to_bytes(half, "big")


def verify_signature(certificate: x509.Certificate, method: int, data: bytes, signed: bytes) -> None:
    """Return if `data` of an AUTH payload with `method` is the certificate key's signature over `signed`.

    Raises AuthFailure with the reason: another method, key or algorithm than fit together, a weak key, SHA-1,
    or a signature that does not verify. Whether the certificate is to be trusted is not asked here.
    """
    try:
        key = check_public_key(certificate.public_key(), "the certificate's key")
    except (CertificateError, ValueError, UnsupportedAlgorithm) as error:
        raise AuthFailure(str(error)) from None
    try:
        if method == AuthMethod.DIGITAL_SIGNATURE:
            _verify_rfc7427(key, data, signed)
        elif method in _CLASSIC:
            _verify_classic(key, _CLASSIC[method], data, signed)
        elif method == AuthMethod.RSA:
            raise AuthFailure("the classic RSA method signs with SHA-1, which is not accepted")
        else:
            raise AuthFailure(f"AUTH method {int(method)} is not a signature")
    except InvalidSignature:
        raise AuthFailure("the signature does not verify") from None


@dataclass(frozen=True, slots=True)
class _Classic:
    """One of the methods of RFC 4754: a curve bound to a hash, the signature r | s."""

    method: int
    curve: str
    hash: HashName
    half_octets: int


_CLASSIC: dict[int, _Classic] = {
    AuthMethod.ECDSA_256: _Classic(AuthMethod.ECDSA_256, "secp256r1", "sha256", 32),
    AuthMethod.ECDSA_384: _Classic(AuthMethod.ECDSA_384, "secp384r1", "sha384", 48),
    AuthMethod.ECDSA_521: _Classic(AuthMethod.ECDSA_521, "secp521r1", "sha512", 66),
}

_HASH_NAMES: dict[int, HashName] = {
    SignatureHash.SHA2_256: "sha256",
    SignatureHash.SHA2_384: "sha384",
    SignatureHash.SHA2_512: "sha512",
}
_CURVE_HASH = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}

# AlgorithmIdentifier blobs (RFC 7427 appendix A, RFC 8420 section 3).
_ED25519 = bytes.fromhex("300506032b6570")
_RSA_PKCS1: dict[HashName, bytes] = {
    "sha256": bytes.fromhex("300d06092a864886f70d01010b0500"),
    "sha384": bytes.fromhex("300d06092a864886f70d01010c0500"),
    "sha512": bytes.fromhex("300d06092a864886f70d01010d0500"),
}
_ECDSA: dict[HashName, bytes] = {
    "sha256": bytes.fromhex("300a06082a8648ce3d040302"),
    "sha384": bytes.fromhex("300a06082a8648ce3d040303"),
    "sha512": bytes.fromhex("300a06082a8648ce3d040304"),
}
# RFC 4055 section 5: the NULL parameters must also be accepted when they are absent.
_RSA_PKCS1_ACCEPTED: dict[bytes, HashName] = {blob: name for name, blob in _RSA_PKCS1.items()} | {
    b"\x30\x0b" + blob[2:-2]: name for name, blob in _RSA_PKCS1.items()
}
_ECDSA_ACCEPTED: dict[bytes, HashName] = {blob: name for name, blob in _ECDSA.items()}


def _pss_identifiers() -> dict[bytes, HashName]:
    """RSASSA-PSS as it is in use: one hash for both, a salt as long as it, NULLs there or not."""
    oid_pss = bytes.fromhex("06092a864886f70d01010a")
    oid_mgf1 = bytes.fromhex("06092a864886f70d010108")
    hash_oids: dict[HashName, tuple[bytes, int]] = {
        "sha256": (bytes.fromhex("0609608648016503040201"), 32),
        "sha384": (bytes.fromhex("0609608648016503040202"), 48),
        "sha512": (bytes.fromhex("0609608648016503040203"), 64),
    }

    def wrap(tag: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return bytes((tag, len(body))) + body

    found: dict[bytes, HashName] = {}
    for name, (oid, salt_octets) in hash_oids.items():
        variants = (wrap(0x30, oid, b"\x05\x00"), wrap(0x30, oid))
        for own in variants:
            for mgf_hash in variants:
                for trailer in (b"", bytes.fromhex("a303020101")):
                    salt = wrap(0xA2, wrap(0x02, bytes((salt_octets,))))
                    mgf = wrap(0xA1, wrap(0x30, oid_mgf1, mgf_hash))
                    found[wrap(0x30, oid_pss, wrap(0x30, wrap(0xA0, own), mgf, salt, trailer))] = name
    return found


_PSS_ACCEPTED = _pss_identifiers()


def _prefixed(identifier: bytes, signature: bytes) -> bytes:
    return bytes((len(identifier),)) + identifier + signature


def _pick_hash(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, peer_hashes: frozenset[int]) -> HashName:
    offered = [name for hash_id, name in _HASH_NAMES.items() if hash_id in peer_hashes]
    if not offered:
        raise CredentialError("the peer accepts no hash algorithm of SHA-2")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        fitting = [name for name in offered if name == _CURVE_HASH[key.curve.name]]
        return fitting[0] if fitting else offered[-1]
    return offered[0]


def _verify_rfc7427(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey, data: bytes, signed: bytes
) -> None:
    if not data or len(data) < 1 + data[0]:
        raise AuthFailure("the AUTH data is too short for its AlgorithmIdentifier")
    identifier, signature = data[1 : 1 + data[0]], data[1 + data[0] :]
    if isinstance(key, ed25519.Ed25519PublicKey):
        if identifier != _ED25519:
            raise _mismatch("Ed25519", identifier)
        key.verify(signature, signed)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        name = _ECDSA_ACCEPTED.get(identifier)
        if name is None:
            raise _mismatch("ECDSA", identifier)
        key.verify(signature, signed, ec.ECDSA(hash_algorithm(name)))
    elif (name := _RSA_PKCS1_ACCEPTED.get(identifier)) is not None:
        key.verify(signature, signed, padding.PKCS1v15(), hash_algorithm(name))
    elif (name := _PSS_ACCEPTED.get(identifier)) is not None:
        algorithm = hash_algorithm(name)
        pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        key.verify(signature, signed, pss, algorithm)
    else:
        raise _mismatch("RSA", identifier)


def _verify_classic(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
    classic: _Classic,
    data: bytes,
    signed: bytes,
) -> None:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != classic.curve:
        raise AuthFailure(f"AUTH method {int(classic.method)} needs a key on {classic.curve}")
    if len(data) != 2 * classic.half_octets:
        raise AuthFailure(f"an ECDSA signature of {len(data)} octets instead of {2 * classic.half_octets}")
    r = int.from_bytes(data[: classic.half_octets], "big")
    s = int.from_bytes(data[classic.half_octets :], "big")
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hash_algorithm(classic.hash)))


def _mismatch(kind: str, identifier: bytes) -> AuthFailure:
    return AuthFailure(
        f"the certificate's key is {kind}; it can't sign with AlgorithmIdentifier {identifier.hex()}"
    )
