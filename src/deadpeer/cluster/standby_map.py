"""The SPI map of the one of two that is active, shown to the other. Sans-IO.

So the one that takes over can answer the first ESP packet of the other's SAs with the token, one round trip
earlier.

It is a help and not a promise. What has changed is shown with each answer to a partner that stands by, which
asks ten times a second; so one that is stopped is shown nothing, and its socket keeps room for answers. It
bears the nonce of that question, so that what is old can't be played back. What gets lost does no harm: all
is shown again and again, so that who missed some, or came later, has it within a round or two (and who was
shown what has gone since forgets it). Records are opaque here, and no secrets: they name SPIs and addresses.

What is in the map says nothing about whether an SA lives: that is asked anew before a token is told.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from struct import Struct, error

from deadpeer.store import Ledger
from deadpeer.values import NS_PER_S

PAUSE_S = 0.05
"""Nothing is shown sooner after the last time, however often questions come."""
REFRESH_S = 1.0
"""So often some of what has not changed is shown again."""
ROUND_S = 10.0
"""All of it takes so long, or longer where `MAX_REFRESHED` is too little for that."""
MAX_DATAGRAMS = 16
MAX_REFRESHED = 320
"""At most so many datagrams of changes at a time, and records that are shown again."""
MAX_OCTETS = 1300
MAX_CHANGED = 20_000
"""News for a partner that does not ask; when there are more, it is left to the rounds."""
MAX_RECORDS = 200_000

Entry = tuple[bytes, bytes | None]
"""A key of 4 octets and its record, None: it has gone."""


@dataclass(frozen=True, slots=True)
class ShownMap:
    """What the partner has shown of its last life, {inbound ESP SPI: record}; how long ago it last did so."""

    records: Mapping[bytes, bytes]
    age_s: float


class SharedMap:
    """What we show of our present life, and what the partner has shown of its last one.

    `size`: so many records of the partner's; what it shows beyond that is counted and not kept.
    """

    def __init__(self, size: int = MAX_RECORDS) -> None:
        self.counters: Counter[str] = Counter()
        self._size = size
        self._epoch: int | None = None
        """Of our present life; None: there is none, and nothing to show."""
        self._living: dict[bytes, bytes] = {}
        self._changed: OrderedDict[bytes, bytes | None] = OrderedDict()
        self._round = 0
        self._to_refresh: Iterator[bytes] = iter(())
        self._not_before_ns = 0
        self._refresh_due_ns = 0
        self._theirs: dict[bytes, tuple[int, bytes]] = {}
        """The partner's records, each with the round in which it was last shown."""
        self._their_epoch = 0
        self._their_round = 0
        self._shown_ns = 0

    # --- what we show ----------------------------------------------------------------------------

    def begin(self, now_ns: int, epoch: int) -> None:
        """Our life with this epoch has begun, without any SA."""
        self.over()
        self._epoch, self._round = epoch, 0
        self._not_before_ns, self._refresh_due_ns = now_ns, now_ns + int(REFRESH_S * NS_PER_S)

    def over(self) -> None:
        """Our life is over, and there is nothing to show."""
        self._epoch = None
        self._living.clear()
        self._changed.clear()
        self._to_refresh = iter(())

    def note(self, key: bytes, record: bytes | None) -> None:
        """A record of our present life, or that it has gone."""
        if self._epoch is None:
            return
        if record is not None:
            self._living[key] = record
        elif self._living.pop(key, None) is None:
            return  # Of a life before, which the partner was shown then.
        self._changed[key] = record
        if len(self._changed) > MAX_CHANGED:
            self.counters["map changes left to the rounds"] += len(self._changed)
            self._changed.clear()

    def bodies(self, now_ns: int) -> list[bytes]:
        """What is to be shown to a partner that has just asked: bodies of messages, to be signed."""
        if self._epoch is None or now_ns < self._not_before_ns:
            return []
        self._not_before_ns = now_ns + int(PAUSE_S * NS_PER_S)
        made = self._pack(self._take_changes(), MAX_DATAGRAMS)
        if now_ns >= self._refresh_due_ns:
            self._refresh_due_ns = now_ns + int(REFRESH_S * NS_PER_S)
            # With nothing in it, it still tells in which round we are, and so what has gone.
            made += self._pack(self._take_refresh(), MAX_DATAGRAMS) or [self._head()]
        self.counters["map shown"] += len(made)
        return made

    # --- what the partner has shown --------------------------------------------------------------

    def take(self, now_ns: int, body: bytes) -> None:
        """A body that the partner has signed for us, just now."""
        try:
            epoch, number = _HEAD.unpack_from(body)
        except error:
            self.counters["map malformed"] += 1
            return
        entries = _unpack(body)
        if entries is None:
            self.counters["map malformed"] += 1
            return
        self._shown_ns = now_ns
        if epoch != self._their_epoch:
            self._their_epoch, self._their_round = epoch, number
            self._theirs.clear()
        elif number > self._their_round:
            self._their_round = number
            self._theirs = {key: each for key, each in self._theirs.items() if each[0] >= number - 2}
        for key, record in entries:
            if record is None:
                self._theirs.pop(key, None)
            elif key in self._theirs or len(self._theirs) < self._size:
                self._theirs[key] = number, record
            else:
                self.counters["map full"] += 1

    def theirs(self) -> dict[bytes, bytes]:
        """What the partner has shown of its last life: {key: record}."""
        return {key: record for key, (_, record) in self._theirs.items()}

    def hand_over(self, now_ns: int) -> ShownMap:
        """The same, to a life of ours that begins. It stays here as well: that life may end at once."""
        return ShownMap(self.theirs(), (now_ns - self._shown_ns) / NS_PER_S)

    def sizes(self) -> dict[str, int]:
        """How many records there are."""
        return {"map of ours": len(self._living), "map of the partner": len(self._theirs)}

    # --- helpers ---------------------------------------------------------------------------------

    def _take_changes(self) -> Iterator[Entry]:
        while self._changed:
            yield self._changed.popitem(last=False)

    def _take_refresh(self) -> Iterator[Entry]:
        share = min(MAX_REFRESHED, 1 + int(len(self._living) * REFRESH_S / ROUND_S))
        keys = list(islice((key for key in self._to_refresh if key in self._living), share))
        if len(keys) < share:
            self._round += 1
            self._to_refresh = iter(list(self._living))
        return ((key, self._living[key]) for key in keys)

    def _pack(self, entries: Iterator[Entry], most: int) -> list[bytes]:
        """In as many bodies as it takes, `most` at most; what does not fit stays where it was."""
        made: list[bytes] = []
        while len(made) < most:
            body = bytearray(self._head())
            while len(body) < MAX_OCTETS and (entry := next(entries, None)) is not None:
                key, record = entry
                body += key + bytes((len(record or b""),)) + (record or b"")
            if len(body) == _HEAD.size:
                break
            made.append(bytes(body))
        return made

    def _head(self) -> bytes:
        return _HEAD.pack(self._epoch, self._round)


class ShownLedger:
    """A ledger of which one table is shown to the partner as well."""

    def __init__(self, ledger: Ledger, table: str, show: Callable[[bytes, bytes | None], None]) -> None:
        self._ledger = ledger
        self._table = table
        self._show = show

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        return self._ledger.items(table)

    def write(self, table: str, key: bytes, value: bytes | None, *, durable: bool) -> None:
        self._ledger.write(table, key, value, durable=durable)
        if table == self._table:
            self._show(key, value)


def _unpack(body: bytes) -> list[Entry] | None:
    """The entries, or None if they are none."""
    entries: list[Entry] = []
    at = _HEAD.size
    while at < len(body):
        end = at + _KEY_SIZE + 1
        if end > len(body) or (record_end := end + body[end - 1]) > len(body):
            return None
        entries.append((body[at : at + _KEY_SIZE], body[end:record_end] or None))
        at = record_end
    return entries


_KEY_SIZE = 4
_HEAD = Struct("!QI")
"""Epoch and round."""
