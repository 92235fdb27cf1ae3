"""The persistent map from child SPIs to IKE SAs (RFC 6290 section 8.2): what lets Bob answer an ESP packet
of a dead SA with the token at once, and tell peers on his own.

It follows the children of this life (records are written in batches: one that a crash swallows only costs
the two round trips that it would have saved, and one that outlives its SA by a moment is of an SA that the
same crash ended). Those of ended lives are read at start; only they are ever spoken about. Of two gateways
with one address, the one that takes over has those of the other as well. All together are bounded; an SA for
which there is no room is found dead in the slower way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from deadpeer.cluster.ownership import Ownership, Standing
from deadpeer.cluster.spi import SpiReader
from deadpeer.cluster.standby_map import ShownMap
from deadpeer.crash import spi_records
from deadpeer.crash.boot import BootState
from deadpeer.crash.maker import HANDOVER, TokenMaker
from deadpeer.crash.options import CrashOptions, qcd_of
from deadpeer.crash.spi_records import (
    HEAD_KEY,
    HEAD_TABLE,
    TABLE,
    BindingError,
    Header,
    SpiRecord,
    record_key,
)
from deadpeer.crash.tokens import make_token, token_notify
from deadpeer.ike.extension import (
    AddressChanged,
    ChildDown,
    ChildUp,
    Core,
    Extension,
    RequestAnswered,
    SaEstablished,
    SaRekeyed,
    SaView,
    Signal,
)
from deadpeer.store import Ledger
from deadpeer.values import Address, Deadline, Now
from deadpeer.wire import ExchangeType, Message, Notify, NotifyType

Peer = tuple[bytes, str]
"""A peer that can come back: its tag and its host."""


class SpiMap(Extension):
    """The map. `local_hosts`: our addresses; empty: unknown, then those of the records are believed.

    `partners`: what the other of two has shown of its last life.
    """

    name = "spi-map"
    observes = (SaEstablished, SaRekeyed, ChildUp, ChildDown, AddressChanged, RequestAnswered)

    def __init__(
        self,
        now: Now,
        state: BootState,
        codec: SpiReader,
        ownership: Ownership,
        maker: TokenMaker,
        ledger: Ledger,
        options: CrashOptions,
        *,
        machine_id: bytes = b"",
        local_hosts: Sequence[str] = (),
        partners: ShownMap | None = None,
    ) -> None:
        """Reads what the life before has left, and claims the map for this one, durably.

        Nothing has been sent yet, so what is to be deleted is deleted in the ledger itself.
        """
        self._maker = maker
        self._codec = codec
        self._ownership = ownership
        self._size = options.spi_map_size
        self._keep_s = options.spi_map_keep_s
        self._local_hosts = frozenset(local_hosts)
        self._living: dict[int, bytes] = {}
        self._ended = _Ended()
        self._told: set[int] = set()
        self._back: set[Peer] = set()
        self._refused: str | None = None
        self._enabled = options.spi_map
        self._shown: dict[int, bytes] = {}
        """The partner's, not taken in yet: that takes as long as serving some hundred peers."""
        self._shown_due_ns = self._shown_until_ns = now.mono_ns
        if self._enabled and partners is not None and partners.age_s < self._keep_s:
            self._shown = {int.from_bytes(key, "big"): data for key, data in partners.records.items()}
            self._shown_until_ns = now.after(self._keep_s - partners.age_s)
        self._partners: set[int] = set()
        """Those that are taken in. They are not in our ledger."""
        try:
            self._load(now, state, ledger, machine_id)
        except OSError as error:
            # Without a header of this epoch the map is nothing that a later life could use.
            self._refused = f"it can't be written: {error.strerror or error}"
            self._enabled, self._ended = False, _Ended()

    def attach(self, now: Now, core: Core) -> None:
        super().attach(now, core)
        if self._refused is not None:
            core.count("spi_map.discarded")
            core.event("spi_map_discarded", "warning", reason=self._refused)
        for reason, number in self._ended.dropped.items():
            core.count(f"spi_map.dropped.{reason}", number)
        if len(self._ended):
            core.event("spi_map_loaded", "notice", children=len(self._ended))
        if self._shown:
            core.event("spi_map_shown", "notice", children=len(self._shown))

    # --- what others ask -------------------------------------------------------------------------

    def dead(self, spi: int) -> SpiRecord | None:
        """The record of a child of an ended life, unless anything of it lives after all."""
        if (shown := self._shown.pop(spi, None)) is not None:
            self._take_in(spi, shown)
        data = self._ended.get(spi)
        record = None if data is None else spi_records.decode_record(data)
        if record is None:
            return None
        if self._local_hosts and record.local.host not in self._local_hosts:
            return None
        # A partner that has shown it may live, and hold the address as well.
        if self._ownership.of_ike(record.own_spi) not in (Standing.PAST, Standing.ENDED):
            self.core.count("spi_map.not_ended")
            return None
        # Both SPIs, in either role, in any state: no token for a living SA, whatever a map says.
        if self.core.alive(record.spi_i) or self.core.alive(record.spi_r):
            self.core.count("spi_map.alive")
            return None
        return record if self.core.find_by_inbound(spi) is None else None

    def awaited(self, spi: int) -> SpiRecord | None:
        """The same, unless its peer is back already and need not be told."""
        record = self.dead(spi)
        return None if record is None or _peer(record) in self._back else record

    def has_pair(self, spi_i: bytes, spi_r: bytes) -> bool:
        """Whether these are the SPIs of an IKE SA of an ended life whose peer is not back yet."""
        return self._ended.has_pair(spi_i + spi_r)

    def ended_of_ours(self) -> list[int]:
        """The inbound SPIs of all children of ended lives of ours."""
        return [spi for spi, _ in self._ended.items() if spi not in self._partners]

    def pair(self, spi: int) -> bytes | None:
        """Both SPIs of the IKE SA that a child of an ended life was of."""
        data = self._ended.get(spi)
        record = None if data is None else spi_records.decode_record(data)
        return None if record is None else record.spi_i + record.spi_r

    def told(self, spi: int) -> None:
        """Its peer was sent the token."""
        if spi in self._ended:
            self._told.add(spi)

    def tokens(self, record: SpiRecord, taker: str, at_most: int) -> list[bytes]:
        """What the taker at address `taker` may hold, likeliest first: the recorded generation, then others.

        With the address-bound method there is none for another address than the recorded one.
        """
        bound = record.method == "spi-address"
        if bound and taker != record.remote.host:
            return []
        generations = sorted(
            self._maker.generations, key=lambda g: (g.number != record.generation, -g.number)
        )
        return [
            make_token(g.secret, record.role, record.spi_i, record.spi_r, taker if bound else None)
            for g in generations[:at_most]
        ]

    # --- what happens ----------------------------------------------------------------------------

    def observe(self, now: Now, signal: Signal) -> None:
        if not self._enabled:
            return
        match signal:
            case ChildUp(sa=sa) | AddressChanged(sa=sa) | SaRekeyed(new=sa):
                # Of a rekeyed SA the newest pair of SPIs counts: the peer's token is for that one.
                self._follow(sa)
            case RequestAnswered(sa=sa, reason=reason):
                if reason == HANDOVER:
                    self._follow(sa)
            case ChildDown(child=child):
                if self._living.pop(child.spi_in, None) is not None:
                    self.core.record(TABLE, record_key(child.spi_in), None)
            case SaEstablished(sa=sa):
                self._peer_is_back(sa)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        ended = len(self._ended) + len(self._shown)
        return {"spi_map.living": len(self._living), "spi_map.ended": ended}

    def deadline(self) -> Deadline | None:
        if self._shown:
            return Deadline(self._shown_due_ns, "the partner's SPI map")
        due = self._ended.due_ns
        return None if due is None else Deadline(due, "SPI map clean-up")

    def expire(self, now: Now) -> None:
        """What the partner has shown is taken in, some at a time. The records of an ended life are kept for
        so long; dropped some at a time."""
        if self._shown:
            for _ in range(min(_TAKEN_IN, len(self._shown))):
                self._take_in(*self._shown.popitem())
            self._shown_due_ns = now.mono_ns + 1
            return
        for spi in self._ended.outlived(now.mono_ns, _AT_ONCE):
            self._drop(spi, "outlived")

    # --- helpers ---------------------------------------------------------------------------------

    def _follow(self, sa: SaView) -> None:
        """Bring the records of an SA's children up to date."""
        handed = self._maker.handed(sa.number)
        record = None if handed is None else spi_records.record_of(sa, qcd_of(sa.connection).method, handed)
        if record is None:
            return
        data = spi_records.encode_record(record)
        for child in sa.child_views:
            if self._living.get(child.spi_in) != data and self._room_for(child.spi_in):
                self._ended.remove(child.spi_in)
                self._partners.discard(child.spi_in)
                self._shown.pop(child.spi_in, None)
                self._living[child.spi_in] = data
                self.core.record(TABLE, record_key(child.spi_in), data)
                self.core.count("spi_map.written")

    def _room_for(self, spi: int) -> bool:
        if spi in self._living or len(self._living) + len(self._ended) < self._size:
            return True
        some = self._ended.some()
        if some is None:
            self.core.count("spi_map.full")
            return False
        self._drop(some, "evicted")
        return True

    def _peer_is_back(self, sa: SaView) -> None:
        """What its peer was told, and then came back, is of no more use."""
        peer: Peer = (spi_records.peer_tag(sa), sa.remote.host)
        spis = self._ended.of_peer(peer)
        if spis or self._shown:
            self._back.add(peer)
        if spis:
            self._ended.peer_is_back(peer)
        for spi in spis:
            if spi in self._told:
                self._drop(spi, "recovered")

    def _drop(self, spi: int, reason: str) -> None:
        self._ended.remove(spi)
        self._told.discard(spi)
        if spi in self._partners:
            self._partners.discard(spi)
        else:
            self.core.record(TABLE, record_key(spi), None)
        self.core.count(f"spi_map.dropped.{reason}")

    def _take_in(self, spi: int, data: bytes) -> None:
        """A record that the partner has shown."""
        record = spi_records.decode_record(data)
        if record is None:
            refused = "damaged"
        elif self._ownership.of_ike(record.own_spi) not in (Standing.LIVING, Standing.ENDED):
            refused = "not_the_partners"
        elif spi in self._living or spi in self._ended:
            refused = "twice"
        elif not self._room_for_partners():
            refused = "evicted"
        else:
            record = self._as_ours(record)
            self._ended.add(spi, spi_records.encode_record(record), record, self._shown_until_ns)
            self._partners.add(spi)
            if (peer := _peer(record)) in self._back:
                self._ended.peer_is_back(peer)
            return
        self.core.count(f"spi_map.dropped.{refused}")

    def _as_ours(self, record: SpiRecord) -> SpiRecord:
        """A record of the partner's, whose local address leads here now, whatever that is here. It numbers
        its secrets by their places in a file, which need not be the same as in ours: the newest is likeliest.
        """
        record = replace(record, generation=self._maker.state.current.number)
        if len(self._local_hosts) == 1:
            (host,) = self._local_hosts
            record = replace(record, local=Address(host, record.local.port))
        return record

    def _room_for_partners(self) -> bool:
        """The other one served last: its records count for more than ours of before."""
        if len(self._living) + len(self._ended) < self._size:
            return True
        some = self._ended.some()
        if some is None or some in self._partners:
            return False
        self._drop(some, "evicted")
        return True

    def _load(self, now: Now, state: BootState, ledger: Ledger, machine_id: bytes) -> None:
        head = dict(ledger.items(HEAD_TABLE)).get(HEAD_KEY)
        ended: dict[int, int] = {}
        try:
            if head is None:
                raise BindingError("it has no header")
            header = spi_records.read_header(head, state, machine_id)
            ended = {**header.ended, header.epoch & _EPOCH_MASK: int(now.unix_s)}
        except BindingError as error:
            discarded = _clear(ledger)
            if discarded and self._enabled:
                self._refused = f"{error}; {discarded} records discarded"
        if not self._enabled:
            _clear(ledger)
            ledger.write(HEAD_TABLE, HEAD_KEY, None, durable=True)
            return
        header = Header(state.epoch, self._read(now, state, ledger, ended))
        ledger.write(HEAD_TABLE, HEAD_KEY, spi_records.encode_header(header, state, machine_id), durable=True)

    def _read(self, now: Now, state: BootState, ledger: Ledger, ended: dict[int, int]) -> dict[int, int]:
        """Take in the records of the epochs in `ended`; returns those of them that there are records of."""
        used: dict[int, int] = {}
        for key, data in list(ledger.items(TABLE)):
            record = spi_records.decode_record(data)
            origin = None if record is None else self._codec.decode(record.own_spi)
            since = None if origin is None else ended.get(origin.epoch)
            if record is None or origin is None or since is None or len(key) != 4:
                reason = "damaged"
            elif self._ownership.of_ike(record.own_spi) is not Standing.PAST:
                # Of this life, of one to come, or of another member: by a copy of its state directory.
                reason = "not_ended"
            elif since + self._keep_s <= now.unix_s:
                reason = "outlived"
            elif len(self._ended) >= self._size:
                reason = "evicted"
            else:
                # A clock that was set back makes nothing last longer than `keep`.
                left_s = min(self._keep_s, since + self._keep_s - now.unix_s)
                self._ended.add(int.from_bytes(key, "big"), data, record, now.after(left_s))
                used[origin.epoch] = since
                continue
            ledger.write(TABLE, key, None, durable=False)
            self._ended.dropped[reason] = self._ended.dropped.get(reason, 0) + 1
        newest = sorted(used, key=lambda epoch: state.boots_since(epoch) or 0)[: spi_records.MAX_ENDED]
        return {epoch: used[epoch] for epoch in newest}


def dead_message(spi: int, record: SpiRecord, tokens: Sequence[bytes]) -> Message:
    """N(INVALID_SPI), N(QCD_TOKEN)+ outside any SA (RFC 7296 section 1.5, RFC 6290 section 8.2).

    The header names the dead pair, which the receiver need not look at.
    """
    notify = Notify(NotifyType.INVALID_SPI, record_key(spi))
    return Message(
        record.spi_i,
        record.spi_r,
        ExchangeType.INFORMATIONAL,
        0,
        from_initiator=True,
        is_response=False,
        payloads=(notify, *map(token_notify, tokens)),
    )


class _Ended:
    """Records of ended lives, by SPI, by peer and by when they go (one time for each epoch); and the pairs of
    their IKE SAs' SPIs, with how many children each, until the peer is back."""

    def __init__(self) -> None:
        self.dropped: dict[str, int] = {}
        # The first of a dict from which many first ones have gone is found by a search.
        self._records: OrderedDict[int, bytes] = OrderedDict()
        self._peers: dict[Peer, list[int]] = {}
        self._pairs: dict[bytes, int] = {}
        self._batches: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, spi: int) -> bool:
        return spi in self._records

    def get(self, spi: int) -> bytes | None:
        return self._records.get(spi)

    def items(self) -> Iterator[tuple[int, bytes]]:
        return iter(self._records.items())

    def some(self) -> int | None:
        return next(iter(self._records), None)

    def of_peer(self, peer: Peer) -> tuple[int, ...]:
        return tuple(self._peers.get(peer, ()))

    def has_pair(self, pair: bytes) -> bool:
        return pair in self._pairs

    def peer_is_back(self, peer: Peer) -> None:
        for spi in self._peers.get(peer, ()):
            if (record := spi_records.decode_record(self._records[spi])) is not None:
                self._pairs.pop(record.spi_i + record.spi_r, None)

    def add(self, spi: int, data: bytes, record: SpiRecord, due_ns: int) -> None:
        self.remove(spi)
        self._records[spi] = data
        self._peers.setdefault(_peer(record), []).append(spi)
        pair = record.spi_i + record.spi_r
        self._pairs[pair] = self._pairs.get(pair, 0) + 1
        self._batches.setdefault(due_ns, []).append(spi)

    def remove(self, spi: int) -> None:
        data = self._records.pop(spi, None)
        record = None if data is None else spi_records.decode_record(data)
        if record is None:
            return
        peer = _peer(record)
        spis = self._peers[peer]
        spis.remove(spi)
        if not spis:
            del self._peers[peer]
        pair = record.spi_i + record.spi_r
        if (left := self._pairs.pop(pair, 0)) > 1:
            self._pairs[pair] = left - 1

    @property
    def due_ns(self) -> int | None:
        """When the first records have been kept long enough."""
        return min(self._batches, default=None) if self._records else None

    def outlived(self, now_ns: int, at_most: int) -> list[int]:
        """Some of those whose time has come; to be removed by the caller."""
        found: list[int] = []
        for due_ns in sorted(self._batches):
            if due_ns > now_ns:
                break
            spis = self._batches[due_ns]
            while spis and len(found) < at_most:
                spi = spis.pop()
                if spi in self._records:
                    found.append(spi)
            if not spis:
                del self._batches[due_ns]
        return found


_AT_ONCE, _TAKEN_IN = 256, 64
_EPOCH_MASK = (1 << 20) - 1


def _peer(record: SpiRecord) -> Peer:
    return record.peer, record.remote.host


def _clear(ledger: Ledger) -> int:
    """Delete all records; returns how many there were."""
    keys = [key for key, _ in ledger.items(TABLE)]
    for key in keys:
        ledger.write(TABLE, key, None, durable=False)
    return len(keys)
