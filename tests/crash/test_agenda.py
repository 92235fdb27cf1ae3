"""Deadlines of an extension, against a dictionary that says the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crash.agenda import Agenda

KEYS = st.integers(0, 5)
TIMES = st.integers(0, 50)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, TIMES),
        st.tuples(st.just("hasten"), KEYS, TIMES),
        st.tuples(st.just("cancel"), KEYS, TIMES),
        st.tuples(st.just("due"), KEYS, TIMES),
    ),
    max_size=200,
)


@given(STEPS)
def test_it_is_a_dictionary_of_moments(steps: list[tuple[str, int, int]]) -> None:
    agenda, model = Agenda[int]("reason"), dict[int, int]()
    for verb, key, at_ns in steps:
        match verb:
            case "set":
                agenda.set(key, at_ns)
                model[key] = at_ns
            case "hasten":
                agenda.hasten(key, at_ns)
                model[key] = min(at_ns, model.get(key, at_ns))
            case "cancel":
                agenda.cancel(key)
                model.pop(key, None)
            case _:
                taken = agenda.due(at_ns)
                earliest = min(model.values(), default=at_ns + 1)
                assert (taken is None) is (earliest > at_ns)
                if taken is not None:
                    assert model.pop(taken) == earliest
        deadline = agenda.deadline()
        assert (None if deadline is None else deadline.at_ns) == min(model.values(), default=None)
        assert len(agenda) == len(model)


def test_the_earliest_comes_first_and_of_equal_ones_the_first_that_was_set() -> None:
    agenda = Agenda[str]("reason")
    for key, at_ns in (("late", 9), ("b", 5), ("a", 5)):
        agenda.set(key, at_ns)
    assert [agenda.due(9), agenda.due(9), agenda.due(8), agenda.due(9)] == ["b", "a", None, "late"]
    assert agenda.deadline() is None


def test_a_key_that_is_moved_all_the_time_takes_no_memory() -> None:
    agenda = Agenda[str]("reason")
    for at_ns in range(100_000):
        agenda.set("only", at_ns)
    assert len(agenda._heap) <= 65
    deadline = agenda.deadline()
    assert deadline is not None
    assert (deadline.at_ns, deadline.reason) == (99_999, "reason")
