"""Corners in which the argument of docs/cluster.md had a hole once."""

from __future__ import annotations

from tests.cluster.test_membership import ended, up
from tests.support.cluster import CLUSTER, Member, World
from tests.support.fleet import Fleet

from deadpeer.cluster.membership import Membership
from deadpeer.cluster.ownership import Cluster, Ruling, Standing, rule
from deadpeer.cluster.records import LeaseRecord, MemberRecord, View
from deadpeer.cluster.secrets import Sealer
from deadpeer.cluster.spi import EspCodec, SpiCodec, SpiOrigin, SpiRing
from deadpeer.cluster.standby import ANSWER_S, PartnerLives, Standby, ToPartner
from deadpeer.cluster.steps import MemberConfig
from deadpeer.cluster.store import (
    Asked,
    Grant,
    GrantReply,
    Item,
    KeepAlive,
    KeepAliveReply,
    Range,
    RangeReply,
    Replied,
    Reply,
    Txn,
    TxnReply,
)
from deadpeer.crash.sir_wire import Check, Subject, Verb, encode
from deadpeer.crypto import SeededEntropy
from deadpeer.values import Address, Datagram
from deadpeer.wire import NON_ESP_MARKER, encode_message

S = 1_000_000_000
KEY = bytes(range(32))


# --- membership --------------------------------------------------------------------------------------


def test_another_machine_takes_the_number_of_a_member_that_a_restored_store_has_forgotten() -> None:
    """
    Member 1 lives. etcd is restored from a backup without its lease. Its replacement starts elsewhere:

      lease/1 absent  ──▶  registers epoch 2, ended 1, at once   (the first one serves for 4.7 s more)
    """
    world = up(World(21))
    first = world.members[1]
    revision, items = world.store.backup()
    del items[f"/deadpeer/{CLUSTER}/lease/1"]
    first.cut_off = True
    world.store.restore((revision, items))
    world.members[1] = clone = type(first)(world, 1, "another machine")
    world.members.append(first)
    clone.boot()
    world.run(2.0)
    assert first.serves
    assert world.violations == []


def test_a_member_with_a_longer_lease_than_those_who_would_write_it_off() -> None:
    world = World(22)
    world.members[1].ttl_s = 60
    up(world, 80.0)
    revision, items = world.store.backup()
    del items[f"/deadpeer/{CLUSTER}/lease/1"]
    world.members[1].cut_off = True
    world.store.restore((revision, items))
    world.run(15.0)
    assert world.members[1].serves
    assert ended(world, 1) == (1, 0)
    assert world.violations == []


def test_a_closed_fence_opens_only_after_a_read() -> None:
    """An etcd leader that was deposed while it stood still answers keepalives of a lease that has ended
    (etcd issue 15247, mended in 3.4.31 and 3.5.13). A read is linearizable and would have told.
    """
    config = MemberConfig("edge", 0, "machine", ttl_s=5)
    member = Membership(config, 0, Sealer(KEY, "edge"), SeededEntropy(1))
    store = _Store(member)
    store.run(0, 8 * S)
    assert member.fence.is_open(8 * S)
    store.silent = True
    store.run(8 * S, 30 * S)
    assert not member.fence.is_open(30 * S)
    store.silent, store.reads = False, False
    store.run(30 * S, 33 * S)
    assert not member.fence.is_open(33 * S)


class _Store:
    """Answers one member at once; keeps no order among several, as there are none."""

    def __init__(self, member: Membership) -> None:
        self.member = member
        self.silent = False
        self.reads = True
        self._items: dict[str, tuple[bytes, int, int]] = {}
        self._revision = 1

    def run(self, from_ns: int, to_ns: int) -> None:
        for now_ns in range(from_ns, to_ns + 1, S // 10):
            self.member.handle(now_ns, 0.0, None)
            while (output := self.member.poll()) is not None:
                if not isinstance(output, Asked):
                    self.member.persisted(now_ns, 0.0)
                elif not self.silent:
                    self._answer(now_ns, output)

    def _answer(self, now_ns: int, asked: Asked) -> None:
        match asked.request:
            case Range() if self.reads:
                items = tuple(Item(k, v, r, lease) for k, (v, r, lease) in self._items.items())
                reply: Reply = RangeReply(self._revision, items, "store")
            case Grant():
                reply = GrantReply(7, 5.0)
            case KeepAlive():
                reply = KeepAliveReply(5.0)
            case Txn(puts=puts):
                self._revision += 1
                self._items |= {put.key: (put.value, self._revision, put.lease) for put in puts}
                reply = TxnReply(True)
            case _:
                return
        self.member.handle(now_ns, 0.0, Replied(asked.number, reply))


# --- whose an SPI is ---------------------------------------------------------------------------------


def test_an_spi_that_passes_under_two_keys_is_that_of_a_life_that_goes_on() -> None:
    """Member 62 lives and used the older key; by the newer one its SPI reads as one of a dead life of 2."""
    older, newer = SpiCodec(bytes(32)), SpiCodec(KEY)
    spi = newer.encode(1, 2, 517909)
    assert older.decode(spi) == SpiOrigin(16526, 62)
    view = View(members={2: MemberRecord(3, 2), 62: MemberRecord(16526, 16525)})
    zero = Cluster(SpiRing([KEY, bytes(32)]), EspCodec(KEY), 1, 0, view)
    assert rule(zero.of_ike(spi), Standing.UNKNOWN, alone=False) is Ruling.SILENCE


def test_of_another_members_child_nobody_says_more_than_a_hint() -> None:
    """An ESP SPI names no epoch: a view that is late may take a child of the next life for one that ended."""
    fleet = Fleet(30, members=3, clients=3).up()
    gone = fleet.gateways[0]
    assert gone.node is not None
    [spi] = [child.spi_in for sa in gone.node.endpoint.views() for child in sa.child_views]
    gone.crash()
    fleet.run(8.0)
    other = fleet.gateways[1]
    assert other.life is not None
    assert other.life.ownership.of_esp(spi) is Standing.ENDED
    query = encode(Check(Verb.QUERY, Subject.esp(spi), bytes(21), True))
    sender = Address(fleet.clients[0].host, 4500)
    octets = NON_ESP_MARKER + encode_message(query)
    fleet.inject(1, Datagram(octets, sender, Address("192.0.2.2", 4500)))
    assert other.node is not None
    assert other.node.endpoint.counters["check.other_member"] == 1
    assert fleet.told == 0


def test_the_children_of_a_member_that_is_not_known_yet() -> None:
    """SIR's responder and INVALID_SPI keep silent for LIVING only."""
    esp = EspCodec(KEY)
    zero = Cluster(SpiRing([KEY]), esp, 1, 0, View(members={}, leases={0: LeaseRecord(1, "m", "", 1)}))
    assert zero.of_esp(esp.encode(9, 12345)) is Standing.LIVING


# --- hot standby -------------------------------------------------------------------------------------


def pair() -> tuple[Standby, Standby]:
    """Member 0 holds the address and has asked; member 1 runs and does not hold it."""
    zero, one = (Standby(n, 0, [KEY], SeededEntropy(n)) for n in (0, 1))
    zero.address(0, True)
    _exchange(0, zero, one)
    return zero, one


def _exchange(now_ns: int, speaker: Standby, hearer: Standby, lost: int = 0) -> list[bool]:
    """Drain both; `lost` messages of the speaker get lost first. What the speaker learns of the hearer."""
    told: list[bool] = []
    for _ in range(4):
        for here, there in ((speaker, hearer), (hearer, speaker)):
            while (output := here.poll()) is not None:
                match output:
                    case ToPartner(octets=octets):
                        if here is speaker and lost:
                            lost -= 1
                        else:
                            there.receive(now_ns, octets)
                    case PartnerLives(lives=lives) if here is speaker:
                        told.append(lives)
                    case PartnerLives():
                        pass
                    case _:
                        here.persisted(now_ns)
    return told


def test_a_process_that_was_stopped_finds_itself_fenced_before_it_serves_its_queue() -> None:
    """The address went to the other one, which had no answer from here and spoke for our SAs."""
    zero, _ = pair()
    assert zero.is_open(0)
    assert not zero.is_open(60 * S)


def test_the_partner_claims_the_address_and_one_datagram_gets_lost() -> None:
    zero, one = pair()
    one.address(10 * S, True)
    told = _exchange(10 * S, one, zero, lost=1)
    at_ns = 10 * S + int(ANSWER_S * S)
    one.expire(at_ns)
    told += _exchange(at_ns, one, zero)
    assert False not in told


def test_who_is_asked_by_a_partner_that_holds_the_address_is_silent_about_it_at_once() -> None:
    """Else it speaks for the other's new SAs until it asks itself, for up to a second."""
    zero, one = pair()
    zero.expire(int(ANSWER_S * S))
    assert _exchange(int(ANSWER_S * S), zero, one) == []
    one.address(10 * S, True)
    question = next(o for o in iter(one.poll, None) if isinstance(o, ToPartner))
    zero.receive(10 * S, question.octets)
    told = [o.lives for o in iter(zero.poll, None) if isinstance(o, PartnerLives)]
    assert told == [True]


# --- numbers and lives in a restored store -----------------------------------------------------------


def replaced(world: World) -> tuple[Member, Member]:
    """Member 1 lives and is cut off; another machine, with an empty disk, takes its number."""
    first = world.members[1]
    first.cut_off = True
    world.members[1] = clone = type(first)(world, 1, "another machine")
    world.members.append(first)
    return first, clone


def test_another_machine_takes_a_number_that_a_lost_store_does_not_know() -> None:
    """Both serve as member 1 in epoch 1: the second one takes the first one's SPIs for its own, and lost."""
    world = up(World(31))
    first, clone = replaced(world)
    world.store.restore((1, {}))
    clone.boot()
    world.run(2.0)
    assert not (first.serves and clone.serves), (first.lives, clone.lives)


def test_another_machine_takes_a_number_whose_present_life_a_restored_store_has_forgotten() -> None:
    """The backup is from between two lives of member 1: registered 1, ended 1. It lives in epoch 2 now."""
    world = up(World(32))
    world.members[1].crash()
    world.run(8.0)
    backup = world.store.backup()
    world.members[1].boot()
    world.run(1.0)
    first, clone = replaced(world)
    assert first.lives == [1, 2]
    world.store.restore(backup)
    clone.boot()
    world.run(2.0)
    assert not (first.serves and clone.serves), (first.lives, clone.lives)


def test_a_life_that_was_over_before_the_store_was_restored() -> None:
    """
    Member 1 is cut off and written off: from now on anybody may buy the tokens of its SAs.
    etcd is restored from a backup of before. Member 1 comes back, fenced all the while:

      registered 1, ended 0  ──▶  goes on in epoch 1, with SAs whose tokens have been told
    """
    world = up(World(34))
    backup = world.store.backup()
    one = world.members[1]
    one.cut_off = True
    world.run(10.0)
    assert ended(world, 1) == (1, 1)
    world.store.restore(backup)
    world.run(1.0)
    world.heal()
    world.run(10.0)
    assert one.serves
    assert one.lives == [1, 2]
