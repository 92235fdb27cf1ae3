"""Copies of one gateway behind a balancer that know nothing of each other (RFC 6290 section 9.2)."""
