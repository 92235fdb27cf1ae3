"""What a cluster keeps in the store: the figures of docs/cluster.md."""

from __future__ import annotations

from pathlib import Path

from deadpeer.cluster.records import (
    Keys,
    LeaseRecord,
    MemberRecord,
    write_lease,
    write_member,
    write_secrets,
)
from deadpeer.cluster.secrets import ClusterSecrets, KeyKind, Sealer, first_secrets
from deadpeer.crypto import SeededEntropy

KEYS = Keys("edge")
ENTROPY = SeededEntropy(1)
DOCUMENT = (Path(__file__).parents[2] / "docs/cluster.md").read_text()


def sealed(secrets: ClusterSecrets) -> int:
    """Octets of the key and its value."""
    return len(KEYS.secrets) + len(write_secrets(Sealer(bytes(32), "edge").seal(secrets, ENTROPY)))


def announced(secrets: ClusterSecrets) -> ClusterSecrets:
    for kind in KeyKind:
        secrets = secrets.announce(kind, ENTROPY.octets(32), 1_700_000_000)
    return secrets


def test_the_figures_of_the_document() -> None:
    member = len(KEYS.member(0)) + len(write_member(MemberRecord(1000, 999)))
    lease = len(KEYS.lease(0)) + len(write_lease(LeaseRecord(1000, "a" * 32, "192.0.2.10:4501", 12)))
    new = full = first_secrets(ENTROPY, 1_700_000_000)
    for _ in range(3):
        full = announced(full).activate()
    most = announced(full)
    assert sealed(announced(most).activate()) <= sealed(most), "more rotations make it no larger"
    figures = (
        f"per member, {member} octets for `member/N` and up to {lease} for `lease/N` (epoch 1000, IPv4);"
        f" {sealed(new):,} octets for the secrets of a new cluster, {sealed(full):,} when each kind has four"
        f" keys, {sealed(most):,} with announced ones."
    )
    assert figures in " ".join(DOCUMENT.split())
    assert 8 * (member + lease) + sealed(most) < 5000
