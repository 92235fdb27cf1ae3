"""What the gateway makes of a ticket, check by check: its configuration of today, its record, its keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

import pytest
from tests.crash.fakes import ALICE, BOB, MALLORY, FakeCore, at, connection

from deadpeer.crash.options import CrashOptions, ResumptionOptions
from deadpeer.crash.resumption import TicketGateway
from deadpeer.crash.tickets import REASONS, RING_NAME
from deadpeer.crash.used_tickets import TABLE
from deadpeer.crypto import Identity, SeededEntropy, parse_proposal
from deadpeer.crypto.suites import ENCRYPTIONS, GROUPS, PRFS, IkeSuite
from deadpeer.ike.connection import Connection
from deadpeer.ike.extension import (
    ResumeGrant,
    ResumeOffer,
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
from deadpeer.store import MemoryLedger, MemoryStore
from deadpeer.values import Address, Now
from deadpeer.wire import Notify, NotifyType, Protocol

SUITE = IkeSuite(ENCRYPTIONS["aes256gcm16"], None, PRFS["prfsha256"], GROUPS["x25519"])
PROPOSAL = parse_proposal("aes256gcm16-prfsha256-x25519-ecp256", Protocol.IKE)
REQUEST = (Notify(NotifyType.TICKET_REQUEST),)
HOUR = 3600.0


def today(**changes: object) -> Connection:
    """The connection on which tickets are given."""
    base = replace(connection(), proposals=(PROPOSAL,), extensions=(ResumptionOptions(True, HOUR),))
    return replace(base, **changes)  # type: ignore[arg-type]


@dataclass(eq=False)
class Sa:
    """An SA as the gateway sees it."""

    number: int
    connection: Connection = field(default_factory=today)
    remote: Address = ALICE
    local: Address = BOB
    spi_i: bytes = b"initiato"
    spi_r: bytes = b"responde"
    established: bool = True
    remote_identity: Identity | None = field(default_factory=lambda: Identity.parse("@b.example"))
    resumption: Resumption | None = field(default_factory=lambda: Resumption(SUITE, b"d" * 32))
    resumed_by: ResumeOffer | ResumeGrant | None = None
    credential_until_s: float | None = None


class Core(FakeCore):
    """Knows today's connection, and enters records where they survive."""

    def __init__(self, store: MemoryStore, ledger: MemoryLedger, connections: list[Connection]) -> None:
        super().__init__()
        self.store, self.ledger = store, ledger
        self.connections = {c.name: c for c in connections}

    def connection(self, name: str) -> Connection | None:
        return self.connections.get(name)

    def persist(self, name: str, data: bytes) -> None:
        super().persist(name, data)
        self.store.put(name, data)

    def record(self, table: str, key: bytes, value: bytes | None, *, durable: bool = False) -> None:
        if value is not None:
            assert durable, "a used ticket is on disk before the answer that relies on it"
        self.ledger.write(table, key, value, durable=durable)


class Gateway:
    """One gateway with what survives its crashes."""

    def __init__(self, configured: Connection | None = None, **options: object) -> None:
        self.store, self.ledger = MemoryStore(), MemoryLedger()
        self.options = CrashOptions(**options)  # type: ignore[arg-type]
        self.configured = configured or today()
        self.boots = 0
        self.boot(at(0))

    def boot(self, now: Now) -> None:
        self.boots += 1
        self.core = Core(self.store, self.ledger, [self.configured])
        entropy = SeededEntropy(f"gateway {self.boots}".encode())
        self.tickets = TicketGateway(self.store, self.ledger, entropy, self.options)
        self.tickets.attach(now, self.core)

    def configure(self, configured: Connection | None) -> None:
        self.core.connections = {} if configured is None else {configured.name: configured}
        if configured is not None:
            self.configured = configured

    def signal(self, seconds: float, signal: Signal) -> None:
        self.tickets.observe(at(seconds), signal)

    def give(self, seconds: float, sa: Sa | None = None, slot: Slot = Slot.AUTH) -> Notify:
        sa = sa or Sa(1, self.configured)
        [answer] = self.tickets.answers(at(seconds), slot, view(sa), REQUEST)
        return answer

    def ticket(self, seconds: float = 0.0, sa: Sa | None = None) -> bytes:
        answer = self.give(seconds, sa)
        assert answer.type == NotifyType.TICKET_LT_OPAQUE
        return answer.data[4:]

    def show(self, seconds: float, ticket: bytes, source: Address = ALICE) -> ResumeGrant | ResumeRefusal:
        shown = self.tickets.resume_redeem(at(seconds), [Notify(NotifyType.TICKET_OPAQUE, ticket)], source)
        assert shown is not None
        if isinstance(shown, ResumeRefusal):
            # Nothing tells a stranger why.
            assert shown.notify == Notify(NotifyType.TICKET_NACK)
        return shown

    def use(self, seconds: float, ticket: bytes, number: int = 9) -> bool:
        grant = self.show(seconds, ticket)
        assert isinstance(grant, ResumeGrant)
        sa = Sa(number, grant.connection, resumed_by=grant)
        return self.tickets.resume_confirm(at(seconds), view(sa), grant)

    def refused(self) -> dict[str, int]:
        prefix = "ticket.refused: "
        return {k.removeprefix(prefix): n for k, n in self.core.counts.items() if k.startswith(prefix)}


def view(sa: Sa) -> SaView:
    return sa  # type: ignore[return-value]


def lifetime(answer: Notify) -> int:
    return int.from_bytes(answer.data[:4], "big")


def test_a_ticket_brings_back_what_the_gateway_forgot() -> None:
    gateway = Gateway()
    ticket = gateway.ticket()
    gateway.boot(at(10))
    grant = gateway.show(11, ticket)
    assert isinstance(grant, ResumeGrant)
    assert grant.connection is gateway.configured
    assert grant.remote_identity == Identity.parse("@b.example")
    assert grant.resumption == Resumption(SUITE, b"d" * 32)


def test_what_shows_no_ticket_is_for_somebody_else() -> None:
    gateway = Gateway()
    assert gateway.tickets.resume_redeem(at(0), [Notify(NotifyType.COOKIE, b"c")], ALICE) is None


def changed(**changes: object) -> Callable[[Gateway], None]:
    return lambda gateway: gateway.configure(replace(gateway.configured, **changes))  # type: ignore[arg-type]


def remote(**changes: object) -> Callable[[Gateway], None]:
    return changed(remote=replace(today().remote, **changes))  # type: ignore[arg-type]


def local(identity: str) -> Callable[[Gateway], None]:
    return changed(local=replace(today().local, identity=Identity.parse(identity)))


WEAKER = parse_proposal("aes128gcm16-prfsha256-x25519", Protocol.IKE)
TODAY: list[tuple[str, Callable[[Gateway], None]]] = [
    ("connection gone", lambda gateway: gateway.configure(None)),
    ("connection gone", changed(name="renamed")),
    ("switched off", changed(extensions=())),
    ("identity", remote(identity=Identity.parse("@revoked.example"))),
    ("identity", local("@other.example")),
    ("credentials changed", remote(secret=b"changed")),
    ("credentials changed", remote(auth="pubkey")),
    ("credentials changed", remote(identity=None)),
    ("suite", changed(proposals=(WEAKER,))),
    ("address", changed(remote_addrs=(ip_network("203.0.113.0/24"),))),
]


@pytest.mark.parametrize(("reason", "change"), TODAY)
def test_the_configuration_of_today_counts(reason: str, change: Callable[[Gateway], None]) -> None:
    gateway = Gateway()
    ticket = gateway.ticket()
    gateway.boot(at(10))
    change(gateway)
    assert isinstance(gateway.show(11, ticket), ResumeRefusal)
    assert gateway.refused() == {reason: 1}
    assert reason in REASONS


def test_what_does_not_matter_does_not_hinder() -> None:
    gateway = Gateway()
    ticket = gateway.ticket()
    addresses = (ip_network("192.0.2.0/24"),)
    gateway.configure(replace(gateway.configured, dpd_delay_s=1.0, remote_addrs=addresses))
    assert isinstance(gateway.show(1, ticket), ResumeGrant)


def test_an_expired_ticket_is_refused() -> None:
    gateway = Gateway()
    ticket = gateway.ticket()
    assert isinstance(gateway.show(HOUR + 1, ticket), ResumeRefusal)
    assert gateway.refused() == {"expired": 1}


def test_a_ticket_that_expires_between_the_two_requests_is_refused() -> None:
    gateway = Gateway()
    grant = gateway.show(HOUR - 1, gateway.ticket())
    assert isinstance(grant, ResumeGrant)
    assert not gateway.tickets.resume_confirm(at(HOUR + 1), view(Sa(9, resumed_by=grant)), grant)


def test_a_connection_that_goes_between_the_two_requests_is_gone() -> None:
    gateway = Gateway()
    grant = gateway.show(1, gateway.ticket())
    assert isinstance(grant, ResumeGrant)
    gateway.configure(None)
    assert not gateway.tickets.resume_confirm(at(2), view(Sa(9, resumed_by=grant)), grant)


# --- once ------------------------------------------------------------------------------------------


def test_a_ticket_is_used_once_also_after_a_crash() -> None:
    gateway = Gateway()
    ticket = gateway.ticket()
    assert gateway.use(1, ticket)
    assert isinstance(gateway.show(2, ticket), ResumeRefusal)
    gateway.boot(at(3))
    assert isinstance(gateway.show(4, ticket), ResumeRefusal)
    assert gateway.refused() == {"used": 1}


def test_showing_it_does_not_use_it_up() -> None:
    """A thief shows it before its owner: each of his half-open SAs ends, and the owner's is honoured."""
    gateway = Gateway()
    ticket = gateway.ticket()
    thieves = [gateway.show(1, ticket, MALLORY) for _ in range(3)]
    assert gateway.use(2, ticket)
    for grant in thieves:
        assert isinstance(grant, ResumeGrant)
        sa = Sa(20, established=False, resumed_by=grant)
        assert not gateway.tickets.resume_confirm(at(3), view(sa), grant)
        gateway.signal(4, SaClosed(view(sa), "the initiator never authenticated"))
    assert gateway.refused() == {"used": 3}
    assert gateway.tickets.counters()["tickets.half_open"] == 0


def test_half_open_sas_of_one_ticket_are_bounded() -> None:
    gateway = Gateway(tickets_half_open=4)
    ticket = gateway.ticket()
    grants = [g for _ in range(100) if isinstance(g := gateway.show(1, ticket, MALLORY), ResumeGrant)]
    assert len(grants) == gateway.tickets.counters()["tickets.half_open"] == 4
    assert gateway.refused() == {"half-open": 96}
    for number, grant in enumerate(grants):
        sa = Sa(20 + number, established=False, resumed_by=grant)
        gateway.signal(40, SaClosed(view(sa), "the initiator never authenticated"))
    assert gateway.tickets.counters()["tickets.half_open"] == 0
    assert gateway.use(41, ticket)


def test_an_sa_that_ends_later_frees_nothing_twice() -> None:
    gateway = Gateway()
    ticket = gateway.ticket()
    waiting = gateway.show(1, ticket)
    assert isinstance(waiting, ResumeGrant)
    assert gateway.use(2, ticket, number=9)
    gateway.signal(3, SaClosed(view(Sa(9, resumed_by=waiting)), "deleted"))
    assert gateway.tickets.counters()["tickets.half_open"] == 1


def test_when_the_record_is_full_nothing_is_forgotten() -> None:
    gateway = Gateway(used_tickets=2)
    tickets = [gateway.ticket() for _ in range(3)]
    assert gateway.use(1, tickets[0])
    assert gateway.use(1, tickets[1])
    assert isinstance(gateway.show(2, tickets[2]), ResumeRefusal)
    assert isinstance(gateway.show(2, tickets[0]), ResumeRefusal)
    assert gateway.refused() == {"too many used": 1, "used": 1}


def test_records_go_when_their_tickets_have_expired() -> None:
    gateway = Gateway(used_tickets=1)
    assert gateway.use(1, gateway.ticket(0))
    gateway.boot(at(2))
    assert gateway.tickets.counters()["tickets.used"] == 1
    due = gateway.tickets.deadline()
    assert due is not None
    later = at(HOUR + 2)
    assert due.at_ns <= later.mono_ns
    gateway.tickets.expire(later)
    assert gateway.tickets.counters()["tickets.used"] == 0
    assert list(gateway.ledger.items(TABLE)) == []
    assert gateway.use(HOUR + 3, gateway.ticket(HOUR + 3))


def test_a_clock_set_back_keeps_the_records() -> None:
    gateway = Gateway()
    assert gateway.use(1, gateway.ticket(0))
    later = at(HOUR + 2)
    gateway.tickets.expire(Now(later.mono_ns, at(10).unix_s))
    assert gateway.tickets.counters()["tickets.used"] == 1
    assert gateway.tickets.deadline() is not None


def test_broken_records_are_counted_and_dropped() -> None:
    gateway = Gateway()
    gateway.ledger.write(TABLE, b"short", b"x", durable=True)
    gateway.boot(at(1))
    assert gateway.core.counts["used_tickets.broken"] == 1
    assert list(gateway.ledger.items(TABLE)) == []


# --- giving ----------------------------------------------------------------------------------------


def test_a_ticket_is_given_only_when_asked_for() -> None:
    gateway = Gateway()
    other = [Notify(NotifyType.INITIAL_CONTACT)]
    assert gateway.tickets.answers(at(0), Slot.AUTH, view(Sa(1)), other) == ()
    assert gateway.tickets.answers(at(0), Slot.IKE_REKEY, view(Sa(1)), REQUEST) == ()
    assert gateway.core.persisted == []


@pytest.mark.parametrize(
    ("sa", "why"),
    [
        (Sa(1, today(extensions=())), "switched off"),
        (Sa(1, established=False), "no established SA"),
        (Sa(1, remote_identity=Identity(2, b"x" * 2000)), "too large"),
        (Sa(1, credential_until_s=at(10).unix_s), "the peer must authenticate anew"),
    ],
)
def test_a_request_can_be_refused(sa: Sa, why: str) -> None:
    gateway = Gateway()
    assert gateway.give(0, sa) == Notify(NotifyType.TICKET_NACK)
    assert gateway.core.counts[f"ticket.not given: {why}"] == 1


def test_no_ticket_outlives_the_peers_certificate() -> None:
    gateway = Gateway()
    until = at(100).unix_s
    assert lifetime(gateway.give(0, Sa(1, credential_until_s=until))) == 100
    assert lifetime(gateway.give(0, Sa(2))) == HOUR


def test_resuming_does_not_prolong_the_authentication() -> None:
    """Ticket after ticket, through resumptions and rekeys: the limit counts from the full exchange."""
    limited = today(extensions=(ResumptionOptions(True, HOUR, 2 * HOUR),))
    gateway = Gateway(limited)
    sa = Sa(1, limited)
    gateway.signal(0, SaEstablished(view(sa)))
    for step in range(1, 4):
        ticket = gateway.ticket(step * 1700.0, sa)
        gateway.boot(at(step * 1700.0 + 1))
        grant = gateway.show(step * 1700.0 + 2, ticket)
        assert isinstance(grant, ResumeGrant)
        resumed = Sa(2 * step, limited, resumed_by=grant)
        assert gateway.tickets.resume_confirm(at(step * 1700.0 + 2), view(resumed), grant)
        gateway.signal(step * 1700.0 + 3, SaEstablished(view(resumed)))
        sa = Sa(2 * step + 1, limited)
        gateway.signal(step * 1700.0 + 4, SaRekeyed(view(resumed), view(sa), True))
        gateway.signal(step * 1700.0 + 5, SaClosed(view(resumed), "rekeyed"))
    assert lifetime(gateway.give(6000, sa)) == 1200
    assert gateway.give(7180, sa).type == NotifyType.TICKET_NACK


# --- keys ------------------------------------------------------------------------------------------


def test_the_key_is_stored_before_the_ticket_is_given() -> None:
    gateway = Gateway()
    gateway.ticket()
    assert [name for name, _ in gateway.core.persisted] == [RING_NAME]
    gateway.ticket(1)
    assert len(gateway.core.persisted) == 1


def test_keys_rotate_by_time_and_are_erased_at_their_end() -> None:
    gateway = Gateway(ticket_rotation_s=2 * HOUR)
    gateway.ticket(0)
    early = gateway.ticket(2 * HOUR - 10)
    gateway.ticket(2 * HOUR + 1)
    assert [key.number for key in gateway.tickets.ring.keys] == [2, 1]
    gateway.boot(at(2 * HOUR + 2))
    assert isinstance(gateway.show(2 * HOUR + 3, early), ResumeGrant)
    first = gateway.tickets.ring.keys[1].secret
    due = gateway.tickets.deadline()
    assert due is not None
    assert due.reason == "ticket key ends"
    gateway.tickets.expire(Now(due.at_ns, at((due.at_ns - at(0).mono_ns) / 1e9).unix_s))
    assert [key.number for key in gateway.tickets.ring.keys] == [2]
    stored = gateway.store.get(RING_NAME)
    assert stored is not None
    assert first not in stored


def test_the_command_rotates() -> None:
    gateway = Gateway()
    ticket = gateway.ticket()
    assert gateway.tickets.command(at(1), ExtensionCommand("tickets", "rotate", 5))
    assert gateway.core.finished == [(5, True, "key 2 is current, 1 older kept")]
    assert isinstance(gateway.show(2, ticket), ResumeGrant)
    for tag in range(8):
        gateway.tickets.command(at(3), ExtensionCommand("tickets", "rotate", tag))
    assert isinstance(gateway.show(4, ticket), ResumeRefusal)
    assert gateway.refused() == {"key unknown": 1}
    assert not gateway.tickets.command(at(5), ExtensionCommand("qcd", "rotate"))
    assert gateway.tickets.command(at(5), ExtensionCommand("tickets", "burn", 6))
    assert gateway.core.finished[-1][:2] == (6, False)


def test_damaged_keys_cost_full_exchanges_no_more() -> None:
    gateway = Gateway()
    ticket = gateway.ticket()
    gateway.store.put(RING_NAME, b"\0" + (gateway.store.get(RING_NAME) or b"")[1:])
    gateway.boot(at(1))
    assert [event.kind for event in gateway.core.events] == ["ticket_keys_damaged"]
    assert isinstance(gateway.show(2, ticket), ResumeRefusal)
    assert gateway.use(3, gateway.ticket(3))


def test_keys_that_ended_while_it_was_down_are_erased_at_boot() -> None:
    gateway = Gateway()
    gateway.ticket()
    gateway.boot(at(30 * HOUR))
    assert gateway.tickets.ring.keys == ()
    assert [name for name, _ in gateway.core.persisted] == [RING_NAME]
