"""Message windows (RFC 7296 sections 2.1 to 2.3): message IDs and octets, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from deadpeer.ike.digest import fingerprint

MAX_MESSAGE_ID = 2**32 - 1
REKEY_MESSAGE_ID = MAX_MESSAGE_ID - 2**16
"""From here on an IKE SA ought to be replaced: message IDs must not wrap (section 2.2)."""

Packets = tuple[bytes, ...]
"""The octets of one IKE message, or of its fragments, without the non-ESP marker."""


@dataclass(slots=True)
class Outstanding:
    """A request that waits for its response. `attempts` counts transmissions."""

    message_id: int
    packets: Packets
    first_sent_ns: int
    attempts: int = 1


class SendWindow:
    """Our requests. One is outstanding at a time, which every peer must support (section 2.3).

    SET_WINDOW_SIZE says what its sender can take, not what we must use: the peer's is ignored, and since we
    send none the peer keeps to one as well.
    """

    def __init__(self, next_id: int = 0) -> None:
        self.next_id = next_id
        self.outstanding: Outstanding | None = None

    @property
    def room(self) -> bool:
        """Whether a new request may be sent."""
        return self.outstanding is None

    @property
    def exhausted(self) -> bool:
        """Whether all message IDs are used."""
        return self.next_id > MAX_MESSAGE_ID

    def open(self, packets: Packets, now_ns: int) -> Outstanding:
        """Record the request with message ID `next_id` as sent. Raises RuntimeError if there is no room."""
        if self.outstanding is not None:
            raise RuntimeError("a request is outstanding")
        self.outstanding = Outstanding(self.next_id, packets, now_ns)
        self.next_id += 1
        return self.outstanding

    def awaits(self, message_id: int) -> bool:
        """Whether a response with this message ID is wanted."""
        return self.outstanding is not None and self.outstanding.message_id == message_id

    def close(self) -> Outstanding | None:
        """The response came, or is not wanted any more."""
        done, self.outstanding = self.outstanding, None
        return done


class Arrival(Enum):
    """What a request's message ID says."""

    NEW = "new"
    REPEATED = "repeated"
    STALE = "stale"
    AHEAD = "ahead"


class RecvWindow:
    """The peer's requests: the next ID that is new, and the last response for retransmissions."""

    def __init__(self, next_id: int = 0) -> None:
        self.next_id = next_id
        self._request: bytes = b""
        self._response: Packets = ()

    def classify(self, message_id: int) -> Arrival:
        """NEW is to be handled, REPEATED to be answered with `stored`, the others to be dropped."""
        if message_id == self.next_id:
            return Arrival.NEW
        if message_id == self.next_id - 1 and self._response:
            return Arrival.REPEATED
        return Arrival.STALE if message_id < self.next_id else Arrival.AHEAD

    def record(self, request: bytes, response: Packets) -> None:
        """The request with the ID `next_id` (its first packet's octets) was answered with `response`."""
        self._request = fingerprint(request)
        self._response = response
        self.next_id += 1

    def stored(self, request: bytes) -> Packets:
        """The stored response if `request` has the same octets as the one that caused it, else ()."""
        return self._response if fingerprint(request) == self._request else ()
