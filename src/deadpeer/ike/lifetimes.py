"""When SAs are replaced, and when they end (RFC 7296 section 2.8): timers with jitter."""

from __future__ import annotations

from deadpeer.crypto import Entropy
from deadpeer.ike.child import ChildSa
from deadpeer.ike.connection import Lifetime
from deadpeer.ike.exchanges.child import RekeyChild
from deadpeer.ike.exchanges.ike_rekey import RekeyIke
from deadpeer.ike.exchanges.informational import DeleteIke, expire_child
from deadpeer.ike.extension import IdleTimeout
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.values import Now
from deadpeer.wire import KEEPALIVE


def rekey_delay_s(lifetime: Lifetime, entropy: Entropy) -> float:
    """Seconds until rekeying begins: `rekey_s` less a random part of up to `jitter_s`."""
    fraction = int.from_bytes(entropy.octets(4), "big") / 2**32
    return max(lifetime.rekey_s - fraction * lifetime.jitter_s, lifetime.rekey_s / 10)


def arm_ike(sa: IkeSa, now: Now) -> None:
    """Arm rekeying and the end of an established IKE SA, keepalives, and the watch for idleness."""
    timers, lifetime = sa.env.timers, sa.connection.lifetime
    if lifetime.rekey_s > 0:
        at = now.after(rekey_delay_s(lifetime, sa.env.entropy))
        timers.arm(sa.number, "IKE SA rekey", at, lambda t: rekey_ike(sa, t))
    if lifetime.life_s > 0:
        at = now.after(lifetime.life_s)
        timers.arm(sa.number, "IKE SA end of life", at, lambda t: _ike_ends(sa, t))
    if sa.local_behind_nat and sa.env.config.nat_keepalive_s > 0:
        _arm_keepalive(sa, now)
    arm_idle(sa, now)


def rekey_ike(sa: IkeSa, now: Now) -> None:
    """Replace an IKE SA."""
    sa.submit(now, RekeyIke())


def arm_idle(sa: IkeSa, now: Now) -> None:
    """Arm the check that the peer was heard within `dpd_delay_s`."""
    delay = sa.connection.dpd_delay_s
    if delay > 0:
        at = max(sa.last_traffic_ns, now.mono_ns - int(delay * 1e9)) + int(delay * 1e9)
        if at <= now.mono_ns:
            at = now.after(delay)
        sa.env.timers.arm(sa.number, "idle", at, lambda t: _idle(sa, t))


def arm_child(sa: IkeSa, child: ChildSa) -> None:
    """Arm rekeying and the end of a child SA, counted from its creation."""
    timers, lifetime, owner = sa.env.timers, child.config.lifetime, ("child", child.number)

    def rekey(then: Now) -> None:
        found = sa.env.table.child(child.number)
        if found is not None:
            found[0].submit(then, RekeyChild(child))

    def expire(then: Now) -> None:
        found = sa.env.table.child(child.number)
        if found is not None:
            expire_child(found[0], then, child, "end of life", child.config.close_action)

    if lifetime.rekey_s > 0 and timers.armed(owner, "child SA rekey") is None:
        delay = rekey_delay_s(lifetime, sa.env.entropy)
        timers.arm(owner, "child SA rekey", child.created_ns + int(delay * 1e9), rekey)
    if lifetime.life_s > 0 and timers.armed(owner, "child SA end of life") is None:
        timers.arm(owner, "child SA end of life", child.created_ns + int(lifetime.life_s * 1e9), expire)


def _arm_keepalive(sa: IkeSa, now: Now) -> None:
    at = now.after(sa.env.config.nat_keepalive_s)
    sa.env.timers.arm(sa.number, "NAT keepalive", at, lambda t: _keepalive(sa, t))


def _keepalive(sa: IkeSa, now: Now) -> None:
    """RFC 3948 section 4: sent from behind the NAT, so that its mapping lives."""
    if sa.local_behind_nat and sa.state is IkeState.ESTABLISHED:
        sa.env.transmit_raw(KEEPALIVE, sa.local, sa.remote, "NAT keepalive")
        _arm_keepalive(sa, now)


def _ike_ends(sa: IkeSa, now: Now) -> None:
    sa.submit(now, DeleteIke("end of life", aged=True))


def _idle(sa: IkeSa, now: Now) -> None:
    if sa.state is not IkeState.ESTABLISHED:
        return
    if sa.established and now.mono_ns - sa.last_traffic_ns >= int(sa.connection.dpd_delay_s * 1e9):
        sa.env.signal(now, IdleTimeout(sa))
    if not sa.is_closed():
        arm_idle(sa, now)
