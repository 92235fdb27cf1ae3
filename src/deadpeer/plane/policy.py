"""A policy as the userspace plane keeps it: its children, its trap, the packets that wait, the silence."""

from collections import deque

from deadpeer.values import NS_PER_S

from .child import Child
from .drops import Drop
from .selectors import Flow, SelectorPair

ACQUIRE_INTERVAL_NS = NS_PER_S


class Policy:
    """The children that serve one pair of selector lists, in the order of their installation."""

    __slots__ = (
        "acquired_ns",
        "armed_ns",
        "children",
        "held",
        "last_selectors",
        "number",
        "order",
        "silence",
        "trap",
    )

    def __init__(self, number: int, order: int, held: "HoldQueue") -> None:
        self.number = number
        self.order = order
        self.trap: SelectorPair | None = None
        self.children: list[Child] = []
        self.held = held
        self.acquired_ns: int | None = None
        """When `Acquire` was reported last for the packets that wait."""
        self.last_selectors: SelectorPair | None = None
        """Those of the last child, once the policy is vacant."""
        self.silence = SilenceWatch()
        self.armed_ns: int | None = None
        """When the engine's timer for this policy goes off."""

    @property
    def vacant(self) -> bool:
        return self.trap is None and not self.children

    def destinations(self) -> tuple[set[tuple[int, int]], bool]:
        """The single addresses (IP version, number) on the remote side of its selectors; and whether there
        are ranges of more than one."""
        pairs = [child.selectors for child in self.children] + ([self.trap] if self.trap is not None else [])
        ranges = [each for pair in pairs for each in pair.destinations()]
        hosts = {(version, start) for version, start, end in ranges if start == end}
        return hosts, any(start != end for _, start, end in ranges)

    def was_for(self, flow: Flow) -> bool:
        """Would the last child have carried the packet?"""
        return self.last_selectors is not None and self.last_selectors.outbound(flow)

    def active(self) -> Child | None:
        """The child that carries outbound traffic: of the active ones the one installed last."""
        return next((child for child in reversed(self.children) if child.active), None)

    def choose(self, flow: Flow) -> "Child | Wait | Drop | None":
        """What happens to an outbound packet here: a child carries it, it waits, it is dropped for a named
        reason unless another policy takes it, or (None) it does not belong to this policy.
        """
        covering = [child for child in self.children if child.selectors.outbound(flow)]
        for child in reversed(covering):
            if child.active:
                return child
        if any(child.pending for child in covering):
            return _WAIT_FOR_CHILD
        if self.trap is not None and self.trap.outbound(flow):
            # A narrowed child beside the trap: another acquire would only build the same child again.
            return _WAIT_AND_ACQUIRE if self.active() is None else Drop.OUTSIDE_CHILD_SELECTORS
        if not covering:
            return None
        return Drop.SEQUENCE_EXHAUSTED if covering[-1].exhausted else Drop.NO_ACTIVE_CHILD

    def acquire_due(self, now_ns: int) -> bool:
        """At once for the first packet that waits, then at most once a second. Notes the time if due."""
        if self.acquired_ns is not None and now_ns - self.acquired_ns < ACQUIRE_INTERVAL_NS:
            return False
        self.acquired_ns = now_ns
        return True


class Wait:
    """The packet waits for a child; `acquire` says whether somebody must be asked to build one."""

    __slots__ = ("acquire",)

    def __init__(self, *, acquire: bool) -> None:
        self.acquire = acquire


class HoldQueue:
    """Packets that wait, oldest first, bounded by number and by octets in total."""

    __slots__ = ("_flows", "_max_octets", "_max_packets", "octets")

    def __init__(self, max_packets: int, max_octets: int) -> None:
        self._flows: deque[tuple[bytes, Flow]] = deque()
        self._max_packets = max_packets
        self._max_octets = max_octets
        self.octets = 0

    def __len__(self) -> int:
        return len(self._flows)

    def push(self, packet: bytes, flow: Flow) -> int:
        """Add a packet at the end. Returns how many were dropped for it: the oldest, or itself alone."""
        if len(packet) > self._max_octets or self._max_packets < 1:
            return 1
        dropped = 0
        while len(self._flows) >= self._max_packets or self.octets + len(packet) > self._max_octets:
            self.octets -= len(self._flows.popleft()[0])
            dropped += 1
        self._flows.append((packet, flow))
        self.octets += len(packet)
        return dropped

    def take(self) -> list[tuple[bytes, Flow]]:
        """All of them, in order; the queue is empty then."""
        taken = list(self._flows)
        self._flows.clear()
        self.octets = 0
        return taken


class SilenceWatch:
    """Outbound packets and nothing back: since when, and when to say so.

    `unanswered_since_ns` is the first outbound packet after the last valid inbound one. `due_ns` is when
    the next report is owed, None while nothing went out since the last.
    """

    __slots__ = ("after_ns", "due_ns", "reported_ns", "unanswered_since_ns")

    def __init__(self) -> None:
        self.after_ns = 0
        self.reset()

    def reset(self) -> None:
        """Something valid came in, or another child carries the traffic now."""
        self.unanswered_since_ns: int | None = None
        self.reported_ns: int | None = None
        self.due_ns: int | None = None

    def watch(self, after_ns: int) -> None:
        """Set the threshold; 0 stops watching."""
        self.after_ns = after_ns
        self.due_ns = None
        if self.unanswered_since_ns is not None and self.reported_ns is None and after_ns > 0:
            self.due_ns = self.unanswered_since_ns + after_ns

    def sent(self, now_ns: int) -> bool:
        """A packet went out. True if `due_ns` was set by it."""
        if self.unanswered_since_ns is None:
            self.unanswered_since_ns = now_ns
        if self.due_ns is not None or self.after_ns <= 0:
            return False
        base = self.unanswered_since_ns if self.reported_ns is None else self.reported_ns
        due = base + self.after_ns
        self.due_ns = due if due > now_ns else now_ns + self.after_ns  # after a pause an answer needs time
        return True

    def report(self, now_ns: int) -> None:
        """The report that was due has been made; the next needs another packet out and the threshold."""
        self.reported_ns = now_ns
        self.due_ns = None


_WAIT_FOR_CHILD = Wait(acquire=False)
_WAIT_AND_ACQUIRE = Wait(acquire=True)
