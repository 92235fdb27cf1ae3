"""
Lives of two gateways, drawn by lot: rekeys, crashes of either side, flaps, a NAT that forgets, a man in the
middle who drops, delays, doubles and replays whatever was ever sent. A failure names its seed.

What must hold: a token condemns only what its maker has lost; a proof by a new SA only where that one is up;
and whatever happened, traffic is back in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from tests.support.invariants import check_one_tunnel
from tests.support.pair import Nat, Pair, Sent, Side, child_config

from deadpeer.crash.options import CrashOptions, Method, PolicyOptions, QcdOptions, ResumptionOptions
from deadpeer.ike.io import Rekey

SIDES = ("alice", "bob")
FLOOR_S = 60.0
"""`dpd_floor`, which is the default here."""
BACK_S = 6.0
"""Three crashes in a row, a lossy link, 300 ms round trips: a new SA is up and has carried packets by then.

Where QCD and liveness alone are configured it can take `dpd_floor`: a maker who rekeyed the IKE SA and died
before his new token was sent is known to be dead by nothing else (docs/crash-discovery.md).
"""


def chance(dice: random.Random, probability: float) -> bool:
    return dice.random() < probability


QUICK = (None, None, Method.SIR, Method.RECONNECT)
"""All methods (None), or one of those that need nothing that a crash can lose."""


def extensions(dice: random.Random, methods: Sequence[Method | None] = QUICK) -> tuple[object, ...]:
    """Resumption or not, either token, and all methods or one."""
    method = dice.choice(methods)
    found: tuple[object, ...] = (
        ResumptionOptions(chance(dice, 0.4)),
        QcdOptions("both", dice.choice(("spi", "spi-address"))),
    )
    return found if method is None else (*found, PolicyOptions((method, Method.LIVENESS)))


def traffic(pair: Pair, seconds: float, every_s: float = 0.01, *, both: bool = False) -> None:
    """Alice's host sends all the time, Bob's too if `both`; who is down sends nothing."""
    for _ in range(round(seconds / every_s)):
        if pair.alice.engine is not None:
            pair.send("alice")
        if both and pair.bob.engine is not None:
            pair.send("bob", "10.10.2.1", "10.10.1.1")
        pair.run(every_s)


def rekey_some(pair: Pair, dice: random.Random, probability: float) -> None:
    for who in SIDES:
        if chance(dice, probability):
            pair.feed(who, Rekey("home", dice.choice((None, "net")), 0))


def check_back(pair: Pair, within_s: float, *, both: bool = False) -> None:
    """Soon an echo of Alice's host makes the round trip."""
    start_ns, heard = pair.mono_ns, len(pair.alice.behind.received)
    while len(pair.alice.behind.received) == heard:
        assert (pair.mono_ns - start_ns) / 1e9 < within_s, [e.kind for _, e in pair.alice.events[-20:]]
        traffic(pair, 0.1, 0.1, both=both)


# --- crashes of either side, between rekeys ---------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_after_crashes_of_either_side_traffic_is_back(seed: int) -> None:
    dice = random.Random(seed)
    latency_s, spi_map = dice.choice((0.001, 0.010, 0.050, 0.150)), chance(dice, 0.5)
    pair = Pair.with_psk(
        seed=seed,
        latency_s=latency_s,
        children=[child_config(start_action="trap")],
        both={"extensions": extensions(dice)},
        options=CrashOptions(spi_map=spi_map, announce=spi_map and chance(dice, 0.5)),
    )
    pair.up()
    both, lossy = chance(dice, 0.5), chance(dice, 0.3)
    pair.delays_rule = lambda sent: (
        () if lossy and sent.reason != "ESP" and chance(dice, 0.15) else (latency_s,)
    )
    for _ in range(dice.choice((1, 1, 2, 3))):
        traffic(pair, dice.uniform(0.0, 0.6), both=both)
        rekey_some(pair, dice, 0.4)
        traffic(pair, dice.uniform(0.0, 0.15), 0.005, both=both)
        who = dice.choice(("bob", "bob", "alice"))
        pair.crash(who)
        traffic(pair, dice.choice((0.05, 0.3, 1.0, 3.0)), both=both)
        pair.boot(who)
        if chance(dice, 0.5):
            # The next crash comes while this one is being recovered from.
            traffic(pair, dice.uniform(0.0, 3 * latency_s), 0.005, both=both)
    check_back(pair, BACK_S, both=both)


# --- a NAT in front of Alice that forgets, and a Bob that crashes ------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_behind_a_nat_that_forgets_traffic_is_back(seed: int) -> None:
    dice = random.Random(seed)
    pair = Pair.with_psk(
        seed=seed,
        latency_s=dice.choice((0.001, 0.020, 0.100)),
        both={"extensions": extensions(dice)},
        bob={"remote_addrs": ()},
        options=CrashOptions(spi_map=chance(dice, 0.5)),
    )
    pair.nat = Nat("192.0.2.1", "198.51.100.7")
    pair.up()
    assert pair.ping()
    for _ in range(dice.randrange(1, 4)):
        traffic(pair, dice.uniform(0.0, 0.4))
        if chance(dice, 0.5):
            pair.nat.forget()
        rekey_some(pair, dice, 0.2)
        traffic(pair, dice.uniform(0.0, 0.2))
        pair.crash("bob")
        traffic(pair, dice.choice((0.1, 1.0, 3.0)))
        if chance(dice, 0.5):
            pair.nat.forget()
        pair.boot("bob")
    check_back(pair, BACK_S)


# --- flaps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_after_a_flap_of_one_way_or_both_one_tunnel_is_left(seed: int) -> None:
    """Nobody has crashed: traffic is back at once, and nobody is declared dead who is not replaced."""
    dice = random.Random(seed)
    pair = Pair.with_psk(
        seed=seed,
        latency_s=dice.choice((0.001, 0.020, 0.100)),
        children=[child_config(start_action=dice.choice(("none", "trap")))],
        both={"extensions": extensions(dice)},
    )
    pair.up()
    for _ in range(3):
        traffic(pair, 0.3)
        cut = dice.choice((SIDES, ("alice",), ("bob",)))
        pair.drop_rule = lambda sent, cut=cut: sent.sender in cut  # type: ignore[misc]
        traffic(pair, dice.choice((0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 40.0)), 0.05)
        pair.drop_rule = lambda sent: False
        check_back(pair, 2.0)
    pair.run(100.0)
    pair.settle()
    check_one_tunnel(pair)
    proofs = {
        e.fields["proof"] for side in (pair.alice, pair.bob) for _, e in side.events if e.kind == "verdict"
    }
    assert proofs <= {"replaced", "resumed", "sir"}


# --- a man in the middle -----------------------------------------------------------------------------


class Witness:
    """Looks at every verdict at the moment of it: has the other side still got that SA?"""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.verdicts: list[str] = []
        self._pairs: dict[tuple[str, int, int], tuple[bytes, bytes]] = {}
        self._read = dict.fromkeys(SIDES, 0)

    def look(self) -> None:
        for side, other in ((self.pair.alice, self.pair.bob), (self.pair.bob, self.pair.alice)):
            for _, event in side.events[self._read[side.name] :]:
                if event.kind == "verdict":
                    self._judge(side, other, int(str(event.fields["sa"])), str(event.fields["proof"]))
            self._read[side.name] = len(side.events)
            if side.endpoint is not None:
                for sa in side.ike.views():
                    self._pairs[side.name, side.boots, sa.number] = (sa.spi_i, sa.spi_r)

    def _judge(self, side: Side, other: Side, number: int, proof: str) -> None:
        self.verdicts.append(proof)
        spis = self._pairs.get((side.name, side.boots, number))
        lives = spis is not None and other.endpoint is not None and other.endpoint.find(*spis) is not None
        if lives:
            # Somebody who forges answers can have a living SA replaced. By another one.
            assert proof in ("replaced", "resumed", "sir"), (self.pair.seed, side.name, proof)
            assert any(sa.established for sa in side.ike.views())


def meddled(pair: Pair, dice: random.Random, latency_s: float) -> Callable[[Sent], tuple[float, ...]]:
    """What he does with each datagram: how long each copy is under way, seconds."""

    def delays(sent: Sent) -> tuple[float, ...]:
        lot = dice.random()
        drops = 0.2 if pair.mono_ns // 10**9 % 3 == 0 else 0.0
        if sent.reason == "ESP" and lot > 0.1:
            return (latency_s,)
        if lot < drops:
            return ()
        if lot < drops + 0.1:
            return (latency_s, latency_s + dice.uniform(0.0, 0.3))
        if lot < drops + 0.25:
            return (latency_s + dice.uniform(0.0, dice.choice((0.05, 1.0, 5.0))),)
        return (latency_s,)

    return delays


@pytest.mark.parametrize("seed", [*range(6), 29, 67, 90])
def test_a_token_condemns_only_what_its_maker_has_lost(seed: int) -> None:
    dice = random.Random(seed)
    latency_s = dice.choice((0.001, 0.020))
    pair = Pair.with_psk(
        seed=seed,
        latency_s=latency_s,
        children=[child_config(start_action="trap")],
        both={"extensions": extensions(dice, (None, Method.QCD))},
        options=CrashOptions(spi_map=chance(dice, 0.6)),
    )
    pair.up()
    witness = Witness(pair)
    pair.delays_rule = meddled(pair, dice, latency_s)
    for step in range(300):
        rekey_some(pair, dice, 0.025)
        witness.look()
        if step in (100, 200):
            who = dice.choice(SIDES)
            pair.crash(who)
            pair.run(dice.choice((0.1, 1.0, 3.0)))
            pair.boot(who)
        for _ in range(dice.randrange(3)):
            pair.inject(dice.choice(pair.trace if chance(dice, 0.3) else pair.trace[-200:]).datagram)
            witness.look()
        for _ in range(4):
            traffic(pair, 0.005, 0.005, both=chance(dice, 0.3))
            witness.look()
    pair.delays_rule = None
    check_back(pair, 2 * FLOOR_S)
    witness.look()
    assert witness.verdicts, "nothing was ever condemned: this seed tests nothing"
