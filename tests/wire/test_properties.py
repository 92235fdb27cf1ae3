"""What holds for every value and for every string of octets."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.wire.strategies import (
    chains,
    clear_payload,
    esp_packets,
    messages,
    mutations,
    once,
    protected,
    repeatable,
    u8,
    unknown_payloads,
    with_length,
)

from deadpeer.wire import (
    EspPacket,
    Message,
    Payload,
    TrafficSelectors,
    UdpKind,
    UnknownPayload,
    UnsupportedCriticalPayload,
    WireError,
    add_marker,
    classify,
    decode_esp,
    decode_esp_header,
    decode_header,
    decode_message,
    decode_payloads,
    encode_esp,
    encode_header,
    encode_message,
    encode_payloads,
    strip_marker,
)


@pytest.mark.parametrize("values", [*once, *repeatable])
def test_every_payload_survives_the_round_trip(values: st.SearchStrategy[Payload]) -> None:
    @given(values)
    def check(payload: Payload) -> None:
        first, octets = encode_payloads((payload,))
        assert first == payload.payload_type
        assert decode_payloads(first, octets) == ((payload,), ())

    check()


@given(chains())
def test_chains_survive_the_round_trip(payloads: tuple[Payload, ...]) -> None:
    first, octets = encode_payloads(payloads)
    assert decode_payloads(first, octets) == (payloads, ())


@given(messages())
def test_messages_survive_the_round_trip(message: Message) -> None:
    octets = encode_message(message)
    assert decode_message(octets) == message
    header = decode_header(octets)
    assert encode_header(header) == octets[:28]
    assert header.length == len(octets)


@given(messages())
def test_the_body_of_a_protected_payload_ends_the_message(message: Message) -> None:
    sealed = message.protected
    octets = encode_message(message)
    if sealed is not None:
        assert octets.endswith(sealed.body)


@given(chains(), st.lists(unknown_payloads, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_unknown_payloads_are_set_aside(
    payloads: tuple[Payload, ...], unknown: list[UnknownPayload], random: Any
) -> None:
    mixed: list[Payload] = [*payloads]
    for payload in reversed(unknown):
        mixed.insert(random.randint(0, len(mixed)), payload)
    first, octets = encode_payloads(mixed)
    kept, skipped = decode_payloads(first, octets)
    assert kept == payloads
    assert skipped == tuple(payload for payload in mixed if isinstance(payload, UnknownPayload))


@given(chains(), unknown_payloads, st.lists(unknown_payloads, max_size=2))
def test_a_critical_unknown_payload_is_named(
    before: tuple[Payload, ...], unknown: UnknownPayload, after: list[UnknownPayload]
) -> None:
    critical = UnknownPayload(unknown.type, unknown.data, critical=True)
    first, octets = encode_payloads((*before, critical, *after))
    with pytest.raises(UnsupportedCriticalPayload) as caught:
        decode_payloads(first, octets)
    assert caught.value.payload_type == unknown.type


@given(messages(), st.data())
def test_a_truncated_message_is_refused(message: Message, data: st.DataObject) -> None:
    octets = encode_message(message)
    cut = octets[: data.draw(st.integers(0, len(octets) - 1))]
    with pytest.raises(WireError):
        decode_message(cut)


@given(messages().filter(lambda message: bool(message.payloads)), st.data())
def test_a_truncated_message_with_a_matching_length_is_refused(message: Message, data: st.DataObject) -> None:
    octets = encode_message(message)
    cut = octets[: data.draw(st.integers(28, len(octets) - 1))]
    with pytest.raises(WireError):
        decode_message(with_length(cut))


@given(messages(), st.binary(min_size=1, max_size=8))
def test_trailing_octets_are_refused(message: Message, trailing: bytes) -> None:
    octets = encode_message(message) + trailing
    with pytest.raises(WireError):
        decode_message(octets)
    with pytest.raises(WireError, match="trailing"):
        decode_message(with_length(octets))


def decoded_or_refused(decode: Callable[..., Any], *arguments: Any) -> Any:
    """The value, or None if it was refused in the one way there is; anything else fails the test."""
    try:
        return decode(*arguments)
    except WireError as error:
        assert error.where
        assert error.what
        assert str(error) == f"{error.where}: {error.what}"
        return None


def assert_canonical(message: Message) -> None:
    """What was accepted can be sent again and means the same, but for what was passed over."""
    if any(isinstance(payload, TrafficSelectors) and payload.unknown for payload in message.payloads):
        return
    assert decode_message(encode_message(message)).payloads == message.payloads


@given(st.binary(max_size=300))
@example(bytes(28))
@example(bytes(27))
def test_garbage_is_refused_in_one_way(octets: bytes) -> None:
    decoded_or_refused(decode_header, octets)
    decoded_or_refused(decode_message, octets)
    decoded_or_refused(decode_esp, octets)
    decoded_or_refused(decode_esp_header, octets)
    decoded_or_refused(strip_marker, octets)
    assert isinstance(classify(octets, True), UdpKind)
    assert isinstance(classify(octets, False), UdpKind)


@given(u8, st.binary(max_size=300))
def test_garbage_behind_a_good_header_is_refused_in_one_way(first: int, chain: bytes) -> None:
    octets = with_length(bytes(16) + bytes([first, 0x20, 34, 8]) + bytes(8) + chain)
    message = decoded_or_refused(decode_message, octets)
    if message is not None:
        assert_canonical(message)


@given(st.sampled_from([*range(33, 49), 53, 200]), st.binary(max_size=300))
def test_a_garbage_body_is_refused_in_one_way(kind: int, body: bytes) -> None:
    chain = bytes(2) + (len(body) + 4).to_bytes(2) + body
    octets = with_length(bytes(16) + bytes([kind, 0x20, 34, 8]) + bytes(8) + chain)
    message = decoded_or_refused(decode_message, octets)
    if message is not None:
        assert_canonical(message)


@given(mutations(encode_message, messages()))
def test_mutated_messages_are_refused_in_one_way_or_mean_something(octets: bytes) -> None:
    decoded_or_refused(decode_message, octets)
    message = decoded_or_refused(decode_message, with_length(octets))
    if message is not None:
        assert_canonical(message)


@given(mutations(lambda payload: encode_payloads((payload,))[1], clear_payload), u8)
def test_mutated_content_is_refused_in_one_way(octets: bytes, first: int) -> None:
    decoded_or_refused(decode_payloads, first, octets)


@given(protected)
def test_nothing_protected_inside_what_is_protected(payload: Payload) -> None:
    with pytest.raises(WireError, match="inside protected content"):
        encode_payloads((payload,))
    message = Message(bytes(8), bytes(8), 37, 0, True, False, (payload,))
    with pytest.raises(WireError, match="inside protected content"):
        decode_payloads(payload.payload_type, encode_message(message)[28:])


@given(esp_packets)
def test_esp_survives_the_round_trip(packet: EspPacket) -> None:
    octets = encode_esp(packet)
    assert decode_esp(octets) == packet
    assert classify(octets, True) is UdpKind.ESP


@given(messages())
def test_a_marked_message_is_ike(message: Message) -> None:
    octets = encode_message(message)
    assert classify(octets, False) is UdpKind.IKE
    assert classify(add_marker(octets), True) is UdpKind.IKE
    assert strip_marker(add_marker(octets)) == octets
