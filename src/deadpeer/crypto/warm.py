"""The first use of each primitive, done early: OpenSSL fetches and sets up what it needs only then.

The first key exchange of a process takes milliseconds instead of microseconds. A gateway that has just
booted is asked by everybody at once, and that delay would be part of every recovery.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from .aead import PacketCipher
from .auth import Credential, SignatureHash, verify_signature
from .dh import generate_key
from .entropy import Entropy
from .errors import AuthFailure, CredentialError
from .keys import EspKeys
from .prf import prf, prf_plus
from .proposals import ProposalTemplate
from .suites import Encryption, Group, Integrity, Prf

Rehearsal = tuple[str, Callable[[], None]]
"""The name of an algorithm, and a first use of it."""

_SIGNED = b"deadpeer: signed to be thrown away"
_HASHES = frozenset(int(each) for each in SignatureHash)


def rehearsals(
    proposals: Sequence[ProposalTemplate], credentials: Iterable[Credential], entropy: Entropy
) -> Iterator[Rehearsal]:
    """One throw-away use of each algorithm that the proposals and credentials can ask for, once each.

    In the proposals' order; finite field groups come last, being slow in themselves, so that whoever has
    little time leaves them out.
    """
    for p in dict.fromkeys(each for proposal in proposals for each in proposal.prfs):
        yield p.name, partial(_use_prf, p)
    for encryption, integrity in dict.fromkeys(pair for proposal in proposals for pair in _ciphers(proposal)):
        name = encryption.name if integrity is None else f"{encryption.name}-{integrity.name}"
        yield name, partial(_use_cipher, encryption, integrity)
    groups = dict.fromkeys(each for proposal in proposals for each in proposal.groups)
    exchanges = [(group, (group.name, partial(_use_group, group, entropy))) for group in groups]
    yield from (rehearsal for group, rehearsal in exchanges if group.kind != "modp")
    yield from (("signature", partial(_use_credential, each)) for each in credentials)
    yield from (rehearsal for group, rehearsal in exchanges if group.kind == "modp")


def _ciphers(proposal: ProposalTemplate) -> Iterator[tuple[Encryption, Integrity | None]]:
    for encryption in proposal.encryptions:
        for integrity in (None,) if encryption.aead else proposal.integrities:
            yield encryption, integrity


def _use_prf(p: Prf) -> None:
    prf_plus(p, prf(p, bytes(p.octets), b""), b"", 2 * p.octets)


def _use_cipher(encryption: Encryption, integrity: Integrity | None) -> None:
    keys = EspKeys(
        bytes(encryption.key_octets),
        bytes(encryption.salt_octets),
        bytes(integrity.key_octets if integrity else 0),
    )
    cipher = PacketCipher(encryption, integrity, keys)
    cipher.open(cipher.seal(bytes(encryption.iv_octets), bytes(16), b""), b"")


def _use_group(group: Group, entropy: Entropy) -> None:
    pair = generate_key(group, entropy)
    pair.shared(pair.public)


def _use_credential(credential: Credential) -> None:
    # What this key can't do is found out, and said, when a peer asks for it.
    with suppress(CredentialError, AuthFailure):
        method, data = credential.sign(_SIGNED, _HASHES)
        verify_signature(credential.certificate, method, data, _SIGNED)
