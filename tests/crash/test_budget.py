"""
How many new SAs unauthenticated evidence can cause, with one peer, whatever it is and whoever keeps back
what: `rebuilds_per_hour` at once and as many per hour after that. One that fails costs nothing of it, and
pauses. (Who keeps back everything for `dpd_floor` ends an SA by liveness, at most once in that time.)

    Mallory                                   Alice                              Bob (lives)
      any forged evidence             ──▶       SK{} ──▶
      keeps back                      ◀─────────────────────────────────────     SK{}, ACK, ESP
      lets through                              a new SA    ◀──────────▶
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from tests.crash.fakes import FakeCore, FakeSa, at, connection
from tests.crash.stories import (
    LATENCY_S,
    Mallory,
    denial,
    invalid_spi,
    methods,
    pair_of,
    rebuilds,
    sent,
    to_alice,
    traffic,
    verdicts,
)
from tests.support.invariants import check_one_tunnel
from tests.support.pair import Pair

from deadpeer.crash.options import CrashOptions, Method, ResumptionOptions
from deadpeer.crash.rebuilds import FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_PEERS, Rebuilds
from deadpeer.crypto import Identity
from deadpeer.ike.extension import Rebuilt, SaClosed, SaEstablished, SaRekeyed, SaView
from deadpeer.values import Address
from deadpeer.wire import Message

BUDGET = 6
KEPT_BACK = ("INFORMATIONAL response", "response again", "CHECK_SPI ACK", "CREATE_CHILD_SA response")
WAYS = {
    "sir": (Method.SIR, Method.LIVENESS),
    "reconnect": (Method.RECONNECT, Method.LIVENESS),
    "sir and reconnect": (Method.SIR, Method.RECONNECT, Method.LIVENESS),
    "all": tuple(Method),
}
EVIDENCE: dict[str, Callable[[Pair], list[Message]]] = {
    "INVALID_SPI": lambda pair: [invalid_spi(pair)],
    "INVALID_IKE_SPI": lambda pair: [denial(pair)],
    "both": lambda pair: [invalid_spi(pair), denial(pair)],
    "silence": lambda pair: [],
}


def one_sa(pair: Pair) -> bool:
    return len([sa for sa in pair.alice.ike.views() if sa.established]) == 1


def attack(pair: Pair, evidence: str, seconds: float, every_s: float, *, kept: tuple[str, ...]) -> None:
    """Forged evidence all the time; Mallory denies for Bob where he is asked, and keeps back `kept`."""
    Mallory(pair, drops=kept)
    for seq in range(int(seconds / every_s)):
        if one_sa(pair):
            for message in EVIDENCE[evidence](pair):
                pair.inject(to_alice(message))
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)
    pair.drop_rule = lambda sent: False


@pytest.mark.parametrize("resume", [False, True], ids=["full", "resumed"])
@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("way", WAYS)
def test_six_at_once_whatever_the_evidence(way: str, evidence: str, resume: bool) -> None:
    """A minute of it: with and without traffic back, each new SA is Bob's own, and a tunnel is left."""
    both = methods(*WAYS[way])
    both["extensions"] = (*both["extensions"], ResumptionOptions(enabled=resume))  # type: ignore[misc]
    pair = pair_of(both)
    attack(pair, evidence, 40.0, 0.2, kept=(*KEPT_BACK, "ESP"))
    new = pair.alice.kinds().count("ike_sa_up") - 1
    assert new <= BUDGET
    assert len(verdicts(pair)) <= new
    assert new > 0, "the attack did nothing: it tests nothing"
    traffic(pair, 10.0, 0.1)
    pair.run(90.0)
    pair.settle()
    check_one_tunnel(pair)


def test_per_hour_as_many_again() -> None:
    """Three hours without a pause: the burst, then one in ten minutes."""
    never = 1e6
    ways = {**methods(Method.RECONNECT, Method.LIVENESS), "dpd_timeout_s": never, "dpd_floor_s": never}
    pair = pair_of(ways)
    begun = []
    for _ in range(3):
        before = rebuilds(pair)
        attack(pair, "both", 3600.0, 10.0, kept=(*KEPT_BACK, "ESP"))
        begun.append(rebuilds(pair) - before)
    assert begun[0] in (2 * BUDGET - 1, 2 * BUDGET)
    assert begun[1:] == [BUDGET, BUDGET]
    times = [at for at, event in pair.alice.events if event.kind == "rebuild"]
    assert all(b - a >= 590e9 for a, b in pairwise(times[BUDGET + 1 :]))
    traffic(pair, 5.0, 0.1)
    pair.run(60.0)
    pair.settle()
    check_one_tunnel(pair)


def test_liveness_ends_an_sa_once_in_its_floor_at_most() -> None:
    """Everything of Bob's is kept back for ten minutes, but for IKE_SA_INIT and IKE_AUTH."""
    pair = pair_of(methods(Method.LIVENESS))
    attack(pair, "both", 600.0, 1.0, kept=(*KEPT_BACK, "ESP"))
    assert set(verdicts(pair)) == {"liveness"}
    assert len(verdicts(pair)) <= 600 / 60
    times = [at for at, event in pair.alice.events if event.kind == "verdict"]
    assert all(b - a >= 60e9 for a, b in pairwise(times))


def test_the_budget_is_the_peer_s_not_the_sa_s_and_survives_rekeys() -> None:
    """A smaller one, to see that it is read: none at all means that nobody can force anything."""
    for budget in (0.0, 1.0, 3.0):
        pair = pair_of(
            methods(Method.SIR, Method.RECONNECT, Method.LIVENESS),
            options=CrashOptions(rebuilds_per_hour=budget),
        )
        attack(pair, "both", 30.0, 0.2, kept=KEPT_BACK)
        # One that is given up, because Bob was heard after it was begun, was paid for.
        assert rebuilds(pair) == budget
        new = pair.alice.kinds().count("ike_sa_up") - 1
        assert budget - 1 <= new <= budget
        assert len(verdicts(pair)) == new
        assert "rebuild_refused" in pair.alice.kinds()


@pytest.mark.parametrize("way", ["sir", "reconnect"])
def test_new_sas_that_fail_pause_ever_longer_and_cost_nothing(way: str) -> None:
    """
    Mallory lets nothing of the new SA through either: one attempt, then a pause that doubles, up to a minute,
    for as long as the old SA stands.
    """
    pair = Pair.with_psk(
        latency_s=LATENCY_S,
        both={**methods(*WAYS[way]), "dpd_timeout_s": 7200.0, "dpd_floor_s": 7200.0},
    )
    pair.up()
    traffic(pair, 0.5)
    Mallory(pair, drops=(*KEPT_BACK, "ESP", "IKE_SA_INIT response"))
    for _ in range(600):
        if one_sa(pair):
            pair.inject(to_alice(denial(pair)))
            pair.inject(to_alice(invalid_spi(pair)))
        pair.run(2.0)
    begun = [at / 1e9 for at, event in pair.alice.events if event.kind == "rebuild"]
    gaps = [b - a for a, b in pairwise(begun)]
    round_s = 60.0  # one round of IKE_SA_INIT
    assert len(begun) <= 2 + 1200.0 / round_s
    assert all(gap >= round_s + FIRST_PAUSE_S - 0.1 for gap in gaps)
    assert gaps[0] < round_s + 5.0 < round_s + LONGEST_PAUSE_S <= gaps[-1]
    assert max(gaps) <= round_s + LONGEST_PAUSE_S + 15.0
    # One question a second at most, while one is under way.
    assert sent(pair, "IKE_SA_INIT request") + sent(pair, "retransmission") <= 3 * 1200
    assert verdicts(pair) == []
    # Nothing was charged: the burst is all there when the way is free again.
    pair.drop_rule = lambda sent: False
    pair.run(130.0)
    traffic(pair, 5.0, 0.1)
    assert pair.ping()


class Core(FakeCore):
    """Whose new SAs are always being built, one beside each, and too far to be given up."""

    def __init__(self) -> None:
        super().__init__()
        self.building: set[int] = set()
        self.dismissed: list[int] = []

    def rebuild(self, now: object, sa: FakeSa, reason: str, host: str | None = None) -> bool:
        begun = sa.number not in self.building
        self.building.add(sa.number)
        return begun

    def abandon_rebuild(self, now: object, sa: FakeSa, reason: str) -> None:
        pass

    def dismiss(self, now: object, sa: FakeSa, reason: str) -> None:
        self.dismissed.append(sa.number)


def budget(options: CrashOptions | None = None) -> Rebuilds:
    rebuilds = Rebuilds(options or CrashOptions())
    rebuilds.attach(at(0), Core())  # type: ignore[arg-type]
    return rebuilds


def suspect(number: int, name: str = "peer") -> SaView:
    """One of any number of SAs of a connection's peer."""
    sa = FakeSa(number, connection(name), True, b"i" * 8, b"r" * 8, Address("a", 1), Address("b", 2))
    sa.remote_identity = None  # type: ignore[attr-defined]
    return sa  # type: ignore[return-value]


def test_what_is_under_way_is_spoken_for() -> None:
    """A peer with twenty SAs, all suspected in one moment: six new ones; those that fail give it back."""
    rebuilds = budget()
    sas = [suspect(number) for number in range(20)]
    begun = [sa for sa in sas if rebuilds.begin(at(0), sa, "test")]
    assert len(begun) == BUDGET
    assert rebuilds.begin(at(0), suspect(99, "another"), "test")
    for sa in begun:
        rebuilds.failed(at(0), sa)
        rebuilds.core.building.clear()  # type: ignore[attr-defined]
    again = [sa for sa in sas if rebuilds.begin(at(0), sa, "test")]
    assert len(again) == BUDGET
    for sa in again:
        rebuilds.done(at(0), sa)
    assert not any(rebuilds.begin(at(1), sa, "test") for sa in sas)
    assert rebuilds.counters()["rebuilds.under_way"] == 1


def test_the_budget_s_tables_are_bounded() -> None:
    rebuilds = budget()
    for number in range(MAX_PEERS + 100):
        sa = suspect(number, f"c{number}")
        assert rebuilds.begin(at(0), sa, "test")
        rebuilds.done(at(0), sa)
    assert rebuilds.counters()["rebuilds.budgets"] <= MAX_PEERS


def test_an_sa_that_was_called_off_too_late_replaces_the_old_one_in_any_case() -> None:
    """
    The new SA's IKE_AUTH is out when the old one answers. A further suspicion, which can have no new SA built
    while that one is, does not make it forgotten: when it comes up, one of the two goes.
    """
    rebuilds = budget()
    old, new = suspect(1), suspect(2)
    assert rebuilds.begin(at(0), old, "test")
    rebuilds.call_off(at(1), old, "the peer lives")
    assert not rebuilds.begin(at(2), old, "test")
    rebuilds.observe(at(3), Rebuilt(old, new))
    assert rebuilds.core.dismissed == [1]  # type: ignore[attr-defined]


def test_a_rekey_makes_no_sa_younger() -> None:
    """The older of two is rekeyed: the other is the newer one still."""
    rebuilds = budget()
    old, new, heir = suspect(1), suspect(2), suspect(3)
    for sa in (old, new):
        sa.remote_identity = Identity.parse("bob")  # type: ignore[misc]
        rebuilds.observe(at(0), SaEstablished(sa))
    heir.remote_identity = Identity.parse("bob")  # type: ignore[misc]
    rebuilds.observe(at(1), SaRekeyed(old, heir, True))
    rebuilds.observe(at(1), SaClosed(old, "rekeyed"))
    assert rebuilds.sibling(heir) is new
    assert rebuilds.sibling(new) is None
