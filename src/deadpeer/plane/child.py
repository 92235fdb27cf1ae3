"""A child SA as the userspace plane keeps it: keys, sequence numbers, window, counters. No decisions."""

from deadpeer.crypto import Entropy
from deadpeer.values import Address

from .esp import EspOpener, EspSealer
from .model import ChildCounters, InstallChild
from .replay import ReplayWindow
from .selectors import SelectorPair


class Child:
    """Both directions of one child SA.

    Outbound it is `active` when packets may go out on it, `pending` until it is activated (deferred), and
    neither when it was removed or its sequence numbers are used up. Raises ValueError for keys of the wrong
    length.
    """

    __slots__ = (
        "active",
        "armed_ns",
        "exhausted",
        "expiring",
        "heard_ns",
        "last_in_ns",
        "last_out_ns",
        "last_sequence",
        "local",
        "move_reported_ns",
        "moved_to",
        "next_sequence",
        "number",
        "octets_in",
        "octets_out",
        "opener",
        "packets_in",
        "packets_out",
        "pending",
        "policy",
        "remote",
        "remove_at_ns",
        "sealer",
        "selectors",
        "soft_octets",
        "soft_packets",
        "soft_sequence",
        "spi_in",
        "window",
    )

    def __init__(self, op: InstallChild, entropy: Entropy, first_sequence: int) -> None:
        self.number = op.child
        self.policy = op.policy
        self.spi_in = op.spi_in
        self.local = op.local
        self.remote = op.remote
        self.selectors = SelectorPair(op.local_ts, op.remote_ts)
        self.sealer = EspSealer(op.spi_out, op.suite, op.outbound, entropy)
        self.opener = EspOpener(op.spi_in, op.suite, op.inbound)
        self.window = ReplayWindow(op.replay_window, esn=op.suite.esn, highest=first_sequence - 1)

        self.active = False
        self.pending = True
        self.exhausted = False
        self.remove_at_ns: int | None = None
        self.armed_ns: int | None = None
        """When the engine's timer for this child goes off."""

        self.next_sequence = first_sequence
        self.last_sequence = (1 << 64) - 1 if op.suite.esn else (1 << 32) - 1
        self.soft_sequence = self.last_sequence - self.last_sequence // 4
        self.soft_packets = op.soft_packets
        self.soft_octets = op.soft_octets
        self.expiring: set[str] = set()
        """The reasons of `Expiring` that were reported."""

        self.packets_in = self.octets_in = self.packets_out = self.octets_out = 0
        self.last_in_ns: int | None = None
        self.last_out_ns: int | None = None
        self.heard_ns: int | None = None
        """When `Heard` was reported last; None asks for it with the next valid packet."""
        self.moved_to: Address | None = None
        self.move_reported_ns = 0

    @property
    def removed(self) -> bool:
        """Only the inbound half is left, for packets under way."""
        return self.remove_at_ns is not None

    def seal(self, now_ns: int, packet: bytes) -> bytes:
        """The ESP packet for an inner one. The caller has made sure that the child is active."""
        payload = self.sealer.seal(self.next_sequence, packet)
        if self.next_sequence == self.last_sequence:  # never wraps (RFC 4303 section 3.3.3)
            self.exhausted = True
            self.active = False
        self.next_sequence += 1
        self.packets_out += 1
        self.octets_out += len(packet)
        self.last_out_ns = now_ns
        return payload

    def soft_limit(self) -> str | None:
        """The name of a soft limit that is reached and was not named before."""
        packets, octets = self.soft_packets, self.soft_octets
        if packets and max(self.packets_in, self.packets_out) >= packets and self._first("packets"):
            return "packets"
        if octets and max(self.octets_in, self.octets_out) >= octets and self._first("octets"):
            return "octets"
        if self.next_sequence > self.soft_sequence and self._first("sequence"):
            return "sequence"
        return None

    def counters(self) -> ChildCounters:
        return ChildCounters(
            packets_in=self.packets_in,
            octets_in=self.octets_in,
            packets_out=self.packets_out,
            octets_out=self.octets_out,
            last_in_ns=self.last_in_ns,
            last_out_ns=self.last_out_ns,
        )

    def _first(self, reason: str) -> bool:
        if reason in self.expiring:
            return False
        self.expiring.add(reason)
        return True
