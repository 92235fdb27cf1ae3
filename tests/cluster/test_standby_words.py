"""What the two say to each other: which keys it is heard with, and two that have one number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deadpeer.cluster.membership import Trouble
from deadpeer.cluster.standby import PartnerLives, Standby, ToPartner
from deadpeer.crypto import SeededEntropy

OLD, NEW = bytes(32), bytes(range(32))
MS = 1_000_000


class Two:
    """Both hold the address; what one says the other hears."""

    def __init__(self, *sides: tuple[int, list[bytes]]) -> None:
        self.sides = [
            Standby(number, 0, keys, SeededEntropy(place)) for place, (number, keys) in enumerate(sides)
        ]
        self.lives: list[bool | None] = [None, None]
        self.troubles: list[list[str]] = [[], []]
        for side in self.sides:
            side.address(0, True)
            side.persisted(0)
        for tick in range(0, 5000, 10):
            self._turn(tick * MS)

    def _turn(self, now_ns: int) -> None:
        for place, side in enumerate(self.sides):
            side.address(now_ns, True)
            if (due := side.deadline()) is not None and due <= now_ns:
                side.expire(now_ns)
            while (output := side.poll()) is not None:
                match output:
                    case ToPartner(octets=octets):
                        self.sides[1 - place].receive(now_ns, octets)
                    case PartnerLives(lives=lives):
                        self.lives[place] = lives
                    case Trouble(kind=kind):
                        self.troubles[place].append(kind)
                    case _:
                        pass


def test_two_whose_files_have_the_keys_in_another_order_hear_each_other() -> None:
    """In the middle of a renewal: in one file the new key is in front already."""
    for keys in ([NEW, OLD], [OLD]):
        two = Two((0, [OLD, NEW]), (1, keys))
        assert two.lives == [None, None]  # as at first: the partner lives
        assert two.troubles == [["both_active"], ["both_active"]]


def test_two_that_have_no_key_in_common_are_dead_to_each_other() -> None:
    two = Two((0, [OLD]), (1, [NEW]))
    assert two.lives == [False, False]
    assert two.sides[0].counters["forged"] > 3


def test_two_that_have_one_number_say_so() -> None:
    """Each would take the other's SAs for those of its own earlier lives."""
    two = Two((1, [OLD]), (1, [OLD]))
    assert two.troubles == [["number_taken"], ["number_taken"]]


def test_our_own_question_that_comes_back_is_no_partner_with_our_number() -> None:
    one = Standby(0, 0, [OLD], SeededEntropy(b"x"))
    one.address(0, True)
    asked: list[bytes] = []
    while (output := one.poll()) is not None:
        if isinstance(output, ToPartner):
            asked.append(output.octets)
    one.receive(1, asked[0])
    assert one.counters["forged"] == 1
    assert one.poll() is None


@given(st.binary(max_size=80))
def test_garbage_is_counted(octets: bytes) -> None:
    one = Standby(0, 0, [OLD], SeededEntropy(b"x"))
    one.receive(0, octets)
    assert one.counters.total() == 1
    assert one.poll() is None
