"""Stateless cookies for IKE_SA_INIT under load (RFC 7296 section 2.6)."""

from __future__ import annotations

import hmac

from deadpeer.crypto import Entropy
from deadpeer.ike.digest import sha256
from deadpeer.values import Address, Now, ip_of

SECRET_LIFE_S = 60.0


class CookieJar:
    """Makes and checks cookies: version of the secret | SHA-256(Ni | IPi | SPIi | secret).

    The secret changes every minute; the one before it is still accepted.
    """

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._secrets: dict[int, bytes] = {}
        self._version = -1
        self._until_ns = 0

    def make(self, now: Now, nonce: bytes, spi_i: bytes, source: Address) -> bytes:
        """The cookie (33 octets) for this initiator."""
        self._turn(now)
        return self._cookie(self._version, nonce, spi_i, source)

    def check(self, now: Now, cookie: bytes, nonce: bytes, spi_i: bytes, source: Address) -> bool:
        """Whether this initiator got this cookie from us within the last one to two minutes."""
        return any(hmac.compare_digest(cookie, each) for each in self.all(now, nonce, spi_i, source))

    def all(self, now: Now, nonce: bytes, spi_i: bytes, source: Address) -> list[bytes]:
        """The cookies that this initiator may have got from us within the last one to two minutes."""
        self._turn(now)
        return [self._cookie(version, nonce, spi_i, source) for version in self._secrets]

    def _cookie(self, version: int, nonce: bytes, spi_i: bytes, source: Address) -> bytes:
        packed = ip_of(source.host).packed
        return bytes([version & 0xFF]) + sha256(nonce, packed, spi_i, self._secrets[version])

    def _turn(self, now: Now) -> None:
        if now.mono_ns < self._until_ns:
            return
        if now.mono_ns >= self._until_ns + int(SECRET_LIFE_S * 1e9):
            self._secrets.clear()
        self._version += 1
        self._secrets[self._version] = self._entropy.octets(32)
        self._secrets.pop(self._version - 2, None)
        self._until_ns = now.after(SECRET_LIFE_S)
