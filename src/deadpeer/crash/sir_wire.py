"""Safe IKE Recovery on the wire: Vendor ID, N(CHECK_SPI), and the cookie that keeps the asker stateless.

After draft-detienne-ikev2-recovery, whose octets are not published in an RFC and have no IANA numbers:
this layout is ours, in private-use numbers under a Vendor ID (RFC 7296 section 3.12).

    Alice  HDR(message ID 0), N(CHECK_SPI, QUERY), N(COOKIE)        -->  Bob
           <--  HDR(Response), N(CHECK_SPI, ACK or NACK), N(COOKIE)

The header has the pair of IKE SPIs in question, or zeros if the question is about an ESP SPI.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from hmac import compare_digest
from struct import Struct

from cryptography.hazmat.primitives import hashes, hmac

from deadpeer.crypto import Entropy
from deadpeer.values import NS_PER_S, Address, ip_of
from deadpeer.wire import ExchangeType, Message, Notify, NotifyType, Protocol

VENDOR_ID = hashlib.sha256(b"deadpeer safe IKE recovery 1").digest()[:16]
"""Who sends it in its first message answers CHECK_SPI."""

CHECK_SPI = 40970
"""Status notify, private use. Data: one octet, see `Verb`."""

COOKIE_SIZE = 21
MAX_COOKIE = 64
"""RFC 7296 section 2.6: a cookie has 1 to 64 octets. The responder echoes any."""

COOKIE_VALID_S = 5.0
"""For so long an answer is taken: a few of the longest round trips, retransmission left out."""

TICK_NS = NS_PER_S // 10
"""The unit of a cookie's time."""

SECRET_SIZE = 32
SECRET_LIFE_S = 3600.0


class Verb(IntEnum):
    """What a CHECK_SPI says."""

    QUERY = 1
    ACK = 2
    """I have this SA."""
    NACK = 3
    """I do not have it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The SA in question: an IKE SA by its pair of SPIs (16 octets), or a child by the SPI (4 octets) that
    the one who is asked receives with."""

    protocol: int
    spi: bytes

    @classmethod
    def ike(cls, spi_i: bytes, spi_r: bytes) -> Subject:
        """An IKE SA."""
        return cls(Protocol.IKE, spi_i + spi_r)

    @classmethod
    def esp(cls, spi: int) -> Subject:
        """A child SA, by the SPI that the asker sends with."""
        return cls(Protocol.ESP, spi.to_bytes(4, "big"))

    @property
    def header_spis(self) -> tuple[bytes, bytes]:
        """The SPIs of the header of query and answer."""
        return (self.spi[:8], self.spi[8:]) if self.protocol == Protocol.IKE else (bytes(8), bytes(8))


@dataclass(frozen=True, slots=True)
class Check:
    """A well-formed CHECK_SPI message: `from_initiator` is its Initiator flag."""

    verb: Verb
    subject: Subject
    cookie: bytes
    from_initiator: bool


def encode(check: Check) -> Message:
    """The message; a QUERY is a request, ACK and NACK are responses."""
    spi_i, spi_r = check.subject.header_spis
    return Message(
        spi_i,
        spi_r,
        ExchangeType.INFORMATIONAL,
        0,
        from_initiator=check.from_initiator,
        is_response=check.verb is not Verb.QUERY,
        payloads=(
            Notify(CHECK_SPI, bytes([check.verb]), check.subject.protocol, check.subject.spi),
            Notify(NotifyType.COOKIE, check.cookie),
        ),
    )


def is_check(message: Message) -> bool:
    """Whether an unprotected message is about CHECK_SPI at all, well-formed or not."""
    return message.notify(CHECK_SPI) is not None


def decode(message: Message) -> Check | None:
    """What a message says, or None if it is not exactly as it must be: one CHECK_SPI, one COOKIE, an SPI
    that fits the header, a verb that fits the Response flag."""
    found, cookies = message.notifies(CHECK_SPI), message.notifies(NotifyType.COOKIE)
    if message.exchange != ExchangeType.INFORMATIONAL or message.message_id != 0:
        return None
    if len(found) != 1 or len(cookies) != 1 or len(message.payloads) != 2:
        return None
    notify, cookie = found[0], cookies[0].data
    sizes = {Protocol.IKE: 16, Protocol.ESP: 4}
    if sizes.get(Protocol(notify.protocol) if notify.protocol in sizes else Protocol.NONE) != len(notify.spi):
        return None
    if len(notify.data) != 1 or notify.data[0] not in tuple(Verb) or not 1 <= len(cookie) <= MAX_COOKIE:
        return None
    verb, subject = Verb(notify.data[0]), Subject(notify.protocol, notify.spi)
    if (verb is Verb.QUERY) is message.is_response:
        return None
    if (message.spi_i, message.spi_r) != subject.header_spis:
        return None
    if subject.protocol == Protocol.IKE and bytes(8) in subject.header_spis:
        return None
    return Check(verb, subject, cookie, message.from_initiator)


class CookieMint:
    """Makes and checks cookies. Keeps two secrets, and nothing about any query.

    Cookie: generation of the secret (1 octet) | time (4 octets, units of 100 ms) | first 16 octets of
    HMAC-SHA-256(secret, protocol | SPI | Bob's address and port | generation | time).
    """

    def __init__(self, now_ns: int, entropy: Entropy) -> None:
        self._entropy = entropy
        self._secrets = {0: entropy.octets(SECRET_SIZE)}
        self._current = 0
        self._since_ns = now_ns

    def make(self, now_ns: int, subject: Subject, bob: Address) -> bytes:
        """The cookie of a query about `subject` to `bob`."""
        if now_ns - self._since_ns >= SECRET_LIFE_S * NS_PER_S:
            self._rotate(now_ns)
        return _cookie(self._secrets[self._current], self._current, _tick(now_ns), subject, bob)

    def made_ns(self, now_ns: int, cookie: bytes, subject: Subject, bob: Address) -> int | None:
        """When this cookie was made (monotonic ns, no later than it was), or None if we did not make it for
        this question to this address, or too long ago."""
        if len(cookie) != COOKIE_SIZE:
            return None
        generation, tick = _COOKIE.unpack_from(cookie)
        secret = self._secrets.get(generation)
        if secret is None or not compare_digest(cookie, _cookie(secret, generation, tick, subject, bob)):
            return None
        age = (_tick(now_ns) - tick) & 0xFFFFFFFF
        if age > COOKIE_VALID_S * NS_PER_S / TICK_NS:
            return None
        asked_ns: int = (now_ns // TICK_NS - age) * TICK_NS
        return asked_ns

    def _rotate(self, now_ns: int) -> None:
        old = self._current
        self._current = (old + 1) & 0xFF
        self._secrets = {old: self._secrets[old], self._current: self._entropy.octets(SECRET_SIZE)}
        self._since_ns = now_ns


# generation, time
_COOKIE = Struct("!BI")


def _tick(now_ns: int) -> int:
    return (now_ns // TICK_NS) & 0xFFFFFFFF


def _cookie(secret: bytes, generation: int, tick: int, subject: Subject, bob: Address) -> bytes:
    stamp = _COOKIE.pack(generation, tick)
    host = ip_of(bob.host).packed
    mac = hmac.HMAC(secret, hashes.SHA256())
    # SPI and address have lengths that the octets before them tell, so no two inputs are the same.
    mac.update(bytes([subject.protocol]) + subject.spi + bytes([len(host)]) + host)
    mac.update(bob.port.to_bytes(2, "big") + stamp)
    return stamp + mac.finalize()[:16]
