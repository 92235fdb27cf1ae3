"""A request of ours, from waiting in the queue to its answer. One subclass per kind, in `exchanges/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deadpeer.ike.collision import Own
from deadpeer.values import Now
from deadpeer.wire import ExchangeType, Message, Payload

if TYPE_CHECKING:
    from deadpeer.ike.child import ChildSa
    from deadpeer.ike.sa import IkeSa


class Exchange:
    """Base class. An exchange is queued in an IKE SA, sent when the window has room, and answered once."""

    exchange_type: ExchangeType = ExchangeType.INFORMATIONAL
    own: Own = Own.NOTHING
    doubts: bool = False
    """Asks whether the peer lives."""
    reason: str = "request"
    """Names the transmission in outputs and events."""
    unknown_deleted: set[bytes] | None = None
    """For one that makes a child: SPIs that the peer deleted meanwhile and that we do not know (yet)."""
    child_name: str | None = None
    """For one that makes a child: the name of its configuration."""
    not_before_ns: int = 0
    """Waits in the queue until then (monotonic ns)."""

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        """The payloads to protect and send, made at the time of sending; None if it is moot by now."""
        raise NotImplementedError

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        """The verified response; `answer.payloads` are the decrypted ones."""

    def abandoned(self, sa: IkeSa, now: Now, why: str) -> None:
        """The SA was closed before an answer came (or before the request was sent)."""

    def gave_up(self, sa: IkeSa, now: Now) -> None:
        """The last request of an SA that ends anyway was not answered."""
        sa.close(now, "the last request was not answered")

    def moves(self, sa: IkeSa, now: Now) -> bool:
        """`sa` is replaced while this waits: whether it goes out in the new SA instead."""
        return True


def own_request(sa: IkeSa, child: ChildSa | None = None) -> Own:
    """Our request in flight as the collision table names it, seen from `child`."""
    active = sa.active
    if active is None:
        return Own.DELETE_IKE if sa.is_deleting() else Own.NOTHING
    about = getattr(active, "child", None)
    if active.own is Own.REKEY_THIS_CHILD:
        return Own.REKEY_THIS_CHILD if about is child else Own.REKEY_OTHER_CHILD
    if active.own is Own.DELETE_THIS_CHILD:
        return Own.DELETE_THIS_CHILD if about is child else Own.DELETE_OTHER_CHILD
    return active.own
