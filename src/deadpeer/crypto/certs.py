"""X.509: reading certificates and keys, and whether a chain ends at a CA that is trusted here.

Why not cryptography.x509.verification: it implements the web's profile. It accepts no Ed25519 key anywhere in
a chain, which this project must, and wants extensions that certificates made for IKE with strongSwan's pki
often lack. So the chain is built here, by RFC 5280 section 6 in its plain form, and what that form leaves out
(name constraints, unknown critical extensions) is refused rather than passed over. Revocation is not checked:
a peer is revoked by its removal from the configuration or by its certificate's expiry.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from deadpeer.wire import IdType

from .errors import CertificateError, CredentialError
from .identity import Identity, same_name

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
E = TypeVar("E", bound=x509.ExtensionType)

MIN_RSA_BITS = 2048
MAX_DEPTH = 8
"""Certificates in a chain, the peer's own and the trusted CA included."""
MAX_INTERMEDIATES = 16
"""Certificates of a peer's that are looked at, the first ones."""
MAX_SIGNATURES = 64
"""Signatures checked for one leaf: chains come from somebody who is not yet known to be anyone."""

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

# What the library raises, at the latest when a part is asked for, where the octets are no proper certificate.
_UNREADABLE = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

# Critical extensions that are looked at below, or that restrict nothing that matters here.
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
)
# RFC 4945 section 5.1.3.12, and what is in use beside it: TLS certificates, and the older iKEIntermediate.
_IKE_USAGES = frozenset(
    {
        ExtendedKeyUsageOID.IPSEC_IKE,
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        x509.ObjectIdentifier("1.3.6.1.5.5.8.2.2"),
    }
)


def load_certificates(octets: bytes) -> tuple[x509.Certificate, ...]:
    """Read a PEM file of one certificate or more, in its order, or one DER certificate.

    Raises CertificateError for what can't be read. The library parses names and extensions only when they are
    asked for, so they are here: what comes out holds no surprise for later.
    """
    try:
        if b"-----BEGIN" in octets:
            certificates = tuple(x509.load_pem_x509_certificates(octets))
        else:
            certificates = (x509.load_der_x509_certificate(octets),)
        for certificate in certificates:
            _read_through(certificate)
    except _UNREADABLE as error:
        raise CertificateError(f"not a certificate that can be read: {error}") from None
    return certificates


def load_private_key(octets: bytes, password: bytes | None = None) -> PrivateKey:
    """Read an RSA, ECDSA or Ed25519 private key, PEM or DER.

    Raises CredentialError for what can't be read, other kinds of key, and RSA below 2048 bits.
    """
    load = load_pem_private_key if b"-----BEGIN" in octets else load_der_private_key
    try:
        key = load(octets, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own text is kept out: it may quote the file.
        raise CredentialError("not a private key that can be read (or its password is wrong)") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise CredentialError("a private key must be RSA, ECDSA or Ed25519")
    check_public_key(key.public_key(), "the private key", CredentialError)
    return key


def check_public_key(
    key: object, whose: str, error: type[CertificateError] | type[CredentialError] = CertificateError
) -> PublicKey:
    """Return `key` if it is of a kind and strength that exist here; else raise `error`, naming `whose`."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise error(f"{whose} is RSA with {key.key_size} bits; {MIN_RSA_BITS} is the least")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise error(f"{whose} is on the curve {key.curve.name}; there are {', '.join(_CURVES)}")
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise error(f"{whose} is neither RSA, ECDSA nor Ed25519")


def authority_hash(ca: x509.Certificate) -> bytes:
    """What a CERTREQ calls a CA: SHA-1 of its SubjectPublicKeyInfo (RFC 7296 section 3.7), 20 octets."""
    info = ca.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha1(info, usedforsecurity=False).digest()


def certificate_matches(certificate: x509.Certificate, identity: Identity) -> bool:
    """Whether the certificate speaks for `identity`.

    A DN is compared with the subject; FQDN, mail and IP addresses with the subjectAltName alone, never with
    the subject's CN (RFC 4945 section 3.1). No other type of identity is spoken for.
    """
    if identity.id_type == IdType.DER_DN:
        return same_name(certificate.subject.public_bytes(), identity.data)
    return any(spoken.matches(identity) for spoken in certificate_identities(certificate)[1:])


def certificate_identities(certificate: x509.Certificate) -> tuple[Identity, ...]:
    """The identities that a certificate speaks for: its subject first, then the subjectAltName's."""
    found = [Identity(IdType.DER_DN, certificate.subject.public_bytes())]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(found)
    for name in names:
        if isinstance(name, x509.DNSName) and name.value.isascii():
            found.append(Identity(IdType.FQDN, name.value.encode()))
        elif isinstance(name, x509.RFC822Name) and name.value.isascii():
            found.append(Identity(IdType.RFC822, name.value.encode()))
        elif isinstance(name, x509.IPAddress) and hasattr(name.value, "packed"):
            kind = IdType.IPV4 if name.value.version == 4 else IdType.IPV6
            found.append(Identity(kind, name.value.packed))
    return tuple(found)


class TrustStore:
    """The CAs that are trusted. A peer's own certificate may be listed too: then it is trusted as it is."""

    __slots__ = ("authorities", "cas", "fingerprints")

    def __init__(self, cas: Iterable[x509.Certificate]) -> None:
        self.cas: tuple[x509.Certificate, ...] = tuple(cas)
        self.authorities: bytes = b"".join(dict.fromkeys(authority_hash(ca) for ca in self.cas))
        """For a CERTREQ payload: the CAs' hashes, 20 octets each."""
        self.fingerprints: tuple[bytes, ...] = tuple(ca.fingerprint(hashes.SHA256()) for ca in self.cas)
        """SHA-256 of each certificate, 32 octets: tells whether the same CAs are trusted."""

    def verify(
        self, leaf: x509.Certificate, intermediates: Iterable[x509.Certificate], now_unix: float
    ) -> None:
        """Return if a chain leads from `leaf` over some of `intermediates` to a trusted CA at `now_unix`, s.

        Checked for every certificate, the CA's own included: validity, key strength, critical extensions,
        signature and its hash; for every issuer that it is a CA, may sign certificates, and allows a path of
        this length; for the leaf that its key may sign and be used for IKE.
        Raises CertificateError with the reason that stopped the most promising chain.
        """
        now = datetime.fromtimestamp(now_unix, UTC)
        _check_leaf(leaf, now)
        if leaf in self.cas:
            return
        search = _Search(self.cas, tuple(islice(intermediates, MAX_INTERMEDIATES)), now)
        if not search.climb((leaf,)):
            raise CertificateError(search.reasons[0])


@dataclass(slots=True)
class _Search:
    """The search for a chain: what there is to build with, why it failed, how much work is left for it."""

    cas: tuple[x509.Certificate, ...]
    peers: tuple[x509.Certificate, ...]
    now: datetime
    reasons: list[str] = field(default_factory=list)
    signatures_left: int = MAX_SIGNATURES

    def climb(self, path: tuple[x509.Certificate, ...]) -> bool:
        """Whether `path`, leaf first, can be carried on to a trusted CA; if not, `reasons` grows."""
        top = path[-1]
        before = len(self.reasons)
        if any(self._issues(ca, path) for ca in self.cas if ca.subject == top.issuer):
            return True
        candidates = [
            c for c in self.peers if c.subject == top.issuer and c not in path and c not in self.cas
        ]
        if candidates and len(path) + 2 > MAX_DEPTH:
            self.reasons.append(f"the chain of {_name(path[0])} is longer than {MAX_DEPTH} certificates")
            return False
        for issuer in candidates:
            if self._issues(issuer, path) and self.climb((*path, issuer)):
                return True
        if len(self.reasons) == before:
            self.reasons.append(f"no trusted CA has issued {_name(top)}: its issuer is {_issuer(top)}")
        return False

    def _issues(self, issuer: x509.Certificate, path: tuple[x509.Certificate, ...]) -> bool:
        """Whether `issuer` may be, and is, the issuer of the last of `path`."""
        if not self.signatures_left:
            self.reasons.append(f"{_name(path[0])} comes with too many certificates of the same names")
            return False
        self.signatures_left -= 1
        try:
            _check_issuer(issuer, path, self.now)
        except CertificateError as error:
            self.reasons.append(str(error))
            return False
        return True


def _check_issuer(issuer: x509.Certificate, path: tuple[x509.Certificate, ...], now: datetime) -> None:
    _check_any(issuer, now)
    extensions = _extensions(issuer)
    constraints = _find(extensions, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise CertificateError(f"{_name(issuer)} is not a CA, yet has issued {_name(path[-1])}")
    # Self-issued certificates do not count, nor does the leaf (RFC 5280 section 4.2.1.9).
    below = sum(1 for certificate in path[1:] if certificate.subject != certificate.issuer)
    if constraints.path_length is not None and below > constraints.path_length:
        raise CertificateError(
            f"{_name(issuer)} allows {constraints.path_length} CAs below itself, the chain has {below}"
        )
    usage = _find(extensions, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise CertificateError(f"the key of {_name(issuer)} may not sign certificates (keyUsage)")
    # Whether it is critical or not: it would have to be applied, and is not.
    if _find(extensions, x509.NameConstraints) is not None:
        raise CertificateError(f"{_name(issuer)} has name constraints, which are not supported")
    _check_signature(path[-1], issuer)


def _check_signature(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        algorithm = certificate.signature_hash_algorithm
        if algorithm is not None and not isinstance(algorithm, _SIGNATURE_HASHES):
            raise CertificateError(f"{_name(certificate)} is signed with {algorithm.name}, which is weak")
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        if isinstance(error, CertificateError):
            raise
        raise CertificateError(
            f"the signature of {_issuer(certificate)} on {_name(certificate)} does not verify"
        ) from None


def _check_leaf(leaf: x509.Certificate, now: datetime) -> None:
    _check_any(leaf, now)
    extensions = _extensions(leaf)
    usage = _find(extensions, x509.KeyUsage)
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise CertificateError(f"the key of {_name(leaf)} may not sign (keyUsage)")
    purposes = _find(extensions, x509.ExtendedKeyUsage)
    if purposes is not None and not _IKE_USAGES.intersection(purposes):
        raise CertificateError(f"{_name(leaf)} is not for IKE (extendedKeyUsage)")


def _check_any(certificate: x509.Certificate, now: datetime) -> None:
    name = _name(certificate)
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        )
    if now > certificate.not_valid_after_utc:
        raise CertificateError(f"{name} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"the key of {name} can't be read") from None
    check_public_key(key, f"the key of {name}")
    for extension in _extensions(certificate):
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise CertificateError(
                f"{name} has the critical extension {extension.oid.dotted_string}, unknown here"
            )


def _read_through(certificate: x509.Certificate) -> None:
    for part in ("subject", "issuer", "extensions", "not_valid_before_utc", "not_valid_after_utc"):
        getattr(certificate, part)


def _extensions(certificate: x509.Certificate) -> x509.Extensions:
    try:
        return certificate.extensions
    except _UNREADABLE:
        raise CertificateError(f"the extensions of {_name(certificate)} can't be read") from None


def _find(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(certificate: x509.Certificate) -> str:
    return repr(str(Identity(IdType.DER_DN, certificate.subject.public_bytes())))


def _issuer(certificate: x509.Certificate) -> str:
    return repr(str(Identity(IdType.DER_DN, certificate.issuer.public_bytes())))
