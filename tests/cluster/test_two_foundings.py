"""A store that was lost, and in which somebody new has made first secrets before those who run came back."""

from __future__ import annotations

import pytest
from tests.cluster.test_membership import up
from tests.support.cluster import CLUSTER, CLUSTER_KEY, World

from deadpeer.cluster.records import Keys, write_secrets
from deadpeer.cluster.secrets import ClusterSecrets, KeyKind, Sealer, first_secrets
from deadpeer.cluster.store import Item, Put, Txn
from deadpeer.crypto import SeededEntropy

SECRETS = Keys(CLUSTER).secrets


def in_use(world: World) -> list[ClusterSecrets]:
    found = [member.process.secrets for member in world.members if member.process is not None]
    return [secrets for secrets in found if secrets is not None]


def test_first_secrets_of_another_founding_do_not_stand_beside_those_in_use() -> None:
    """
    etcd:  all members have version 1  ──  lost  ──  version 1 of a new member, with other keys

    By the version alone both would go on, and nobody would know the SPIs and tokens of the others.
    """
    world = up(World(41))
    [before, *_] = in_use(world)
    assert before.version == 1
    entropy = SeededEntropy(2)
    others = Sealer(CLUSTER_KEY, CLUSTER).seal(first_secrets(entropy, world.unix_s), entropy)
    assert others.version == 1
    world.store.restore((1, {SECRETS: Item(SECRETS, write_secrets(others), 1)}))
    world.run(20.0)
    found = in_use(world)
    assert len(found) == 3
    assert all(secrets == found[0] for secrets in found)
    assert found[0].keys == before.keys
    assert found[0].version == 2
    assert world.violations == []


@pytest.mark.parametrize("keeps", ["nothing", "older secrets"])
def test_secrets_outlive_the_lives_that_a_lost_store_ends(keeps: str) -> None:
    """Every keepalive is answered that there is no such lease, before anybody reads that the store is
    another: all lives are over. The tokens that their peers hold must be known all the same.
    """
    world = up(World(43))
    revision, items = world.store.backup()
    items = {key: item for key, item in items.items() if "/lease/" not in key}
    asker = world.members[0].process
    assert asker is not None
    asker.rotate(world.members[0].clock_ns(), world.unix_s, KeyKind.QCD)
    world.members[0].step(None)
    world.run(5.0)
    [before, *_] = in_use(world)
    assert before.version == 3
    world.store.restore((1, {}) if keeps == "nothing" else (revision, items))
    world.run(20.0)
    assert [member.lives for member in world.members] == [[1, 2]] * 3
    assert [secrets.keys for secrets in in_use(world)] == [before.keys] * 3
    assert all(member.serves for member in world.members)
    assert world.violations == []


def test_the_same_secrets_sealed_anew_change_nothing() -> None:
    world = up(World(42))
    [before, *_] = in_use(world)
    anew = write_secrets(Sealer(CLUSTER_KEY, CLUSTER).seal(before, SeededEntropy(3)))
    world.store.carry_out(Txn((), (Put(SECRETS, anew),)))
    revision = world.store.items[SECRETS].revision
    world.run(10.0)
    assert [secrets.version for secrets in in_use(world)] == [1, 1, 1]
    assert world.store.items[SECRETS].revision == revision
    assert all(member.serves for member in world.members)
