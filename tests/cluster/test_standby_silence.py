"""When silence counts: of a partner that was asked, had its time, and was heard before it was judged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deadpeer.cluster.membership import PersistEpoch
from deadpeer.cluster.standby import ANSWER_S, LAST_WORD_S, PartnerLives, Standby, ToPartner
from deadpeer.crypto import SeededEntropy

MS = 1_000_000
S = 1000 * MS
KEY = bytes(range(32))


class Alone:
    """One of the two. The other one never answers."""

    def __init__(self) -> None:
        self.standby = Standby(1, 0, [KEY], SeededEntropy(b"one"))
        self.now_ns = S
        self.looks = 0
        self.disk = True
        self.lag_ns = 0
        """How long what it says takes to leave."""

    def run(self, seconds: float) -> None:
        """Time goes by, in ticks; what is due is done."""
        end = self.now_ns + int(seconds * S)
        while self.now_ns < end:
            self.now_ns += MS
            if self.standby.is_open(self.now_ns):
                self.standby.address(self.now_ns, True)
            list(self.obey())

    def obey(self) -> Iterator[bool]:
        """What is said of the partner."""
        due = self.standby.deadline()
        if due is not None and due <= self.now_ns:
            self.looks += 1
            self.standby.expire(self.now_ns)
        while (output := self.standby.poll()) is not None:
            match output:
                case ToPartner(asks=True):
                    self.standby.asked(self.now_ns + self.lag_ns)
                case PersistEpoch() if self.disk:
                    self.standby.persisted(self.now_ns)
                case PartnerLives(lives=lives):
                    yield lives
                case _:
                    pass

    def gain(self) -> float:
        """The address comes. How long the partner has, seconds, until it is spoken for."""
        began = self.now_ns
        self.standby.address(self.now_ns, True)
        while False not in self.obey():
            self.now_ns += MS
            self.standby.address(self.now_ns, True)
        return (self.now_ns - began) / S


def test_who_was_asked_all_the_time_before_the_address_came_has_one_last_word() -> None:
    one = Alone()
    one.run(1.0)
    assert LAST_WORD_S <= one.gain() < LAST_WORD_S + 0.003


@pytest.mark.parametrize("away_s", [0.5, 5.0, 3600.0])
def test_silence_while_nobody_asked_does_not_count(away_s: float) -> None:
    """We were stopped, or slept, after a dead partner had been asked for long. It may have come back
    meanwhile: so it is asked as one of which nothing is known."""
    one = Alone()
    one.run(10.0)
    one.now_ns += int(away_s * S)
    assert one.gain() >= ANSWER_S
    holding = Alone()
    holding.gain()
    holding.run(10.0)
    holding.now_ns += int((away_s + 2) * S)  # the address was out of sight, and is still ours
    assert holding.gain() >= ANSWER_S


def test_one_question_a_second_while_we_held_the_address_is_not_enough() -> None:
    """The partner, dead until now, takes the address and gives it back at once."""
    one = Alone()
    one.gain()
    one.run(10.0)
    one.standby.address(one.now_ns, False)
    one.run(0.05)
    assert one.gain() >= ANSWER_S


def test_the_last_word_counts_from_when_the_question_has_left() -> None:
    """The pump finds the address, and has datagrams to serve before what is to be said is said."""
    one = Alone()
    one.run(1.0)
    one.lag_ns = 50 * MS
    assert one.gain() >= LAST_WORD_S + 0.05


def test_nothing_is_looked_at_all_the_time_while_the_disk_refuses_the_epoch() -> None:
    for before_s in (0.0, 1.0):
        one = Alone()
        one.run(before_s)
        one.disk, one.looks = False, 0
        one.standby.address(one.now_ns, True)
        for _ in range(20):
            one.run(0.1)
            one.standby.address(one.now_ns, True)
        assert one.looks < 10, before_s
        one.standby.persisted(one.now_ns)
        assert False in one.obey()


def test_who_has_lost_the_address_does_not_say_that_both_hold_it() -> None:
    one, other = (Standby(number, 0, [KEY], SeededEntropy(bytes([number]))) for number in (0, 1))
    for each in (one, other):
        each.address(S, True)
        each.persisted(S)
    asks = [o.octets for o in iter(one.poll, None) if isinstance(o, ToPartner)]
    other.receive(S, asks[0])
    for output in iter(other.poll, None):
        if isinstance(output, ToPartner) and not output.asks:
            one.receive(S, output.octets)
    assert one.counters["both hold the address"] == 1
    one.address(S, False)
    assert one.counters["both hold the address"] == 0
