"""The first use of each primitive can be had early: all that the configuration can ask for, once each."""

from __future__ import annotations

import pytest
from tests.crypto import pki

from deadpeer.crypto import (
    DEFAULT_ESP_PROPOSALS,
    DEFAULT_IKE_PROPOSALS,
    Credential,
    SeededEntropy,
    parse_proposal,
    rehearsals,
)
from deadpeer.wire import Protocol


def credential(kind: str) -> Credential:
    key = pki.key(kind)
    return Credential(key, pki.certificate("CN=moon", key, "CN=moon", key))


def test_each_algorithm_of_the_proposals_is_used_once_and_finite_fields_last() -> None:
    ike = parse_proposal("aes256gcm16-aes128gcm16-prfsha384-modp2048-x25519", Protocol.IKE)
    esp = parse_proposal("aes128gcm16-x25519-ecp256", Protocol.ESP)
    cbc = parse_proposal("aes128-sha256-sha512", Protocol.ESP)
    names = [name for name, _ in rehearsals([ike, esp, cbc], [credential("ecp256")], SeededEntropy(1))]
    assert names == [
        "prfsha384",
        "aes256gcm16",
        "aes128gcm16",
        "aes128-sha256",
        "aes128-sha512",
        "x25519",
        "ecp256",
        "signature",
        "modp2048",
    ]


def test_every_algorithm_that_exists_can_be_rehearsed() -> None:
    proposals = [*DEFAULT_IKE_PROPOSALS, *DEFAULT_ESP_PROPOSALS]
    for _, use in rehearsals(proposals, [], SeededEntropy(1)):
        use()


@pytest.mark.parametrize("kind", ["rsa", "ecp256", "ecp384", "ecp521", "ed25519"])
def test_a_credential_signs_something_and_its_signature_is_verified(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[int] = []
    monkeypatch.setattr(
        "deadpeer.crypto.warm.verify_signature", lambda _, method, *__: verified.append(method)
    )
    ((name, use),) = rehearsals([], [credential(kind)], SeededEntropy(1))
    use()
    assert (name, verified) == ("signature", [14])
