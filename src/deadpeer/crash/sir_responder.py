"""The SIR responder: says whether it has an SA, with no state and no key.

Who gets what:

    the SA in question     asked from                  answer
    lives                  exactly its peer's address  ACK
    lives                  anywhere else               none
    one of its SPIs lives  anywhere                    none
    unknown                anywhere                    NACK, within the limits; garbage SPIs in their own

Never an answer to a response, and never one larger than the question. What remains: who can send from
anywhere may learn from NACK against silence which SPIs live, at the rate of the limits.
"""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.cluster.ownership import Ownership, Ruling, Standing, rule
from deadpeer.crash.limiter import Kind, Limiter
from deadpeer.crash.options import CrashOptions, sir_of
from deadpeer.crash.sir_wire import VENDOR_ID, Check, Verb, decode, encode, is_check
from deadpeer.ike.connection import Connection
from deadpeer.ike.extension import Core, Extension, Orphan, SaView, UnprotectedNews
from deadpeer.values import Datagram, Now
from deadpeer.wire import Protocol


class SirResponder(Extension):
    """Answers CHECK_SPI, and says so in IKE_SA_INIT, unless SIR is off (on every connection)."""

    name = "sir-responder"

    def __init__(
        self,
        ownership: Ownership,
        connections: Sequence[Connection],
        options: CrashOptions,
    ) -> None:
        self._ownership = ownership
        self._options = options
        self._serves = not connections or any(_answers(c) for c in connections)

    def attach(self, now: Now, core: Core) -> None:
        super().attach(now, core)
        self._limiter = Limiter(now.mono_ns, self._options, self._ownership.ended_lives)

    def vendor_ids(self, now: Now, sa: SaView) -> Sequence[bytes]:
        """RFC 7296 section 3.12: we understand what goes by this name."""
        return (VENDOR_ID,) if _answers(sa.connection) else ()

    def orphan(self, now: Now, orphan: Orphan) -> bool:
        if not isinstance(orphan, UnprotectedNews) or orphan.message.is_response:
            return False
        if not is_check(orphan.message):
            return False
        check = decode(orphan.message)
        if check is None or not self._serves:
            self.core.count("check.malformed" if check is None else "check.off")
            return True
        verb = self._judge(now, check, orphan.datagram)
        if verb is not None:
            self._answer(check, verb, orphan.datagram)
        return True

    def counters(self) -> dict[str, int]:
        return {f"sir.{name}": size for name, size in self._limiter.sizes().items() if "check" in name}

    def _judge(self, now: Now, check: Check, datagram: Datagram) -> Verb | None:
        self._limiter.heed(now.mono_ns, self._ownership.ended_lives)
        sa, living = self._lookup(check)
        if living and (sa is None or sa.remote != datagram.remote or not _answers(sa.connection)):
            self.core.count("check.not_told")
            return None
        kind = Kind.CHECK_LIVING if sa is not None else self._kind(check)
        if kind is None:
            self.core.count("check.other_member")
            return None
        if not self._limiter.allow(now.mono_ns, datagram.remote.host, kind, _ours_and_theirs(check)[0]):
            self.core.count(f"check.limited.{kind.value}")
            return None
        return Verb.ACK if sa is not None else Verb.NACK

    def _lookup(self, check: Check) -> tuple[SaView | None, bool]:
        """The SA in question, and whether it, or one that shares an SPI with it, lives."""
        subject = check.subject
        if subject.protocol == Protocol.ESP:
            sa = self.core.find_by_inbound(int.from_bytes(subject.spi, "big"))
            return sa, sa is not None
        spi_i, spi_r = subject.header_spis
        sa = self.core.find(spi_i, spi_r)
        return sa, sa is not None or self.core.alive(spi_i) or self.core.alive(spi_r)

    def _kind(self, check: Check) -> Kind | None:
        """Whose budget a NACK is charged to; None: another member's SPI, who alone knows if it lives."""
        owner, subject = self._ownership, check.subject
        if subject.protocol == Protocol.ESP:
            standing = owner.of_esp(int.from_bytes(subject.spi, "big"))
            # Of another member's no more is known than is good for a hint; a denial is more than that.
            certain = standing is Standing.PRESENT or (standing is Standing.UNKNOWN and owner.alone)
            return Kind.CHECK_ESP if certain else None
        ours, theirs = _ours_and_theirs(check)
        match rule(owner.of_ike(ours), owner.of_ike(theirs), alone=owner.alone):
            case Ruling.SILENCE:
                return None
            case Ruling.GARBAGE:
                return Kind.GARBAGE
            case Ruling.RECENT:
                return Kind.CHECK_RECENT
            case Ruling.RETURNING:
                return Kind.CHECK

    def _answer(self, check: Check, verb: Verb, datagram: Datagram) -> None:
        answer = Check(verb, check.subject, check.cookie, not check.from_initiator)
        self.core.answer(datagram, encode(answer), f"CHECK_SPI {verb.name}")
        self.core.count(f"check.{verb.name.lower()}_sent")
        self.core.event(
            "check_spi_answered",
            "debug",
            to=str(datagram.remote),
            answer=verb.name,
            protocol=check.subject.protocol,
            spi=check.subject.spi.hex(),
        )


def _ours_and_theirs(check: Check) -> tuple[bytes, bytes]:
    """The SPI in question that would be one of ours, and the peer's, as the flag says. ESP: the same."""
    if check.subject.protocol == Protocol.ESP:
        return check.subject.spi, check.subject.spi
    spi_i, spi_r = check.subject.header_spis
    return (spi_r, spi_i) if check.from_initiator else (spi_i, spi_r)


def _answers(connection: Connection) -> bool:
    return sir_of(connection).role != "off"
