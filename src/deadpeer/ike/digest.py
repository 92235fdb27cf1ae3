"""Hashes that are not secrets: fingerprints of messages, NAT detection, cookies."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA1, SHA256, Hash


def sha1(*parts: bytes) -> bytes:
    """SHA-1, which RFC 7296 section 2.23 prescribes for NAT detection (no security rests on it)."""
    digest = Hash(SHA1())  # noqa: S303
    for part in parts:
        digest.update(part)
    return digest.finalize()


def sha256(*parts: bytes) -> bytes:
    """SHA-256 of the concatenation."""
    digest = Hash(SHA256())
    for part in parts:
        digest.update(part)
    return digest.finalize()


def fingerprint(octets: bytes) -> bytes:
    """Short stand-in for a message's octets, to recognise a retransmission."""
    return sha256(octets)[:16]
