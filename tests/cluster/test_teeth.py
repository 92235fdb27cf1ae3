"""The witness has teeth: with a rule of safety switched off, some seed of few finds a violation.

`TEETH` are rules that random lives need: each is switched off by itself. `SECOND_LINES` are pairs of rules of
which each one covers for the other in them: with one off nothing is found, with both off it is found at once.
What random lives hardly ever meet is told as stories at the end.

Not here, as in a store with etcd's guarantees nothing makes it matter, or as no random life hits it:

- a fence that closed by itself opens only after a read (an etcd before 3.4.31), a life that was fenced while
  the store was restored is over, and the most cautious reading of an SPI that passes under two keys (one in
  65,536): test_corners.py
- an SPI that is only offered: tests/crash/test_rekey_reservation.py
- the margin for drift as such, which is milliseconds: test_fence.py, test_calibration.py
- the transactions of a write-off and of going on name the revisions of the record *and* of the lease:
  whatever changes one of them changes the other, so that each of the two is a second line
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from tests.support.fates import GENEROUS, QCD, befall, draw
from tests.support.fleet import Fleet
from tests.support.mallory import Mallory

from deadpeer.cluster import fence, membership, ownership, steps
from deadpeer.cluster.ownership import Ruling, Standing, rule
from deadpeer.cluster.records import Keys, View, write_member
from deadpeer.cluster.secrets import KeyKind
from deadpeer.cluster.spi import SpiOrigin
from deadpeer.cluster.steps import Self, Step
from deadpeer.cluster.store import Put, Txn
from deadpeer.crash import sir_responder, strangers, tokens
from deadpeer.crash.limiter import Kind
from deadpeer.crash.sir_wire import Check
from deadpeer.crash.tokens import MakerRole
from deadpeer.ike.io import Initiate, Lose, Rekey
from deadpeer.ike.table import SaTable
from deadpeer.wire import Protocol

Off = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Tooth:
    """`off` switches a rule off. `events`: what befalls; `members`: fewest and most."""

    rule: str
    off: Off
    events: Sequence[str]
    members: tuple[int, int] = (2, 4)
    restores: bool = False


def found(tooth: Tooth, seeds: int, rounds: int = 10) -> list[str]:
    """The violations of the first seed that has some."""
    for seed in range(seeds):
        fate = draw(seed, tooth.members)
        fate.restores = tooth.restores
        try:
            befall(fate, rounds, tooth.events)
        except AssertionError:
            if fate.fleet.violations:
                return fate.fleet.violations
            raise
    return []


# --- rules, and how to do without -----------------------------------------------------------------------


def fence_stays_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fence.Margin, "usable_s", lambda self, ttl_s, *rate: 3 * ttl_s)


def write_off_the_leased(patch: pytest.MonkeyPatch) -> None:
    """Who has not renewed within the last moment is taken for dead, lease or not."""

    def write_off(view: View, keys: Keys, me: Self, known_s: float) -> Step | None:
        for number, record in sorted(view.members.items()):
            if number != me.config.number and record.ended < record.registered and known_s > 12:
                over = replace(record, ended=record.registered)
                put = Put(keys.member(number), write_member(over))
                return Step("write off", Txn(((put.key, record.revision),), (put,)))
        return None

    patch.setattr(steps, "_write_off_step", write_off)


def go_on_though_over(patch: pytest.MonkeyPatch) -> None:
    """Going on does not ask whether somebody has written this life off."""

    def step(view: View, me: Self, *args: object, **more: object) -> Step | None:
        mine = view.members.get(me.config.number)
        if mine is not None and mine.registered == me.epoch:
            mine = replace(mine, ended=me.epoch - 1)
            view = replace(view, members={**view.members, me.config.number: mine})
        return _next_step(view, me, *args, **more)  # type: ignore[arg-type]

    patch.setattr(membership, "next_step", step)


def take_a_number_from_another_machine(patch: pytest.MonkeyPatch) -> None:
    def step(view: View, me: Self, *args: object, **more: object) -> Step | None:
        lease = view.leases.get(me.config.number)
        if lease is not None:
            lease = replace(lease, machine=me.config.machine)
            view = replace(view, leases={**view.leases, me.config.number: lease})
        return _next_step(view, me, *args, **more)  # type: ignore[arg-type]

    patch.setattr(membership, "next_step", step)


def no_doubt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(steps, "DOUBT_TTLS", 0)


def what_is_not_registered_has_ended(patch: pytest.MonkeyPatch) -> None:
    """An epoch above the registered one counts as over, like those below it."""

    def of_origin(self: ownership.Cluster, origin: SpiOrigin) -> Standing:
        record = self.view.members.get(origin.member)
        if origin.member != self._member and record is not None and origin.epoch > record.registered:
            return Standing.ENDED
        return _of_origin(self, origin)

    patch.setattr(ownership.Cluster, "_of_origin", of_origin)


def who_is_not_known_has_ended(patch: pytest.MonkeyPatch) -> None:
    def of_origin(self: ownership.Cluster, origin: SpiOrigin) -> Standing:
        known = origin.member == self._member or origin.member in self.view.members
        return _of_origin(self, origin) if known else Standing.ENDED

    patch.setattr(ownership.Cluster, "_of_origin", of_origin)


def invalid_spi_for_all(patch: pytest.MonkeyPatch) -> None:
    def of_esp(self: ownership.Cluster, spi: int) -> Standing:
        standing = _of_esp(self, spi)
        return Standing.ENDED if standing is Standing.LIVING else standing

    patch.setattr(ownership.Cluster, "of_esp", of_esp)


def deny_children_of_others(patch: pytest.MonkeyPatch) -> None:
    """SIR's NACK about an ESP SPI of a member whose lives have all ended, as far as is known."""

    def kind(self: sir_responder.SirResponder, check: Check) -> Kind | None:
        subject, standing = check.subject, None
        if subject.protocol == Protocol.ESP:
            standing = self._ownership.of_esp(int.from_bytes(subject.spi, "big"))
        return Kind.CHECK_ESP if standing is Standing.ENDED else _kind(self, check)

    patch.setattr(sir_responder.SirResponder, "_kind", kind)


def look_at_one_spi(patch: pytest.MonkeyPatch) -> None:
    _rule(patch, lambda own, other: rule(own, Standing.UNKNOWN, alone=False))


def answer_about_unknown(patch: pytest.MonkeyPatch) -> None:
    """An SPI of nobody's is answered, as a gateway that is alone may, and with a token."""
    _rule(
        patch,
        lambda own, other: (
            Ruling.RETURNING
            if own is Standing.UNKNOWN and other is not Standing.LIVING
            else rule(own, other, alone=False)
        ),
    )


def answer_about_unknown_and_look_at_one_spi(patch: pytest.MonkeyPatch) -> None:
    _rule(
        patch,
        lambda own, other: (
            Ruling.RETURNING if own is Standing.UNKNOWN else rule(own, Standing.UNKNOWN, alone=False)
        ),
    )


def forget_ones_own_table(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SaTable, "alive", lambda self, spi: False)


def forget_ones_own_table_and_answer_about_unknown(patch: pytest.MonkeyPatch) -> None:
    forget_ones_own_table(patch)
    answer_about_unknown(patch)


def one_token_for_both_roles(patch: pytest.MonkeyPatch) -> None:
    """The token of a role that the asker did not name."""

    def recompute(generations: object, methods: object, role: MakerRole, *more: object) -> list[bytes]:
        return _recompute(generations, methods, MakerRole.RESPONDER, *more)  # type: ignore[arg-type]

    patch.setattr(strangers, "recompute", recompute)


# --- random lives ---------------------------------------------------------------------------------------

TEETH = (
    Tooth("the fence closes before the lease", fence_stays_open, ("cut off", "rebalance")),
    Tooth("written off is who has no lease", write_off_the_leased, ("rebalance", "crash")),
    Tooth("going on and being written off exclude each other", go_on_though_over, ("cut off", "heal")),
    Tooth(
        "a number is another machine's until its lease ends", take_a_number_from_another_machine, ("replace",)
    ),
    Tooth(
        "nobody takes a number in doubt", no_doubt, ("cut off", "replace", "restore", "heal"), restores=True
    ),
    Tooth(
        "an epoch above the registered one is never over",
        what_is_not_registered_has_ended,
        ("crash", "rekey"),
    ),
    Tooth("who has no record may live", who_is_not_known_has_ended, ("restore", "cut off"), restores=True),
    Tooth("INVALID_SPI is for children of ended lives", invalid_spi_for_all, ("rebalance",)),
)
SEEDS = 40


@pytest.mark.parametrize("tooth", TEETH, ids=lambda tooth: tooth.rule)
def test_without_this_rule_a_seed_finds_a_violation(tooth: Tooth, monkeypatch: pytest.MonkeyPatch) -> None:
    tooth.off(monkeypatch)
    assert found(tooth, SEEDS)


SECOND_LINES = (
    (look_at_one_spi, answer_about_unknown, answer_about_unknown_and_look_at_one_spi),
    (forget_ones_own_table, answer_about_unknown, forget_ones_own_table_and_answer_about_unknown),
)


@pytest.mark.parametrize("rules", SECOND_LINES, ids=lambda rules: rules[0].__name__)
def test_of_two_rules_each_covers_for_the_other(
    rules: tuple[Off, Off, Off], monkeypatch: pytest.MonkeyPatch
) -> None:
    *alone, both = rules
    for off in alone:
        with monkeypatch.context() as patch:
            off(patch)
            assert found(Tooth("one of two", off, ("rebalance", "rekey")), 2, 4) == []
    both(monkeypatch)
    assert found(Tooth("both", both, ("rebalance", "rekey")), SEEDS)


# --- stories --------------------------------------------------------------------------------------------


def watched(seed: int, clients: int = 3) -> tuple[Fleet, Mallory]:
    fleet = Fleet(seed, members=3, clients=clients, extensions=QCD, options=GENEROUS)
    mallory = Mallory(fleet)
    return fleet.up(), mallory


@pytest.mark.parametrize("off", [None, answer_about_unknown])
def test_an_sa_whose_spi_key_was_dropped(off: Off | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five rotations its owner alone knows it: silence about what is nobody's protects it."""
    if off is not None:
        off(monkeypatch)
    fleet, mallory = watched(40)
    fleet.traffic(0.5)
    for gateway in fleet.gateways:
        gateway.forwards = False
    for _ in range(5):
        rotator = fleet.gateways[2]
        assert rotator.process is not None
        rotator.process.rotate(rotator.clock_ns(), fleet.unix_s, KeyKind.SPI)
        rotator.step(None)
        fleet.run(2.0)
    life = fleet.gateways[1].life
    assert life is not None
    for spi_i, spi_r in list(fleet.clients[0].pairs.values()):
        assert life.ownership.of_ike(spi_r) is Standing.UNKNOWN
        assert life.ownership.of_ike(spi_i) is Standing.UNKNOWN
    mallory.storm()
    assert bool(fleet.violations) == (off is not None)


@pytest.mark.parametrize("off", [None, look_at_one_spi])
def test_a_client_that_takes_a_dead_members_spi_for_its_own(
    off: Off | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One SPI of its SA is of an ended life then, the other of a living one. Who flips the flag asks

      about the ended one  ──▶  a token, if the other one does not count
    """
    if off is not None:
        off(monkeypatch)
    fleet, mallory = watched(41)
    [(_, dead)] = fleet.clients[0].pairs.values()
    fleet.gateways[0].crash()
    fleet.run(8.0)
    client = fleet.clients[1]
    client.work(Lose())
    monkeypatch.setattr(client.node.endpoint._env._spis, "ike_spi", lambda: dead)
    client.work(Initiate("home"))
    fleet.run(1.0)
    assert dead in {spi_i for spi_i, _ in client.pairs.values()}
    fleet.traffic(0.5)
    assert fleet.violations == []
    for gateway in fleet.gateways:
        gateway.forwards = False
    client.work(Rekey("home", "net"))
    fleet.run(0.5)
    mallory.storm()
    assert bool(fleet.violations) == (off is not None)


@pytest.mark.parametrize("role", [True, False])
def test_a_token_of_the_other_role_is_worth_nothing(role: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both rules about SPIs are off: tokens of living SAs are sold, to whoever flips the flag. While a token
    is bound to its maker's role, no client gives up an SA for it."""
    answer_about_unknown_and_look_at_one_spi(monkeypatch)
    if not role:
        one_token_for_both_roles(monkeypatch)
    fleet, mallory = watched(42)
    for gateway in fleet.gateways:
        gateway.forwards = False
    fleet.traffic(0.5)
    for client in fleet.clients:
        client.work(Rekey("home", "net"))
        fleet.run(0.5)
        fleet.rebalance(client.host, (client.number + 1) % 3)
        client.work(Rekey("home", "net"))  # a request in flight: else nothing that comes is an answer
    fleet.run(0.1)
    mallory.storm()
    fleet.run(1.0)
    assert any("token for a living SA" in violation for violation in fleet.violations)
    assert any("made to give up" in violation for violation in fleet.violations) == (not role)


@pytest.mark.parametrize("off", [None, deny_children_of_others])
def test_the_children_of_a_life_that_one_member_has_not_heard_of(
    off: Off | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Member 1 knows that 0 was written off, and not yet that it is back: a hint at most, and no denial."""
    if off is not None:
        off(monkeypatch)
    fleet, mallory = watched(43)
    fleet.gateways[1].watch_delay_s = 600.0
    fleet.gateways[0].crash()
    fleet.run(40.0)
    fleet.gateways[0].boot()
    fleet.run(1.0)
    fleet.traffic(2.0)
    assert fleet.gateways[0].lives == [1, 2]
    life = fleet.gateways[1].life
    assert life is not None
    back = fleet.gateways[0].table
    assert back is not None
    [spi] = [child.spi_in for sa in back.views() for child in sa.child_views]
    assert life.ownership.of_esp(spi) is Standing.ENDED
    mallory.storm()
    assert fleet.witness.counts["INVALID_SPI for a child of a life that is news"] > 0
    assert bool(fleet.violations) == (off is not None)


def _rule(patch: pytest.MonkeyPatch, judge: Callable[[Standing, Standing], Ruling]) -> None:
    for module in (strangers, sir_responder):
        patch.setattr(module, "rule", lambda own, other, *, alone: judge(own, other))


_next_step = steps.next_step
_of_origin = ownership.Cluster._of_origin
_of_esp = ownership.Cluster.of_esp
_kind = sir_responder.SirResponder._kind
_recompute = tokens.recompute
