"""Many seeds: a bad network, commands at random from both sides; when it heals, all is well again."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tests.support.invariants import check_agreement, check_no_leaks
from tests.support.pair import Pair, Sent, child_config, host_selector

from deadpeer.crash.options import (
    Method,
    PolicyOptions,
    QcdOptions,
    ResumptionOptions,
    SirOptions,
)
from deadpeer.ike.connection import Lifetime
from deadpeer.ike.io import Command, Initiate, Rekey, Terminate

MORE = child_config("more", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),))
COMMANDS: tuple[Command, ...] = (
    Rekey("home", "net"),
    Rekey("home", "net"),
    Rekey("home", "more"),
    Rekey("home"),
    Rekey("home"),
    Initiate("home", "net"),
    Initiate("home", "more"),
    Initiate("home"),
    Terminate("home", "net"),
    Terminate("home", "more"),
    Terminate("home"),
)


def rough(rng: random.Random) -> object:
    """One datagram in five is lost, one in ten comes twice, all are delayed by 5 to 200 ms."""

    def delays(sent: Sent) -> list[float]:
        if rng.random() < 0.2:
            return []
        copies = 2 if rng.random() < 0.1 else 1
        return [rng.uniform(0.005, 0.2) for _ in range(copies)]

    return delays


RESUMED = ResumptionOptions(True)
WAYS: dict[str, tuple[object, ...]] = {
    "qcd": (QcdOptions("both"), RESUMED),
    "sir": (QcdOptions("off"), SirOptions("auto"), PolicyOptions((Method.SIR, Method.LIVENESS)), RESUMED),
    "reconnect": (
        QcdOptions("off"),
        SirOptions("off"),
        PolicyOptions((Method.RECONNECT, Method.LIVENESS)),
        RESUMED,
    ),
}
"""Resumption on both sides, after each way to find out."""


def play(seed: int, *, crashes: bool = False, extensions: tuple[object, ...] = ()) -> Pair:
    """Twenty seconds of it."""
    rng = random.Random(seed)
    rekey_s = rng.choice([0, 3.0, 7.0])
    short = Lifetime(rekey_s=rekey_s, life_s=rng.choice([0, 3 * rekey_s]), jitter_s=1.0)
    action = rng.choice(["none", "start", "trap"])
    pair = Pair.with_psk(
        children=[child_config(lifetime=short, close_action=action), MORE],
        both={
            "dpd_delay_s": 10.0,
            "dpd_timeout_s": 20.0,
            "dpd_floor_s": 20.0,
            "lifetime": short,
            "extensions": extensions,
        },
        seed=seed,
    )
    pair.delays_rule = rough(rng)  # type: ignore[assignment]
    pair.feed("alice", Initiate("home", None, 1))
    tag = 1
    while pair.now.mono_ns < 1_020_000_000_000:
        pair.run(rng.expovariate(2.0))
        side = rng.choice(["alice", "bob"])
        choice = rng.random()
        if crashes and choice < 0.05:
            pair.crash(side)
            pair.run(rng.uniform(0, 2))
            pair.boot(side)
        elif choice < 0.5:
            tag += 1
            command = rng.choice(COMMANDS)
            pair.feed(side, type(command)(command.connection, command.child, tag))  # type: ignore[union-attr,call-arg]
        else:
            ends = ("10.10.1.1", "10.10.2.1")
            pair.send(side, *(ends if side == "alice" else ends[::-1]))
    return pair


def heal(pair: Pair) -> None:
    """The network is good again, and nobody gives commands; whatever is half done comes to an end."""
    pair.delays_rule = None
    pair.run(150.0)


@pytest.mark.parametrize("seed", range(60))
def test_after_a_bad_time_everything_works_again(seed: int) -> None:
    """Each failure names its seed: `play(seed)` repeats it."""
    finish(play(seed))


@pytest.mark.parametrize("seed", range(1000, 1040))
def test_crashes_of_both_sides_in_a_bad_time_are_overcome(seed: int) -> None:
    """Each failure names its seed: `play(seed, crashes=True)` repeats it."""
    finish(play(seed, crashes=True))


@pytest.mark.parametrize(
    ("way", "seed"),
    [
        *(("qcd", seed) for seed in (16, 27, 33, 73, 86, 97)),
        *(("sir", seed) for seed in (10, 20, 43, 73, 75, 76)),
        *(("reconnect", seed) for seed in (13, 16, 28, 38, 68, 94)),
    ],
)
def test_with_resumption_nothing_stays_twice_after_crashes_of_both_sides(way: str, seed: int) -> None:
    """Both sides begin anew, at the same time, with what they have: each child is there once in the end.

    Each failure names its seed: `play(seed, crashes=True, extensions=WAYS[way])` repeats it. Most of these
    seeds once ended with two or three IKE SAs with the same children, or one with a child twice.
    """
    pair = play(seed, crashes=True, extensions=WAYS[way])
    heal(pair)
    quiet(pair)
    for side in (pair.alice, pair.bob):
        served = Counter(child.name for sa in side.ike.views() for child in sa.child_views)
        assert set(served.values()) <= {1}, (side.name, served)
        assert len(list(side.ike.views())) <= 2
    finish(pair)


def finish(pair: Pair) -> None:
    """Heal, bring it up, see traffic flow, wait for a quiet moment, and look for leftovers."""
    heal(pair)
    pair.feed("alice", Initiate("home", None, 100_000))
    pair.run(20.0)
    assert pair.alice.done[100_000].ok, pair.alice.done[100_000].text
    assert pair.ping()
    assert pair.ping("bob", "10.10.2.1", "10.10.1.1")
    quiet(pair)
    check_agreement(pair)
    check_no_leaks(pair.alice)
    check_no_leaks(pair.bob)


def quiet(pair: Pair) -> None:
    """Wait until no request is under way: rekeying by lifetime goes on all the time."""
    for _ in range(2000):
        sas = [sa for side in (pair.alice, pair.bob) for sa in side.ike.views()]
        busy = any(sa.request_in_flight or sa.queue or not sa.established for sa in sas)
        if not busy and not any(c.state.value != "installed" for sa in sas for c in sa.child_views):
            return
        pair.run(0.05)
    raise AssertionError("it never is quiet")
