"""What an IKE SA does with a protected message: windows, keys, then its exchange or the responder's part."""

from __future__ import annotations

from collections.abc import Sequence

from deadpeer.crypto import AuthenticationFailed
from deadpeer.ike import extension as ext
from deadpeer.ike import switch
from deadpeer.ike.collision import Own
from deadpeer.ike.protection import Opened
from deadpeer.ike.repeats import Repeats
from deadpeer.ike.sa import IkeSa
from deadpeer.ike.window import Arrival
from deadpeer.values import NS_PER_S, Datagram, Now
from deadpeer.wire import (
    ExchangeType,
    Header,
    Message,
    Notify,
    NotifyType,
    Payload,
    UnsupportedCriticalPayload,
    WireError,
    decode_payloads,
    label,
)


def receive(sa: IkeSa, now: Now, octets: bytes, header: Header, fragmented: bool, datagram: Datagram) -> None:
    """A protected message for this SA. `octets` is the IKE message without marker."""
    if sa.protection is None:
        sa.env.drop("no keys yet")
        return
    if header.is_response:
        if not sa.send.awaits(header.message_id):
            sa.env.drop("response not awaited")
            return
    elif sa.initiator and sa.established_ns is None:
        # It overtook the response to IKE_AUTH, or comes from one who will not authenticate.
        sa.env.drop("request before authentication")
        return
    else:
        arrival = sa.recv.classify(header.message_id)
        if arrival is Arrival.REPEATED:
            _answer_again(sa, now, octets, datagram)
            return
        if arrival is not Arrival.NEW:
            sa.env.drop(f"request {arrival.value}")
            return
    try:
        opened = sa.protection.open(octets, header, fragmented)
    except AuthenticationFailed:
        sa.env.drop("integrity")
        return
    if opened is None:
        return
    sa.last_heard_ns = sa.last_traffic_ns = now.mono_ns
    _follow_address(sa, now, datagram)
    if sa.is_closed():
        return
    if header.is_response:
        _handle_response(sa, now, header, opened)
    else:
        _handle_request(sa, now, header, opened)


def _handle_response(sa: IkeSa, now: Now, header: Header, opened: Opened) -> None:
    exchange = sa.active
    outstanding = sa.send.outstanding
    if exchange is None or outstanding is None or header.exchange != exchange.exchange_type:
        sa.env.drop("response of another exchange")
        return
    try:
        payloads, _ = decode_payloads(opened.first_type, opened.inner)
    except WireError as error:
        sa.env.count(f"malformed response: {error.where}")
        payloads = (Notify(NotifyType.INVALID_SYNTAX),)
    sa.send.close()
    sa.active = None
    sa.env.timers.cancel(sa.number, "retransmission")
    took = now.mono_ns - outstanding.first_sent_ns
    if outstanding.attempts == 1:
        sa.rtt.sample(took / NS_PER_S, of_setup=sa.established_ns is None)
    if sa.established_ns is not None:
        sa.env.signal(now, ext.RequestAnswered(sa, took, outstanding.attempts > 1, exchange.reason))
    if sa.is_closed():
        return
    answer = _inner(header, payloads)
    if sa.established_ns is not None and exchange.own is not Own.DELETE_IKE and _fatal(payloads):
        exchange.abandoned(sa, now, "INVALID_SYNTAX")
        sa.env.lifecycle.ended(now, sa, "one side did not understand the other")
        return
    exchange.response(sa, now, answer)
    sa.pump(now)


def _handle_request(sa: IkeSa, now: Now, header: Header, opened: Opened) -> None:
    try:
        payloads, _ = decode_payloads(opened.first_type, opened.inner)
    except UnsupportedCriticalPayload as error:
        answer: Sequence[Payload] = (
            Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([error.payload_type])),
        )
    except WireError as error:
        sa.env.event(
            "malformed_request",
            "warning",
            connection=sa.connection.name,
            sa=sa.number,
            error=str(error),
        )
        answer = (Notify(NotifyType.INVALID_SYNTAX),)
    else:
        switch.word(sa)
        answer = sa.env.lifecycle.respond(now, sa, _inner(header, payloads))
    if sa.is_closed():
        return
    packets = sa.seal(header.exchange, header.message_id, True, answer)
    sa.recv.record(opened.first_packet, packets)
    sa.transmit(packets, f"{label(ExchangeType, header.exchange)} response")
    callbacks, sa.after_reply = sa.after_reply, []
    for callback in callbacks:
        callback()
    if sa.is_closed():
        return
    if _fatal(answer):
        sa.env.lifecycle.ended(now, sa, "the peer sent a malformed message")
    else:
        sa.pump(now)


def _answer_again(sa: IkeSa, now: Now, octets: bytes, datagram: Datagram) -> None:
    stored = sa.recv.stored(octets)
    if not stored:
        sa.env.drop("repeated message ID, other octets")
        return
    home = datagram.remote == sa.remote
    sa.repeats = sa.repeats or Repeats(now.mono_ns)
    if not sa.repeats.allow(now.mono_ns, octets, stored, home=home):
        sa.env.drop("repeated request, limited" if home else "repeated request from elsewhere, limited")
        return
    for packet in stored:
        sa.env.transmit(packet, datagram.local, datagram.remote, "response again")
    switch.answered_again(sa, now)


def _follow_address(sa: IkeSa, now: Now, datagram: Datagram) -> None:
    """Fresh and authenticated: a peer behind a NAT may have moved (RFC 7296 section 2.23)."""
    if (datagram.local, datagram.remote) == (sa.local, sa.remote):
        return
    if sa.established_ns is None or not sa.local_behind_nat:
        sa.move(now, datagram.local, datagram.remote)


def _inner(header: Header, payloads: tuple[Payload, ...]) -> Message:
    return Message(
        header.spi_i,
        header.spi_r,
        header.exchange,
        header.message_id,
        header.from_initiator,
        header.is_response,
        payloads,
    )


def _fatal(payloads: Sequence[Payload]) -> bool:
    """INVALID_SYNTAX ends an IKE SA on both sides, without a DELETE (RFC 7296 section 2.21.3)."""
    return any(isinstance(p, Notify) and p.type == NotifyType.INVALID_SYNTAX for p in payloads)
