"""Hundreds of clients at once: how long it takes until all of them are back, and what a cluster shares."""
