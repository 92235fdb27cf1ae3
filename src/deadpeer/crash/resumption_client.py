"""Session resumption (RFC 5723), the client: asks for tickets, keeps them, shows each one once.

A ticket is kept in memory, beside its IKE SA. It is offered for the SA after a condemned one, and for a new
SA that is built beside a suspected one. In the second case nothing is known yet, but a gateway drops the old
SA of a resumed one, so its authenticated IKE_AUTH response is itself the proof that the old SA is gone. Until
then the old SA stands, and from the IKE_AUTH request on the core does not let the new one be given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct

from deadpeer.crash.agenda import Agenda
from deadpeer.crash.evidence import Resumed
from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import resumption_of
from deadpeer.crash.rebuilds import Rebuilds
from deadpeer.crypto import Identity
from deadpeer.ike.connection import Connection
from deadpeer.ike.extension import (
    Condemned,
    Extension,
    PeerNotifies,
    Rebuilt,
    ResumeFellBack,
    ResumeOffer,
    Resumption,
    SaClosed,
    SaEstablished,
    SaRekeyed,
    SaView,
    Signal,
    Slot,
)
from deadpeer.values import Deadline, Now
from deadpeer.wire import Notify, NotifyType

TICKET_REQUEST = "ticket request"
"""The reason of the INFORMATIONAL that asks for a ticket."""

MAX_TICKET = 4096
"""Octets of a ticket of anybody's that we keep."""
KEEP_LOST_S = 3600.0
"""The ticket of a condemned SA is kept for so long for the SA after it."""
RENEW_AT = 0.75
"""A ticket is replaced by a fresh one when so much of its lifetime is over."""
LEAST_RENEWAL_S = 60.0
"""Not so soon, whatever lifetime a gateway names."""
LONGEST_LIFETIME_S = 30 * 86_400.0


class TicketClient(Extension):
    """Asks, as initiator of connections with `resumption`, and offers what it was given."""

    name = "ticket-client"
    observes = (SaEstablished, SaRekeyed, SaClosed, PeerNotifies, Rebuilt, Condemned, ResumeFellBack)

    def __init__(self, monitor: Monitor, rebuilds: Rebuilds) -> None:
        self._monitor = monitor
        self._rebuilds = rebuilds
        self._asking: set[int] = set()
        self._held: dict[int, _Held] = {}
        self._lost: dict[str, _Held] = {}
        self._shown: dict[bytes, _Shown] = {}
        self._renewals: Agenda[int] = Agenda("ticket renewal")

    def notifies(self, now: Now, slot: Slot, sa: SaView, *, response: bool) -> Sequence[Notify]:
        """N(TICKET_REQUEST) in our IKE_AUTH request, resumed (section 4.3.3) or not (section 4.1)."""
        if slot is not Slot.AUTH or response or not resumption_of(sa.connection).enabled:
            return ()
        self._asking.add(sa.number)
        return (Notify(NotifyType.TICKET_REQUEST),)

    def resume_offer(self, now: Now, connection: Connection, old: SaView | None) -> ResumeOffer | None:
        """The ticket of `old`, else that of the connection's last condemned SA, if it is still good."""
        if old is not None:
            held = self._held.pop(old.number, None)
            self._renewals.cancel(old.number)
        else:
            held = self._lost.pop(connection.name, None)
        if held is None:
            return None
        if now.mono_ns >= held.until_ns or not _same_today(held.connection, connection):
            self.core.count("ticket.stale")
            return None
        self._shown[held.ticket] = _Shown(held, old.number if old is not None else None)
        self.core.count("ticket.offered")
        return ResumeOffer(
            (Notify(NotifyType.TICKET_OPAQUE, held.ticket),), held.resumption, held.remote_identity
        )

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case PeerNotifies(sa=sa, slot=slot, notifies=notifies):
                if sa.number in self._asking and slot in (Slot.AUTH, Slot.INFORMATIONAL):
                    self._accept(now, sa, notifies)
            case SaEstablished(sa=sa):
                self._established(sa)
            case Rebuilt(old=old, new=new):
                self._rebuilt(now, old, new)
            case SaRekeyed(old=old, new=new):
                self._rekeyed(now, old, new)
            case Condemned(sa=sa):
                self._condemned(now, sa)
            case ResumeFellBack(offer=offer, answered=answered):
                self._fell_back(offer, answered)
            case SaClosed(sa=sa):
                self._closed(sa)
            case _:
                pass

    def holds(self, sa: SaView) -> bool:
        """Whether there is a ticket for this SA."""
        return sa.number in self._held

    def counters(self) -> dict[str, int]:
        return {
            "tickets.held": len(self._held),
            "tickets.lost": len(self._lost),
            "tickets.shown": len(self._shown),
        }

    def deadline(self) -> Deadline | None:
        return self._renewals.deadline()

    def expire(self, now: Now) -> None:
        while (number := self._renewals.due(now.mono_ns)) is not None:
            held = self._held.get(number)
            if held is not None and held.sa.established:
                self._ask(now, held.sa)

    # --- getting tickets -------------------------------------------------------------------------

    def _accept(self, now: Now, sa: SaView, notifies: Sequence[Notify]) -> None:
        if any(n.type == NotifyType.TICKET_NACK for n in notifies):
            self._asking.discard(sa.number)
            self.core.count("ticket.not given to us")
        given = next((n.data for n in notifies if n.type == NotifyType.TICKET_LT_OPAQUE), None)
        resumption = sa.resumption
        if given is None or resumption is None:
            return
        if not _LIFETIME.size < len(given) <= _LIFETIME.size + MAX_TICKET:
            self.core.count("ticket_malformed")
            return
        lifetime_s = min(_LIFETIME.unpack_from(given)[0], LONGEST_LIFETIME_S)
        self._held[sa.number] = _Held(
            sa=sa,
            connection=sa.connection,
            ticket=given[_LIFETIME.size :],
            resumption=resumption,
            remote_identity=sa.remote_identity,
            until_ns=now.after(lifetime_s),
        )
        self._renewals.set(sa.number, now.after(max(lifetime_s * RENEW_AT, LEAST_RENEWAL_S)))
        self.core.count("ticket_received")
        self.core.event(
            "ticket_received",
            connection=sa.connection.name,
            sa=sa.number,
            octets=len(given) - _LIFETIME.size,
            lifetime_s=lifetime_s,
        )

    def _ask(self, now: Now, sa: SaView) -> None:
        self._asking.add(sa.number)
        self.core.inform(now, sa, (Notify(NotifyType.TICKET_REQUEST),), TICKET_REQUEST)

    def _rekeyed(self, now: Now, old: SaView, new: SaView) -> None:
        """The old SA's ticket serves until there is one with the new SA's SK_d."""
        held = self._held.pop(old.number, None)
        self._renewals.cancel(old.number)
        if held is None:
            return
        held.sa = new
        self._held[new.number] = held
        self._ask(now, new)

    # --- what becomes of them ----------------------------------------------------------------------

    def _established(self, sa: SaView) -> None:
        """A new SA of the connection is up: what was kept of the one before is of no use any more."""
        self._lost.pop(sa.connection.name, None)
        offer = sa.resumed_by
        if isinstance(offer, ResumeOffer) and self._shown.pop(_ticket_of(offer), None) is not None:
            self.core.count("ticket.resumed")
            self.core.event("resumed", "notice", connection=sa.connection.name, sa=sa.number)

    def _rebuilt(self, now: Now, old: SaView, new: SaView) -> None:
        """The gateway has dropped `old`. Those who asked for the new SA hear that `old` is closed."""
        proof = Resumed.check(at_ns=now.mono_ns, old=old, new=new)
        if proof is not None:
            self._rebuilds.done(now, old)
            self.core.condemn(now, old, self._monitor.verdict(old, proof), farewell=True)

    def _condemned(self, now: Now, sa: SaView) -> None:
        held = self._held.pop(sa.number, None)
        self._renewals.cancel(sa.number)
        if held is not None:
            held.until_ns = min(held.until_ns, now.after(KEEP_LOST_S))
            self._lost[sa.connection.name] = held

    def _closed(self, sa: SaView) -> None:
        self._asking.discard(sa.number)
        self._held.pop(sa.number, None)
        self._renewals.cancel(sa.number)
        offer = sa.resumed_by
        if isinstance(offer, ResumeOffer):
            # With keys there was an answer, and the ticket may be used up.
            self._fell_back(offer, answered=sa.resumption is not None)

    def _fell_back(self, offer: ResumeOffer, answered: bool) -> None:
        """A ticket that nobody answered to can be shown again; one that was refused is dropped."""
        shown = self._shown.pop(_ticket_of(offer), None)
        if shown is None or answered:
            return
        held = shown.held
        if shown.beside is None:
            self._lost.setdefault(held.connection.name, held)
        elif held.sa.established and shown.beside == held.sa.number:
            self._held.setdefault(shown.beside, held)
        elif not held.sa.established:
            self._lost.setdefault(held.connection.name, held)


# --- helpers ---------------------------------------------------------------------------------------

_LIFETIME = Struct("!I")


@dataclass(slots=True)
class _Held:
    """A ticket, and what of its SA resuming it needs."""

    sa: SaView
    connection: Connection
    ticket: bytes = field(repr=False)
    resumption: Resumption
    remote_identity: Identity | None
    until_ns: int


@dataclass(frozen=True, slots=True)
class _Shown:
    """A ticket that is being shown, beside which SA (None: after a verdict)."""

    held: _Held
    beside: int | None


def _ticket_of(offer: ResumeOffer) -> bytes:
    return next((n.data for n in offer.notifies if n.type == NotifyType.TICKET_OPAQUE), b"")


def _same_today(then: Connection, today: Connection) -> bool:
    """Whether today's configuration would have led to the same peer, by the same credentials."""
    return (
        resumption_of(today).enabled
        and then.remote == today.remote
        and then.local == today.local
        and then.proposals == today.proposals
    )
