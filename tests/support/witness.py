"""Reads what members say in the clear, off the wire, and holds it against what every member has.

It asks nobody what was sent: it decodes the datagrams that leave. Whether an SA lives is looked up in the
tables of the members that serve at that moment, by their own fences and clocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from deadpeer.crash.sir_wire import CHECK_SPI, Verb
from deadpeer.values import Datagram
from deadpeer.wire import (
    Message,
    Notify,
    NotifyType,
    UdpKind,
    WireError,
    classify,
    decode_message,
)

S = 1_000_000_000
LATE_NEWS_S = 40.0
"""So long a member may not have heard that another one, of which no life went on, has begun a new one: it
reads everything anew in 30 s at the latest. Then INVALID_SPI (a hint) for a child of that life is what
docs/cluster.md says can't be helped."""

Pair = tuple[bytes, bytes]


class Table(Protocol):
    """The SAs of a member."""

    def find(self, spi_i: bytes, spi_r: bytes) -> object | None: ...

    def find_by_inbound(self, spi_in: int) -> object | None: ...


class Speaker(Protocol):
    """A member: `table` None if it has no life. `was_over_ns`: when (true time) none of its lives went on."""

    number: int

    @property
    def was_over_ns(self) -> int | None: ...

    @property
    def serves(self) -> bool: ...

    @property
    def table(self) -> Table | None: ...


class Witness:
    """`violations`: what nobody may ever say. `counts`: what was said, so that a test can tell that the
    witness has heard something."""

    def __init__(self, violations: list[str]) -> None:
        self.violations = violations
        self.counts: Counter[str] = Counter()
        self.revealed: dict[Pair, int] = {}
        """SPI pairs whose token was told, and when (true time, ns)."""

    @property
    def told(self) -> int:
        """How many tokens and denials were heard."""
        return self.counts["token"] + self.counts["NACK"]

    def heard(
        self, now_ns: int, speaker: Speaker, datagram: Datagram, members: Sequence[Speaker], *, late: bool
    ) -> None:
        """A datagram leaves `speaker`. `late`: it was stopped between its decision and the sending."""
        shared = datagram.local.port == 4500
        if classify(datagram.payload, shared) is not UdpKind.IKE:
            return
        try:
            message = decode_message(datagram.payload[4:] if shared else datagram.payload)
        except WireError:
            self.violations.append(f"{now_ns / S:.3f} s: {speaker.number} sends what nobody can read")
            return
        if message.protected is not None:
            return
        pair = (message.spi_i, message.spi_r)
        if message.notifies(NotifyType.QCD_TOKEN):
            self.revealed.setdefault(pair, now_ns)
            self._ike(now_ns, speaker, pair, "token", members)
        elif message.notifies(NotifyType.INVALID_IKE_SPI):
            self._ike(now_ns, speaker, pair, "INVALID_IKE_SPI", members)
        for notify in _denials(message):
            if len(notify.spi) == 16:
                self._ike(now_ns, speaker, (notify.spi[:8], notify.spi[8:]), "NACK", members)
            else:
                self._esp(now_ns, speaker, notify.spi, "NACK", members, excused=False)
        for notify in message.notifies(NotifyType.INVALID_SPI):
            self._esp(now_ns, speaker, notify.data, "INVALID_SPI", members, excused=late)

    def look_again(self, now_ns: int, members: Sequence[Speaker]) -> None:
        """Of no SA that lives now was the token told before."""
        for member in members:
            table = member.table
            if table is None or not member.serves:
                continue
            for pair in self.revealed:
                if table.find(*pair) is not None:
                    self._violated(now_ns, f"token, told before, for a living SA of {member.number}")

    def given_up(self, now_ns: int, pair: Pair, members: Sequence[Speaker]) -> None:
        """A client drops an SA, for it holds a token to be the proof that the other side has lost it."""
        for member in members:
            if member.table is not None and member.serves and member.table.find(*pair) is not None:
                self._violated(now_ns, f"a client was made to give up a living SA of {member.number}")

    def _ike(self, now_ns: int, speaker: Speaker, pair: Pair, what: str, members: Sequence[Speaker]) -> None:
        self.counts[what] += 1
        for member in members:
            if member.table is None or not member.serves:
                continue
            if member.table.find(*pair) is not None:
                self._violated(now_ns, f"{what} for a living SA of {member.number} by {speaker.number}")

    def _esp(
        self,
        now_ns: int,
        speaker: Speaker,
        spi: bytes,
        what: str,
        members: Sequence[Speaker],
        *,
        excused: bool,
    ) -> None:
        self.counts[what] += 1
        for member in members:
            if member.table is None or not member.serves:
                continue
            if member.table.find_by_inbound(int.from_bytes(spi, "big")) is None:
                continue
            over_ns = member.was_over_ns
            news = over_ns is not None and now_ns - over_ns < LATE_NEWS_S * S
            if what == "INVALID_SPI" and member is not speaker and (excused or news):
                self.counts["INVALID_SPI for a child of a life that is news"] += 1
                continue
            self._violated(now_ns, f"{what} for a living child of {member.number} by {speaker.number}")

    def _violated(self, now_ns: int, what: str) -> None:
        self.violations.append(f"{now_ns / S:.3f} s: {what}")


def _denials(message: Message) -> list[Notify]:
    return [n for n in message.all(Notify) if n.type == CHECK_SPI and n.data == bytes([Verb.NACK])]
