"""What members forward to one another arrives as it came, once, and from nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.cluster.forward import MAX_PAYLOAD, WINDOW, Forwarded, Forwarder
from deadpeer.cluster.records import LeaseRecord, View
from deadpeer.crypto import SystemEntropy
from deadpeer.rates import Rate
from deadpeer.values import Address, Datagram

KEY = bytes(range(32))
VIEW = View(leases={n: LeaseRecord(10 + n, f"m{n}", f"10.0.0.{n}:4501", 1) for n in range(3)})
ASKED = Datagram(b"esp", Address("192.0.2.2", 4500), Address("198.51.100.7", 61000))


def member(number: int, rate: Rate = Rate(1e6, 1e6)) -> Forwarder:  # noqa: B008
    return Forwarder(KEY, number, 10 + number, (500, 4500), SystemEntropy(), rate)


def wrapped(sender: Forwarder, datagram: Datagram = ASKED, to: int = 1) -> bytes:
    octets = sender.wrap(0, to, VIEW, datagram)
    assert isinstance(octets, bytes)
    return octets


@given(
    st.binary(max_size=2000),
    st.sampled_from([500, 4500]),
    st.ip_addresses(v=4) | st.ip_addresses(v=6),
    st.integers(0, 65535),
)
def test_it_arrives_as_it_came(payload: bytes, port: int, host: object, remote_port: int) -> None:
    ours = "192.0.2.2" if ":" not in str(host) else "2001:db8::2"
    datagram = Datagram(payload, Address(ours, port), Address(str(host), remote_port))
    assert member(1).unwrap(wrapped(member(0), datagram), VIEW) == Forwarded(0, datagram)


def test_it_is_for_one_life_of_one_member_and_from_one() -> None:
    octets = wrapped(member(0))
    assert member(2).unwrap(octets, VIEW) == "forged"
    assert Forwarder(KEY, 1, 12, (500, 4500), SystemEntropy()).unwrap(octets, VIEW) == "forged"
    assert Forwarder(bytes(32), 1, 11, (500, 4500), SystemEntropy()).unwrap(octets, VIEW) == "forged"
    gone = replace(VIEW, leases={1: VIEW.leases[1]})
    assert member(1).unwrap(octets, gone) == "sender has no such lease"
    later = replace(VIEW, leases={**VIEW.leases, 0: replace(VIEW.leases[0], epoch=11)})
    assert member(1).unwrap(octets, later) == "sender has no such lease"
    assert member(0).unwrap(octets, VIEW) == "malformed"
    assert member(0).wrap(0, 7, VIEW, ASKED) == "no lease"


def test_nothing_is_taken_twice() -> None:
    sender, receiver = member(0), member(1)
    sent = [wrapped(sender) for _ in range(10)]
    for octets in (sent[3], sent[0], sent[9], sent[1]):
        assert isinstance(receiver.unwrap(octets, VIEW), Forwarded)
        assert receiver.unwrap(octets, VIEW) == "replayed"
    for _ in range(WINDOW):
        last = wrapped(sender)
    assert isinstance(receiver.unwrap(last, VIEW), Forwarded)
    assert receiver.unwrap(sent[5], VIEW) == "replayed"


@given(st.data())
def test_garbage_is_named_and_leaves_no_trace(data: st.DataObject) -> None:
    receiver, octets = member(1), wrapped(member(0))
    at = data.draw(st.integers(0, len(octets) - 1))
    changed = octets[:at] + bytes([octets[at] ^ data.draw(st.integers(1, 255))]) + octets[at + 1 :]
    for garbage in (changed, octets[:at], data.draw(st.binary(max_size=100))):
        assert isinstance(receiver.unwrap(garbage, VIEW), str)
    assert isinstance(receiver.unwrap(octets, VIEW), Forwarded)


def test_how_much_is_forwarded_is_bounded() -> None:
    sender = member(0, Rate(10, 20))
    results = [sender.wrap(0, 1, VIEW, ASKED) for _ in range(50)]
    assert sum(isinstance(r, bytes) for r in results) == 20
    assert results[-1] == "limited"
    assert isinstance(sender.wrap(10**9, 1, VIEW, ASKED), bytes)
    huge = replace(ASKED, payload=bytes(MAX_PAYLOAD + 1))
    assert member(0).wrap(0, 1, VIEW, huge) == "too large"


@pytest.mark.parametrize("port", [501])
def test_another_port_is_a_mistake_of_ours(port: int) -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        member(0).wrap(0, 1, VIEW, replace(ASKED, local=Address("192.0.2.2", port)))
