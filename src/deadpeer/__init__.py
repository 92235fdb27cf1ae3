"""Secure crash discovery for IKEv2 (RFC 6290 and RFC 7296)."""

__version__ = "0.1.0"
