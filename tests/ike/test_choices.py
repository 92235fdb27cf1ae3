"""Pure choices: the collision table, all of it, and the narrowing of traffic selectors."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crypto import SeededEntropy
from deadpeer.ike.collision import (
    TABLE,
    Decision,
    Incoming,
    Own,
    decide,
    ours_is_redundant,
    retry_after_s,
)
from deadpeer.ike.selectors import covers, intersect, narrow, resolve, text, within
from deadpeer.wire import TrafficSelector

# --- collisions (RFC 7296 section 2.25) ------------------------------------------------------------------

P, T, R, A = (
    Decision.PROCEED,
    Decision.TEMPORARY_FAILURE,
    Decision.PROCEED_AS_RIVAL,
    Decision.ACKNOWLEDGE,
)


def rfc(own: Own, incoming: Incoming) -> Decision:
    """The rules of section 2.25 as sentences, in its order, written apart from the table."""
    about_this_child = own in (Own.REKEY_THIS_CHILD, Own.DELETE_THIS_CHILD)
    touches_children = about_this_child or own in (
        Own.CREATE_CHILD, Own.REKEY_OTHER_CHILD, Own.DELETE_OTHER_CHILD,
    )  # fmt: skip
    if incoming is Incoming.DELETE_IKE:
        return P  # "reply as usual", whatever we were about to do
    if incoming is Incoming.DELETE_CHILD:
        # 2.25.1: being deleted by both: "reply without a Delete payload"; being rekeyed: "as usual"
        return A if own is Own.DELETE_THIS_CHILD else P
    if own is Own.DELETE_IKE:
        return T  # 2.25.2: "currently trying to close"
    if incoming is Incoming.REKEY_IKE:
        # 2.25.2: while creating, rekeying or closing children of it, TEMPORARY_FAILURE
        return R if own is Own.REKEY_IKE else T if touches_children else P
    if own is Own.REKEY_IKE:
        return T  # 2.25.2: a request for a child while we rekey the IKE SA
    if incoming is Incoming.REKEY_CHILD and about_this_child:
        return R if own is Own.REKEY_THIS_CHILD else T  # 2.25.1
    return P


@pytest.mark.parametrize("own", Own)
@pytest.mark.parametrize("incoming", Incoming)
def test_every_collision_is_decided_as_the_rfc_says(own: Own, incoming: Incoming) -> None:
    assert decide(own, incoming) is rfc(own, incoming)


def test_the_table_is_complete() -> None:
    assert set(TABLE) == {(own, incoming) for own in Own for incoming in Incoming}


NONCES = st.binary(min_size=16, max_size=32)


@given(st.tuples(NONCES, NONCES), st.tuples(NONCES, NONCES))
def test_of_two_rivals_exactly_one_is_redundant(a: tuple[bytes, bytes], b: tuple[bytes, bytes]) -> None:
    if min(a) != min(b):
        assert ours_is_redundant(a, b) != ours_is_redundant(b, a)
    lowest = min(*a, *b)
    if lowest not in b:
        assert ours_is_redundant(a, b)


def test_nonces_compare_octet_by_octet() -> None:
    low, high = b"\x00" * 16, b"\xff" * 16
    assert ours_is_redundant((high, low), (b"\x01" * 16, high))
    assert not ours_is_redundant((b"\x01" * 16, high), (high, low))
    assert ours_is_redundant((low, high), (low + b"\0", high)), "a prefix is lower"


def test_retries_after_temporary_failure_are_spread() -> None:
    entropy = SeededEntropy(b"retry")
    delays = [retry_after_s(entropy) for _ in range(500)]
    assert 1.0 <= min(delays) < 1.1
    assert 2.9 < max(delays) <= 3.0


# --- traffic selectors (section 2.9) ---------------------------------------------------------------------

OPAQUE = (65535, 0)
PORTS = st.one_of(
    st.just((0, 65535)),
    st.just(OPAQUE),
    st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda t: (min(t), max(t))),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda t: (min(t), max(t))),
)
PROTOCOLS = st.sampled_from([0, 0, 1, 6, 17, 58])


def addresses(kind: type, bits: int) -> st.SearchStrategy[tuple[object, object]]:
    number = st.one_of(st.integers(0, 12), st.integers(0, 2**bits - 1))
    return st.tuples(number, number).map(lambda t: (kind(min(t)), kind(max(t))))


@st.composite
def selectors(draw: st.DrawFn, versions: tuple[int, ...] = (4, 6)) -> TrafficSelector:
    version = draw(st.sampled_from(versions))
    start, end = draw(addresses(IPv4Address, 32) if version == 4 else addresses(IPv6Address, 128))
    protocol, ports = draw(PROTOCOLS), draw(PORTS)
    return TrafficSelector(protocol, *ports, start, end)  # type: ignore[arg-type]


LISTS = st.lists(selectors(), min_size=1, max_size=5)


def matches(selector: TrafficSelector, protocol: int, port: int | None, address: object) -> bool:
    """Whether a packet (port None: it has none that can be seen, as a fragment) fits: the meaning."""
    if type(address) is not type(selector.start) or not selector.start <= address <= selector.end:  # type: ignore[operator]
        return False
    if selector.ip_protocol not in (0, protocol):
        return False
    first, last = selector.start_port, selector.end_port
    if (first, last) == (0, 65535):
        return True
    return port is None if (first, last) == OPAQUE else port is not None and first <= port <= last


PACKETS = st.tuples(
    st.sampled_from([1, 6, 17, 58]),
    st.one_of(st.none(), st.integers(0, 10), st.integers(0, 65535)),
    st.one_of(
        st.integers(0, 14).map(IPv4Address),
        st.integers(0, 2**32 - 1).map(IPv4Address),
        st.integers(0, 14).map(IPv6Address),
    ),
)


@given(selectors(), selectors(), PACKETS)
def test_an_intersection_matches_what_both_match(
    a: TrafficSelector, b: TrafficSelector, packet: tuple[int, int | None, object]
) -> None:
    both = intersect(a, b)
    assert (both is not None and matches(both, *packet)) == (matches(a, *packet) and matches(b, *packet))


@given(selectors(), selectors())
def test_intersecting_is_symmetric_idempotent_and_within_both(a: TrafficSelector, b: TrafficSelector) -> None:
    assert intersect(a, b) == intersect(b, a)
    assert intersect(a, a) == a
    both = intersect(a, b)
    if both is not None:
        assert covers(a, both)
        assert covers(b, both)
        assert intersect(both, a) == both
    assert covers(a, b) == (both == b)


@given(LISTS, LISTS, PACKETS)
def test_narrowing_keeps_exactly_what_both_lists_match(
    offered: list[TrafficSelector], configured: list[TrafficSelector], packet: tuple[int, int | None, object]
) -> None:
    kept = narrow(offered, configured)
    both = any(matches(s, *packet) for s in offered) and any(matches(s, *packet) for s in configured)
    assert any(matches(s, *packet) for s in kept) == both


@given(LISTS, LISTS)
def test_what_is_narrowed_lies_within_both_and_narrowing_again_changes_nothing(
    offered: list[TrafficSelector], configured: list[TrafficSelector]
) -> None:
    kept = narrow(offered, configured)
    if kept:
        assert within(kept, offered)
        assert within(kept, configured)
    assert set(narrow(kept, configured)) == set(kept)
    assert set(narrow(configured, offered)) == set(kept), "both sides come to the same"
    assert not any(covers(a, b) for a in kept for b in kept if a is not b), "none is redundant"


def test_nothing_is_not_within_anything() -> None:
    some = TrafficSelector(0, 0, 65535, IPv4Address(1), IPv4Address(2))
    assert not within((), (some,))
    assert not within((some,), ())


def test_dynamic_stands_for_the_outer_address() -> None:
    fixed = TrafficSelector(6, 80, 80, IPv4Address("10.0.0.0"), IPv4Address("10.0.0.255"))
    found = resolve((None, fixed), "2001:db8::1")
    outer = IPv6Address("2001:db8::1")
    assert found == (TrafficSelector(0, 0, 65535, outer, outer), fixed)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ((0, 0, 65535, "10.0.0.0", "10.0.0.255"), "10.0.0.0/24"),
        ((0, 0, 65535, "10.0.0.1", "10.0.0.9"), "10.0.0.1-10.0.0.9"),
        ((0, 0, 65535, "10.0.0.1", "10.0.0.1"), "10.0.0.1"),
        ((17, 0, 65535, "10.0.0.1", "10.0.0.1"), "10.0.0.1[17]"),
        ((6, 80, 80, "10.0.0.1", "10.0.0.1"), "10.0.0.1[6/80]"),
        ((6, 80, 90, "10.0.0.1", "10.0.0.1"), "10.0.0.1[6/80-90]"),
        ((1, 65535, 0, "10.0.0.1", "10.0.0.1"), "10.0.0.1[1/opaque]"),
        ((1, 0x0800, 0x08FF, "128.0.0.0", "191.255.255.255"), "128.0.0.0/2[1/2048-2303]"),
    ],
)
def test_selectors_are_readable(selector: tuple[int, int, int, str, str], expected: str) -> None:
    protocol, first, last, start, end = selector
    assert text(TrafficSelector(protocol, first, last, IPv4Address(start), IPv4Address(end))) == expected
