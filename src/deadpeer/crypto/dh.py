"""Key exchange: X25519 (RFC 8031), ECP (RFC 5903) and MODP (RFC 3526) behind one KeyPair.

Every peer value is checked before it is used (RFC 6989).
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric import dh, ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.utils import CryptographyDeprecationWarning

from .entropy import Entropy
from .errors import BadPublicValue
from .modp import PRIMES
from .suites import Group

# More than twice the strength of the strongest group (RFC 3526 section 8), so one length for all three.
_EXPONENT_OCTETS = 64

_CURVES: dict[int, ec.EllipticCurve] = {19: ec.SECP256R1(), 20: ec.SECP384R1(), 21: ec.SECP521R1()}


class KeyPair:
    """An ephemeral key pair: `group`, `public` (the KE payload's data), and the shared secret with a peer."""

    __slots__ = ("_exchange", "group", "public")

    def __init__(self, group: Group, public: bytes, exchange: Callable[[bytes], bytes]) -> None:
        self.group = group
        self.public = public
        self._exchange = exchange

    def shared(self, peer_public: bytes) -> bytes:
        """Return g^ir, `group.shared_octets` long.

        Raises BadPublicValue for the wrong length, a MODP value outside 2..p-2, a point that is not on the
        curve, or an X25519 value of small order.
        """
        if len(peer_public) != self.group.public_octets:
            raise BadPublicValue(
                f"a {self.group.name} value is {self.group.public_octets} octets, not {len(peer_public)}"
            )
        return self._exchange(peer_public)

    def __repr__(self) -> str:
        return f"KeyPair({self.group.name})"


def generate_key(group: Group, entropy: Entropy) -> KeyPair:
    """Make an ephemeral key pair; the same entropy gives the same pair."""
    makers = {"x25519": _x25519, "ecp": _ecp, "modp": _modp}
    return makers[group.kind](group, entropy)


def _x25519(group: Group, entropy: Entropy) -> KeyPair:
    private = X25519PrivateKey.from_private_bytes(entropy.octets(32))

    def exchange(peer: bytes) -> bytes:
        try:
            # The library refuses an all-zero result (RFC 7748 section 6.1).
            return private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise BadPublicValue("an x25519 value of small order") from None

    return KeyPair(group, private.public_key().public_bytes_raw(), exchange)


def _ecp(group: Group, entropy: Entropy) -> KeyPair:
    curve = _CURVES[group.transform_id]
    private = ec.derive_private_key(_scalar(curve.group_order, entropy), curve)
    numbers = private.public_key().public_numbers()
    half = group.public_octets // 2

    def exchange(peer: bytes) -> bytes:
        try:
            # x | y without X9.62's 0x04 (RFC 5903 section 7); the library checks that it is on the curve.
            point = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + peer)
        except ValueError:
            raise BadPublicValue(f"not a point on {group.name}") from None
        return private.exchange(ec.ECDH(), point)

    public = numbers.x.to_bytes(half, "big") + numbers.y.to_bytes(half, "big")
    return KeyPair(group, public, exchange)


def _scalar(order: int, entropy: Entropy) -> int:
    """An integer in 1..order-1, evenly, by rejection."""
    bits = order.bit_length()
    octets = (bits + 7) // 8
    while True:
        candidate = int.from_bytes(entropy.octets(octets), "big") >> (8 * octets - bits)
        if 1 <= candidate < order:
            return candidate


def _modp(group: Group, entropy: Entropy) -> KeyPair:
    prime = PRIMES[group.transform_id]
    exponent = int.from_bytes(entropy.octets(_EXPONENT_OCTETS), "big") | 1 << (8 * _EXPONENT_OCTETS - 1)
    # The library makes no private key from an exponent alone, and pow() is neither fast nor constant in time.
    # So the key is given g as its (never used) public half, and g^x is asked of it as an exchange with g.
    with _deprecated():
        parameters = dh.DHParameterNumbers(prime, 2)
        private = dh.DHPrivateNumbers(exponent, dh.DHPublicNumbers(2, parameters)).private_key()

    def power(value: int) -> bytes:
        with _deprecated():
            result = private.exchange(dh.DHPublicNumbers(value, parameters).public_key())
        return result.rjust(group.shared_octets, b"\0")

    def exchange(peer: bytes) -> bytes:
        value = int.from_bytes(peer, "big")
        if not 1 < value < prime - 1:
            raise BadPublicValue(f"a {group.name} value outside 2..p-2")
        try:
            return power(value)
        except ValueError:
            raise BadPublicValue(f"not a usable {group.name} value") from None

    return KeyPair(group, power(2), exchange)


@contextmanager
def _deprecated() -> Iterator[None]:
    """The library means to drop finite field groups one day, and warns at each use; IKE can't yet.

    RFC 8247 section 2.4 makes MODP 2048 a MUST, and the lock file pins a version of the library that has it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield
