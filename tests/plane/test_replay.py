"""The window against a model that remembers every number, and the inference against RFC 4303 appendix A."""

from hypothesis import example, given
from hypothesis import strategies as st

from deadpeer.plane.drops import Drop
from deadpeer.plane.replay import ReplayWindow

SPACE = 1 << 32
SIZES = st.sampled_from([1, 2, 31, 32, 64, 128, 1024])


class NaiveWindow:
    """RFC 4303 section 3.4.3, word for word: all numbers in a set."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: set[int] = set()

    def verdict(self, sequence: int) -> Drop | None:
        highest = max(self.seen, default=0)
        if sequence == 0:
            return Drop.SEQUENCE_INVALID
        if sequence <= highest - self.size:
            return Drop.TOO_OLD
        return Drop.REPLAYED if sequence in self.seen else None


@given(SIZES, st.lists(st.one_of(st.integers(0, 200), st.integers(0, SPACE - 1)), max_size=60))
@example(64, [64, 1, 64, 65, 1, 2])
def test_window_agrees_with_a_set_of_all_numbers(size: int, arrivals: list[int]) -> None:
    window, naive = ReplayWindow(size, esn=False), NaiveWindow(size)
    for low in arrivals:
        sequence = window.infer(low)
        assert sequence == low
        assert window.check(sequence) == naive.verdict(sequence)
        if naive.verdict(sequence) is None:
            newest = sequence > max(naive.seen, default=0)
            naive.seen.add(sequence)
            assert window.accept(sequence) is newest
            assert window.highest == max(naive.seen)


def rfc_inference(top: int, size: int, low: int) -> int:
    """RFC 4303 appendix A2.2: top is (Th, Tl), the answer (Seqh, low)."""
    th, tl = divmod(top, SPACE)
    left = (tl - size + 1) % SPACE
    if tl >= size - 1:  # case A: the window lies in one subspace
        return (th if low >= left else th + 1) * SPACE + low
    return (th - 1 if low >= left else th) * SPACE + low  # case B: it spans two


@given(st.integers(0, SPACE * 5), SIZES, st.integers(0, SPACE - 1))
@example(SPACE - 1, 64, 0)
@example(SPACE, 64, SPACE - 1)
@example(SPACE + 62, 64, SPACE - 1)
@example(SPACE + 63, 64, SPACE - 1)
@example(0, 64, SPACE - 1)
def test_inference_agrees_with_the_cases_of_the_rfc(top: int, size: int, low: int) -> None:
    window = ReplayWindow(size, esn=True, highest=top)
    assert window.infer(low) == rfc_inference(top, size, low)


@given(st.integers(SPACE - 300, SPACE + 300), st.permutations(range(40)))
def test_reordering_across_the_boundary_loses_nothing(start: int, order: list[int]) -> None:
    window = ReplayWindow(64, esn=True, highest=start - 1)
    for offset in order:
        sequence = window.infer((start + offset) % SPACE)
        assert sequence == start + offset
        assert window.check(sequence) is None
        window.accept(sequence)
        assert window.check(sequence) is Drop.REPLAYED


def test_a_number_before_the_first_subspace_is_too_old() -> None:
    window = ReplayWindow(64, esn=True)
    assert window.check(window.infer(SPACE - 1)) is Drop.TOO_OLD


def test_number_zero_is_never_valid_but_a_low_half_of_zero_is() -> None:
    assert ReplayWindow(64, esn=False).check(0) is Drop.SEQUENCE_INVALID
    window = ReplayWindow(64, esn=True, highest=SPACE - 1)
    assert window.infer(0) == SPACE
    assert window.check(SPACE) is None


def test_the_space_ends() -> None:
    plain, extended = ReplayWindow(64, esn=False), ReplayWindow(64, esn=True, highest=SPACE * SPACE - 1)
    assert plain.check(SPACE - 1) is None
    assert plain.check(SPACE) is Drop.SEQUENCE_INVALID
    assert extended.check(extended.infer(0)) is Drop.SEQUENCE_INVALID


def test_size_zero_lets_replays_pass_and_still_follows_extended_numbers() -> None:
    window = ReplayWindow(0, esn=True)
    assert window.accept(5)
    assert window.check(5) is None
    assert not window.accept(5)
    window.accept(SPACE - 2)
    assert window.infer(3) == SPACE + 3
    assert window.infer(SPACE - 1000) == SPACE - 1000
    assert window.check(0) is Drop.SEQUENCE_INVALID
