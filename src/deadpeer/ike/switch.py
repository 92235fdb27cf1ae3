"""When we begin to send on a child SA that the peer asked for while another serves (RFC 7296 section 2.8).

We can't know when the peer has our answer and the new child in place: what we send on it before is lost. So
the child that serves goes on, until

- a packet comes in on the new one (the data plane acts by itself), or another request in its IKE SA,
- the old one goes, or there is reason to doubt that the peer has it, or
- nothing of all this happens for `limit_s` after our answer.

A child that replaces one by rekeying has no such limit: its initiator owes a DELETE of the old one, and
that is the word. Where no other child serves we send at once: it can lose nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deadpeer.ike import selectors
from deadpeer.ike.child import ChildChoice, ChildSa, ChildState, install
from deadpeer.ike.state import IkeState
from deadpeer.plane.model import ActivateOutbound
from deadpeer.values import NS_PER_S, Now

if TYPE_CHECKING:
    from deadpeer.ike.environment import Environment
    from deadpeer.ike.sa import IkeSa

LIMIT_FLOOR_S = 1.0
"""A busy peer may take so long to check a signature and to install the child. It costs nothing while the old
child serves; where that is dead, silence or a hint ends the wait sooner, if there is traffic to tell."""
LIMIT_RTTS = 4.0
"""If our answer is lost, an initiator like ours asks again after three, and the limit begins anew."""
LONGEST_S = 5.0
"""Who repeats a captured request can't hold the switch up for longer."""

REASON = "switch to the new child"


def limit_s(rtt_s: float | None) -> float:
    """How long after our answer we wait for the peer's word; `rtt_s` is the round trip time, if known."""
    return min(max(LIMIT_FLOOR_S, LIMIT_RTTS * (rtt_s or 0.0)), LONGEST_S)


def install_in_turn(
    sa: IkeSa,
    now: Now,
    choice: ChildChoice,
    spi_in: int,
    nonces: tuple[bytes, bytes],
    shared: bytes,
    *,
    at_once: bool = False,
) -> ChildSa:
    """Install a further child that the peer asked for, as the module says. `nonces` is (Ni, Nr).

    `at_once`: the peer has said that it holds no other.
    """
    env, policy = sa.env, sa.env.policy_number(sa, choice.config)
    serving = [
        owner
        for owner, other in env.table.serving(policy)
        if _serves(owner, other) and _covers(other, choice)
    ]
    child = install(
        sa, now, choice, spi_in, nonces, shared,
        we_initiated=False, outbound_now=at_once or not serving, policy=policy,
    )  # fmt: skip
    if child.deferred:
        rtt_s = max((owner.rtt_s or 0.0 for owner in serving), default=0.0)
        child.patience_s = max(limit_s(sa.rtt_s), limit_s(rtt_s))
        _arm(env, now, child)
    return child


def answered_again(sa: IkeSa, now: Now) -> None:
    """The peer's last request in `sa` came again and was answered again: its children wait anew."""
    for child in _in_turn(sa):
        _arm(sa.env, now, child)


def word(sa: IkeSa) -> None:
    """A new request came in `sa`: the peer has all answers that went before, and the children they made."""
    for child in _in_turn(sa):
        _activate(sa.env, child)


def heard(env: Environment, child: ChildSa) -> None:
    """A packet came in on `child`: the data plane sends on it from then on."""
    child.deferred = False
    env.timers.cancel(("child", child.number), REASON)


def replaced_child_deleted(env: Environment, successor: ChildSa | None) -> None:
    """The peer deletes a child that it has rekeyed: it has the new one."""
    if successor is not None and successor.deferred:
        _activate(env, successor)


def doubted(sa: IkeSa) -> None:
    """There is reason to doubt that the peer has `sa`, or it is to go: no child waits for those of `sa`."""
    for policy in {child.policy for child in sa.children.values()}:
        reconsider(sa.env, policy)


def reconsider(env: Environment, policy: int) -> None:
    """A child of the policy is gone, or in doubt: activate those that wait and have no other to serve."""
    serving = env.table.serving(policy)
    for _, child in serving:
        if child.deferred and not any(
            _serves(owner, other, until_gone=not child.patience_s) and _covers(other, child)
            for owner, other in serving
        ):
            _activate(env, child)


# --- helpers -------------------------------------------------------------------------------------


def _in_turn(sa: IkeSa) -> list[ChildSa]:
    return [child for child in sa.children.values() if child.deferred and child.patience_s]


def _arm(env: Environment, now: Now, child: ChildSa) -> None:
    at_ns = min(now.after(child.patience_s), child.created_ns + int(LONGEST_S * NS_PER_S))
    env.timers.arm(("child", child.number), REASON, at_ns, lambda _: _activate(env, child))


def _activate(env: Environment, child: ChildSa) -> None:
    heard(env, child)
    env.plane(ActivateOutbound(child.number))


def _serves(owner: IkeSa, child: ChildSa, *, until_gone: bool = False) -> bool:
    """Whether the plane may send on `child` and the peer takes that, for all we know.

    `until_gone`: what we know does not matter, it serves as long as it is there.
    """
    if child.deferred:
        return False
    standing = owner.state in (IkeState.ESTABLISHED, IkeState.REKEYED) and not owner.in_doubt
    return until_gone or (standing and child.state is not ChildState.DELETING)


def _covers(child: ChildSa, other: ChildChoice | ChildSa) -> bool:
    """Whether `child` takes all packets that `other` takes."""
    local = selectors.within(other.local_ts, child.local_ts)
    return local and selectors.within(other.remote_ts, child.remote_ts)
