"""The negotiated pseudorandom function and prf+ (RFC 7296 section 2.13)."""

from cryptography.hazmat.primitives import hashes, hmac

from .suites import HashName, Prf

_HASHES: dict[HashName, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def hash_algorithm(name: HashName) -> hashes.HashAlgorithm:
    """The `cryptography` object of a hash by its name."""
    return _HASHES[name]


def prf(p: Prf, key: bytes, data: bytes) -> bytes:
    """prf(key, data): `p.octets` octets. HMAC takes a key of any length as it is (RFC 4868)."""
    mac = hmac.HMAC(key, _HASHES[p.hash])
    mac.update(data)
    return mac.finalize()


def prf_plus(p: Prf, key: bytes, seed: bytes, n: int) -> bytes:
    """The first `n` octets of prf+(key, seed).

    Raises ValueError beyond 255 blocks, where the counter octet ends.
    """
    if not 0 <= n <= 255 * p.octets:
        raise ValueError(f"prf+ of {p.name} gives at most {255 * p.octets} octets, not {n}")
    keyed = hmac.HMAC(key, _HASHES[p.hash])
    stream, block, counter = bytearray(), b"", 1
    while len(stream) < n:
        mac = keyed.copy()
        mac.update(block + seed + bytes((counter,)))
        block = mac.finalize()
        stream += block
        counter += 1
    return bytes(stream[:n])
