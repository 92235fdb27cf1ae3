"""The judgement of SIR over everything that can happen, in every order.

(That the table is the one of docs/crash-discovery.md, line by line, is tested there.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crash.sir_judgement import (
    WINDOW_FLOOR_S,
    WINDOW_RTTS,
    Action,
    News,
    Phase,
    Step,
    judge,
    window_s,
)


def steps(news: Sequence[News]) -> Iterator[tuple[News, Phase, Step]]:
    """What happens, the phase in which it does, and what follows, from the beginning of a case."""
    phase = Phase.QUIET
    for each in news:
        step = judge(phase, each)
        yield each, phase, step
        phase = step.phase


def check(news: Sequence[News]) -> None:
    denied = closed = rebuilt = contradicted = building = False
    for each, before, (after, action) in steps(news):
        acked = before is Phase.ACKED
        match action:
            case Action.OPEN:
                assert each is News.NACK
                assert not building
                denied, closed, rebuilt, contradicted, building = True, False, False, False, True
            case Action.CONDEMN:
                # A NACK, its window over, the new SA up, and not a word of the peer in between.
                closed, rebuilt = closed or each is News.CLOSED, rebuilt or each is News.REBUILT
                assert denied
                assert closed
                assert rebuilt
                assert not contradicted
                denied, building = False, False
            case Action.ATTACK:
                # Both were seen: an ACK (or a protected word) and a NACK.
                assert (each is News.NACK and acked) or (each in (News.ACK, News.ALIVE) and denied)
                contradicted, denied, building = True, False, False
            case Action.REMEMBER:
                assert each is News.ACK
                assert not building
            case Action.NONE:
                closed = closed or each is News.CLOSED
                rebuilt = rebuilt or each is News.REBUILT
                if each is News.FAILED and not rebuilt:
                    denied, building = False, False
        assert building == (after in (Phase.WINDOW, Phase.EARLY, Phase.LATE))
        assert (before in (Phase.WINDOW, Phase.EARLY, Phase.LATE) and each in (News.ACK, News.ALIVE)) == (
            action is Action.ATTACK and not acked
        )


def test_every_sequence_of_five() -> None:
    for news in product(News, repeat=5):
        check(news)


@given(st.lists(st.sampled_from(News), max_size=200))
def test_any_sequence(news: list[News]) -> None:
    check(news)


@given(st.lists(st.sampled_from([each for each in News if each is not News.NACK]), max_size=50))
def test_without_a_nack_nothing_happens(news: list[News]) -> None:
    assert {step.action for _, _, step in steps(news)} <= {Action.NONE, Action.REMEMBER}


@given(st.lists(st.sampled_from([News.NACK, News.CLOSED, News.FAILED]), max_size=50))
def test_without_a_new_sa_nothing_is_condemned(news: list[News]) -> None:
    assert Action.CONDEMN not in {step.action for _, _, step in steps(news)}


def test_the_window_is_two_round_trips_with_a_floor() -> None:
    assert window_s(1.0) == WINDOW_RTTS
    assert window_s(0.0) == window_s(WINDOW_FLOOR_S / WINDOW_RTTS / 2) == WINDOW_FLOOR_S
