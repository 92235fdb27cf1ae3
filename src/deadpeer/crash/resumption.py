"""Session resumption (RFC 5723), the gateway: gives tickets, and honours them after its own crash.

A ticket is used up when the client has proved, with IKE_AUTH, that it holds the keys: not before. To count
it at its first showing would be simpler, and would let anybody who has seen it on the wire, where it is in
the clear, burn it before its owner's IKE_AUTH is here. As it is, a thief gets half-open SAs, which die by
themselves, since he has no SK_d and so can say nothing in them; IKE_SA_INIT gives him as many, and makes us
work more. `tickets_half_open` bounds those of one ticket. While he fills them the owner is refused and makes
a full exchange, which is all that a forged TICKET_NACK would achieve too.

The record of a use is durable before the answer leaves that relies on it. A lost record would do no more
than let the client, whom we know, resume twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from struct import Struct

from deadpeer.crash.evidence import Resumed
from deadpeer.crash.options import CrashOptions, ResumptionOptions, resumption_of
from deadpeer.crash.tickets import (
    IDENTIFIER_SIZE,
    NONCE_SIZE,
    RING_NAME,
    SECRET_SIZE,
    KeyRing,
    Reason,
    RingError,
    Ticket,
    TicketError,
    TicketKey,
    TicketSizeError,
    decode_ring,
    encode_ring,
    seal,
    unseal,
)
from deadpeer.crash.used_tickets import UsedTickets
from deadpeer.crypto import Entropy, IkeSuite
from deadpeer.ike.connection import Connection
from deadpeer.ike.evidence import Verdict
from deadpeer.ike.extension import (
    Core,
    Extension,
    ResumeGrant,
    ResumeRefusal,
    Resumption,
    SaClosed,
    SaEstablished,
    SaRekeyed,
    SaView,
    Signal,
    Slot,
)
from deadpeer.ike.io import ExtensionCommand
from deadpeer.store import Ledger, Store
from deadpeer.values import Address, Deadline, Now
from deadpeer.wire import Notify, NotifyType

LEAST_LIFETIME_S = 30
"""A ticket that would be good for less is not worth giving."""


class TicketGateway(Extension):
    """Gives tickets on connections with `resumption`, and redeems them. Command: tickets rotate.

    The keys are made when the first ticket is asked for, rotate by time, and are erased at their end.
    """

    name = "tickets"
    observes = (SaEstablished, SaRekeyed, SaClosed)

    def __init__(self, store: Store, ledger: Ledger, entropy: Entropy, options: CrashOptions) -> None:
        self._entropy = entropy
        self._options = options
        self._used = UsedTickets(ledger, options.used_tickets)
        self._ring, self._damaged = _load(store)
        self._shared = False
        self._longest_s = 0.0
        self._sessions: dict[int, _Session] = {}
        self._shown: dict[bytes, _Shown] = {}
        self._policies: dict[tuple[str, int], tuple[Connection, bytes]] = {}

    @property
    def ring(self) -> KeyRing:
        """The keys as they are now."""
        return self._ring

    def attach(self, now: Now, core: Core) -> None:
        super().attach(now, core)
        self._used.attach(now, core)
        if self._damaged:
            # Unlike a lost QCD secret this costs full exchanges, no more: go on, and say so.
            core.event("ticket_keys_damaged", "warning", remedy="tickets given before are refused")
        if not self._shared and self._ring.pruned(now.unix_s) != self._ring:
            self._keep(self._ring.pruned(now.unix_s))
        self._arm(now)

    def adopt(self, now: Now, ring: KeyRing) -> None:
        """Use the keys that the members of a cluster share, and make none."""
        self._shared, self._ring = True, ring
        self._policies.clear()
        self._erase = None

    # --- giving ----------------------------------------------------------------------------------

    def answers(self, now: Now, slot: Slot, sa: SaView, request: Sequence[Notify]) -> Sequence[Notify]:
        """N(TICKET_REQUEST) in IKE_AUTH or INFORMATIONAL gets a ticket, or TICKET_NACK (section 4.1)."""
        if slot not in (Slot.AUTH, Slot.INFORMATIONAL):
            return ()
        if not any(n.type == NotifyType.TICKET_REQUEST for n in request):
            return ()
        made = self._issue(now, sa)
        if isinstance(made, Notify):
            return (made,)
        self.core.count(f"ticket.not given: {made}")
        return (Notify(NotifyType.TICKET_NACK),)

    def _issue(self, now: Now, sa: SaView) -> Notify | str:
        options, resumption, peer = resumption_of(sa.connection), sa.resumption, sa.remote_identity
        if not options.enabled:
            return "switched off"
        if resumption is None or peer is None or not sa.established:
            return "no established SA"
        session = self._session(now, sa)
        key = self._key(now, options.lifetime_s)
        ends = [now.unix_s + options.lifetime_s, key.ends_s]
        must = session.must_reauthenticate_s(options.limit_s)
        expires = int(min([*ends, must] if must else ends))
        lifetime = expires - int(now.unix_s)
        if lifetime < LEAST_LIFETIME_S:
            return "the peer must authenticate anew"
        ticket = Ticket(
            identifier=self._entropy.octets(IDENTIFIER_SIZE),
            connection=sa.connection.name,
            local_identity=sa.connection.local.identity,
            remote_identity=peer,
            suite=resumption.suite,
            sk_d=resumption.sk_d,
            auth=sa.connection.remote.auth,
            created_s=int(now.unix_s),
            expires_s=expires,
            authenticated_s=session.authenticated_s,
            reauthenticate_s=must,
            client=sa.remote,
            spi_i=sa.spi_i,
            spi_r=sa.spi_r,
            policy=self._policy(key, sa.connection),
        )
        try:
            sealed = seal(key, ticket, self._entropy.octets(NONCE_SIZE))
        except TicketSizeError:
            return "too large"
        self.core.count("ticket_sent")
        self.core.event(
            "ticket_sent",
            connection=sa.connection.name,
            sa=sa.number,
            generation=key.number,
            lifetime_s=lifetime,
            octets=len(sealed),
        )
        return Notify(NotifyType.TICKET_LT_OPAQUE, _LIFETIME.pack(lifetime) + sealed)

    # --- redeeming -------------------------------------------------------------------------------

    def resume_redeem(
        self, now: Now, notifies: Sequence[Notify], source: Address
    ) -> ResumeGrant | ResumeRefusal | None:
        """What is shown with IKE_SESSION_RESUME. Every refusal looks the same from outside."""
        shown = next((n.data for n in notifies if n.type == NotifyType.TICKET_OPAQUE), None)
        if shown is None:
            return None
        try:
            key, ticket = unseal(self._ring, shown, now.unix_s)
            connection = self._today(key, ticket, source)
        except TicketError as refused:
            self.core.count(f"ticket.refused: {refused.reason}")
            self.core.event("ticket_refused", "debug", source=str(source), reason=refused.reason)
            return ResumeRefusal(Notify(NotifyType.TICKET_NACK))
        half_open = self._shown.setdefault(ticket.identifier, _Shown(ticket))
        half_open.count += 1
        self.core.count("ticket.shown")
        return ResumeGrant(
            connection, ticket.remote_identity, Resumption(ticket.suite, ticket.sk_d), ticket.identifier
        )

    def resume_confirm(self, now: Now, sa: SaView, grant: ResumeGrant) -> bool:
        """The client proved that it has SK_d: now, and only once, the ticket is used."""
        shown = self._shown.get(grant.reference)
        reason = self._still_good(now, grant, shown)
        if reason is not None or shown is None:
            self.core.count(f"ticket.refused: {reason}")
            return False
        shown.count -= 1
        if shown.count <= 0:
            del self._shown[grant.reference]
        ticket = shown.ticket
        self._used.add(now, ticket.identifier, ticket.expires_s)
        self._sessions[sa.number] = _Session(
            ticket.authenticated_s, ticket.reauthenticate_s, (ticket.spi_i, ticket.spi_r)
        )
        self.core.count("ticket.redeemed")
        return True

    def _still_good(self, now: Now, grant: ResumeGrant, shown: _Shown | None) -> Reason | None:
        """Between the two requests the ticket may have been used, and the configuration changed."""
        if grant.reference in self._used or shown is None:
            return "used"
        if self._used.full:
            return "too many used"
        if shown.ticket.expires_s <= now.unix_s:
            return "expired"
        if self.core.connection(grant.connection.name) is not grant.connection:
            return "connection gone"
        return None

    def _today(self, key: TicketKey, ticket: Ticket, source: Address) -> Connection:
        """The connection that the ticket resumes, if all that it stands for holds today.

        Raises TicketError.
        """
        if ticket.identifier in self._used:
            raise TicketError("used")
        if self._used.full:
            raise TicketError("too many used")
        connection = self.core.connection(ticket.connection)
        if connection is None:
            raise TicketError("connection gone")
        if not resumption_of(connection).enabled:
            raise TicketError("switched off")
        expected = connection.remote.identity
        if connection.local.identity != ticket.local_identity or (
            expected is not None and not expected.matches(ticket.remote_identity)
        ):
            raise TicketError("identity")
        if connection.remote.auth != ticket.auth or self._policy(key, connection) != ticket.policy:
            raise TicketError("credentials changed")
        if not _allows(connection, ticket.suite):
            raise TicketError("suite")
        here = ip_address(source.host)
        if connection.remote_addrs and not any(here in network for network in connection.remote_addrs):
            raise TicketError("address")
        shown = self._shown.get(ticket.identifier)
        if shown is not None and shown.count >= self._options.tickets_half_open:
            raise TicketError("half-open")
        return connection

    # --- the life of SAs -------------------------------------------------------------------------

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case SaEstablished(sa=sa):
                session = self._session(now, sa)
                if session.replaces is not None:
                    self._replace(now, sa, session.replaces)
                    session.replaces = None
            case SaRekeyed(old=old, new=new):
                if (session_of_old := self._sessions.get(old.number)) is not None:
                    self._sessions[new.number] = session_of_old
            case SaClosed(sa=sa):
                # A half-open SA has no session yet: `resume_confirm` makes it.
                if self._sessions.pop(sa.number, None) is None:
                    self._half_open_ended(sa)
            case _:
                pass

    def _session(self, now: Now, sa: SaView) -> _Session:
        """When the peer of this SA proved its credentials: now, unless we know better."""
        session = self._sessions.get(sa.number)
        if session is None:
            until = int(sa.credential_until_s) if sa.credential_until_s is not None else 0
            session = self._sessions[sa.number] = _Session(int(now.unix_s), until)
        return session

    def _replace(self, now: Now, new: SaView, spis: tuple[bytes, bytes]) -> None:
        """The SA that the ticket was given in goes without a word, if it is still here (RFC 5723)."""
        old = self.core.find(*spis)
        proof = Resumed.check(at_ns=now.mono_ns, old=old, new=new) if old is not None else None
        self.core.event("resumed", "notice", connection=new.connection.name, sa=new.number)
        if old is not None and proof is not None:
            self.core.condemn(now, old, Verdict(proof, (), now.mono_ns))

    def _half_open_ended(self, sa: SaView) -> None:
        grant = sa.resumed_by
        shown = self._shown.get(grant.reference) if isinstance(grant, ResumeGrant) else None
        if shown is None:
            return
        shown.count -= 1
        if shown.count <= 0:
            del self._shown[shown.ticket.identifier]

    # --- keys ------------------------------------------------------------------------------------

    def command(self, now: Now, command: ExtensionCommand) -> bool:
        if command.extension != self.name:
            return False
        if self._shared:
            self.core.done(command.tag, False, "the members of the cluster rotate the ticket key together")
            return True
        if command.verb != "rotate":
            self.core.done(command.tag, False, f"tickets has no command '{command.verb}', only 'rotate'")
            return True
        self._rotate(now)
        kept = len(self._ring.keys) - 1
        self.core.done(command.tag, True, f"key {self._ring.keys[0].number} is current, {kept} older kept")
        return True

    def deadline(self) -> Deadline | None:
        used, erase = self._used.deadline(), self._erase
        if used is None or (erase is not None and erase.at_ns <= used.at_ns):
            return erase
        return used

    def expire(self, now: Now) -> None:
        self._used.expire(now)
        if self._erase is not None and self._erase.at_ns <= now.mono_ns:
            pruned = self._ring.pruned(now.unix_s)
            if pruned != self._ring:
                self._keep(pruned)
            self._arm(now)

    def counters(self) -> dict[str, int]:
        return {
            "tickets.used": len(self._used),
            "tickets.half_open": sum(shown.count for shown in self._shown.values()),
            "tickets.keys": len(self._ring.keys),
        }

    _erase: Deadline | None = None

    def _key(self, now: Now, lifetime_s: float) -> TicketKey:
        """The key to seal with; a new one if it is time."""
        self._longest_s = max(self._longest_s, lifetime_s)
        return self._ring.current(now.unix_s) or self._rotate(now)

    def _rotate(self, now: Now) -> TicketKey:
        longest = self._longest_s or ResumptionOptions().lifetime_s
        secret = self._entropy.octets(SECRET_SIZE)
        self._keep(self._ring.rotated(now.unix_s, secret, self._options.ticket_rotation_s, longest))
        self._policies.clear()
        self._arm(now)
        key = self._ring.keys[0]
        self.core.event("ticket_key_rotated", "notice", generation=key.number, kept=len(self._ring.keys) - 1)
        return key

    def _keep(self, ring: KeyRing) -> None:
        """Stored before any ticket that relies on it can leave (the core keeps the order)."""
        self._ring = ring
        self.core.persist(RING_NAME, encode_ring(ring))

    def _arm(self, now: Now) -> None:
        end = None if self._shared else self._ring.next_end_s
        self._erase = None
        if end is not None:
            wait = min(max(end - now.unix_s, 0.0) + 1.0, _CHECK_S)
            self._erase = Deadline(now.after(wait), "ticket key ends")

    def _policy(self, key: TicketKey, connection: Connection) -> bytes:
        """`TicketKey.policy`, which reads every CA, kept for as long as the configuration is the same."""
        at = (connection.name, key.number)
        known = self._policies.get(at)
        if known is None or known[0] is not connection:
            known = self._policies[at] = (connection, key.policy(connection))
        return known[1]


# --- helpers ---------------------------------------------------------------------------------------

_LIFETIME = Struct("!I")
_CHECK_S = 86_400.0


@dataclass(slots=True)
class _Session:
    """When the peer proved its credentials, until when they are good (0: no end), and, until the SA is up,
    the SPIs of the SA that it resumes."""

    authenticated_s: int
    until_s: int
    replaces: tuple[bytes, bytes] | None = None

    def must_reauthenticate_s(self, limit_s: float) -> int:
        """When a full exchange is due, Unix time; 0: never."""
        ends = [self.until_s] if self.until_s else []
        ends += [self.authenticated_s + int(limit_s)] if limit_s else []
        return min(ends, default=0)


@dataclass(slots=True)
class _Shown:
    """A ticket that was shown, and how many half-open SAs it has."""

    ticket: Ticket = field(repr=False)
    count: int = 0


def _load(store: Store) -> tuple[KeyRing, bool]:
    """The keys in the store, and whether there were some that can't be read."""
    data = store.get(RING_NAME)
    if data is None:
        return KeyRing(), False
    try:
        return decode_ring(data), False
    except RingError:
        return KeyRing(), True


def _allows(connection: Connection, suite: IkeSuite) -> bool:
    """Whether today's proposals would let this suite be chosen."""
    return any(
        suite.encryption in template.encryptions
        and suite.prf in template.prfs
        and suite.group in template.groups
        and (suite.integrity is None or suite.integrity in template.integrities)
        for template in connection.proposals
    )
