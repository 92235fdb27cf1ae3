"""A request of ours, from waiting in the queue to its answer. One subclass per kind, in `exchanges/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deadpeer.ike.collision import Own
from deadpeer.values import Now
from deadpeer.wire import ExchangeType, Message, Payload

if TYPE_CHECKING:
    from deadpeer.ike.sa import IkeSa


class Exchange:
    """Base class. An exchange is queued in an IKE SA, sent when the window has room, and answered once."""

    exchange_type: ExchangeType = ExchangeType.INFORMATIONAL
    own: Own = Own.NOTHING
    reason: str = "request"
    """Names the transmission in outputs and events."""

    def request(self, sa: IkeSa, now: Now) -> Sequence[Payload] | None:
        """The payloads to protect and send, made at the time of sending; None if it is moot by now."""
        raise NotImplementedError

    def response(self, sa: IkeSa, now: Now, answer: Message) -> None:
        """The verified response; `answer.payloads` are the decrypted ones."""

    def abandoned(self, sa: IkeSa, now: Now, why: str) -> None:
        """The SA was closed before an answer came (or before the request was sent)."""
