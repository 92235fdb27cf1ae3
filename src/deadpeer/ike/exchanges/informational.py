"""INFORMATIONAL (RFC 7296 section 1.4): liveness, deletes, notifies of extensions, both roles."""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.ike import extension as ext
from deadpeer.ike import switch
from deadpeer.ike.child import ChildSa, ChildState
from deadpeer.ike.collision import Decision, Incoming, Own, decide
from deadpeer.ike.exchange import Exchange, own_request
from deadpeer.ike.extension import Slot
from deadpeer.ike.handover import discard, take_over
from deadpeer.ike.sa import IkeSa, IkeState
from deadpeer.values import Now
from deadpeer.wire import Delete, ExchangeType, Message, Notify, NotifyType, Payload, Protocol

MAX_DELETED_SPIS = 64


class Probe(Exchange):
    """A liveness check: an empty request (section 2.4)."""

    exchange_type = ExchangeType.INFORMATIONAL
    doubts = True

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        return () if sa.state is IkeState.ESTABLISHED else None


class Inform(Exchange):
    """Notifies of an extension."""

    exchange_type = ExchangeType.INFORMATIONAL

    def __init__(self, notifies: Sequence[Notify], reason: str) -> None:
        self._notifies = tuple(notifies)
        self.reason = reason

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        return self._notifies if sa.state is IkeState.ESTABLISHED else None

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        if notifies := answer.all(Notify):
            sa.env.signal(now, ext.PeerNotifies(sa, Slot.INFORMATIONAL, notifies))


class DeleteChild(Exchange):
    """Delete a child SA: `child`, or only the inbound SPI of one that is not installed (any more)."""

    exchange_type = ExchangeType.INFORMATIONAL
    own = Own.DELETE_THIS_CHILD

    def __init__(self, child: ChildSa | None, spi_in: int, why: str, tag: int = 0) -> None:
        self.child = child
        self.reason = "child SA delete request"
        self._spi_in = spi_in
        self._why = why
        self._tag = tag

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        if self.child is not None:
            if self.child.number not in sa.children:
                sa.env.done(self._tag, True, "deleted already")
                return None
            if self.child.state is ChildState.INSTALLED:
                self.child.state = ChildState.DELETING
            switch.reconsider(sa.env, self.child.policy)
        return (Delete(Protocol.ESP, (self._spi_in.to_bytes(4, "big"),)),)

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        if self.child is not None:
            linger = sa.env.config.child_linger_s if self.child.state is ChildState.REKEYED else 0.0
            sa.drop_child(now, self.child, self._why, linger_s=linger)
        sa.env.done(self._tag, True, "deleted")

    def abandoned(self, sa: IkeSa, now: Now, why: str) -> None:
        sa.env.done(self._tag, True, why)


class DeleteIke(Exchange):
    """Delete the IKE SA and all that it holds. With `notify`, that error instead of a Delete payload."""

    exchange_type = ExchangeType.INFORMATIONAL
    own = Own.DELETE_IKE
    reason = "IKE SA delete request"

    def __init__(self, why: str, notify: NotifyType | None = None, *, aged: bool = False) -> None:
        """`aged`: the SA's own time is up; `close_action` says what follows. Its replacement stays."""
        self._why = why
        self._notify = notify
        self._aged = aged

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        if sa.state is IkeState.ESTABLISHED:
            sa.state = IkeState.DELETING
            switch.doubted(sa)
        if self._notify is not None:
            return (Notify(self._notify),)
        return (Delete(Protocol.IKE, ()),)

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        self._finish(sa, now, self._why)

    def gave_up(self, sa: IkeSa, now: Now) -> None:
        self._finish(sa, now, f"{self._why}; the DELETE was not answered")

    def moves(self, sa: IkeSa, now: Now) -> bool:
        return not self._aged

    def _finish(self, sa: IkeSa, now: Now, why: str) -> None:
        if self._aged:
            sa.env.lifecycle.ended(now, sa, why)
        else:
            sa.close(now, why)


def expire_child(sa: IkeSa, now: Now, child: ChildSa, reason: str, action: str) -> None:
    """A child can't go on and was not replaced: delete it, and do what `action` (a close_action) says."""
    if child.state is not ChildState.INSTALLED:
        return
    child.state = ChildState.DELETING
    sa.submit(now, DeleteChild(child, child.spi_in, reason))
    sa.env.lifecycle.child_lost(now, sa, child, action)


def respond_informational(sa: IkeSa, now: Now, request: Message) -> Sequence[Payload]:
    """The peer's INFORMATIONAL request."""
    notifies = request.all(Notify)
    if any(n.type == NotifyType.AUTHENTICATION_FAILED for n in notifies) and sa.established_ns is not None:
        sa.after_reply.append(lambda: sa.close(now, "the peer could not authenticate us"))
        return ()
    if sa.established_ns is None:
        sa.after_reply.append(lambda: sa.close(now, "the peer gave up"))
        return ()
    deletes = request.all(Delete)
    if any(d.protocol == Protocol.IKE for d in deletes):
        return _ike_deleted(sa, now)
    answer: list[Payload] = []
    spis = [spi for d in deletes if d.protocol == Protocol.ESP for spi in d.spis]
    ours = [o for spi in spis[:MAX_DELETED_SPIS] if (o := _child_deleted(sa, now, spi)) is not None]
    if ours:
        answer.append(Delete(Protocol.ESP, tuple(o.to_bytes(4, "big") for o in ours)))
    if notifies:
        sa.after_reply.append(lambda: sa.env.signal(now, ext.PeerNotifies(sa, Slot.INFORMATIONAL, notifies)))
    answer += sa.env.contribute(now, Slot.INFORMATIONAL, sa, response=True, request=request)
    return answer


def _ike_deleted(sa: IkeSa, now: Now) -> Sequence[Payload]:
    heir = sa.successor

    def after() -> None:
        if sa.predecessor is not None:
            discard(now, sa, "redundant")
            return
        if heir is not None and heir.predecessor is sa and not heir.is_closed():
            # Our own rekeying is not answered yet, but the peer has made up its mind (section 2.8.2).
            take_over(now, sa, heir, initiated=False)
        if sa.state is IkeState.ESTABLISHED:
            sa.env.lifecycle.ended(now, sa, "deleted by the peer")
        else:
            sa.close(now, "deleted by the peer")

    sa.after_reply.append(after)
    return ()


def _child_deleted(sa: IkeSa, now: Now, spi: bytes) -> int | None:
    """Drop the child that sends with `spi`. Returns our inbound SPI for the answer, None to say nothing."""
    if sa.state is IkeState.REKEYED and sa.successor is not None:
        sa = sa.successor
    child = sa.child_by_outbound(spi)
    if child is None:
        unknown = sa.active.unknown_deleted if sa.active is not None else None
        if unknown is not None and len(unknown) < MAX_DELETED_SPIS:
            # It may be the child that our request under way makes, and its response still to come.
            unknown.add(spi)
        return None
    if child.rival:
        # The peer has closed the new child that has the lowest nonce; ours is about to be answered.
        child.state, child.rival = ChildState.REKEYED, False
    decision = decide(own_request(sa, child), Incoming.DELETE_CHILD)
    state = child.state
    if state is ChildState.REKEYED:
        switch.replaced_child_deleted(sa.env, sa.children.get(child.successor or 0))
        sa.drop_child(now, child, "rekeyed", linger_s=sa.env.config.child_linger_s)
    else:
        # Where another one serves, packets on this one may still be under way.
        twins = [c for c in sa.children.values() if c.policy == child.policy and c is not child]
        linger_s = sa.env.config.child_linger_s if twins else 0.0
        sa.drop_child(now, child, "deleted by the peer", linger_s=linger_s)
        if state is ChildState.INSTALLED:
            sa.env.lifecycle.child_lost(now, sa, child, child.config.close_action)
    return None if decision is Decision.ACKNOWLEDGE else child.spi_in
