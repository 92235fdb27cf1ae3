"""Members, their leases and lives, in virtual time: one invariant, in stories and in random lives."""

from __future__ import annotations

import json

import pytest
from tests.support.cluster import World

from deadpeer.cluster.secrets import KeyKind, Sealer, SecretsError


def up(world: World, seconds: float = 8.0) -> World:
    for member in world.members:
        member.boot()
    world.run(seconds)
    return world


def ended(world: World, number: int) -> tuple[int, int]:
    """(registered, ended) of a member as the store has it."""
    record = json.loads(world.store.items[f"/deadpeer/test/member/{number}"].value)
    return record["registered"], record["ended"]


def test_members_join_and_serve() -> None:
    world = up(World(1, members=4))
    assert [m.lives for m in world.members] == [[1]] * 4
    assert all(m.serves for m in world.members)
    world.run(60.0)
    assert all(m.serves for m in world.members)
    assert [m.lives for m in world.members] == [[1]] * 4
    secrets = [m.process.secrets for m in world.members if m.process is not None]
    assert all(s == secrets[0] for s in secrets)
    assert len(world.store.items) == 4 + 4 + 1
    assert world.violations == []


def test_a_dead_member_is_written_off_when_its_lease_ends() -> None:
    world = up(World(2))
    world.members[1].crash()
    world.run(3.0)
    assert ended(world, 1) == (1, 0)
    world.run(3.0)
    assert ended(world, 1) == (1, 1)
    view = world.members[0].process.view  # type: ignore[union-attr]
    assert view.members[1].ended == 1
    assert 1 not in view.leases


def test_a_member_that_is_started_again_begins_a_new_life_at_once() -> None:
    """On the same machine the earlier process can't run any more: its lease need not run out."""
    world = up(World(3))
    world.members[1].crash()
    world.run(0.2)
    world.members[1].boot()
    world.run(0.5)
    assert world.members[1].lives == [1, 2]
    assert ended(world, 1) == (2, 1)
    assert world.violations == []


def test_a_member_on_another_machine_waits_for_the_lease_to_end() -> None:
    """A clone, or a replacement with the same number, while the first one lives."""
    world = up(World(4))
    first = world.members[1]
    world.members[1] = clone = type(first)(world, 1, "another machine", disk_epoch=first.disk_epoch)
    world.members.append(first)
    clone.boot()
    world.run(30.0)
    assert clone.lives == []
    assert not clone.serves
    assert next(t.kind for t in clone.troubles) == "member_number_taken"
    assert first.serves
    first.crash()
    world.run(6.0)
    assert clone.lives == [2]
    assert world.violations == []


def test_the_store_is_away_for_a_minute() -> None:
    """All fence themselves, nobody's life is over, all go on in the same one."""
    world = up(World(5))
    world.store_up = False
    world.run(2.9)
    assert all(m.serves for m in world.members)
    world.run(2.0)
    assert not any(m.serves for m in world.members)
    world.run(55.0)
    world.store_up = True
    world.store.new_leader()
    world.run(2.0)
    assert all(m.serves for m in world.members)
    assert [m.lives for m in world.members] == [[1]] * 3
    assert world.violations == []


def test_the_store_is_away_and_has_dropped_all_leases() -> None:
    """Whoever comes first is written off by nobody; the others may be."""
    world = up(World(6))
    world.store_up = False
    world.run(60.0)
    world.store.lose_leases()
    world.store_up = True
    world.run(3.0)
    assert all(m.serves for m in world.members)
    assert world.violations == []


def test_a_member_that_is_cut_off_is_written_off_and_begins_anew() -> None:
    world = up(World(7))
    world.members[2].cut_off = True
    world.run(20.0)
    assert not world.members[2].serves
    assert ended(world, 2) == (1, 1)
    world.heal()
    world.run(3.0)
    assert world.members[2].lives == [1, 2]
    assert world.members[2].over == 1
    assert world.members[2].serves
    assert world.violations == []


@pytest.mark.parametrize("frozen_s", [1.0, 4.9, 5.1, 30.0])
def test_a_frozen_member(frozen_s: float) -> None:
    world = up(World(8))
    member = world.members[0]
    member.frozen = True
    world.run(frozen_s)
    member.thaw()
    assert member.serves == (frozen_s < 4.5)
    world.run(3.0)
    assert member.serves
    assert world.violations == []


def test_an_old_disk_image_revives_nothing() -> None:
    world = up(World(9))
    for _ in range(3):
        world.members[1].crash()
        world.members[1].boot()
        world.run(1.0)
    assert world.members[1].lives == [1, 2, 3, 4]
    world.members[1].crash()
    world.members[1].disk_epoch = 1
    world.members[1].boot()
    world.run(1.0)
    assert world.members[1].lives[-1] == 5


def test_a_store_that_was_lost_counts_on_from_the_disk() -> None:
    world = up(World(10))
    for _ in range(3):
        world.members[1].crash()
        world.members[1].boot()
        world.run(1.0)
    world.store.restore((1, {}))
    world.run(8.0)
    assert all(m.serves for m in world.members)
    assert ended(world, 1)[0] >= 4
    secrets = [m.process.secrets.keys for m in world.members if m.process and m.process.secrets]
    assert secrets[0] == secrets[1] == secrets[2]
    assert world.violations == []


def test_a_lease_that_a_restored_store_has_forgotten() -> None:
    """The backup was made while member 1 had none; it lives, and nobody writes it off before it is fenced."""
    world = up(World(14))
    revision, items = world.store.backup()
    del items["/deadpeer/test/lease/1"]
    world.members[1].cut_off = True  # it serves for the rest of its time
    world.store.restore((revision, items))
    world.run(2.0)
    assert world.members[1].serves
    assert ended(world, 1) == (1, 0)
    world.run(8.0)
    assert ended(world, 1) == (1, 1)
    assert world.violations == []


def test_a_key_that_a_restored_store_has_forgotten() -> None:
    world = up(World(15))
    backup = world.store.backup()
    zero = world.members[0]
    assert zero.process is not None
    zero.process.rotate(zero.clock_ns(), world.unix_s, KeyKind.QCD)
    zero.step(None)
    world.run(3.0)
    assert zero.process.secrets is not None
    assert zero.process.secrets.of(KeyKind.QCD)[0].number == 2
    rings = zero.process.secrets.keys
    world.store.restore(backup)
    world.run(10.0)
    for member in world.members:
        assert member.process is not None
        assert member.process.secrets is not None
        assert member.process.secrets.keys == rings
    assert world.violations == []


def test_a_rotation_leaves_nobody_behind() -> None:
    """
    Member 1 is cut off (and still serves) when a new QCD secret is announced:

      announced    0 and 2 know it           not active: 1 does not
      lease of 1 ends                        1 is fenced
      active       for 0 and 2
      1 comes back                           loads before it serves
    """
    world = up(World(11))
    zero, one, two = world.members
    one.cut_off = True
    assert zero.process is not None
    assert two.process is not None
    zero.process.rotate(zero.clock_ns(), world.unix_s, KeyKind.QCD)
    zero.step(None)
    world.run(2.0)
    assert one.serves
    assert two.process.secrets is not None
    ring = two.process.secrets.of(KeyKind.QCD)
    assert [(k.number, k.active) for k in ring] == [(1, True), (2, False)]
    world.run(8.0)
    assert not one.serves
    assert two.process.secrets is not None
    assert [(k.number, k.active) for k in two.process.secrets.of(KeyKind.QCD)] == [(2, True), (1, True)]
    world.heal()
    world.run(3.0)
    assert one.serves
    assert one.process is not None
    assert one.process.secrets == two.process.secrets
    assert world.violations == []


def test_a_member_with_another_cluster_key_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = up(World(12))
    monkeypatch.setattr("tests.support.cluster.CLUSTER_KEY", bytes(32))
    stranger = type(world.members[0])(world, 7, "machine-7")
    stranger.boot()
    world.run(8.0)
    assert not stranger.serves
    assert "cluster_key_wrong" in [t.kind for t in stranger.troubles]
    sealed = world.members[0].process.view.secrets  # type: ignore[union-attr]
    assert sealed is not None
    with pytest.raises(SecretsError):
        Sealer(bytes(32), "test").open(sealed)


def test_leaving_is_known_at_once() -> None:
    world = up(World(13))
    leaver = world.members[2]
    assert leaver.process is not None
    leaver.process.leave(leaver.clock_ns(), world.unix_s)
    leaver.step(None)
    world.run(0.5)
    assert not leaver.serves
    assert ended(world, 2) == (1, 1)


@pytest.mark.parametrize("seed", range(60))
def test_random_lives(seed: int) -> None:
    """Crashes, freezes, partitions, slow watches, drift within the margin, outages, elections; disks lost or
    the store restored from a backup (with both together an epoch may come twice: docs/cluster.md)."""
    world = World(seed, members=2 + seed % 7, ttl_s=5)
    dice = world.dice
    for member in world.members:
        member.drift = dice.uniform(-0.004, 0.004)
        member.watch_delay_s = dice.choice([0.001, 0.1, 3.0])
    world.store.drift = dice.uniform(-0.004, 0.004)
    restores = dice.random() < 0.5
    up(world)
    backups = [world.store.backup()]
    for _ in range(40):
        member = dice.choice(world.members)
        match dice.randrange(11):
            case 0 | 1:
                member.crash()
            case 2:
                member.frozen = member.process is not None
            case 3:
                member.cut_off = True
            case 4:
                world.heal()
            case 5:
                world.store_up = False
            case 6:
                world.store.new_leader()
            case 7:
                for each in world.members:
                    if each.frozen:
                        each.thaw()
            case 8:
                if member.process is not None and member.process.epoch:
                    member.process.rotate(member.clock_ns(), world.unix_s, dice.choice(list(KeyKind)))
                    member.step(None)
            case 9:
                if restores:
                    world.store.restore(dice.choice(backups))
            case _:
                backups.append(world.store.backup())
        if dice.random() < 0.6:
            world.store_up = True
        for each in world.members:
            if each.process is None and dice.random() < 0.5:
                if not restores and dice.random() < 0.1:
                    each.disk_epoch = 0
                each.boot()
        world.run(dice.choice([0.05, 0.5, 2.0, 5.0, 20.0]))
        assert world.violations == []
    world.store_up = True
    world.heal()
    for each in world.members:
        each.boot() if each.process is None else each.thaw()
    world.run(20.0)
    assert world.violations == []
    assert all(m.serves for m in world.members), [m.troubles[-3:] for m in world.members]
    for member in world.members:
        assert member.lives == sorted(set(member.lives))
