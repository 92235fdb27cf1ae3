"""Policies are found by a packet's destination: always those that going through all of them would find."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from deadpeer.plane.lookup import PolicyLookup
from deadpeer.plane.policy import HoldQueue, Policy
from deadpeer.plane.selectors import OPAQUE, Flow, SelectorPair
from deadpeer.wire import TrafficSelector

Span = tuple[int, int]
LOCAL = (TrafficSelector(0, 0, 65535, ip_address("10.0.0.0"), ip_address("10.0.0.255")),)

spans = st.tuples(st.integers(0, 7), st.integers(0, 2)).map(lambda pair: (pair[0], pair[0] + pair[1]))
changes = st.lists(st.tuples(st.integers(1, 6), st.none() | st.lists(spans, min_size=1, max_size=3)))


def pair(spans: list[Span]) -> SelectorPair:
    base = int(ip_address("10.9.0.0"))
    remote = [
        TrafficSelector(0, 0, 65535, IPv4Address(base + first), IPv4Address(base + last))
        for first, last in spans
    ]
    return SelectorPair(LOCAL, remote)


def flow_to(host: int) -> Flow:
    return Flow(4, 17, int(ip_address("10.0.0.1")), int(ip_address("10.9.0.0")) + host, OPAQUE, OPAQUE)


@given(changes)
def test_the_lookup_finds_what_going_through_all_policies_finds(
    changes: list[tuple[int, list[Span] | None]],
) -> None:
    lookup, policies = PolicyLookup(), dict[int, Policy]()
    made = 0
    for number, wanted in changes:
        if wanted is None:
            if (gone := policies.pop(number, None)) is not None:
                lookup.remove(gone)
            continue
        if number not in policies:
            made += 1
            policies[number] = Policy(number, made, HoldQueue(1, 1))
        policies[number].trap = pair(wanted)
        lookup.update(policies[number])
    in_order = sorted(policies.values(), key=lambda policy: policy.order)
    for host in range(10):
        flow = flow_to(host)
        found = list(lookup.candidates(flow))
        assert found == sorted(set(found), key=lambda policy: policy.order)
        assert [p for p in found if p.choose(flow) is not None] == [
            p for p in in_order if p.choose(flow) is not None
        ]


def test_of_thousands_of_single_hosts_one_is_looked_at() -> None:
    lookup = PolicyLookup()
    for number in range(5000):
        policy = Policy(number, number, HoldQueue(1, 1))
        policy.trap = pair([(number, number)])
        lookup.update(policy)
    assert [policy.number for policy in lookup.candidates(flow_to(4321))] == [4321]
    assert list(lookup.candidates(flow_to(5001))) == []


def test_a_policy_that_lost_what_it_had_is_no_candidate() -> None:
    lookup, policy = PolicyLookup(), Policy(1, 1, HoldQueue(1, 1))
    policy.trap = pair([(1, 1), (2, 4)])
    lookup.update(policy)
    assert list(lookup.candidates(flow_to(1))) == list(lookup.candidates(flow_to(3))) == [policy]
    policy.trap = pair([(1, 1)])
    lookup.update(policy)
    assert (list(lookup.candidates(flow_to(1))), list(lookup.candidates(flow_to(3)))) == ([policy], [])
    policy.trap = None
    lookup.update(policy)
    assert list(lookup.candidates(flow_to(1))) == []
