"""What is remembered of questions that had to be met with silence: bounded, the last one, never too early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.cluster import unanswered
from deadpeer.cluster.ownership import Cluster, Holder
from deadpeer.cluster.records import LeaseRecord, MemberRecord, View
from deadpeer.cluster.router import Foreign, trace
from deadpeer.cluster.spi import EspCodec, SpiCodec, SpiRing
from deadpeer.cluster.unanswered import AGAIN, PAUSE_S, Unanswered, changed, keep_s
from deadpeer.crash.sir_wire import COOKIE_SIZE, Check, Subject, Verb, encode
from deadpeer.values import Address, Datagram
from deadpeer.wire import NON_ESP_MARKER, ExchangeType, PayloadType, encode_message

S = 1_000_000_000
KEY = bytes(range(32))
ESP = EspCodec(KEY)
CODEC = SpiCodec(KEY)
HERE = Address("192.0.2.1", 4500)
KEEP_S = 7.0
LIVING = View(1, {n: MemberRecord(5, 4) for n in range(4)}, {n: LeaseRecord(5, "m", "", 1) for n in range(4)})


def ended(*members: int) -> View:
    """Members 0 to 3, of which these are dead and written off."""
    records = {n: MemberRecord(5, 5 if n in members else 4) for n in range(4)}
    return View(2, records, {n: lease for n, lease in LIVING.leases.items() if n not in members})


def knowing(view: View) -> Cluster:
    """Member 0."""
    return Cluster(SpiRing([KEY]), ESP, 5, 0, view)


class Nothing:
    """No SA."""

    def alive(self, spi: bytes) -> bool:
        return False

    def find_by_inbound(self, spi_in: int) -> object | None:
        return None


class Everything:
    """All SAs."""

    def alive(self, spi: bytes) -> bool:
        return True

    def find_by_inbound(self, spi_in: int) -> object | None:
        return self


def client(number: int, port: int = 4500) -> Address:
    return Address(f"198.51.{number >> 8}.{number & 255}", port)


def ike(
    member: int,
    number: int = 0,
    epoch: int = 5,
    *,
    octets: int = 80,
    response: bool = False,
    exchange: int = ExchangeType.INFORMATIONAL,
    first: int = PayloadType.SK,
    sender: Address | None = None,
    message_id: int = 2,
    theirs: bytes = b"\x11" * 8,
) -> Datagram:
    """A client's message in the SA that this member has made as its responder."""
    spi = CODEC.encode(epoch, member, number)
    head = theirs + spi + bytes([first, 0x20, exchange, 0x28 if response else 0x08])
    body = head + message_id.to_bytes(4, "big") + octets.to_bytes(4, "big") + bytes(octets - 28)
    return Datagram(NON_ESP_MARKER + body, HERE, sender or client(number))


def esp(member: int, number: int = 0, octets: int = 100, sender: Address | None = None) -> Datagram:
    payload = ESP.encode(member, number).to_bytes(4, "big") + bytes(octets - 4)
    return Datagram(payload, HERE, sender or client(number))


def put(table: Unanswered, now_ns: int, datagram: Datagram, view: View = LIVING) -> Foreign | None:
    foreign = trace(datagram, knowing(view), Nothing(), 4500)
    if foreign is not None:
        table.remember(now_ns, datagram, foreign)
    return foreign


def all_of(table: Unanswered, now_ns: int, view: View) -> list[Datagram]:
    """What may be answered now."""
    found = []
    while table.due(now_ns):
        if (datagram := table.next(now_ns, knowing(view))) is not None:
            found.append(datagram)
    return found


# --- whose a datagram is ----------------------------------------------------------------------------


def test_what_is_about_another_members_sa() -> None:
    for view, leased in ((LIVING, True), (View(1, LIVING.members), False)):
        for datagram in (ike(2, 7), esp(2, 7)):
            foreign = trace(datagram, knowing(view), Nothing(), 4500)
            assert foreign is not None and (foreign.member, foreign.leased) == (2, leased)
            assert trace(datagram, knowing(view), Everything(), 4500) is None


@pytest.mark.parametrize(
    "datagram",
    [
        ike(0, 7),
        ike(0, 7, epoch=3),
        esp(0, 7),
        esp(77, 7),  # A number that no member has: anybody can make up such an SPI.
        ike(2, 7, epoch=4),  # Of a life that has ended.
        Datagram(NON_ESP_MARKER + bytes(80), HERE, client(1)),
        Datagram(ike(2, 7).payload[:-1], HERE, client(1)),
        Datagram(b"\xff", HERE, client(1)),
        Datagram(b"", HERE, client(1)),
    ],
)
def test_what_is_for_us_or_for_nobody(datagram: Datagram) -> None:
    assert trace(datagram, knowing(LIVING), Nothing(), 4500) is None


def test_of_two_that_an_spi_may_name_it_is_the_one_with_a_lease() -> None:
    """Under one key it passes for a life of member 1, which has no lease, under the other for one of 3's."""

    class Twice(SpiRing):
        def origins(self, spi: bytes) -> list[object]:
            return [origin for n in (1, 3) if (origin := CODEC.decode(CODEC.encode(5, n, 0))) is not None]

    view = View(1, LIVING.members, {3: LIVING.leases[3]})
    assert Cluster(Twice([KEY]), ESP, 5, 0, view).holder(bytes(8)) == Holder(3, leased=True)
    view = View(1, LIVING.members, {})
    assert Cluster(Twice([KEY]), ESP, 5, 0, view).holder(bytes(8)) == Holder(1, leased=False)


# --- what is remembered -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "datagram",
    [
        ike(2, response=True),
        ike(2, exchange=ExchangeType.IKE_SA_INIT, first=PayloadType.SA),
        ike(2, first=PayloadType.DELETE),
        ike(2, exchange=ExchangeType.CREATE_CHILD_SA, first=PayloadType.NOTIFY),
        ike(2, octets=52),
        ike(2, octets=1600),
        ike(2, theirs=bytes(8)),
        esp(2, octets=35),
        esp(2, octets=1501),
    ],
)
def test_what_can_never_be_answered_is_not_remembered(datagram: Datagram) -> None:
    table = Unanswered(KEEP_S)
    assert put(table, 0, datagram) is not None
    assert len(table) == 0


def test_protected_requests_checks_and_packets_are_remembered() -> None:
    table = Unanswered(KEEP_S)
    spis = CODEC.encode(5, 2, 4), b"\x22" * 8
    for number, from_initiator in ((0, False), (1, True)):
        pair = spis if not from_initiator else spis[::-1]
        check = Check(Verb.QUERY, Subject.ike(*pair), bytes(COOKIE_SIZE), from_initiator)
        asked = Datagram(NON_ESP_MARKER + encode_message(encode(check)), HERE, client(1))
        put(table, number, asked)
        assert len(table) == 1  # The same SPI.
    put(table, 2, ike(2, 1, exchange=ExchangeType.IKE_AUTH, first=PayloadType.SKF))
    put(table, 2, ike(2, 2, exchange=ExchangeType.CREATE_CHILD_SA))
    put(table, 2, esp(2, 1))
    assert len(table) == 4
    assert table.counters == {"remembered": 4, "replaced": 1}


def test_of_one_spi_the_last_question_is_taken_up() -> None:
    """And whoever knows one SPI of ours can't make more questions of it, by making up the other one."""
    table = Unanswered(KEEP_S)
    for number in range(50):
        put(table, number, ike(2, message_id=number, theirs=(number + 1).to_bytes(8, "big")))
        put(table, number, esp(2, octets=100 + number))
    last = ike(2, message_id=60)
    put(table, 60, last)
    assert len(table) == 2
    table.look({2})
    assert all_of(table, 61, ended(2)) == [last, esp(2, octets=149)]
    assert len(table) == 0


def test_ike_comes_before_esp_and_only_about_whom_something_else_is_known() -> None:
    table = Unanswered(KEEP_S)
    for number in range(3):
        put(table, number, esp(1 + number, number))
        put(table, number, ike(1 + number, number))
    table.look({1, 3})
    assert all_of(table, 10, ended(1, 2, 3)) == [ike(1, 0), ike(3, 2), esp(1, 0), esp(3, 2)]
    table.look({2})
    assert all_of(table, 10, LIVING) == []
    table.look({2})
    table.look({2})
    assert all_of(table, 10, ended(2)) == [ike(2, 1), esp(2, 1)]


def test_what_may_not_be_answered_stays_and_is_forgotten_in_time() -> None:
    table = Unanswered(KEEP_S)
    put(table, 0, ike(1))
    put(table, 5 * S, ike(1, 1))
    table.look({1})
    assert all_of(table, 6 * S, LIVING) == []
    table.look({1})
    assert all_of(table, 8 * S, ended(1)) == [ike(1, 1)]
    assert table.counters == {"remembered": 2, "expired": 1, "taken up": 1}
    put(table, 9 * S, esp(1))
    put(table, 30 * S, ike(2))
    assert len(table) == 1 and table.counters["expired"] == 2
    table.look({2})
    table.forget()
    assert len(table) == 0 and not table.due(30 * S) and table.deadline() is None


def test_a_question_that_got_no_answer_is_asked_again_a_few_times() -> None:
    table = Unanswered(KEEP_S)
    put(table, 0, ike(1))
    table.look({1})
    now_ns, over = 0, ended(1)
    for _ in range(AGAIN + 1):
        assert table.next(now_ns, knowing(over)) == ike(1)
        assert table.next(now_ns, knowing(over)) is None
        table.unheard(now_ns)  # Of what was given before: nothing.
        assert table.deadline() is None
        put(table, now_ns, ike(1))
        table.look({1})
    table.forget()
    put(table, 0, ike(1))
    table.look({1})
    for _ in range(AGAIN):
        assert table.next(now_ns, knowing(over)) == ike(1)
        table.unheard(now_ns)
        assert not table.due(now_ns) and table.next(now_ns, knowing(over)) is None
        due_ns = table.deadline()
        assert due_ns == now_ns + int(PAUSE_S * S)
        now_ns = due_ns
        assert table.due(now_ns)
    assert table.next(now_ns, knowing(over)) == ike(1)
    table.unheard(now_ns)
    assert table.deadline() is None and len(table) == 0
    assert table.counters["given up"] == 1 and table.counters["taken up again"] == AGAIN


def test_no_later_one_is_given_when_another_life_may_have_it() -> None:
    table = Unanswered(KEEP_S)
    put(table, 0, esp(1))
    table.look({1})
    assert table.next(0, knowing(ended(1))) == esp(1)
    table.unheard(0)
    assert table.next(S, knowing(LIVING)) is None
    assert len(table) == 0 and table.counters["given up"] == 1


# --- bounds -----------------------------------------------------------------------------------------


@contextmanager
def small(ike_size: int, esp_size: int, source: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unanswered, "IKE_QUESTIONS", ike_size)
        patch.setattr(unanswered, "ESP_QUESTIONS", esp_size)
        patch.setattr(unanswered, "SOURCE_QUESTIONS", source)
        yield


def test_who_asks_about_a_member_that_lives_takes_no_room_of_those_who_ask_about_a_dead_one() -> None:
    """A stranger who collected the SPIs of many SAs asks about them from as many addresses."""
    with small(100, 100, 10):
        table = Unanswered(KEEP_S)
        for number in range(20):
            put(table, number, ike(1, number))
        for number in range(1000):
            put(table, 100 + number, ike(2, number, sender=client(500 + number)))
        assert len(table) == 100
        table.look({1})
        assert all_of(table, 2000, ended(1)) == [ike(1, number) for number in range(20)]
        assert table.counters["full"] == 920


def test_one_source_has_its_share_and_no_more() -> None:
    with small(100, 100, 10):
        table = Unanswered(KEEP_S)
        put(table, 0, ike(1, 500))
        for number in range(50):
            put(table, 1, ike(1, number, sender=client(1, 1000 + number)))
            put(table, 1, esp(1, number, sender=client(1, 1000 + number)))
        assert len(table) == 21
        assert table.counters["too many of a source"] == 80
        put(table, 2, ike(1, 3, sender=client(1, 7)))
        assert table.counters["replaced"] == 1
        put(table, 3, ike(1, 3, sender=client(2)))
        put(table, 3, ike(1, 60, sender=client(1, 7)))
        assert len(table) == 22


def test_made_up_esp_spis_take_no_room_of_ike() -> None:
    with small(10, 10, 100):
        table = Unanswered(KEEP_S)
        put(table, 0, ike(1))
        for number in range(100):
            put(table, 1, esp(1, number))
        assert len(table) == 11
        table.look({1})
        assert all_of(table, 2, ended(1))[0] == ike(1)


def test_how_long_it_is_remembered() -> None:
    assert [keep_s(lease_s) for lease_s in (2, 5, 10, 3600)] == [4.0, 7.0, 10.0, 10.0]


def test_of_whom_something_else_is_known() -> None:
    assert changed(LIVING, LIVING) == set()
    assert changed(LIVING, ended(2)) == {2}
    assert changed(View(), LIVING) == {0, 1, 2, 3}
    anew = {**LIVING.leases, 3: LeaseRecord(6, "m", "", 1)}
    assert changed(LIVING, View(3, {**LIVING.members, 3: MemberRecord(6, 5)}, anew)) == {3}
    assert changed(LIVING, View(3, LIVING.members, {**LIVING.leases, 1: LeaseRecord(5, "m", "", 9)})) == set()


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.booleans(), st.integers(1, 3), st.integers(0, 20), st.integers(0, 3)),
        st.tuples(st.just("look"), st.sets(st.integers(1, 3))),
        st.tuples(st.just("next")),
        st.tuples(st.just("unheard")),
        st.tuples(st.just("dies"), st.integers(1, 3)),
        st.tuples(st.just("lives"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.sampled_from([0.01, 0.3, 2.0, 8.0])),
    ),
    max_size=120,
)


@given(OPERATIONS)
def test_whatever_comes_in_whatever_order(operations: list[tuple[object, ...]]) -> None:
    """Bounds hold, nothing is given out too early, too late, twice, or other than as it came."""
    with small(12, 8, 5):
        table, now_ns, dead = Unanswered(KEEP_S), 0, set[int]()
        last: dict[bytes, tuple[int, Datagram]] = {}
        retried: Datagram | None = None
        for number, (what, *args) in enumerate(operations):
            match what:
                case "put":
                    is_ike, member, spi, source = args
                    make = ike if is_ike else esp
                    datagram = make(member, spi, octets=80 + number, sender=client(source))
                    foreign = put(table, now_ns, datagram, ended(*dead))
                    assert (foreign is None) == (member in dead)
                    if foreign is not None:
                        last[foreign.spi] = now_ns, datagram
                case "look":
                    table.look(args[0])
                case "next":
                    retried = table.next(now_ns, knowing(ended(*dead)))
                    if retried is not None:
                        foreign = trace(retried, knowing(LIVING), Nothing(), 4500)
                        assert foreign is not None and foreign.member in dead
                        came_ns, datagram = last[foreign.spi]
                        assert datagram.local == retried.local
                        assert now_ns - came_ns <= KEEP_S * S
                case "unheard":
                    table.unheard(now_ns)
                case "dies":
                    dead |= {args[0]}
                case "lives":
                    dead -= {args[0]}
                case "wait":
                    now_ns += int(args[0] * S)
            assert len(table._ike) <= 12 and len(table._esp) <= 8
            for room in (table._ike, table._esp):
                assert all(0 < count <= 5 for count in room._sources.values())
                assert sum(room._sources.values()) == len(room)
                assert len(room) == sum(len(room._about[member]) for member in room._about)
        counted = table.counters
        out = counted["taken up"] + counted["expired"] + counted["full"]
        assert counted["remembered"] + counted["full"] == out + len(table._ike) + len(table._esp)
