"""Whatever is done to an engine: nothing raises, and each packet is accounted for exactly once."""

from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.plane.pair import ALICE, ALICE_TS, BOB, BOB_TS, POLICY, Pair, datagrams, packets, ping, pong, ts

from deadpeer.plane.drops import Drop
from deadpeer.plane.model import (
    Acquire,
    ActivateOutbound,
    InstallTrap,
    RemoveChild,
    RemoveTrap,
    Silence,
    WatchSilence,
)
from deadpeer.plane.packets import echo_request

POLICIES = st.sampled_from([POLICY, 8, 9])
SECONDS = st.sampled_from([0.0, 0.1, 1.0, 30.0])


class EngineMachine(RuleBasedStateMachine):
    """Alice's engine is driven at random; Bob's has all her children and shows what arrives."""

    @initialize(window=st.sampled_from([0, 1, 64]))
    def begin(self, window: int) -> None:
        self.pair = Pair(hold_packets=4)
        self.window = window
        self.children: list[int] = []
        self.given = self.sent = self.acquires = 0
        self.to_a = self.delivered = 0
        self.home: list[bytes] = []
        self.next_packet = 0

    @rule(policy=POLICIES, now=st.booleans(), wide=st.booleans())
    def install(self, policy: int, now: bool, wide: bool) -> None:
        alice, bob = self.pair.ops(policy=policy, outbound_now=now, replay_window=self.window)
        if wide:
            alice = replace(alice, remote_ts=(ts("10.2.0.0/16"),))
            bob = replace(bob, local_ts=(ts("10.2.0.0/16"),))
        self.pair.b.apply(self.pair.now_ns, bob)
        self.pair.a.apply(self.pair.now_ns, alice)
        self.children.append(alice.child)

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def activate(self, data: st.DataObject) -> None:
        self.pair.a.apply(self.pair.now_ns, ActivateOutbound(data.draw(st.sampled_from(self.children))))

    @precondition(lambda self: self.children)
    @rule(data=st.data(), linger_s=SECONDS)
    def remove(self, data: st.DataObject, linger_s: float) -> None:
        child = data.draw(st.sampled_from(self.children))
        self.pair.a.apply(self.pair.now_ns, RemoveChild(child, linger_s))

    @rule(policy=POLICIES)
    def trap(self, policy: int) -> None:
        self.pair.a.apply(self.pair.now_ns, InstallTrap(policy, ALICE_TS, BOB_TS))

    @rule(policy=POLICIES)
    def untrap(self, policy: int) -> None:
        self.pair.a.apply(self.pair.now_ns, RemoveTrap(policy))

    @rule(policy=POLICIES, after_s=SECONDS)
    def watch(self, policy: int, after_s: float) -> None:
        self.pair.a.apply(self.pair.now_ns, WatchSilence(policy, int(after_s * 1e9)))

    @rule(size=st.integers(0, 100), wide=st.booleans())
    def host_sends(self, size: int, wide: bool) -> None:
        self.next_packet = self.next_packet + 1 & 0xFFFF
        packet = ping(self.next_packet, size=size)
        if wide:
            packet = echo_request("10.1.0.1", "10.2.200.1", 1, self.next_packet)
        self.given += 1
        self.pair.a.outbound(self.pair.now_ns, packet)

    @rule(octets=st.binary(max_size=60))
    def host_sends_garbage(self, octets: bytes) -> None:
        self.given += 1
        self.pair.a.outbound(self.pair.now_ns, octets)

    @rule()
    def peer_sends(self) -> None:
        self.home += [datagram.payload for datagram in self.pair.send_back(pong(1))]

    @precondition(lambda self: self.home)
    @rule(data=st.data(), damage=st.booleans())
    def network_delivers(self, data: st.DataObject, damage: bool) -> None:
        payload = data.draw(st.sampled_from(self.home))  # late, twice, never
        self.to_a += 1
        self.pair.a.inbound(self.pair.now_ns, payload[:-1] if damage else payload, ALICE, BOB)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.pair.sleep(seconds)

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if not hasattr(self, "pair"):
            return
        wire = datagrams(self.pair.a)
        self.sent += len(wire)
        assert len(self.pair.arrive(*wire)) == len(wire), "what Alice sends, Bob takes"
        self.delivered += len(packets(self.pair.a))
        drops: Counter[str] = self.pair.a.drops
        outbound = sum(drops[reason] for reason in OUTBOUND_REASONS)
        assert self.given == self.sent + outbound + self.pair.a.held
        assert self.to_a == self.delivered + sum(drops.values()) - outbound
        assert self.pair.a.held <= 3 * 4
        for report in iter(self.pair.a.poll_report, None):
            self.acquires += isinstance(report, Acquire)
            if isinstance(report, Silence):
                assert self.pair.a.counters(report.child) is not None
        assert self.acquires <= self.given
        deadline = self.pair.a.deadline()
        assert deadline is None or deadline.at_ns > 0


OUTBOUND_REASONS = (
    Drop.OUTBOUND_MALFORMED,
    Drop.NO_POLICY,
    Drop.NO_ACTIVE_CHILD,
    Drop.SEQUENCE_EXHAUSTED,
    Drop.OUTSIDE_CHILD_SELECTORS,
    Drop.HOLD_OVERFLOW,
    Drop.POLICY_REMOVED,
)

EngineMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEngine = EngineMachine.TestCase
