"""IKE fragmentation (RFC 7383): collecting the fragments of one message."""

from __future__ import annotations

MAX_FRAGMENTS = 64
MAX_MESSAGE_OCTETS = 65_535


class Reassembly:
    """Fragments of the message with one message ID, each already decrypted and authenticated.

    Only the peer can fill it, and not beyond MAX_FRAGMENTS and MAX_MESSAGE_OCTETS.
    """

    def __init__(self) -> None:
        self._message_id = -1
        self._total = 0
        self._first_payload = 0
        self._parts: dict[int, bytes] = {}
        self._first_packet = b""

    def add(
        self, message_id: int, number: int, total: int, first_payload: int, part: bytes, packet: bytes
    ) -> tuple[int, bytes, bytes] | None:
        """Add a fragment. When all are there: (first payload type, inner octets, first packet's octets).

        Fragments of another message ID start anew; a larger total discards what was collected, a
        smaller one is ignored (section 2.6).
        """
        if total > MAX_FRAGMENTS:
            return None
        if message_id != self._message_id or total > self._total:
            self._message_id, self._total = message_id, total
            self._parts, self._first_packet = {}, b""
        if total < self._total or number in self._parts:
            return None
        if sum(map(len, self._parts.values())) + len(part) > MAX_MESSAGE_OCTETS:
            self.clear()
            return None
        self._parts[number] = part
        if number == 1:
            self._first_payload, self._first_packet = first_payload, packet
        if len(self._parts) < total:
            return None
        inner = b"".join(self._parts[n] for n in range(1, total + 1))
        result = (self._first_payload, inner, self._first_packet)
        self.clear()
        return result

    def clear(self) -> None:
        """Forget what was collected."""
        self._message_id, self._total, self._parts, self._first_packet = -1, 0, {}, b""


def split(inner: bytes, size: int) -> list[bytes]:
    """Cut inner octets into parts of at most `size` octets; at least one part."""
    return [inner[i : i + size] for i in range(0, len(inner), size)] or [b""]
