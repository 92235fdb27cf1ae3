"""What can go wrong in crypto/: one base class, one subclass per thing a caller decides on."""


class CryptoError(Exception):
    """Base of every error that crypto/ raises on purpose."""


class ProposalError(CryptoError, ValueError):
    """A proposal text can't be understood, or a peer's choice is not one that was offered."""


class BadPublicValue(CryptoError, ValueError):  # noqa: N818 -- what happened, not "an error"
    """A peer's key exchange value is not a valid public value of its group (RFC 6989)."""


class AuthenticationFailed(CryptoError):  # noqa: N818 -- what happened, not "an error"
    """Octets that do not verify under the key: forged, damaged, or not meant for this SA."""


class AuthFailure(CryptoError):  # noqa: N818 -- what happened, not "an error"
    """An AUTH payload that does not prove what it should (wrong signature, method or key)."""


class CredentialError(CryptoError, ValueError):
    """A local key or certificate that can't be used for what is asked of it."""


class CertificateError(CryptoError, ValueError):
    """A certificate (chain) that can't be read or must not be trusted; the text says why."""


class IdentityError(CryptoError, ValueError):
    """An identity, written or received, that can't be understood."""
