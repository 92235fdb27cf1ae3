"""Every order in which the datagrams of a scenario can arrive, one replay for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.support.pair import Pair

LONGEST = 60


def interleavings(start: Callable[[], Pair], limit: int = 2000) -> Iterator[tuple[Pair, list[int]]]:
    """Replay `start` for each order of deliveries, depth first; yields the pair at rest, and the order.

    `start` returns a pair that holds all its datagrams. An order is a list of indexes into what is held.
    """
    order: list[int] = []
    for _ in range(limit):
        pair, widths = start(), []
        while pair.held:
            depth = len(widths)
            assert depth < LONGEST, "the two sides go on for ever"
            if depth == len(order):
                order.append(0)
            widths.append(len(pair.held))
            pair.deliver(order[depth])
        yield pair, list(order)
        while order and order[-1] + 1 >= widths[len(order) - 1]:
            order.pop()
        if not order:
            return
        order[-1] += 1
    raise AssertionError(f"more than {limit} orders")
