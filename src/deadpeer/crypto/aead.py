"""One direction's packet protection, the same for ESP and for the SK payload: IV | ciphertext | ICV."""

import hmac as stdlib_hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from .errors import AuthenticationFailed
from .keys import EspKeys
from .prf import hash_algorithm
from .suites import Encryption, Integrity


class PacketCipher:
    """Seals and opens packets of one direction of one SA. Key objects are made once.

    AEAD: nonce = salt | IV (RFC 4106 section 4, RFC 7634 section 2), the additional data as given; the caller
    never uses an IV twice. CBC: encrypt, then HMAC over aad | IV | ciphertext | suffix, truncated; the caller
    pads the plaintext to whole blocks and gives an IV that nobody can predict.

    Raises ValueError on keys of the wrong length.
    """

    __slots__ = ("_inner", "icv_octets", "iv_octets", "overhead")

    def __init__(self, encryption: Encryption, integrity: Integrity | None, keys: EspKeys) -> None:
        self._inner: _Mode = _mode(encryption, integrity, keys)
        self.iv_octets = encryption.iv_octets
        self.icv_octets = integrity.icv_octets if integrity else encryption.icv_octets
        self.overhead = self.iv_octets + self.icv_octets

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, suffix: bytes = b"") -> bytes:
        """Return iv | ciphertext | icv.

        `suffix` is what an HMAC covers after the ciphertext without its being sent: the high half of an
        extended sequence number (RFC 4303 section 2.2.1). With an AEAD that belongs into `aad`, and a suffix
        is a ValueError, as is an IV of the wrong length or a CBC plaintext that is not whole blocks.
        """
        if len(iv) != self.iv_octets:
            raise ValueError(f"the IV is {self.iv_octets} octets, not {len(iv)}")
        return self._inner.seal(iv, plaintext, aad, suffix)

    def open(self, body: bytes, aad: bytes, suffix: bytes = b"") -> bytes:
        """Return the plaintext of iv | ciphertext | icv.

        Raises AuthenticationFailed on anything that does not verify, too short to be a packet included.
        """
        if len(body) < self.overhead:
            raise AuthenticationFailed(f"{len(body)} octets are too few for IV and ICV ({self.overhead})")
        return self._inner.open(body, aad, suffix)

    def __repr__(self) -> str:
        return "PacketCipher(...)"


class _Mode(Protocol):
    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, suffix: bytes) -> bytes: ...

    def open(self, body: bytes, aad: bytes, suffix: bytes) -> bytes: ...


def _mode(encryption: Encryption, integrity: Integrity | None, keys: EspKeys) -> _Mode:
    expected = (encryption.key_octets, encryption.salt_octets, integrity.key_octets if integrity else 0)
    if (len(keys.encryption_key), len(keys.salt), len(keys.integrity_key)) != expected:
        raise ValueError(f"keys of the wrong length for {encryption.name}")
    if encryption.aead is not (integrity is None):
        raise ValueError(f"{encryption.name} does not pair with this integrity algorithm")
    return _Aead(encryption, keys) if integrity is None else _CbcHmac(encryption, integrity, keys)


class _Aead:
    __slots__ = ("_aead", "_iv_octets", "_salt")

    def __init__(self, encryption: Encryption, keys: EspKeys) -> None:
        maker = ChaCha20Poly1305 if encryption.key_bits is None else AESGCM
        self._aead: AESGCM | ChaCha20Poly1305 = maker(keys.encryption_key)
        self._salt = keys.salt
        self._iv_octets = encryption.iv_octets

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, suffix: bytes) -> bytes:
        if suffix:
            raise ValueError("an AEAD covers nothing after the ciphertext")
        return iv + self._aead.encrypt(self._salt + iv, plaintext, aad)

    def open(self, body: bytes, aad: bytes, suffix: bytes) -> bytes:
        if suffix:
            raise ValueError("an AEAD covers nothing after the ciphertext")
        try:
            return self._aead.decrypt(self._salt + body[: self._iv_octets], body[self._iv_octets :], aad)
        except InvalidTag:
            raise AuthenticationFailed("the ICV does not verify") from None


class _CbcHmac:
    __slots__ = ("_block", "_cipher", "_icv_octets", "_iv_octets", "_mac")

    def __init__(self, encryption: Encryption, integrity: Integrity, keys: EspKeys) -> None:
        self._cipher = algorithms.AES(keys.encryption_key)
        self._mac = hmac.HMAC(keys.integrity_key, hash_algorithm(integrity.hash))
        self._icv_octets = integrity.icv_octets
        self._iv_octets = encryption.iv_octets
        self._block = encryption.block_octets

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, suffix: bytes) -> bytes:
        if len(plaintext) % self._block:
            raise ValueError(f"CBC takes whole blocks of {self._block} octets, not {len(plaintext)}")
        encryptor = Cipher(self._cipher, modes.CBC(iv)).encryptor()
        protected = iv + encryptor.update(plaintext) + encryptor.finalize()
        return protected + self._icv(aad, protected, suffix)

    def open(self, body: bytes, aad: bytes, suffix: bytes) -> bytes:
        protected, icv = body[: -self._icv_octets], body[-self._icv_octets :]
        if not stdlib_hmac.compare_digest(self._icv(aad, protected, suffix), icv):
            raise AuthenticationFailed("the ICV does not verify")
        iv, ciphertext = protected[: self._iv_octets], protected[self._iv_octets :]
        if len(ciphertext) % self._block:
            raise AuthenticationFailed("the ciphertext is not whole blocks")
        decryptor = Cipher(self._cipher, modes.CBC(iv)).decryptor()
        return decryptor.update(ciphertext) + decryptor.finalize()

    def _icv(self, aad: bytes, protected: bytes, suffix: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(aad + protected + suffix)
        return mac.finalize()[: self._icv_octets]
