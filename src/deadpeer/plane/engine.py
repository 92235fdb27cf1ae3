"""The userspace data plane, sans I/O: SAs and policies in, ESP in tunnel mode out (RFC 4301, RFC 4303)."""

from collections import Counter, deque
from heapq import heappop, heappush

from deadpeer.crypto import AuthenticationFailed, Entropy
from deadpeer.values import NS_PER_S, Address, Datagram, Deadline
from deadpeer.wire import EspPacket, WireError, decode_esp

from .child import Child
from .drops import Drop
from .esp import inner_packet
from .lookup import PolicyLookup
from .model import (
    Acquire,
    ActivateOutbound,
    ChildCounters,
    Expired,
    Expiring,
    Heard,
    InstallChild,
    InstallTrap,
    MoveChild,
    PeerMoved,
    PlaneOp,
    PlaneReport,
    RemoveChild,
    RemoveTrap,
    Silence,
    UnknownSpi,
    WatchSilence,
)
from .policy import HoldQueue, Policy, Wait
from .selectors import Flow, SelectorPair, parse_flow

REPORT_INTERVAL_NS = NS_PER_S
"""`Heard`, and `PeerMoved` to the same address, are repeated for a child no more often."""
UNKNOWN_SPI_REPORTS = 256
"""Reports of unknown SPIs that may wait to be fetched; what comes on top is only counted."""
VACANT_POLICIES = 256
"""Policies without child and trap that are remembered (place in the order, silence threshold)."""


class EspEngine:
    """SAs (by inbound SPI) and policies of the userspace plane.

    Inputs: `apply` (operations), `outbound` (a packet from the host behind us), `inbound` (a UDP payload
    from the network), `expire` (time has come to `deadline`). Times are monotonic ns. After each of them
    the three `poll_*` are drained until they return None. Nothing that a host or a peer sends raises; what
    is dropped is counted in `drops` under a name of `Drop`.

    An outbound packet goes to the first policy, in the order in which the policies were first installed,
    whose selectors hold it and that has a child to carry it or may let it wait; the most specific policy
    is not looked for. Of a policy's active children the one installed last carries the traffic.

    `hold_packets` and `hold_octets` bound the packets that wait, for each policy; the oldest makes room.
    `first_sequence` is the first sequence number of each SA, in both directions. It is 1 on the wire (RFC
    4303 section 3.3.3); another value lets tests begin near the end of the number space, on both sides.
    """

    def __init__(
        self,
        entropy: Entropy,
        *,
        hold_packets: int = 64,
        hold_octets: int = 256 * 1024,
        first_sequence: int = 1,
    ) -> None:
        self.drops: Counter[str] = Counter()
        self._entropy = entropy
        self._hold_packets = hold_packets
        self._hold_octets = hold_octets
        self._first_sequence = first_sequence
        self._sadb: dict[int, Child] = {}
        self._children: dict[int, Child] = {}
        self._policies: dict[int, Policy] = {}
        self._lookup = PolicyLookup()
        self._vacant: dict[int, Policy] = {}
        self._policies_made = 0
        self._timers: list[tuple[int, int, Child | Policy]] = []
        self._timers_made = 0
        self._datagrams: deque[Datagram] = deque()
        self._packets: deque[bytes] = deque()
        self._reports: deque[PlaneReport] = deque()
        self._unknown_pending = 0

    def apply(self, now_ns: int, op: PlaneOp) -> None:
        """Carry out an operation. Those on a child or a policy that is gone do nothing.

        Raises ValueError for an InstallChild whose number or inbound SPI is in use, or with keys of the
        wrong length for its suite.
        """
        match op:
            case InstallChild():
                self._install(now_ns, op)
            case ActivateOutbound():
                self._activate(now_ns, self._children.get(op.child))
            case RemoveChild():
                self._remove(now_ns, op)
            case MoveChild():
                self._move(op)
            case InstallTrap():
                policy = self._policy(op.policy)
                policy.trap = SelectorPair(op.local_ts, op.remote_ts)
                self._lookup.update(policy)
            case RemoveTrap():
                self._remove_trap(now_ns, op.policy)
            case WatchSilence():
                self._watch(op)

    def outbound(self, now_ns: int, packet: bytes) -> None:
        """An inner packet from the host behind us: sent, held, or dropped."""
        flow = parse_flow(packet)
        if flow is None:
            self._drop(Drop.OUTBOUND_MALFORMED)
            return
        reason = Drop.NO_POLICY
        for policy in self._lookup.candidates(flow):
            choice = policy.choose(flow)
            if isinstance(choice, Child):
                self._send(now_ns, policy, choice, packet)
                return
            if isinstance(choice, Wait):
                self._hold(now_ns, policy, packet, flow, acquire=choice.acquire)
                return
            if choice is not None and reason is Drop.NO_POLICY:
                reason = choice
        if reason is Drop.NO_POLICY and any(policy.was_for(flow) for policy in self._vacant.values()):
            reason = Drop.NO_ACTIVE_CHILD
        self._drop(reason)

    def inbound(self, now_ns: int, payload: bytes, local: Address, remote: Address) -> None:
        """A UDP payload that holds an ESP packet, received at `local` from `remote`."""
        try:
            packet = decode_esp(payload)
        except WireError:
            self._drop(Drop.ESP_MALFORMED)
            return
        child = self._sadb.get(packet.spi)
        if child is not None and child.remove_at_ns is not None and child.remove_at_ns <= now_ns:
            self._forget(child)
            child = None
        if child is None:
            self._unknown_spi(UnknownSpi(packet.spi, len(payload), local, remote))
            return
        plaintext = self._open(now_ns, child, packet, remote)
        if isinstance(plaintext, Drop):
            self._drop(plaintext)
            return
        self._deliver(child, plaintext)

    @property
    def sends(self) -> bool:
        """Whether there is a datagram to poll."""
        return bool(self._datagrams)

    @property
    def delivers(self) -> bool:
        """Whether there is a packet to poll."""
        return bool(self._packets)

    @property
    def reports(self) -> bool:
        """Whether there is a report to poll."""
        return bool(self._reports)

    def poll_datagram(self) -> Datagram | None:
        """The next UDP datagram to send to the network."""
        return self._datagrams.popleft() if self._datagrams else None

    def poll_packet(self) -> bytes | None:
        """The next verified inner packet for the host behind us."""
        return self._packets.popleft() if self._packets else None

    def poll_report(self) -> PlaneReport | None:
        """The next report for the protocol core."""
        if not self._reports:
            return None
        report = self._reports.popleft()
        if isinstance(report, UnknownSpi):
            self._unknown_pending -= 1
        return report

    def deadline(self) -> Deadline | None:
        """When `expire` wants to be called next; the reason is "linger" or "silence"."""
        while self._timers:
            at_ns, _, subject = self._timers[0]
            due_ns = _due(subject)
            if due_ns == at_ns:
                return Deadline(at_ns, "linger" if isinstance(subject, Child) else "silence")
            self._pop_timer()
            if due_ns is not None:
                self._arm(due_ns, subject)
        return None

    def expire(self, now_ns: int) -> None:
        """Do what is due by now: end lingering SAs, report silences."""
        while (deadline := self.deadline()) is not None and deadline.at_ns <= now_ns:
            subject = self._pop_timer()
            if isinstance(subject, Child):
                self._forget(subject)
            else:
                self._report_silence(now_ns, subject)

    def counters(self, child: int) -> ChildCounters | None:
        """What a child has carried; None once it is gone, its lingering half included."""
        entry = self._children.get(child)
        return entry.counters() if entry else None

    @property
    def held(self) -> int:
        """How many packets wait for a child now, of all policies."""
        return sum(len(policy.held) for policy in self._policies.values())

    # Operations

    def _install(self, now_ns: int, op: InstallChild) -> None:
        if op.child in self._children or op.spi_in in self._sadb:
            raise ValueError(f"child {op.child} or its inbound SPI {op.spi_in:08x} is installed already")
        child = Child(op, self._entropy, self._first_sequence)
        policy = self._policy(op.policy)
        policy.children.append(child)
        self._lookup.update(policy)
        self._children[op.child] = child
        self._sadb[op.spi_in] = child
        if op.outbound_now:
            self._activate(now_ns, child)

    def _activate(self, now_ns: int, child: Child | None) -> None:
        if child is None or not child.pending:
            return
        child.pending = False
        child.active = True
        policy = self._policies[child.policy]
        policy.acquired_ns = None
        if policy.active() is child:
            policy.silence.reset()
        self._settle(now_ns, policy)

    def _settle(self, now_ns: int, policy: Policy) -> None:
        """Choose again for the packets that wait, in the order in which they came."""
        for packet, flow in policy.held.take():
            choice = policy.choose(flow)
            if isinstance(choice, Child):
                self._send(now_ns, policy, choice, packet)
            elif isinstance(choice, Wait):
                self._hold(now_ns, policy, packet, flow, acquire=choice.acquire)
            else:
                self._drop(choice or Drop.POLICY_REMOVED)

    def _remove(self, now_ns: int, op: RemoveChild) -> None:
        child = self._children.get(op.child)
        if child is None:
            return
        policy = self._policies[child.policy]
        if policy.active() is child:
            policy.silence.reset()
        child.active = child.pending = False
        self._settle(now_ns, policy)
        child.remove_at_ns = now_ns + max(0, int(op.linger_s * NS_PER_S))
        if child.remove_at_ns > now_ns:
            self._arm(child.remove_at_ns, child)
        else:
            self._forget(child)

    def _forget(self, child: Child) -> None:
        child.remove_at_ns = None
        del self._children[child.number]
        del self._sadb[child.spi_in]
        policy = self._policies[child.policy]
        policy.children.remove(child)
        self._lookup.update(policy)
        self._retire(policy, child.selectors)

    def _move(self, op: MoveChild) -> None:
        child = self._children.get(op.child)
        if child is not None:
            child.local, child.remote = op.local, op.remote
            child.moved_to = None

    def _remove_trap(self, now_ns: int, number: int) -> None:
        policy = self._policies.get(number)
        if policy is None:
            self._vacant.pop(number, None)
            return
        policy.trap = None
        self._lookup.update(policy)
        self._settle(now_ns, policy)
        if policy.vacant:
            self._lookup.remove(policy)
            del self._policies[number]

    def _watch(self, op: WatchSilence) -> None:
        policy = self._policies.get(op.policy) or self._vacant.get(op.policy)
        if policy is None:
            policy = self._policy(op.policy)
            self._retire(policy, None)
        policy.silence.watch(op.after_ns)
        if policy.silence.due_ns is not None:
            self._arm(policy.silence.due_ns, policy)

    # Policies

    def _policy(self, number: int) -> Policy:
        """The policy of that number: in use, remembered in its old place, or new and last."""
        policy = self._policies.get(number)
        if policy is not None:
            return policy
        policy = self._vacant.pop(number, None)
        if policy is not None:
            self._policies[number] = policy
            return policy
        self._policies_made += 1
        held = HoldQueue(self._hold_packets, self._hold_octets)
        self._policies[number] = Policy(number, self._policies_made, held)
        return self._policies[number]

    def _retire(self, policy: Policy, last: SelectorPair | None) -> None:
        """Put a policy away if it has neither child nor trap. Nothing waits for it: `_settle` saw to that."""
        if not policy.vacant:
            return
        policy.acquired_ns = None
        policy.last_selectors = last
        policy.silence.reset()
        self._lookup.remove(policy)
        del self._policies[policy.number]
        self._vacant[policy.number] = policy
        while len(self._vacant) > VACANT_POLICIES:
            del self._vacant[next(iter(self._vacant))]

    # Outbound

    def _send(self, now_ns: int, policy: Policy, child: Child, packet: bytes) -> None:
        self._datagrams.append(Datagram(child.seal(now_ns, packet), child.local, child.remote))
        if policy.silence.sent(now_ns) and policy.silence.due_ns is not None:
            self._arm(policy.silence.due_ns, policy)
        self._check_soft_limit(child)
        if child.exhausted:
            self._reports.append(Expired(child.number))

    def _hold(self, now_ns: int, policy: Policy, packet: bytes, flow: Flow, *, acquire: bool) -> None:
        dropped = policy.held.push(packet, flow)
        if dropped:
            self.drops[Drop.HOLD_OVERFLOW] += dropped
        if acquire and policy.acquire_due(now_ns):
            self._reports.append(Acquire(policy.number, str(flow)))

    # Inbound

    def _open(self, now_ns: int, child: Child, packet: EspPacket, remote: Address) -> bytes | Drop:
        """The plaintext of a packet that is fresh and verifies; what it proves about the peer is noted."""
        sequence = child.window.infer(packet.sequence)
        stale = child.window.check(sequence)
        if stale is not None:
            return stale
        try:
            plaintext = child.opener.open(sequence, packet)
        except AuthenticationFailed:
            return Drop.BAD_ICV
        newest = child.window.accept(sequence)
        child.last_in_ns = now_ns
        self._policies[child.policy].silence.reset()
        if child.heard_ns is None or now_ns - child.heard_ns >= REPORT_INTERVAL_NS:
            child.heard_ns = now_ns
            self._reports.append(Heard(child.number, now_ns))
        if newest and remote != child.remote:
            self._peer_moved(now_ns, child, remote)
        if child.pending:  # the peer has the other half: RFC 7296 section 2.8
            self._activate(now_ns, child)
        return plaintext

    def _deliver(self, child: Child, plaintext: bytes) -> None:
        packet = inner_packet(plaintext)
        if isinstance(packet, Drop):
            self._drop(packet)
            return
        flow = parse_flow(packet)
        if flow is None:
            self._drop(Drop.INNER_MALFORMED)
            return
        if not child.selectors.inbound(flow):
            self._drop(Drop.INBOUND_SELECTORS)
            return
        child.packets_in += 1
        child.octets_in += len(packet)
        self._packets.append(packet)
        self._check_soft_limit(child)

    def _peer_moved(self, now_ns: int, child: Child, remote: Address) -> None:
        if child.moved_to == remote and now_ns - child.move_reported_ns < REPORT_INTERVAL_NS:
            return
        child.moved_to = remote
        child.move_reported_ns = now_ns
        self._reports.append(PeerMoved(child.number, remote))

    def _unknown_spi(self, report: UnknownSpi) -> None:
        if self._unknown_pending >= UNKNOWN_SPI_REPORTS:
            self._drop(Drop.UNKNOWN_SPI_UNREPORTED)
            return
        self._drop(Drop.UNKNOWN_SPI)
        self._unknown_pending += 1
        self._reports.append(report)

    # Limits and timers

    def _check_soft_limit(self, child: Child) -> None:
        if child.removed:
            return
        reason = child.soft_limit()
        if reason is not None:
            self._reports.append(Expiring(child.number, reason))

    def _report_silence(self, now_ns: int, policy: Policy) -> None:
        since_ns = policy.silence.unanswered_since_ns
        child = policy.active()
        policy.silence.report(now_ns)
        if child is None or since_ns is None:
            return
        for each in policy.children:
            each.heard_ns = None
        self._reports.append(Silence(child.number, since_ns))

    def _arm(self, at_ns: int, subject: Child | Policy) -> None:
        """See to it that the subject comes up at that time. What `_due` says then is what counts: a timer
        that is too early is set again, so that a subject has one timer however often its due time moves on.
        """
        if subject.armed_ns is not None and subject.armed_ns <= at_ns:
            return
        subject.armed_ns = at_ns
        self._timers_made += 1
        heappush(self._timers, (at_ns, self._timers_made, subject))

    def _pop_timer(self) -> Child | Policy:
        at_ns, _, subject = heappop(self._timers)
        if subject.armed_ns == at_ns:
            subject.armed_ns = None
        return subject

    def _drop(self, reason: Drop) -> None:
        self.drops[reason] += 1


def _due(subject: Child | Policy) -> int | None:
    return subject.remove_at_ns if isinstance(subject, Child) else subject.silence.due_ns
