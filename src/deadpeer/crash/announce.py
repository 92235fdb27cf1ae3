"""After a boot Bob tells the peers in his SPI map, unasked, that their SAs are dead (PROTOCOLS: announcing).

Paced, so that 10,000 peers do not come back in one moment, and in an order and with gaps that nobody can
foresee; in rounds with ever longer pauses, until the peer is back or the rounds are done. Each SA is told
once a round, by one of its children, in turn: the peer may have lost one.
"""

from __future__ import annotations

from deadpeer.crash.maker import TokenMaker
from deadpeer.crash.options import CrashOptions
from deadpeer.crash.spi_map import SpiMap, dead_message
from deadpeer.crash.spi_records import SpiRecord
from deadpeer.crash.tokens import MAX_TOKENS_SENT
from deadpeer.crypto import Entropy
from deadpeer.ike.extension import Core, Extension
from deadpeer.values import NS_PER_S, Datagram, Deadline, Now


class Announcer(Extension):
    """Sends N(INVALID_SPI), N(QCD_TOKEN) for each SA of our earlier lives in the map, to the address that the
    map names.

    Not for those that the other of two has shown: while the two can't hear each other the network may lead to
    that one, and its tunnels would end.
    """

    name = "announce"

    def __init__(self, spi_map: SpiMap, maker: TokenMaker, entropy: Entropy, options: CrashOptions) -> None:
        self._map = spi_map
        self._maker = maker
        self._entropy = entropy
        self._gap_ns = int(NS_PER_S / options.announce_rate) if options.announce_rate > 0 else 0
        self._rounds = options.announce_rounds if options.announce and self._gap_ns else 0
        self._pause_ns = int(options.announce_interval_s * NS_PER_S)
        self._round = 0
        self._uncollected: list[int] | None = None
        """Children that are not yet grouped by their SAs; None: all are."""
        self._pairs: dict[bytes, list[int]] = {}
        self._sas: list[tuple[int, ...]] = []
        self._left: list[tuple[int, ...]] = []
        """Those of this round that will be told in the next one."""
        self._position = 0
        self._due_ns: int | None = None

    def attach(self, now: Now, core: Core) -> None:
        super().attach(now, core)
        if self._rounds and (ended := self._map.ended_of_ours()):
            self._uncollected, self._due_ns = ended, now.mono_ns

    def counters(self) -> dict[str, int]:
        return {"announce.waiting": len(self._sas), "announce.round": self._round}

    def deadline(self) -> Deadline | None:
        return None if self._due_ns is None else Deadline(self._due_ns, "announcement")

    def expire(self, now: Now) -> None:
        """One announcement; those that need none any more cost no gap."""
        if self._uncollected is not None:
            self._collect(now, self._uncollected)
        else:
            self._go_on(now)

    # --- helpers ---------------------------------------------------------------------------------

    def _collect(self, now: Now, spis: list[int]) -> None:
        """Group some of the children by their SAs; with the last of them it begins."""
        for spi in spis[-_LOOKED_AT:]:
            if (pair := self._map.pair(spi)) is not None:
                self._pairs.setdefault(pair, []).append(spi)
        del spis[-_LOOKED_AT:]
        self._due_ns = now.mono_ns + 1
        if not spis:
            self._sas, self._pairs = [tuple(each) for each in self._pairs.values()], {}
            self._uncollected = None
            self._begin(now.mono_ns)
            if self._sas:
                self.core.event("announcing", "notice", sas=len(self._sas))

    def _go_on(self, now: Now) -> None:
        for _ in range(_LOOKED_AT):
            if self._position >= len(self._sas):
                self._end_round(now)
                return
            spis = self._sas[self._position]
            self._position += 1
            # Asked anew before each: nothing is said about a living SA.
            found = ((spi, self._map.awaited(spi)) for spi in spis)
            waiting = [(spi, record) for spi, record in found if record is not None]
            if not waiting:
                continue
            self._left.append(spis)
            if self._announce(spis, *waiting[self._round % len(waiting)]):
                self._due_ns = now.mono_ns + self._jittered(self._gap_ns)
                return
        self._due_ns = now.mono_ns + 1

    def _announce(self, spis: tuple[int, ...], spi: int, record: SpiRecord) -> bool:
        """By this one of an SA's children. Whether it was sent."""
        if not self._maker.state.has(record.generation):
            self.core.count("announce.no_token")
            return False
        message = dead_message(spi, record, self._token(record))
        self.core.answer(Datagram(b"", record.local, record.remote), message, "announcement")
        for each in spis:
            self._map.told(each)
        self.core.count("announced")
        self.core.event("announced", "debug", to=str(record.remote), spi=f"{spi:08x}", round=self._round + 1)
        return True

    def _token(self, record: SpiRecord) -> list[bytes]:
        """One token: in every other round that of another generation than the record says.

        The crash may have come between a renewal of the peer's token and the note of it in the map.
        """
        tokens = self._map.tokens(record, record.remote.host, MAX_TOKENS_SENT)
        others = tokens[1:]
        if not others or self._round % 2 == 0:
            return tokens[:1]
        return [others[self._round // 2 % len(others)]]

    def _end_round(self, now: Now) -> None:
        self._sas, self._left = self._left, []
        self._round += 1
        if self._round >= self._rounds or not self._sas:
            self._sas = []
            self._due_ns = None
            return
        self._begin(now.mono_ns + self._jittered(self._pause_ns << (self._round - 1)))

    def _begin(self, at_ns: int) -> None:
        self._position = 0
        self._due_ns = at_ns if self._sas else None
        self._shuffle()

    def _shuffle(self) -> None:
        """Fisher and Yates; four octets of chance for each are plenty."""
        chance = self._entropy.octets(4 * len(self._sas))
        for last in range(len(self._sas) - 1, 0, -1):
            other = int.from_bytes(chance[4 * last : 4 * last + 4], "big") % (last + 1)
            self._sas[last], self._sas[other] = self._sas[other], self._sas[last]

    def _jittered(self, length_ns: int) -> int:
        """From half to one and a half times as long."""
        return length_ns // 2 + length_ns * int.from_bytes(self._entropy.octets(2), "big") // 65536


_LOOKED_AT = 256
"""How many SAs are looked at in one go."""
