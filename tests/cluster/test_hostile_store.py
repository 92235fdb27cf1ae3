"""A store that answers what it was not asked for: longer leases, records that nobody here wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from tests.cluster.test_membership import up
from tests.support.cluster import CLUSTER, CLUSTER_KEY, World
from tests.support.simstore import S, SimStore

from deadpeer.cluster.membership import AGAIN_S, Membership, Trouble
from deadpeer.cluster.records import Keys, RecordError, read_view
from deadpeer.cluster.secrets import KeyKind, Sealer
from deadpeer.cluster.steps import MemberConfig
from deadpeer.cluster.store import Asked, Failed, Grant, Item, Replied, Reply, Request, Txn, TxnReply
from deadpeer.crypto import SeededEntropy

PREFIX = f"/deadpeer/{CLUSTER}/"
KEYS = Keys(CLUSTER)
MEMBER = {"registered": 1, "ended": 0, "ttl": 5}
LEASE = {"epoch": 1, "machine": "m", "forward": "", "knows": 1}
HUGE = 10**400


class GenerousStore(SimStore):
    """etcd grants no lease that is shorter than one and a half of its election timeout."""

    def carry_out(self, request: Request) -> Reply:
        return super().carry_out(Grant(max(request.ttl_s, 20)) if isinstance(request, Grant) else request)


def test_nobody_serves_for_longer_than_its_record_says_whatever_the_store_grants() -> None:
    """
    Member 1 asked for 5 s and got 20. etcd is restored from a backup without its lease:

      others: 1.2 leases of 5 s, and it is written off   ◀─▶   its fence: closed by then
    """
    world = World(31)
    world.store = GenerousStore(world)
    up(world)
    revision, items = world.store.backup()
    del items[f"{PREFIX}lease/1"]
    world.members[1].cut_off = True
    world.store.restore((revision, items))
    world.run(3.0)
    assert world.members[1].serves
    world.run(2.0)
    assert not world.members[1].serves
    world.run(20.0)
    assert world.violations == []


def test_that_leases_are_longer_than_was_asked_for_is_told_once() -> None:
    world = World(33)
    world.store = GenerousStore(world)
    up(world)
    world.run(60.0)
    for member in world.members:
        [told] = [t for t in member.troubles if t.kind == "lease_longer"]
        assert told.numbers == {"granted_s": 20}
        assert told.why == "5 s were asked for: a dead member is written off so much later"


class StubbornStore(SimStore):
    """Refuses new secrets so many times: as outrun, or without an answer."""

    refusals = 0
    refusal: Reply = TxnReply(False)

    def carry_out(self, request: Request) -> Reply:
        announces = isinstance(request, Txn) and any(put.key == KEYS.secrets for put in request.puts)
        if announces and self.refusals:
            self.refusals -= 1
            return self.refusal
        return super().carry_out(request)


@pytest.mark.parametrize("refusal", [TxnReply(False), Failed("no answer")])
def test_a_rotation_is_asked_for_again_until_it_is_done(refusal: Reply) -> None:
    world = World(32)
    world.store = store = StubbornStore(world)
    up(world)
    store.refusals, store.refusal = 3, refusal
    asker = world.members[1].process
    assert asker is not None
    asker.rotate(world.members[1].clock_ns(), world.unix_s, KeyKind.QCD)
    world.members[1].step(None)
    world.run(8.0)
    assert store.refusals == 0
    for member in world.members:
        assert member.process is not None and member.process.secrets is not None
        assert [key.number for key in member.process.secrets.of(KeyKind.QCD)] == [2, 1]
        assert member.process.secrets.announced == ()


def item(key: str, value: object) -> Item:
    return Item(PREFIX + key, value if isinstance(value, bytes) else json.dumps(value).encode(), 3)


@pytest.mark.parametrize(
    ("key", "record", "change"),
    [
        ("member/0", MEMBER, {"registered": HUGE}),
        ("member/0", MEMBER, {"registered": 1 << 63}),
        ("member/0", MEMBER, {"registered": -1, "ended": -1}),
        ("member/0", MEMBER, {"ttl": 0}),
        ("member/0", MEMBER, {"ttl": HUGE}),
        ("lease/0", LEASE, {"epoch": -1}),
        ("lease/0", LEASE, {"epoch": 1 << 64}),
        ("lease/0", LEASE, {"knows": HUGE}),
        ("secrets", {"version": 1, "sealed": ""}, {"version": HUGE}),
        ("secrets", {"version": 1, "sealed": ""}, {"version": -1}),
        ("member/" + "9" * 5000, MEMBER, {}),
    ],
)
def test_numbers_beyond_all_bounds_make_a_record_unreadable(
    key: str, record: Mapping[str, object], change: Mapping[str, object]
) -> None:
    with pytest.raises(RecordError):
        read_view(KEYS, 3, [item(key, {**record, **change})])
    if len(key) < 20:
        read_view(KEYS, 3, [item(key, record)])


@pytest.mark.parametrize("value", [b"[" * 100_000, b"\xff", b'{"registered": 1e400}', b"1" * 5000])
def test_no_value_is_more_than_unreadable(value: bytes) -> None:
    for key in ("member/0", "lease/0", "secrets"):
        with pytest.raises(RecordError):
            read_view(KEYS, 3, [item(key, value)])


def test_a_store_that_is_away_for_hours_is_not_told_of_each_time() -> None:
    """Three endpoints, each with words of its own."""
    member = Membership(MemberConfig(CLUSTER, 0, "m"), 0, Sealer(CLUSTER_KEY, CLUSTER), SeededEntropy(1))
    troubles: list[Trouble] = []
    asked = 0
    for tick in range(3600 * 4):
        now_ns = tick * S // 4
        member.handle(now_ns, 0.0, None)
        while (output := member.poll()) is not None:
            if isinstance(output, Asked):
                asked += 1
                member.handle(now_ns, 0.0, Replied(output.number, Failed(f"endpoint {asked % 3}: away")))
            elif isinstance(output, Trouble):
                troubles.append(output)
    assert asked > 3600
    assert {trouble.kind for trouble in troubles} == {"store_unreachable"}
    assert 1 <= len(troubles) <= 3600 / AGAIN_S + 1
    assert len({trouble.why for trouble in troubles}) > 1  # but something new is told, if late
