"""Crash discovery: evidence, QCD (RFC 6290), liveness, and what answers to strangers may cost."""
