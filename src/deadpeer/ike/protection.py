"""The keys of an IKE SA at work: sealing and opening its messages, whole or in fragments (RFC 7383)."""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.crypto import Entropy, IkeKeys, IkeSuite, SkCipher
from deadpeer.ike import fragment
from deadpeer.ike.window import Packets
from deadpeer.wire import Header

MAX_IV = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Opened:
    """The verified content of a message: its first payload's type, its octets, its first packet."""

    first_type: int
    inner: bytes
    first_packet: bytes


class Protection:
    """Both directions of an IKE SA under one set of SK_* keys."""

    def __init__(
        self,
        suite: IkeSuite,
        keys: IkeKeys,
        spis: tuple[bytes, bytes],
        entropy: Entropy,
        *,
        initiator: bool,
    ) -> None:
        from_initiator = SkCipher(suite, keys.sk_ei, keys.sk_ai)
        from_responder = SkCipher(suite, keys.sk_er, keys.sk_ar)
        self._out, self._in = (
            (from_initiator, from_responder) if initiator else (from_responder, from_initiator)
        )
        self._spi_i, self._spi_r = spis
        self._initiator = initiator
        self._entropy = entropy
        self._iv = 0
        self._requests = fragment.Reassembly()
        self._responses = fragment.Reassembly()

    def seal(
        self,
        exchange: int,
        message_id: int,
        is_response: bool,
        content: tuple[int, bytes],
        room: int | None,
    ) -> Packets:
        """Protect `content`: the first payload's type and the octets of all payloads.

        `room` is the largest IKE message in octets, beyond which it is cut into fragments; None: never.
        """
        first_type, inner = content
        part_octets = self._out.max_inner(room) if room is not None else 0
        if not 0 < part_octets < len(inner):
            return (
                self._out.seal_message(
                    spi_i=self._spi_i,
                    spi_r=self._spi_r,
                    exchange=exchange,
                    message_id=message_id,
                    from_initiator=self._initiator,
                    is_response=is_response,
                    first_payload=first_type,
                    inner=inner,
                    iv=self._next_iv(),
                ),
            )
        parts = fragment.split(inner, part_octets)
        return tuple(
            self._out.seal_fragment(
                spi_i=self._spi_i,
                spi_r=self._spi_r,
                exchange=exchange,
                message_id=message_id,
                from_initiator=self._initiator,
                is_response=is_response,
                number=number,
                total=len(parts),
                first_payload=first_type,
                inner=part,
                iv=self._next_iv(),
            )
            for number, part in enumerate(parts, 1)
        )

    def open(self, octets: bytes, header: Header, fragmented: bool) -> Opened | None:
        """Verify a message, or collect a fragment: None until all are there.

        Raises AuthenticationFailed.
        """
        if not fragmented:
            first_type, inner = self._in.open_message(octets)
            return Opened(first_type, inner, octets)
        part = self._in.open_fragment(octets)
        reassembly = self._responses if header.is_response else self._requests
        whole = reassembly.add(
            header.message_id, part.number, part.total, part.first_payload, part.inner_part, octets
        )
        return Opened(*whole) if whole is not None else None

    def _next_iv(self) -> bytes:
        if self._out.iv_octets == 16:
            return self._entropy.octets(16)
        # Message IDs end long before 2^64 messages: an IV can't repeat under a key.
        assert self._iv < MAX_IV
        self._iv += 1
        return self._iv.to_bytes(8, "big")
