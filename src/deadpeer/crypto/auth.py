"""The AUTH payload's computation: shared key (RFC 7296 section 2.15) and signatures (RFC 7427)."""

from .prf import prf
from .suites import Prf

_KEY_PAD = b"Key Pad for IKEv2"


def shared_key_auth(p: Prf, secret: bytes, signed: bytes) -> bytes:
    """AUTH = prf(prf(secret, "Key Pad for IKEv2"), signed octets)."""
    return prf(p, prf(p, secret, _KEY_PAD), signed)


def signed_octets(p: Prf, real_message: bytes, peer_nonce: bytes, sk_p: bytes, id_body: bytes) -> bytes:
    """RealMessage1 | NonceR | prf(SK_pi, IDi body) for the initiator, and the mirror for the responder.

    `real_message` is the signer's own IKE_SA_INIT message from the header's first octet, without the non-ESP
    marker; `peer_nonce` the other side's nonce data; `sk_p` the signer's SK_pi or SK_pr; `id_body` the
    signer's ID payload without its generic header.
    """
    return real_message + peer_nonce + prf(p, sk_p, id_body)
