"""QCD tokens (RFC 6290 section 5): pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum

from cryptography.hazmat.primitives import hashes, hmac

from deadpeer.crash.boot import Generation
from deadpeer.crash.options import TokenMethod
from deadpeer.values import ip_of
from deadpeer.wire import Notify, NotifyType, Protocol

TOKEN_SIZE = 16
"""Octets of the tokens that we make: four of them fit in three times the smallest question."""

MIN_TOKEN_SIZE = 16
MAX_TOKEN_SIZE = 128
MAX_TOKENS_SENT = 4
"""RFC 6290 section 4.1: a taker need not accept more than four in a message."""


class MakerRole(IntEnum):
    """Which end of the IKE SA the token maker is.

    It is part of the token: a stranger who flips the Initiator flag of a request asks for another token.
    """

    RESPONDER = 0
    INITIATOR = 1


def make_token(secret: bytes, role: MakerRole, spi_i: bytes, spi_r: bytes, taker: str | None = None) -> bytes:
    """The token of 16 octets. `taker` is the taker's IP address for the address-bound method (5.2).

    The inputs of the two methods have different lengths (17 octets; 21 or 33), so they never meet.
    """
    mac = hmac.HMAC(secret, hashes.SHA256())
    mac.update(bytes((role,)) + spi_i + spi_r)
    if taker is not None:
        mac.update(ip_of(taker).packed)
    return mac.finalize()[:TOKEN_SIZE]


def recompute(
    generations: Sequence[Generation],
    methods: Collection[TokenMethod],
    role: MakerRole,
    spi_i: bytes,
    spi_r: bytes,
    taker: str,
) -> list[bytes]:
    """The tokens that a dead SA may have had, likeliest first, at most four.

    The newest generations come first. With both methods in question two generations fit, not four.
    """
    tokens = [
        make_token(generation.secret, role, spi_i, spi_r, taker if method == "spi-address" else None)
        for generation in generations
        for method in sorted(methods)
    ]
    return tokens[:MAX_TOKENS_SENT]


def token_notify(token: bytes) -> Notify:
    """N(QCD_TOKEN) as RFC 6290 section 4.1 has it: protocol IKE, no SPI."""
    return Notify(NotifyType.QCD_TOKEN, token, Protocol.IKE)


def token_of(notify: Notify) -> bytes | None:
    """The token in a N(QCD_TOKEN), or None if it is not one or not a valid one.

    Protocol 0 is seen in the field and tolerated.
    """
    if notify.type != NotifyType.QCD_TOKEN or notify.spi or notify.protocol not in (0, Protocol.IKE):
        return None
    return notify.data if MIN_TOKEN_SIZE <= len(notify.data) <= MAX_TOKEN_SIZE else None
