"""Children that one side has lost while the IKE SA lives: the peer is told under protection.

Without this a peer that lost one child SA stays a black hole, for every liveness check succeeds
(RFC 7296 section 1.5). Which SPI belongs to which IKE SA the side that lost it can't know. So it says it
in each SA with that peer, and the side that sends on the child finds whose it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from deadpeer.crash.monitor import Monitor
from deadpeer.crash.options import CrashOptions
from deadpeer.ike.evidence import Hint
from deadpeer.ike.extension import Extension, OrphanEsp, PeerNotifies, SaClosed, SaView, Signal, Slot
from deadpeer.rates import Bucket, BucketTable, Rate
from deadpeer.values import NS_PER_S, Address, Now
from deadpeer.wire import Notify, NotifyType

OVERTAKING_S = 0.2
"""A packet may overtake the exchange that makes its SA: a peer with a living IKE SA is told about an
unknown SPI only if packets still come with it so long (or two round trips) after the first one."""


class LostChildren(Extension):
    """Tells peers about ESP SPIs that we do not know, and replaces the children that they do not know.

    The bound: for each peer address and port at most `lost_child_burst` rounds at once and then
    `lost_child_rate` per second, one message to each IKE SA with it in a round; and as many children of
    an IKE SA replaced at the peer's word.
    """

    name = "lost-children"
    observes = (SaClosed, PeerNotifies)

    def __init__(self, monitor: Monitor, options: CrashOptions) -> None:
        self._monitor = monitor
        self._rate = Rate(options.lost_child_rate, options.lost_child_burst)
        self._told = BucketTable(_MAX_PEERS)
        self._replaced: dict[int, Bucket] = {}
        self._seen: OrderedDict[tuple[Address, int], int] = OrderedDict()

    def tell(self, now: Now, orphan: OrphanEsp) -> bool:
        """The packet's sender is told if need be. False: no IKE SA with exactly that address and port."""
        peers = self.core.with_peer(orphan.remote)
        if not peers:
            return False
        rtt_s = max(sa.rtt_s or 0.0 for sa in peers)
        if not self._goes_on(now.mono_ns, orphan, rtt_s) or not self._may_tell(now.mono_ns, orphan.remote):
            self.core.count("lost_child.not_told")
            return True
        notify = Notify(NotifyType.INVALID_SPI, orphan.spi.to_bytes(4, "big"))
        for sa in peers:
            self.core.inform(now, sa, (notify,), "invalid spi")
            self.core.count("invalid_spi_sent")
            self.core.event(
                "invalid_spi_sent",
                connection=sa.connection.name,
                sa=sa.number,
                to=str(orphan.remote),
                spi=f"{orphan.spi:08x}",
                protected=True,
            )
        return True

    def observe(self, now: Now, signal: Signal) -> None:
        match signal:
            case PeerNotifies(sa=sa, slot=Slot.INFORMATIONAL, notifies=notifies):
                self._told_by_peer(now, sa, notifies)
            case SaClosed(sa=sa):
                self._replaced.pop(sa.number, None)
            case _:
                pass

    def counters(self) -> dict[str, int]:
        return {
            "lost_children.seen": len(self._seen),
            "lost_children.told": len(self._told),
            "lost_children.sas": len(self._replaced),
        }

    # --- what we do not know ---------------------------------------------------------------------

    def _goes_on(self, now_ns: int, orphan: OrphanEsp, rtt_s: float) -> bool:
        """Whether packets still come with this SPI, a while after the first."""
        key = (orphan.remote, orphan.spi)
        first_ns = self._seen.setdefault(key, now_ns)
        while len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        if now_ns - first_ns > _SEEN_FOR_NS:
            # The sighting is an old one, of a time when this was told or went by itself.
            self._seen[key] = now_ns
            return False
        return now_ns - first_ns >= max(OVERTAKING_S, 2 * rtt_s) * NS_PER_S

    def _may_tell(self, now_ns: int, remote: Address) -> bool:
        key = str(remote).encode()
        granted = self._told.has(now_ns, key, self._rate)
        if granted:
            self._told.take(now_ns, key, self._rate)
        return granted

    # --- what the peer does not know -------------------------------------------------------------

    def _told_by_peer(self, now: Now, sa: SaView, notifies: Sequence[Notify]) -> None:
        """Protected INVALID_SPI: the peer does not know a child that we still send on."""
        for notify in notifies:
            if notify.type != NotifyType.INVALID_SPI or len(notify.data) != 4:
                continue
            spi = int.from_bytes(notify.data, "big")
            if all(child.spi_out != spi for child in sa.child_views):
                self._of_another(now, sa, spi)
            elif not self._may_replace(now.mono_ns, sa):
                self.core.count("lost_child.limited")
            elif self.core.replace_child(now, sa, spi, "the peer does not know its SPI"):
                self.core.count("lost_child.replaced")

    def _of_another(self, now: Now, sa: SaView, spi: int) -> None:
        """A child of another SA with that host: a peer that has the other SA tells us there.

        If not, it has lost it. That is a hint, as the same from a stranger is: this SA's peer, whoever it
        is, has proved nothing about that one.
        """
        other = self.core.find_by_outbound(spi, sa.remote)
        if other is None or other.number == sa.number or not other.established:
            self.core.count("lost_child.unknown")
            return
        self._monitor.hint(now, other, Hint("invalid-spi", now.mono_ns, str(sa.remote), f"{spi:08x}"))

    def _may_replace(self, now_ns: int, sa: SaView) -> bool:
        return self._replaced.setdefault(sa.number, Bucket(now_ns, self._rate)).take(now_ns, self._rate)


_MAX_PEERS = 4096
_MAX_SEEN = 1024
_SEEN_FOR_NS = 10 * NS_PER_S
