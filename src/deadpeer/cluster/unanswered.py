"""Questions about SAs that another member may have, kept until it is known that nobody has them.

Who has lost a member asks again only after a while. So the last question about each SPI is remembered, and
when the member's end is known it is taken up as if it had just arrived: by the same rules, the same limits,
the same bound on what an answer may be. Nothing is decided here, and what is here says nothing about an SA.

Pure: time comes in as nanoseconds of a clock that runs while this member is fenced.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from deadpeer.cluster.ownership import Ownership, Ruling, Standing, rule
from deadpeer.cluster.records import View
from deadpeer.cluster.router import Foreign
from deadpeer.rates import source_key
from deadpeer.values import NS_PER_S, Datagram
from deadpeer.wire import ExchangeType, Header, PayloadType

IKE_QUESTIONS = 4096
"""IKE SPIs about which a question is remembered. Nobody can make one up: a member has chosen each."""
ESP_QUESTIONS = 2048
"""The same for ESP SPIs, which anybody can make up: so they have room of their own."""
SOURCE_QUESTIONS = 256
"""Questions of a kind from one source (an IPv4 address, an IPv6 /64)."""
MAX_OCTETS = 1500
"""A larger datagram is not remembered: no question has to be larger."""
MIN_IKE, MIN_ESP = 57, 36
"""No smaller one is a protected request, or a packet."""
MAX_KEEP_S = 10.0
"""However long a lease is: who still waits has asked again by then, and who does not may have gone."""
SPARE_S = 2.0
"""How much later than its lease a dead member's end may be known."""
PAUSE_S = 0.25
AGAIN = 4
"""A question that got no answer (the limits were used up) is taken up so often again, after such a pause."""
LATER = 1024
"""So many may wait for that."""
_LOOKS = 64
"""So many questions `next` looks at, at most, before it returns."""


def keep_s(lease_s: float) -> float:
    """How long a question is remembered where leases last `lease_s` seconds."""
    return min(lease_s + SPARE_S, MAX_KEEP_S)


def changed(before: View, after: View) -> set[int]:
    """The members of which something else is known now: a life that has begun or ended, a lease."""
    numbers = before.members.keys() | after.members.keys() | before.leases.keys() | after.leases.keys()
    return {number for number in numbers if _known(before, number) != _known(after, number)}


class Unanswered:
    """What one life of a member could not answer yet. `keep_s`: how long it is remembered, seconds.

    `remember` what `trace` found. When something else is known of members, `look`; then, while `due`, `next`
    gives the datagrams that may be answered now, one by one, each of which is to be treated as if it had just
    arrived; if nothing was sent for one, `unheard` keeps it for later.

    Bounded in number (for each kind, and for each source of a kind), in octets (10.8 MB), and in time. Of one
    SPI there is one, the last. When there are too many, the oldest one about the member with most of them
    goes, so that what is asked about one that lives leaves room for what is asked about one that died.
    """

    def __init__(self, keep_s: float) -> None:
        self.counters: Counter[str] = Counter()
        self._keep_ns = int(keep_s * NS_PER_S)
        self._ike = _Room(IKE_QUESTIONS)
        self._esp = _Room(ESP_QUESTIONS)
        self._sweep_ns = 0
        self._to_look_at: deque[tuple[_Room, int, bytes]] = deque()
        self._later: deque[tuple[int, _Question]] = deque()
        self._given: _Question | None = None

    def __len__(self) -> int:
        return len(self._ike) + len(self._esp) + len(self._later)

    def remember(self, now_ns: int, datagram: Datagram, foreign: Foreign) -> None:
        """A datagram that can't be answered now, if it is one that may ever be answered here."""
        if not _is_question(datagram, foreign.header):
            return
        if len(datagram.payload) > MAX_OCTETS:
            self.counters["too large"] += 1
            return
        self._sweep(now_ns)
        room = self._esp if foreign.header is None else self._ike
        self.counters[room.put(_Question(now_ns, datagram, foreign))] += 1

    def look(self, members: Iterable[int]) -> None:
        """Something else is known of these members: look at all questions about them, IKE before ESP.

        Who has the answer to the first needs none to the second."""
        numbers = set(members)
        waiting = set(self._to_look_at)
        for room in (self._ike, self._esp):
            for number in sorted(numbers):
                keys = ((room, number, spi) for spi in room.about(number))
                self._to_look_at.extend(key for key in keys if key not in waiting)

    def due(self, now_ns: int) -> bool:
        """Whether `next` has something to look at."""
        return bool(self._to_look_at) or (bool(self._later) and self._later[0][0] <= now_ns)

    def deadline(self) -> int | None:
        """When `due` will be True, if no news come before; None: not by itself."""
        return self._later[0][0] if self._later else None

    def next(self, now_ns: int, ownership: Ownership) -> Datagram | None:
        """A question that may be answered now. None: nothing is left, or much was looked at, and it is due
        again at once."""
        self._given = None
        for _ in range(_LOOKS):
            if self._to_look_at:
                question = self._look_at(now_ns, *self._to_look_at.popleft(), ownership)
            elif self._later and self._later[0][0] <= now_ns:
                question = self._look_again(now_ns, self._later.popleft()[1], ownership)
            else:
                return None
            if question is not None:
                self._given = question
                return question.datagram
        return None

    def unheard(self, now_ns: int) -> None:
        """Nothing was sent for what `next` gave last: once more, a little later, if it is not too often."""
        question, self._given = self._given, None
        if question is None:
            return
        if question.tries >= AGAIN or len(self._later) >= LATER:
            self.counters["given up"] += 1
            return
        question.tries += 1
        self._later.append((now_ns + int(PAUSE_S * NS_PER_S), question))

    def forget(self) -> None:
        """This life is over."""
        for room in (self._ike, self._esp):
            room.clear()
        self._to_look_at.clear()
        self._later.clear()
        self._given = None

    def _look_at(
        self, now_ns: int, room: _Room, member: int, spi: bytes, ownership: Ownership
    ) -> _Question | None:
        """The question, taken out, if it may be answered now. Else it stays, unless it is too old."""
        question = room.get(member, spi)
        if question is None:
            return None
        if now_ns - question.at_ns > self._keep_ns:
            room.pop(member, spi)
            self.counters["expired"] += 1
            return None
        if not may_speak(question.foreign, ownership):
            return None
        room.pop(member, spi)
        self.counters["taken up"] += 1
        return question

    def _look_again(self, now_ns: int, question: _Question, ownership: Ownership) -> _Question | None:
        """The same of one that got no answer before."""
        if now_ns - question.at_ns > self._keep_ns or not may_speak(question.foreign, ownership):
            self.counters["given up"] += 1
            return None
        self.counters["taken up again"] += 1
        return question

    def _sweep(self, now_ns: int) -> None:
        """Now and then, what nobody has asked for is dropped."""
        if now_ns - self._sweep_ns < NS_PER_S:
            return
        self._sweep_ns = now_ns
        gone = sum(room.drop_before(now_ns - self._keep_ns) for room in (self._ike, self._esp))
        if gone:
            self.counters["expired"] += gone


def may_speak(foreign: Foreign, ownership: Ownership) -> bool:
    """Whether the question is worth asking again: what is said to it, if anything, others decide."""
    header = foreign.header
    if header is None:
        return ownership.of_esp(int.from_bytes(foreign.spi, "big")) is not Standing.LIVING
    theirs = header.spi_i if header.from_initiator else header.spi_r
    ruling = rule(ownership.of_ike(foreign.spi), ownership.of_ike(theirs), alone=ownership.alone)
    return ruling is not Ruling.SILENCE


@dataclass(slots=True)
class _Question:
    at_ns: int
    datagram: Datagram
    foreign: Foreign
    tries: int = 0


class _Room:
    """Questions of one kind, by the member that they are about and the SPI, the oldest first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._count = 0
        self._about: dict[int, OrderedDict[bytes, _Question]] = {}
        self._sources: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return self._count

    def about(self, member: int) -> Iterable[bytes]:
        """The SPIs of this member about which there is a question."""
        return self._about.get(member, ())

    def get(self, member: int, spi: bytes) -> _Question | None:
        """The question about this SPI."""
        return self._about.get(member, _NONE).get(spi)

    def put(self, question: _Question) -> str:
        """Put it in, make room if need be, and say in a word what was done."""
        member, spi = question.foreign.member, question.foreign.spi
        source = source_key(question.datagram.remote.host)
        before = self.get(member, spi)
        if before is not None and source_key(before.datagram.remote.host) == source:
            self._about[member][spi] = question
            self._about[member].move_to_end(spi)
            return "replaced"
        if self._sources[source] >= SOURCE_QUESTIONS:
            return "too many of a source"
        done = "remembered"
        if before is not None:
            self.pop(member, spi)
            done = "replaced"
        elif self._count >= self._size:
            self._drop_one()
            done = "full"
        self._about.setdefault(member, OrderedDict())[spi] = question
        self._sources[source] += 1
        self._count += 1
        return done

    def pop(self, member: int, spi: bytes) -> _Question | None:
        """Take it out, if it is there."""
        questions = self._about.get(member, _NONE)
        question = questions.pop(spi, None)
        if question is None:
            return None
        if not questions:
            del self._about[member]
        source = source_key(question.datagram.remote.host)
        self._sources[source] -= 1
        if self._sources[source] <= 0:
            del self._sources[source]
        self._count -= 1
        return question

    def drop_before(self, at_ns: int) -> int:
        """Drop what came before; how many those were."""
        before = self._count
        for member in list(self._about):
            while (questions := self._about.get(member)) is not None:
                spi, oldest = next(iter(questions.items()))
                if oldest.at_ns >= at_ns:
                    break
                self.pop(member, spi)
        return before - self._count

    def clear(self) -> None:
        """Forget all."""
        self._about.clear()
        self._sources.clear()
        self._count = 0

    def _drop_one(self) -> None:
        member, questions = max(self._about.items(), key=lambda item: len(item[1]))
        self.pop(member, next(iter(questions)))


_NONE: OrderedDict[bytes, _Question] = OrderedDict()

_EXCHANGES = (ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL)
_FIRST = (PayloadType.SK, PayloadType.SKF)


def _is_question(datagram: Datagram, header: Header | None) -> bool:
    """Whether a stranger may ever be answered so: a protected request, CHECK_SPI, ESP."""
    octets = len(datagram.payload)
    if header is None:
        return octets >= MIN_ESP
    if header.is_response or header.exchange not in _EXCHANGES or octets < MIN_IKE:
        return False
    if header.spi_i == bytes(8) or header.spi_r == bytes(8):
        return False
    asks = header.exchange == ExchangeType.INFORMATIONAL and header.next_payload == PayloadType.NOTIFY
    return asks or header.next_payload in _FIRST


def _known(view: View, number: int) -> tuple[int, int, int] | None:
    """What an SPI's standing depends on."""
    record, lease = view.members.get(number), view.leases.get(number)
    if record is None:
        return None if lease is None else (0, 0, lease.epoch)
    return record.registered, record.ended, -1 if lease is None else lease.epoch
