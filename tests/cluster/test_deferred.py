"""What could not be answered when it came is answered when the owner's end is known, and not before."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from tests.crash.fakes import protected_request
from tests.support.fates import GENEROUS, QCD, SIR
from tests.support.fleet import VIP, Fleet
from tests.support.mallory import MALLORY, Mallory
from tests.support.simstore import S

from deadpeer.cluster.store import Txn
from deadpeer.crash.options import CrashOptions
from deadpeer.values import Address, Datagram

SHORT_S = 0.1
"""News of the store under way to a member, and a datagram to a client: no packet to wait for."""


def counts(fleet: Fleet) -> Counter[str]:
    """What became of the questions of all members."""
    return sum((gateway.unanswered.counters for gateway in fleet.gateways), Counter())


def end_of_the_owner(fleet: Fleet) -> int:
    """Let time pass until the end of member 0 is written; when that was, true time, ns."""
    for _ in range(4000):
        if 0 in fleet.over_ns:
            return fleet.now_ns
        fleet.run(0.005)
    raise AssertionError("nobody wrote it off")


def verdict_ns(fleet: Fleet, client: int) -> int:
    """When this client held a verdict, true time, ns."""
    events = fleet.clients[client].node.events
    return next(at_ns - 5000 * S for at_ns, event in events if event.kind == "verdict")


def asked_and_silent(fleet: Fleet, asks_s: float = 2.0) -> None:
    """Member 0 dies, its clients are brought to others at once, and ask there; then they wait."""
    fleet.gateways[0].crash()
    fleet.evacuate()
    fleet.traffic(asks_s, 0.5)


@pytest.mark.parametrize("forwards", [True, False])
def test_the_token_comes_when_the_owners_end_is_written(forwards: bool) -> None:
    """
    A client's host sends for a moment after member 0 died, and never again; its liveness check is repeated
    ever more rarely:

      client                     member 1                  etcd
        │ liveness request ─────▶│ of 0, which may live      │
        │ ... again ────────────▶│ remembered                │
        │                        │                           │ 0's lease runs out
        │                        │◀──────── ended(0) = 1 ────│
        │◀── INVALID_IKE_SPI, ───│ the question, once more   │
        │    token               │                           │
    """
    took_s: dict[bool, list[float]] = {True: [], False: []}
    for defers, late_s in product((True, False), (0.0, 0.25, 0.5, 0.75)):
        fleet = Fleet(1, members=3, clients=6, extensions=QCD)
        for gateway in fleet.gateways:
            gateway.forwards, gateway.defers = forwards, defers
        fleet.up()
        fleet.traffic(late_s)
        asked_and_silent(fleet)
        assert fleet.told == 0
        over_ns = end_of_the_owner(fleet)
        fleet.run(10.0)
        took_s[defers] += [(verdict_ns(fleet, client) - over_ns) / S for client in (0, 3)]
        assert fleet.flows() == [True] * 6
        assert [c.verdicts() for c in fleet.clients] == [["qcd-token"], [], [], ["qcd-token"], [], []]
        assert fleet.violations == []
        assert (counts(fleet)["taken up"] > 0) == defers
    assert max(took_s[True]) < SHORT_S
    assert max(took_s[False]) > 4 * SHORT_S


def test_a_denial_comes_when_the_owners_end_is_written() -> None:
    """SIR: CHECK_SPI is a question as well."""
    fleet = Fleet(9, members=3, clients=3, extensions=SIR).up()
    fleet.gateways[0].crash()
    fleet.evacuate()
    fleet.traffic(3.0)
    assert fleet.told == 0
    end_of_the_owner(fleet)
    fleet.run(SHORT_S)
    assert fleet.witness.counts["NACK"] > 0
    fleet.traffic(3.0)
    assert fleet.clients[0].verdicts() == ["sir"]
    assert fleet.violations == []


def test_of_an_owner_that_was_only_cut_off_nothing_is_ever_said() -> None:
    """It lost its lease, nobody could write that down in time, and it goes on with its life."""
    fleet = Fleet(2, members=3, clients=3, extensions=QCD).up()
    owner = fleet.gateways[0]
    for other in fleet.gateways[1:]:
        other.mute = (Txn,)
    owner.cut_off = True
    fleet.rebalance(fleet.clients[0].host, 1)
    fleet.traffic(8.0)
    assert not owner.serves and len(fleet.gateways[1].unanswered) > 0
    fleet.heal(owner)
    fleet.run(4.0)
    assert owner.serves and owner.lives == [1]
    fleet.heal()
    fleet.traffic(12.0)
    assert fleet.told == 0 and counts(fleet)["taken up"] == 0
    assert [c.verdicts() for c in fleet.clients] == [[], [], []]
    assert fleet.flows() == [True] * 3
    assert fleet.violations == []


def test_the_owner_is_fenced_and_written_off_and_comes_back() -> None:
    """Its SAs are over when it is told so; who asked in its place hears it at once, from the other one."""
    fleet = Fleet(3, members=3, clients=3, extensions=QCD).up()
    owner = fleet.gateways[0]
    owner.cut_off = True
    fleet.rebalance(fleet.clients[0].host, 1)
    fleet.traffic(3.0, 0.5)
    over_ns = end_of_the_owner(fleet)
    fleet.run(1.0)
    assert verdict_ns(fleet, 0) - over_ns < SHORT_S * S
    fleet.heal()
    fleet.traffic(3.0)
    assert owner.serves and owner.lives == [1, 2]
    assert fleet.flows() == [True] * 3
    assert fleet.clients[0].verdicts() == ["qcd-token"]
    assert fleet.violations == []


@pytest.mark.parametrize(("away_s", "told"), [(1.0, True), (30.0, False)])
def test_who_is_stopped_when_the_end_is_written_says_nothing_before_its_own_fence_is_open(
    away_s: float, told: bool
) -> None:
    """It goes on, learns of the end, and takes up only what is not too old."""
    fleet = Fleet(4, members=3, clients=3, extensions=QCD).up()
    asked_and_silent(fleet)
    speaker = fleet.gateways[fleet.table[fleet.clients[0].host]]
    end_of_the_owner(fleet)
    assert fleet.gateways[0].lives == [1] and counts(fleet)["taken up"] == 0
    speaker.frozen = True
    said = speaker.sent
    fleet.run(away_s)
    assert speaker.sent == said
    speaker.thaw()
    fleet.run(1.0)
    assert (speaker.unanswered.counters["taken up"] > 0) == told
    assert fleet.violations == []


def test_a_life_that_ends_forgets_what_it_was_asked() -> None:
    fleet = Fleet(5, members=3, clients=3, extensions=QCD).up()
    asked_and_silent(fleet)
    asked = fleet.gateways[fleet.table[fleet.clients[0].host]]
    assert len(asked.unanswered) > 0
    asked.crash()
    assert len(asked.unanswered) == 0


def test_what_another_member_hands_over_is_for_us_and_not_remembered() -> None:
    fleet = Fleet(6, members=3, clients=3, extensions=QCD).up()
    fleet.rebalance(fleet.clients[0].host, 1)
    fleet.traffic(2.0)
    owner, other = fleet.gateways[:2]
    assert len(other.unanswered) > 0 and len(owner.unanswered) == 0
    assert fleet.flows() == [True] * 3


def test_an_orderly_end_is_answered_too() -> None:
    """The owner gives its lease back, and its DELETEs are lost."""
    fleet = Fleet(7, members=3, clients=3, extensions=QCD).up()
    fleet.rebalance(fleet.clients[0].host, 1)
    owner = fleet.gateways[0]
    fleet.traffic(2.0, 0.5)
    assert owner.process is not None
    owner.process.leave(owner.clock_ns(), fleet.unix_s)
    owner.step(None)
    owner.crash()
    over_ns = end_of_the_owner(fleet)
    fleet.run(1.0)
    assert verdict_ns(fleet, 0) - over_ns < SHORT_S * S
    assert fleet.violations == []


def test_what_the_limits_do_not_allow_at_once_comes_a_little_later() -> None:
    """Nine clients of the dead member, and tokens for two at once and ten a second."""
    options = CrashOptions(boot_factor=1.0, total_rate=10.0, total_burst=2.0, esp_rate=1.0, esp_burst=1.0)
    fleet = Fleet(8, members=2, clients=18, extensions=QCD, options=options).up()
    asked_and_silent(fleet)
    over_ns = end_of_the_owner(fleet)
    fleet.run(3.0)
    mine = [client for client in range(18) if client % 2 == 0]
    assert max(verdict_ns(fleet, client) - over_ns for client in mine) < 1.5 * S
    assert counts(fleet)["taken up again"] >= 7
    assert fleet.violations == []


def test_all_that_waited_are_told_within_the_moment_however_many_they_are() -> None:
    """Fifteen hundred clients of the dead member, long after the other one's own boot."""
    fleet = Fleet(5, members=2, clients=0, extensions=QCD).up()
    dead, asked = fleet.gateways
    assert dead.life is not None and asked.node is not None
    fleet.run(fleet.options.boot_window_s)
    spis = {dead.life.spis.ike_spi() for _ in range(1500)}
    dead.crash()
    for number, spi in enumerate(sorted(spis)):
        request = protected_request(b"of peer!", spi, from_initiator=True)
        host = f"203.0.{number >> 8}.{number & 255}"
        asked.arrive(Datagram(request, Address(VIP, 500), Address(host, 500)))
    end_of_the_owner(fleet)
    assert fleet.witness.counts["token"] == 0
    fleet.run(SHORT_S)
    assert fleet.witness.counts["token"] == len(spis)
    assert counts(fleet) == {"remembered": len(spis), "taken up": len(spis)}
    assert fleet.violations == []


def test_who_replays_a_question_gets_what_it_would_get_by_asking_then() -> None:
    """The last question about an SPI counts. Who has seen it, and sends it from his own address after that,
    hears the token of a dead SA, as he would if he asked later; the client hears it with its next packet, as
    if nothing had been remembered. One answer for each SPI, at most three times as large as the question.
    """
    fleet = Fleet(1, members=3, clients=3, extensions=QCD, options=GENEROUS).up()
    mallory = Mallory(fleet)
    answers: list[Datagram] = []
    fleet.listeners.append(lambda d: answers.append(d) if d.remote.host == MALLORY else None)
    asked_and_silent(fleet)
    host = fleet.clients[0].host
    speaker = fleet.gateways[fleet.table[host]]
    (question,) = [payload for payload, client in mallory.requests.values() if client.host == host]
    while 0 not in fleet.over_ns:
        assert answers == [] and fleet.told == 0
        for port in range(10):
            speaker.arrive(Datagram(question, Address(VIP, 4500), Address(MALLORY, 4000 + port)))
        fleet.run(0.02)
    fleet.run(SHORT_S)
    assert len(answers) == 1
    assert len(answers[0].payload) <= 3 * len(question)
    fleet.traffic(1.0)
    assert fleet.clients[0].verdicts() == ["qcd-token"]
    assert fleet.violations == []


def test_who_takes_questions_up_too_early_is_silent_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered decides nothing: taken up at all news, of whomever, it meets the same rules."""
    monkeypatch.setattr("deadpeer.cluster.unanswered.may_speak", lambda *_: True)
    fleet = Fleet(2, members=4, clients=4, extensions=QCD).up()
    for gateway in fleet.gateways:
        gateway.forwards = False
    for client in fleet.clients:
        fleet.rebalance(client.host, (fleet.table[client.host] + 1) % 4)
    fleet.traffic(2.0)
    for gateway in fleet.gateways:
        gateway.unanswered.look(range(4))
        gateway.wake()
    fleet.run(2.0)
    assert counts(fleet)["taken up"] >= 4
    assert fleet.told == 0 and fleet.violations == []
