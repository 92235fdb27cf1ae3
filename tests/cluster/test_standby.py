"""Hot standby: two gateways with one address, moved by somebody else; whole endpoints in virtual time."""

from __future__ import annotations

import pytest
from tests.support.two import KEY, QCD, S, Site

from deadpeer.cluster.membership import Trouble
from deadpeer.cluster.secrets import KeyKind
from deadpeer.cluster.standby import (
    ANSWER_S,
    LAST_WORD_S,
    Standby,
    ToPartner,
    shared_secrets,
)
from deadpeer.crash.options import ResumptionOptions
from deadpeer.crypto import SeededEntropy


@pytest.mark.parametrize("dies", [True, False])
def test_who_gains_the_address_speaks_for_the_other(dies: bool) -> None:
    """
    The active one dies (or gives the address up), the address moves:

      ESP, old SA       ──────▶  1: an SPI of 0, who does not hold the address: INVALID_SPI
      liveness request  ──────▶  1: the token that 0 had made
      new SA            ◀─────▶  1
    """
    site = Site(*QCD).up()
    if dies:
        site.ones[0].crash()
    site.traffic(0.3)
    site.move(1)
    site.traffic(0.5)
    assert site.traffic(0.5) >= 20
    assert site.verdicts() == ["qcd-token"]
    assert site.violations == []


def test_tickets_of_the_other_are_honoured() -> None:
    site = Site(*QCD, ResumptionOptions(enabled=True)).up()
    site.ones[0].crash()
    site.move(1)
    site.traffic(1.0)
    assert site.traffic(0.5) >= 20
    kinds = [e.kind for _, e in site.client.events]
    assert kinds.count("resumed") == 1 and "resume_refused" not in kinds, kinds
    assert site.violations == []


def test_there_and_back_again() -> None:
    """Each gain is a new life: the other may have told tokens of the last one."""
    site = Site(*QCD).up()
    for to in (1, 0, 1, 0):
        site.move(to)
        site.traffic(1.0)
        assert site.traffic(0.3) >= 12
    assert site.ones[0].lives == [1, 2, 3]
    assert site.ones[1].lives == [1, 2]
    assert site.verdicts() == ["qcd-token"] * 4
    assert site.violations == []


def test_two_that_hold_the_address_tell_nothing_of_each_other() -> None:
    """A split: the network delivers to 1, while 0 lives and believes that the address is its own."""
    site = Site(*QCD).up()
    site.ones[1].address(True)
    site.delivers_to = 1
    site.traffic(10.0)
    assert site.tokens == 0
    assert site.verdicts() == []
    assert "both_active" in site.ones[1].troubles
    assert "both_active" in site.ones[0].troubles
    site.delivers_to = 0
    assert site.traffic(0.5) >= 20  # the SA of 0 has lost nothing
    site.delivers_to = 1
    site.ones[0].address(False)  # somebody settles it
    site.traffic(5.0)
    assert site.traffic(0.5) >= 20
    assert site.verdicts() == ["qcd-token"]
    assert site.violations == []


def test_a_partner_that_can_t_be_heard_is_spoken_for_soon() -> None:
    site = Site(*QCD).up()
    site.apart = True
    site.move(1)
    began = site.now_ns
    while not site.tokens and site.now_ns < began + 5 * S:
        site.traffic(0.02)
    assert ANSWER_S * S <= site.now_ns - began < (ANSWER_S + 1.0) * S


@pytest.mark.parametrize(("silent_s", "answer_s"), [(1.0, LAST_WORD_S), (0.2, ANSWER_S)])
def test_a_partner_that_has_long_been_silent_gets_one_last_question(silent_s: float, answer_s: float) -> None:
    """
    Ten times a second who does not hold the address asks who does. It dies; later the address moves:

      1 ── ask ──▶ 0   (dead)      ...      1: the address is mine
      1 ── ask ──▶ 0   (dead)               1 ── ask ──▶ 0
      1 ── ask ──▶ 0   (dead)               20 ms later 1 speaks for 0: 0.1 s if it had been silent for less
    """
    site = Site(*QCD).up()
    site.traffic(0.5)
    site.die()
    site.run(silent_s)
    began = site.now_ns
    site.ones[1].address(True)
    while (ownership := site.ones[1].ownership) is None or ownership.partner_lives:
        site.run(0.001)
    assert answer_s * S <= site.now_ns - began <= (answer_s + 0.002) * S
    site.traffic(1.0)
    assert site.traffic(0.5) >= 20
    assert site.verdicts() == ["qcd-token"]
    assert site.violations == []


def test_who_was_silent_for_long_and_goes_on_just_then_is_heard() -> None:
    """Both hold the address: 0 was stopped for a second, and goes on 5 ms after it came to 1 as well."""
    site = Site(*QCD).up()
    site.ones[0].stopped = True
    site.run(1.0)
    site.delivers_to = 1
    site.ones[1].address(True)
    site.run(0.005)
    site.ones[0].thaw()
    assert site.ones[1].process is not None
    site.ones[1].process.expire(site.now_ns)  # too early, as a timer may be
    site.traffic(5.0)
    assert site.tokens == 0 and site.violations == []
    assert "both_active" in site.ones[1].troubles


def test_who_asks_before_the_partner_is_known_to_be_silent_has_the_answer_when_it_is() -> None:
    """
    The client's host sends once, just when the address came, and never again:

      ESP, old SA       ──────▶  1: of 0, which may hold the address as well: remembered
                                 1: 0 has not answered for 0.1 s: it does not
      INVALID_SPI       ◀──────  1: the packet, once more
      liveness request  ──────▶  1: INVALID_IKE_SPI, the token that 0 would have made
    """
    site = Site(*QCD).up()
    site.traffic(0.5)
    site.die()
    site.ones[1].address(True)
    site.traffic(0.02)
    site.run(ANSWER_S - 0.03)
    assert site.verdicts() == [] and len(site.ones[1].unanswered) == 1
    site.run(0.1)
    assert site.verdicts() == ["qcd-token"]
    assert site.ones[1].unanswered.counters == {"remembered": 1, "taken up": 1}
    assert site.violations == []


def test_a_process_that_was_stopped_while_the_address_moved() -> None:
    """SIGSTOP; the other one gains the address and speaks for its SAs; SIGCONT: it is fenced first of all."""
    site = Site(*QCD).up()
    zero = site.ones[0]
    zero.stopped = True
    zero.has_address = False
    site.delivers_to = 1
    site.ones[1].address(True)
    site.traffic(5.0)
    assert site.verdicts() == ["qcd-token"]
    zero.thaw()
    assert zero.process is not None
    assert not zero.process.is_open(site.now_ns)
    assert zero.node is None
    assert site.traffic(2.0) >= 90
    assert zero.node is None
    assert site.violations == []


def test_a_machine_that_slept_and_still_has_its_address_begins_a_new_life() -> None:
    site = Site(*QCD).up()
    site.ones[0].stopped = True
    site.run(60.0)
    site.ones[0].thaw()
    site.traffic(3.0)
    assert site.ones[0].lives == [1, 2]
    assert site.traffic(0.5) >= 20


def test_nobody_else_can_speak_for_the_partner() -> None:
    entropy = SeededEntropy(b"x")
    one = Standby(0, 0, [KEY], entropy)
    other = Standby(1, 0, [KEY], entropy)
    stranger = Standby(1, 0, [bytes(32)], entropy)
    three = (one, other, stranger)
    for each in three:
        each.address(0, True)
        each.persisted(0)
    asks = {each: next(o.octets for o in _all(each) if isinstance(o, ToPartner)) for each in three}
    stranger.receive(1, asks[one])
    assert stranger.counters["forged"] == 1
    other.receive(1, asks[one])
    [answer] = [o.octets for o in _all(other) if isinstance(o, ToPartner)]
    one.receive(2, answer)
    assert any(isinstance(o, Trouble) for o in _all(one))
    one.receive(3, answer)
    assert one.counters["answer not awaited"] == 1
    one.receive(3, asks[one])
    assert one.counters["forged"] == 1  # our own words, reflected


def test_older_keys_are_known_and_the_first_is_used() -> None:
    older, newer = bytes(32), KEY
    old, new = shared_secrets([older]), shared_secrets([newer, older])
    for kind in KeyKind:
        assert new.of(kind)[1].secret == old.of(kind)[0].secret
        assert new.of(kind)[0].number == 2
    for bad in ([], [KEY, KEY], [bytes([n]) * 32 for n in range(5)]):
        with pytest.raises(ValueError, match="keys, not 1"):
            shared_secrets(bad)


def _all(one: Standby) -> list[object]:
    found: list[object] = []
    while (output := one.poll()) is not None:
        found.append(output)
    return found
