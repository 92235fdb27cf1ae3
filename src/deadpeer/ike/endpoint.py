"""The endpoint: routes datagrams, answers strangers, runs commands, starts and recovers connections.

Three things go in: `handle(now, item)` with a datagram, a command, a report of the data plane or a
timeout. Then `poll()` until it returns None, then `deadline()` says when a `Timeout` is due. Nothing
that a peer sends makes `handle` raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from deadpeer.crypto import Entropy
from deadpeer.ike import extension as ext
from deadpeer.ike import inbound, lifetimes, refusals, switch
from deadpeer.ike.child import ChildSa, ChildState
from deadpeer.ike.commands import Commands
from deadpeer.ike.connection import Connection, EndpointConfig
from deadpeer.ike.cookie import CookieJar
from deadpeer.ike.environment import Environment
from deadpeer.ike.evidence import InitialContact, Verdict
from deadpeer.ike.exchanges import dispatch, init, resume, setup
from deadpeer.ike.exchanges.child import RekeyChild, replace_lost
from deadpeer.ike.exchanges.informational import DeleteIke, Inform, Probe, expire_child
from deadpeer.ike.extension import Extension, Orphan, SpiSource
from deadpeer.ike.io import Field, Input, Level, Output, Record, Timeout
from deadpeer.ike.matching import connections_for
from deadpeer.ike.recovery import Recovery
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.ike.snapshot import describe
from deadpeer.plane import model
from deadpeer.values import Address, Datagram, Deadline, Now
from deadpeer.wire import (
    KEEPALIVE,
    NON_ESP_MARKER,
    Encrypted,
    EncryptedFragment,
    ExchangeType,
    Header,
    Message,
    Notify,
    Payload,
    PayloadType,
    UnsupportedCriticalPayload,
    WireError,
    decode_header,
    decode_message,
    encode_message,
)

MIN_PROTECTED_OCTETS = 28 + 4 + 8 + 1 + 16
"""Header, SK header, IV, pad length, ICV: nothing shorter is a protected request."""
_INITIAL = (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME)


class Endpoint:
    """IKEv2 for one host: all its SAs, all its connections. Implements `extension.Core`."""

    def __init__(
        self,
        now: Now,
        config: EndpointConfig,
        connections: Sequence[Connection],
        entropy: Entropy,
        spis: SpiSource,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self._env = Environment(config, entropy, spis, self, extensions)
        self._cookies = CookieJar(entropy)
        self._recovery = Recovery(self._env, connections)
        self._commands = Commands(self._env, self._recovery)
        for extension in extensions:
            extension.attach(now, self)
        self._recovery.start(now)

    # --- the three inputs ------------------------------------------------------------------------

    def handle(self, now: Now, item: Input) -> None:
        """Take in a datagram, a timeout, a command or a report of the data plane."""
        if isinstance(item, Datagram):
            self._datagram(now, item)
        elif isinstance(item, Timeout):
            self._timeout(now)
        elif isinstance(item, model.PlaneReport):
            self._report(now, item)
        else:
            self._commands.run(now, item)

    def poll(self) -> Output | None:
        """The next output, None when all are drained."""
        return self._env.poll()

    @property
    def quiet(self) -> bool:
        """Whether `poll` would return None."""
        return self._env.quiet

    def deadline(self) -> Deadline | None:
        """The earliest moment at which `handle(now, Timeout())` has something to do."""
        deadlines = [self._env.timers.next(), *(e.deadline() for e in self._env.timed)]
        return min((d for d in deadlines if d is not None), key=lambda d: d.at_ns, default=None)

    # --- for people and tests --------------------------------------------------------------------

    @property
    def counters(self) -> Counter[str]:
        """What was sent, dropped and counted, by named reason."""
        return self._env.counters

    def snapshot(self, now: Now) -> list[dict[str, object]]:
        """All IKE SAs and their children, as JSON-able values without secrets."""
        return [describe(sa, now) for sa in self._env.table]

    def sizes(self) -> dict[str, int]:
        """Sizes of the tables, those of the extensions too."""
        table = self._env.table
        found = {"ike_sas": len(table), "half_open": table.half_open, "child_sas": table.children}
        found["refusals.sources"] = len(self._env.refusals)
        for extension in self._env.extensions:
            found.update(extension.counters())
        return found

    # --- Core: what extensions may ask -----------------------------------------------------------

    def alive(self, spi: bytes) -> bool:
        """Whether any SA, in any state and either role, has this IKE SPI on either side."""
        return self._env.table.alive(spi)

    def find(self, spi_i: bytes, spi_r: bytes) -> IkeSa | None:
        """The SA with this pair of IKE SPIs."""
        return self._env.table.find(spi_i, spi_r)

    def find_by_outbound(self, spi_out: int, remote: Address) -> IkeSa | None:
        """The SA with a child that sends with this ESP SPI to the host of `remote`."""
        return self._env.table.by_outbound(spi_out, remote.host)

    def find_by_inbound(self, spi_in: int) -> IkeSa | None:
        """The SA that has a child with this inbound ESP SPI."""
        found = self._env.table.child_by_inbound(spi_in)
        return found[0] if found is not None else None

    def with_peer(self, remote: Address) -> Sequence[IkeSa]:
        """The established SAs whose peer is at exactly this address and port, oldest first."""
        return self._env.table.with_peer(remote)

    def views(self) -> Iterable[IkeSa]:
        """All IKE SAs that are not closed."""
        return iter(self._env.table)

    def connection(self, name: str) -> Connection | None:
        """The connection of that name in today's configuration."""
        return self._recovery.connections.get(name)

    def probe(self, now: Now, sa: ext.SaView, reason: str) -> None:
        """One liveness check; a request in flight is retransmitted at once instead, identically."""
        found = self._env.table.get(sa.number)
        if found is None or not found.established:
            return
        name, again = found.connection.name, found.request_in_flight
        self._env.event("probe", "debug", connection=name, sa=found.number, reason=reason, repeated=again)
        if again:
            found.retransmit(now, f"retransmission: {reason}", restart=True)
        else:
            found.submit(now, Probe(reason))

    def inform(self, now: Now, sa: ext.SaView, notifies: Sequence[Notify], reason: str) -> None:
        """Queue a protected INFORMATIONAL request that carries these notifies."""
        found = self._env.table.get(sa.number)
        if found is not None:
            found.submit(now, Inform(notifies, reason))

    def replace_child(self, now: Now, sa: ext.SaView, spi_out: int, reason: str) -> bool:
        """The peer says, protected, that it lost the child that it receives with `spi_out`."""
        found = self._env.table.get(sa.number)
        child = found.child_by_outbound(spi_out.to_bytes(4, "big")) if found is not None else None
        if found is None or child is None or child.state is not ChildState.INSTALLED:
            return False
        replace_lost(found, now, child, reason)
        return True

    def rekey_child(self, now: Now, sa: ext.SaView, spi_out: int, reason: str) -> bool:
        """Rekey the child that sends with `spi_out`; if the peer lost it, it is made anew."""
        found = self._env.table.get(sa.number)
        child = found.child_by_outbound(spi_out.to_bytes(4, "big")) if found is not None else None
        if found is None or child is None or child.state is not ChildState.INSTALLED:
            return False
        self._env.event("child_rekey", connection=found.connection.name, child=child.name, reason=reason)
        found.submit(now, RekeyChild(child))
        return True

    def condemn(self, now: Now, sa: ext.SaView, verdict: Verdict, *, farewell: bool = False) -> None:
        """Drop the SA and its children, on proof, and recover as the configuration says.

        No DELETE is sent; with `farewell` one is, once, in case that the peer lives after all.
        """
        found = self._env.table.get(sa.number)
        if found is None:
            return
        self._env.event(
            "verdict",
            "notice",
            connection=found.connection.name,
            sa=found.number,
            remote=str(found.remote),
            proof=verdict.proof.kind,
            took_s=round(verdict.took_s, 6),
            evidence=verdict.evidence(),
        )
        if farewell:
            found.say_farewell()
        self._env.signal(now, ext.Condemned(found, verdict))
        self._recovery.condemned(now, found, verdict)

    def rebuild(self, now: Now, sa: ext.SaView, reason: str, host: str | None = None) -> bool:
        """Build a new IKE SA for the same connection beside `sa`; `Rebuilt` or `RebuildFailed` follows."""
        found = self._env.table.get(sa.number)
        return found is not None and self._recovery.rebuild(now, found, reason, host)

    def abandon_rebuild(self, now: Now, sa: ext.SaView, reason: str) -> None:
        """Give up the new SA that `rebuild` is building beside `sa`."""
        self._recovery.abandon_rebuild(now, sa.number, reason)

    def hurry_rebuild(self, now: Now, sa: ext.SaView, reason: str) -> None:
        """Send again at once what the rebuild beside `sa` waits for."""
        self._recovery.hurry_rebuild(now, sa.number, reason)

    def carry_over(self, now: Now, old: ext.SaView, new: ext.SaView) -> None:
        """Have the children of `old` up in `new` as well."""
        self._recovery.carry_over(now, old.number, new.number)

    def dismiss(self, now: Now, sa: ext.SaView, reason: str) -> None:
        """Delete an established SA politely: another one serves in its place."""
        found = self._env.table.get(sa.number)
        if found is not None and found.established:
            found.submit(now, DeleteIke(reason), urgent=True)

    def close_doors(self) -> None:
        """Take no new IKE SAs of peers from now on: what they send is dropped, so that others can have it."""
        self._env.doors_closed = True

    def answer(self, datagram: Datagram, message: Message, reason: str) -> int:
        """Answer a stranger, to where the datagram came from. Returns the octets of UDP payload."""
        return self._env.transmit(encode_message(message), datagram.local, datagram.remote, reason)

    def plane(self, op: model.PlaneOp) -> None:
        """Hand an operation to the data plane."""
        self._env.plane(op)

    def event(self, kind: str, level: Level = "info", **fields: Field) -> None:
        """Report an event."""
        self._env.event(kind, level, **fields)

    def persist(self, name: str, data: bytes) -> None:
        """Have `data` written durably before anything that is sent after this call."""
        self._env.persist(name, data)

    def record(self, table: str, key: bytes, value: bytes | None, *, durable: bool = False) -> None:
        """Write, or delete, one record of the ledger."""
        self._env.emit(Record(table, key, value, durable))

    def done(self, tag: int, ok: bool, text: str) -> None:
        """Answer a command."""
        self._env.done(tag, ok, text)

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a named counter."""
        self._env.count(counter, amount)

    # --- Lifecycle: what SAs tell ----------------------------------------------------------------

    def respond(self, now: Now, sa: IkeSa, request: Message) -> Sequence[Payload]:
        """Handle the decrypted request of a peer."""
        return dispatch.respond(sa, now, request)

    def arm_ike(self, now: Now, sa: IkeSa) -> None:
        """An IKE SA is established."""
        lifetimes.arm_ike(sa, now)

    def arm_child(self, now: Now, sa: IkeSa, child: ChildSa) -> None:
        """A child SA is installed, or moved to this IKE SA."""
        lifetimes.arm_child(sa, child)
        self._recovery.child_installed(child)

    def rekey_due(self, now: Now, sa: IkeSa) -> None:
        """The IKE SA must be replaced soon."""
        lifetimes.rekey_ike(sa, now)

    def impatient(self, now: Now, sa: IkeSa, attempts: int) -> bool:
        """A peer that does not answer IKE_SESSION_RESUME may not know it; one that does not answer IKE_AUTH
        may have forgotten the setup."""
        if sa.state is IkeState.AUTHENTICATING:
            return self._recovery.impatient(now, sa)
        if sa.setup is None or sa.setup.resume_plan is None or attempts < resume.PATIENCE:
            return False
        resume.fall_back(sa, now, "no answer", answered=False)
        return True

    def setup_failed(self, now: Now, sa: IkeSa, why: str) -> None:
        """An IKE SA that we initiated did not come up."""
        self._recovery.setup_failed(now, sa, why)

    def sa_established(self, now: Now, sa: IkeSa) -> None:
        """An IKE SA is up."""
        self._recovery.established(now, sa)

    def ended(self, now: Now, sa: IkeSa, why: str) -> None:
        """An established IKE SA ends, not by our wish."""
        self._recovery.ended(now, sa, why)

    def holds(self, policy: int) -> bool:
        """Whether packets wait, or may come to wait, for a child of this policy."""
        return self._recovery.holds(policy)

    def hold(self, sa: IkeSa, child: ChildSa) -> None:
        """Packets of the child's policy wait from now on."""
        self._recovery.hold(sa, child)

    def child_lost(self, now: Now, sa: IkeSa, child: ChildSa, action: str) -> None:
        """A child was closed by the peer or expired."""
        self._recovery.child_lost(now, sa, child, action)

    def initial_contact(self, now: Now, sa: IkeSa) -> None:
        """The peer of the new `sa` holds no other SA with us: older ones in the same scope are dead."""
        for other in self._env.table.of_connection(sa.connection.name):
            if other is sa or other.established_ns is None or other.state is IkeState.REKEYED:
                continue
            proof = InitialContact.check(
                at_ns=now.mono_ns,
                authenticated=sa.established,
                same_connection=other.connection.name == sa.connection.name,
                same_identity=other.remote_identity == sa.remote_identity,
                announced=True,
            )
            if proof is not None:
                self.condemn(now, other, Verdict(proof, (), now.mono_ns))

    # --- routing ---------------------------------------------------------------------------------

    def _datagram(self, now: Now, datagram: Datagram) -> None:
        octets = self._strip(datagram)
        if octets is None:
            return
        try:
            header = decode_header(octets)
        except WireError:
            self._env.drop("malformed header")
            return
        if header.major != 2:
            refusals.other_version(self._env, now, header, datagram)
            return
        if self._repeated(octets, header, datagram):
            return
        try:
            message = decode_message(octets)
        except UnsupportedCriticalPayload as error:
            refusals.critical(self._env, now, header, datagram, error.payload_type)
            return
        except WireError as error:
            self._env.drop(f"malformed: {error.where.split(' at ')[0]}")
            return
        if header.exchange in _INITIAL:
            self._initial(now, octets, message, datagram)
        elif message.protected is not None:
            self._protected(now, octets, header, message.protected, datagram)
        else:
            sa = self._env.table.find(header.spi_i, header.spi_r)
            if sa is None or not self._recovery.denied(now, sa, message, datagram):
                self._orphan(now, ext.UnprotectedNews(message, datagram, sa), "unprotected message")

    def _strip(self, datagram: Datagram) -> bytes | None:
        payload = datagram.payload
        if datagram.local.port != self._env.config.port_nat_t:
            return payload
        if payload[:4] == NON_ESP_MARKER:
            return payload[4:]
        self._env.drop("keepalive" if payload == KEEPALIVE else "no IKE message on the NAT-T port")
        return None

    def _repeated(self, octets: bytes, header: Header, datagram: Datagram) -> bool:
        """Whether this is a first request that was answered before, or of an SA that is up.

        A retransmission is known by its octets, not by its SPI alone (section 2.1): the same initiator may
        come again with a cookie or another group while its first message is being answered.
        """
        if header.is_response or header.exchange not in _INITIAL:
            return False
        env = self._env
        for known in env.table.begun_with(header.spi_i, datagram.remote):
            if stored := known.recv.stored(octets):
                env.transmit(stored[0], datagram.local, datagram.remote, "response again")
                return True
            if known.established_ns is not None:
                env.drop("IKE_SA_INIT of an established SA")
                return True
        return False

    def _initial(self, now: Now, octets: bytes, message: Message, datagram: Datagram) -> None:
        """IKE_SA_INIT and IKE_SESSION_RESUME: the exchanges that are not protected."""
        env, table = self._env, self._env.table
        if message.is_response:
            sa = table.ours(message.spi_i)
            if sa is None or message.from_initiator or datagram.remote.host != sa.remote.host:
                env.drop("IKE_SA_INIT response not awaited")
                return
            handler = init if message.exchange == ExchangeType.IKE_SA_INIT else resume
            handler.on_response(sa, now, octets, message, datagram)
            return
        if message.spi_r != bytes(8) or message.spi_i == bytes(8) or message.message_id != 0:
            env.drop("malformed: IKE_SA_INIT request header")
            return
        for known in table.begun_with(message.spi_i, datagram.remote):
            if setup.begun_again(known, message, datagram):
                return
        if env.doors_closed:
            env.drop("draining")
            return
        if message.exchange == ExchangeType.IKE_SESSION_RESUME:
            resume.respond(env, now, octets, message, datagram, self._cookies)
            return
        candidates = connections_for(self._recovery.connections.values(), datagram.local, datagram.remote)
        init.respond(env, now, octets, message, datagram, candidates, self._cookies)

    def _protected(
        self,
        now: Now,
        octets: bytes,
        header: Header,
        protected: Encrypted | EncryptedFragment,
        datagram: Datagram,
    ) -> None:
        own = header.spi_r if header.from_initiator else header.spi_i
        sa = self._env.table.ours(own)
        fragmented = isinstance(protected, EncryptedFragment)
        if (
            sa is not None
            and (sa.spi_i, sa.spi_r) == (header.spi_i, header.spi_r)
            and sa.initiator != header.from_initiator
        ):
            inbound.receive(sa, now, octets, header, fragmented, datagram)
            return
        if header.is_response:
            self._env.drop("response for an unknown SA")
            return
        first = isinstance(protected, Encrypted) or protected.number == 1
        complete = header.next_payload in (PayloadType.SK, PayloadType.SKF)
        if (
            not first
            or not complete
            or len(octets) < MIN_PROTECTED_OCTETS
            or bytes(8) in (header.spi_i, header.spi_r)
        ):
            self._env.drop("protected request of an unknown SA, implausible")
            return
        self._orphan(now, ext.OrphanRequest(header, datagram), "protected request of an unknown SA")

    def _orphan(self, now: Now, orphan: Orphan, reason: str) -> None:
        for extension in self._env.asked:
            if extension.orphan(now, orphan):
                self._env.count(f"orphan: {reason}")
                return
        self._env.drop(reason)

    # --- timers and reports ----------------------------------------------------------------------

    def _timeout(self, now: Now) -> None:
        self._env.timers.fire(now)
        for extension in self._env.timed:
            deadline = extension.deadline()
            if deadline is not None and deadline.at_ns <= now.mono_ns:
                extension.expire(now)

    def _report(self, now: Now, report: model.PlaneReport) -> None:
        if isinstance(report, model.Acquire):
            self._recovery.acquire(now, report)
            return
        if isinstance(report, model.UnknownSpi):
            orphan = ext.OrphanEsp(report.spi, report.octets, report.local, report.remote)
            self._orphan(now, orphan, "ESP of an unknown SPI")
            return
        found = self._env.table.child(report.child)
        if found is None:
            return
        sa, child = found
        if isinstance(report, model.Silence):
            self._env.signal(now, ext.TrafficSilence(sa, child, report.since_ns))
        elif isinstance(report, model.Heard):
            sa.last_traffic_ns = max(sa.last_traffic_ns, report.at_ns)
            switch.heard(self._env, child)
            self._env.signal(now, ext.TrafficHeard(sa, child, report.at_ns))
        elif isinstance(report, model.PeerMoved):
            if not sa.local_behind_nat:
                sa.move(now, sa.local, report.remote)
        elif isinstance(report, model.Expiring):
            if child.state is ChildState.INSTALLED and sa.state is IkeState.ESTABLISHED:
                sa.submit(now, RekeyChild(child))
        else:
            expire_child(sa, now, child, "sequence numbers used up", "start")
