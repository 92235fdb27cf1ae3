"""
A kill -9 between any two messages of any exchange, and the tunnel comes back.

For each method and each exchange the moments are counted in a run without a kill. Then, for each of them,
one gateway dies right after it, is down for half a second, and boots. Traffic must flow again within the
bound of the method, and when all has settled both sides must have one IKE SA with one child, the same one,
and nothing left over of what died.

    Alice ──1──▶ Bob       killed after 1 was sent and before it is there,
    Alice ◀──2── Bob       after 2 was sent, after Alice handled 2, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from tests.support.invariants import check_one_tunnel
from tests.support.kills import MortalPair, Outcome
from tests.support.pair import child_config, mirrored

from deadpeer.crash import boot as boot_state
from deadpeer.crash.options import (
    CrashOptions,
    Method,
    PolicyOptions,
    QcdOptions,
    ResumptionOptions,
    SirOptions,
)
from deadpeer.crash.spi_records import TABLE, decode_record
from deadpeer.ike.connection import StartAction
from deadpeer.ike.io import ExtensionCommand, Rekey
from deadpeer.plane.model import RemoveChild

LATENCY_S = 0.050
DOWN_S = 0.5
EVERY_S = 0.1
"""How often a host sends."""
WITHIN_S = 4.0
"""From the victim's boot to traffic both ways. PROTOCOLS has this bound for reconnect without any hint."""
LIVENESS_S = 12.0
"""The same where only liveness is left, with `LIVENESS`."""
IDLE_S = 34.0
"""The same for an idle tunnel about which the map has nothing: the idle check comes after 30 s."""
LIVENESS = {"dpd_timeout_s": 8.0, "dpd_floor_s": 8.0}

HINTS_ALONE = CrashOptions(spi_map=False, announce=False)
WITH_MAP = CrashOptions(announce=False)


@dataclass(frozen=True)
class Way:
    """Which methods there are, and what of them is switched on."""

    methods: tuple[Method, ...]
    options: CrashOptions = HINTS_ALONE
    resume: bool = False
    idle: bool = False


QCD = Way((Method.QCD, Method.LIVENESS))
SIR = Way((Method.SIR, Method.LIVENESS))
RECONNECT = Way((Method.RECONNECT, Method.LIVENESS))
ALL = Way(tuple(Method), CrashOptions())
WAYS = {
    "qcd": QCD,
    "qcd resumed": replace(QCD, resume=True),
    "map": replace(QCD, options=WITH_MAP),
    "map resumed": replace(QCD, options=WITH_MAP, resume=True),
    "announce": replace(QCD, options=CrashOptions(), idle=True),
    "announce resumed": replace(QCD, options=CrashOptions(), idle=True, resume=True),
    "sir": SIR,
    "sir resumed": replace(SIR, resume=True),
    "reconnect": RECONNECT,
    "reconnect resumed": replace(RECONNECT, resume=True),
    "all": ALL,
    "all resumed": replace(ALL, resume=True),
    "liveness": Way((Method.LIVENESS,)),
}

Act = Callable[[MortalPair], None]


def pair_of(way: Way) -> MortalPair:
    """Who has packets to send sets up a tunnel; where nobody has, Alice does."""
    extensions = (
        QcdOptions("both" if Method.QCD in way.methods else "off"),
        SirOptions("auto" if Method.SIR in way.methods else "off"),
        PolicyOptions(way.methods),
        ResumptionOptions(enabled=way.resume),
    )
    hers: StartAction = "start" if way.idle else "trap"
    his: StartAction = "none" if way.idle else "trap"
    child = child_config(start_action=hers)
    return MortalPair.with_psk(
        children=[child],
        latency_s=LATENCY_S,
        both={"extensions": extensions, **LIVENESS},
        bob={"children": (replace(mirrored(child), start_action=his),)},
        options=way.options,
    )


def traffic(pair: MortalPair, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """The hosts behind `pair.senders` send all the time, while their gateway is up."""
    for seq in range(round(seconds / EVERY_S)):
        if until():
            return
        if "alice" in pair.senders and pair.alice.endpoint is not None:
            pair.send("alice", seq=seq)
        if "bob" in pair.senders and pair.bob.endpoint is not None:
            pair.send("bob", "10.10.2.1", "10.10.1.1", seq=seq)
        pair.run(EVERY_S)


# --- the exchanges ----------------------------------------------------------------------------------


def up(pair: MortalPair) -> None:
    if not list(pair.alice.ike.views()):
        pair.up()
    traffic(pair, 0.5)


def rekey(who: str, child: str | None) -> Act:
    def act(pair: MortalPair) -> None:
        pair.feed(who, Rekey("home", child))
        traffic(pair, 1.0)

    return act


def crash(who: str) -> Act:
    def prepare(pair: MortalPair) -> None:
        up(pair)
        pair.crash(who)
        traffic(pair, DOWN_S)

    return prepare


def boot(who: str) -> Act:
    def act(pair: MortalPair) -> None:
        pair.boot(who)
        traffic(pair, 2.0)

    return act


def rotated(pair: MortalPair) -> None:
    """Three rotations need no renewal; the fourth does."""
    up(pair)
    for tag in range(1, 4):
        pair.feed("bob", ExtensionCommand("qcd", "rotate", tag))


def rotate(pair: MortalPair) -> None:
    pair.feed("bob", ExtensionCommand("qcd", "rotate", 4))
    traffic(pair, 1.0)


def lose_child(pair: MortalPair) -> None:
    """Bob's data plane loses the child, his IKE SA lives."""
    [sa] = pair.bob.ike.views()
    assert pair.bob.engine is not None
    pair.bob.engine.apply(pair.mono_ns, RemoveChild(sa.child_views[0].number))
    traffic(pair, 2.0)


EXCHANGES: dict[str, tuple[Act, Act]] = {
    "setup": (lambda pair: None, lambda pair: traffic(pair, 1.0)),
    "child rekey by alice": (up, rekey("alice", "net")),
    "child rekey by bob": (up, rekey("bob", "net")),
    "ike rekey by alice": (up, rekey("alice", None)),
    "ike rekey by bob": (up, rekey("bob", None)),
    "rotation by bob": (rotated, rotate),
    "lost child of bob": (up, lose_child),
    "recovery of bob": (crash("bob"), boot("bob")),
    "recovery of alice": (crash("alice"), boot("alice")),
}


# --- one kill ---------------------------------------------------------------------------------------


def run(way: Way, senders: str, exchange: str, victim: str, number: int | None) -> MortalPair:
    prepare, act = EXCHANGES[exchange]
    pair = pair_of(way)
    pair.senders = () if way.idle else tuple(senders.split("+"))
    prepare(pair)
    pair.arm(victim, number)
    act(pair)
    return pair


def bound_s(way: Way, exchange: str, victim: str, pair: MortalPair) -> float:
    """How soon the tunnel must be back.

    What the map does not have can't be announced: the crash may have swallowed it. And who begins the rekey
    of an IKE SA hands over the token of the new one last (RFC 6290 section 4.3; it learns the SPIs last):
    until then nobody can prove its crash, and without another method liveness does.
    """
    if way.idle and not mapped(pair, victim):
        return IDLE_S
    handed_over = f"{victim} sent: qcd token" in pair.moments
    rekeying = exchange == f"ike rekey by {victim}" and not handed_over
    others = {Method.SIR, Method.RECONNECT} & set(way.methods)
    blind = Method.QCD in way.methods and rekeying and not others
    return LIVENESS_S if blind or way.methods == (Method.LIVENESS,) else WITHIN_S


def mapped(pair: MortalPair, victim: str) -> bool:
    """Whether the victim's map on disk has every IKE SA that the survivor has, and can make its token."""
    side = pair.side(victim)
    state = side.store.get(boot_state.STATE_NAME)
    assert state is not None
    has = boot_state.decode(state).has
    records = [decode_record(data) for _, data in side.ledger.items(TABLE)]
    known = {(r.spi_i, r.spi_r) for r in records if r is not None and has(r.generation)}
    survivor = pair.bob if victim == "alice" else pair.alice
    return all((sa.spi_i, sa.spi_r) in known for sa in survivor.ike.views() if sa.established)


def outcomes(way: Way, senders: str, exchange: str, victim: str) -> Iterator[Outcome]:
    moments = run(way, senders, exchange, victim, None).moments
    assert moments
    for number in range(1, len(moments) + 1):
        pair = run(way, senders, exchange, victim, number)
        assert pair.moments == moments[:number], "the same input, another run"
        yield outcome(pair, way, victim, number, bound_s(way, exchange, victim, pair))


def outcome(pair: MortalPair, way: Way, victim: str, number: int, within_s: float) -> Outcome:
    result = Outcome(number, pair.moments[-1], None)
    assert pair.side(victim).endpoint is None
    traffic(pair, DOWN_S)
    back_ns = pair.mono_ns
    pair.boot(victim)
    # What is under way of the life before does not count.
    traffic(pair, 2 * LATENCY_S)
    hosts = [pair.side(name).behind for name in pair.senders]
    heard = [len(host.received) for host in hosts]

    def back() -> bool:
        if way.idle:
            return joined(pair)
        return all(len(host.received) > before for host, before in zip(hosts, heard, strict=True))

    traffic(pair, within_s, back)
    if back():
        result.back_s = (pair.mono_ns - back_ns) / 1e9
    else:
        result.problems.append(f"not within {within_s:.0f} s")
    traffic(pair, 2.0)
    pair.run(90.0)
    pair.settle()
    try:
        check_one_tunnel(pair)
    except AssertionError as error:
        sas = f"{pair.ike_sas()} IKE SAs, {pair.ike_children()} children"
        result.problems.append(f"{sas} {error}".strip())
    return result


def joined(pair: MortalPair) -> bool:
    """Whether both sides have a child SA of the same two SPIs."""
    hers, his = (
        {(c.spi_in, c.spi_out) for sa in side.ike.views() if sa.established for c in sa.child_views}
        for side in (pair.alice, pair.bob)
    )
    return any((spi_out, spi_in) in his for spi_in, spi_out in hers)


# --- all of them ------------------------------------------------------------------------------------

REKEYS = ("child rekey by alice", "child rekey by bob", "ike rekey by alice", "ike rekey by bob")
RECOVERIES = ("recovery of bob", "recovery of alice")
EVERYTHING = ("setup", *REKEYS, "lost child of bob", *RECOVERIES)
SERIES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # which way, who has packets to send, which exchanges
    ("all", ("alice", "alice+bob"), EVERYTHING),
    ("all", ("bob",), RECOVERIES),
    ("all resumed", ("alice",), EVERYTHING),
    ("all resumed", ("alice+bob",), RECOVERIES),
    ("qcd", ("alice",), EVERYTHING),
    ("qcd", ("alice",), ("rotation by bob",)),
    ("qcd", ("alice+bob",), RECOVERIES),
    ("qcd resumed", ("alice",), ("setup", "ike rekey by alice", "ike rekey by bob", *RECOVERIES)),
    ("map", ("alice",), (*REKEYS, *RECOVERIES)),
    ("map", ("alice+bob",), RECOVERIES),
    ("map resumed", ("alice",), ("ike rekey by alice", *RECOVERIES)),
    ("announce", ("nobody",), (*REKEYS, "rotation by bob", *RECOVERIES)),
    ("announce resumed", ("nobody",), ("ike rekey by alice", *RECOVERIES)),
    ("sir", ("alice",), EVERYTHING),
    ("sir", ("bob", "alice+bob"), ("setup", *RECOVERIES)),
    ("sir resumed", ("alice",), ("ike rekey by alice", *RECOVERIES)),
    ("reconnect", ("alice",), EVERYTHING),
    ("reconnect", ("bob", "alice+bob"), ("setup", *RECOVERIES)),
    ("reconnect resumed", ("alice",), ("ike rekey by alice", *RECOVERIES)),
    ("liveness", ("alice",), ("setup", "recovery of bob")),
)
CASES = [
    pytest.param(way, senders, exchange, victim, id=f"{way}, {exchange}, kill {victim}, {senders} sends")
    for way, all_senders, exchanges in SERIES
    for senders in all_senders
    for exchange in exchanges
    for victim in ("bob", "alice")
]


@pytest.mark.parametrize(("way", "senders", "exchange", "victim"), CASES)
def test_the_tunnel_comes_back(way: str, senders: str, exchange: str, victim: str) -> None:
    """Each line of a failure names the number and the moment of a kill."""
    bad = [str(each) for each in outcomes(WAYS[way], senders, exchange, victim) if each.problems]
    assert bad == []
