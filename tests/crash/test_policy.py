"""The one table of methods: who acts when, behind whom, on what evidence; what is known of a peer."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.crash.fakes import ALICE, BOB, FakeCore, FakeSa, at, connection

from deadpeer.crash.options import Method, PolicyOptions, QcdOptions, SirOptions, SirRole
from deadpeer.crash.policy import BEHIND_RTTS, Evidence, Policy, wait_s
from deadpeer.crash.sir_wire import VENDOR_ID
from deadpeer.ike.extension import PeerVendorIds, SaClosed, SaRekeyed, SaView
from deadpeer.values import NS_PER_S

QCD, SIR, RECONNECT, LIVENESS = Method
ALL = tuple(Method)
SILENCE, HINT, DENIAL = Evidence
RTT_S, RTO_S = 0.1, 0.3
BEHIND_S = BEHIND_RTTS * RTT_S


@pytest.mark.parametrize(
    ("method", "evidence", "configured", "available", "waits_s"),
    [
        # Alone, or with nothing stronger that this peer gives us.
        (QCD, SILENCE, ALL, ALL, 0.0),
        (SIR, HINT, ALL, (SIR, RECONNECT), 0.0),
        (SIR, HINT, (SIR,), ALL, 0.0),
        (RECONNECT, SILENCE, (RECONNECT,), ALL, 0.5),
        (RECONNECT, HINT, (RECONNECT,), ALL, 1.1 * RTT_S + RTO_S),
        (RECONNECT, DENIAL, (RECONNECT,), ALL, 1.1 * RTT_S),
        (RECONNECT, DENIAL, ALL, (RECONNECT,), 1.1 * RTT_S),
        # Two round trips behind each stronger one that is there and configured before it.
        (SIR, HINT, ALL, ALL, BEHIND_S),
        (RECONNECT, DENIAL, ALL, ALL, 1.1 * RTT_S + 2 * BEHIND_S),
        (RECONNECT, DENIAL, ALL, (QCD, RECONNECT), 1.1 * RTT_S + BEHIND_S),
        (RECONNECT, DENIAL, (QCD, RECONNECT), ALL, 1.1 * RTT_S + BEHIND_S),
        # The order is the administrator's.
        (SIR, HINT, (SIR, QCD), ALL, 0.0),
        (QCD, HINT, (SIR, QCD), ALL, BEHIND_S),
        (SIR, HINT, (RECONNECT, SIR), ALL, 0.0),
        (RECONNECT, DENIAL, (RECONNECT, SIR, QCD), ALL, 1.1 * RTT_S),
        # Not configured, not to be had, or not by a wait.
        (QCD, DENIAL, (SIR, RECONNECT), ALL, None),
        (QCD, DENIAL, ALL, (SIR, RECONNECT), None),
        (RECONNECT, DENIAL, (QCD, SIR, LIVENESS), ALL, None),
        (LIVENESS, DENIAL, ALL, ALL, None),
    ],
)
def test_when_a_method_acts(
    method: Method,
    evidence: Evidence,
    configured: tuple[Method, ...],
    available: tuple[Method, ...],
    waits_s: float | None,
) -> None:
    found = wait_s(method, evidence, configured, frozenset(available), RTT_S, RTO_S)
    assert found == (None if waits_s is None else pytest.approx(waits_s))


@given(
    st.sampled_from(ALL[:3]),
    st.sampled_from([order for n in range(1, 5) for order in permutations(ALL, n)]),
    st.frozensets(st.sampled_from(ALL)),
    st.floats(0.001, 5.0),
    st.floats(0.01, 5.0),
)
def test_more_evidence_never_waits_longer_and_a_stronger_method_never_hurries(
    method: Method, configured: tuple[Method, ...], available: frozenset[Method], rtt_s: float, rto_s: float
) -> None:
    def waits(of: frozenset[Method]) -> list[float | None]:
        return [wait_s(method, each, configured, of, rtt_s, rto_s) for each in (DENIAL, HINT, SILENCE)]

    found = waits(available)
    usable = method in configured and method in available
    assert all((each is not None) is usable for each in found)
    if usable:
        assert found == sorted(found, key=float)  # type: ignore[arg-type]
        more = waits(available | {QCD, SIR})
        assert all(a is not None and b is not None and a >= b for a, b in zip(more, found, strict=True))


@pytest.mark.parametrize(
    ("hint", "evidence"),
    [
        ("silence", SILENCE),
        ("unanswered", SILENCE),
        ("something else", SILENCE),
        ("invalid-spi", HINT),
        ("invalid-ike-spi", DENIAL),
        ("sir-nack", DENIAL),
    ],
)
def test_what_a_hint_weighs(hint: str, evidence: Evidence) -> None:
    assert Evidence.of(hint) is evidence


def sa(
    number: int = 1, role: SirRole = "auto", methods: tuple[Method, ...] = ALL, rtt_s: float | None = RTT_S
) -> SaView:
    extensions = (QcdOptions("both"), SirOptions(role), PolicyOptions(methods))
    of = replace(connection(), extensions=extensions)
    return FakeSa(  # type: ignore[return-value]
        number, of, True, b"i" * 8, b"r" * 8, ALICE, BOB, rtt_s=rtt_s, rto_s=RTO_S
    )


def policy() -> Policy:
    found = Policy()
    found.attach(at(0), FakeCore())  # type: ignore[arg-type]
    return found


ALWAYS = {RECONNECT, LIVENESS}


@pytest.mark.parametrize(
    ("role", "vendor_ids", "sir"),
    [
        ("auto", (), False),
        ("auto", (b"somebody", VENDOR_ID), True),
        ("auto", (VENDOR_ID[:-1],), False),
        ("force", (), True),
        ("force", (VENDOR_ID,), True),
        ("off", (VENDOR_ID,), False),
    ],
)
def test_sir_is_there_if_the_peer_says_so_or_we_do(
    role: SirRole, vendor_ids: tuple[bytes, ...], sir: bool
) -> None:
    known, peer = policy(), sa(role=role)
    known.observe(at(0), PeerVendorIds(peer, vendor_ids))
    assert known.available(peer) == ALWAYS | ({SIR} if sir else set())


def test_a_rekey_inherits_the_vendor_id_and_not_the_token() -> None:
    """The Vendor ID is the peer's for good; a token is that of one pair of SPIs."""
    known, old, new = policy(), sa(1), sa(2)
    known.observe(at(0), PeerVendorIds(old, (VENDOR_ID,)))
    known.learn(old, QCD)
    assert known.available(old) == set(Method)
    known.observe(at(1), SaRekeyed(old, new, True))
    assert known.available(new) == ALWAYS | {SIR}
    assert known.available(old) == set(Method)
    known.learn(new, QCD)
    assert known.available(new) == set(Method)
    known.observe(at(2), SaClosed(old, "rekeyed"))
    assert known.available(old) == ALWAYS
    assert known.counters() == {"policy.sas": 1}


def test_a_token_alone_is_inherited_by_nobody() -> None:
    known, old, new = policy(), sa(1), sa(2)
    known.learn(old, QCD)
    known.observe(at(1), SaRekeyed(old, new, True))
    assert known.available(new) == ALWAYS


def test_the_moment_counts_from_the_liveness_check() -> None:
    known, peer = policy(), sa()
    asked_ns = at(7).mono_ns

    def after_s(method: Method) -> float | None:
        found = known.act_ns(peer, method, HINT, asked_ns)
        return None if found is None else (found - asked_ns) / NS_PER_S

    assert (after_s(QCD), after_s(SIR), after_s(LIVENESS)) == (None, None, None)
    assert after_s(RECONNECT) == pytest.approx(1.1 * RTT_S + RTO_S)
    known.learn(peer, SIR)
    known.learn(peer, QCD)
    assert after_s(QCD) == 0.0
    assert after_s(SIR) == pytest.approx(BEHIND_S)
    assert after_s(RECONNECT) == pytest.approx(1.1 * RTT_S + RTO_S + 2 * BEHIND_S)


def test_before_the_first_measurement_a_round_trip_is_a_retransmission_interval() -> None:
    known, peer = policy(), sa(rtt_s=None)
    found = known.act_ns(peer, RECONNECT, DENIAL, 0)
    assert found == pytest.approx(1.1 * RTO_S * NS_PER_S)


def test_what_is_not_configured_is_not_used() -> None:
    known, peer = policy(), sa(methods=(SIR, LIVENESS))
    assert [method for method in Method if known.uses(peer, method)] == [SIR, LIVENESS]
