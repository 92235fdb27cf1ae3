"""Random lives of a cluster: what a seed draws, what befalls members, store, network and clients, and how it
has to end. `play(seed)` is the whole of it; nothing but the seed decides.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.support.fleet import Client, Fleet, Gateway
from tests.support.mallory import Mallory
from tests.support.simstore import S

from deadpeer.cluster.ownership import Standing
from deadpeer.cluster.secrets import KeyKind
from deadpeer.cluster.store import Item, KeepAlive, Range, Txn
from deadpeer.crash.options import (
    CrashOptions,
    Method,
    PolicyOptions,
    QcdOptions,
    ResumptionOptions,
    SirOptions,
)
from deadpeer.crash.redirect import Drain
from deadpeer.ike.io import ExtensionCommand, Initiate, Lose, Rekey

QCD = (PolicyOptions((Method.QCD, Method.LIVENESS)),)
SIR = (QcdOptions("off"), SirOptions("force"), PolicyOptions((Method.SIR, Method.LIVENESS)))
RESUMING = (ResumptionOptions(enabled=True),)
WAYS = {"qcd": QCD, "sir": SIR, "all": (), "resumption": RESUMING}

GENEROUS = CrashOptions(
    boot_factor=1.0,
    source_rate=1e5, source_burst=1e5, spi_rate=1e5, spi_burst=1e5,
    total_rate=1e5, total_burst=1e5, recent_rate=1e5, recent_burst=1e5,
    mapped_rate=1e5, mapped_burst=1e5, esp_rate=1e5, esp_burst=1e5,
    check_rate=1e5, check_burst=1e5, check_esp_rate=1e5, check_esp_burst=1e5,
)  # fmt: skip
"""Nothing but the rules keeps a member from answering."""

DRIFT = 0.005
"""Two clocks of which one is so much too fast, the other so much too slow, are what `Margin` allows."""

SIZES = (2, 8)
ROUNDS = 12
SERVE_S = 15.0
"""When all is mended every member serves within this time, and the 1.2 leases of a number in doubt."""
FORWARDED_S = 15.0
"""Then every client is back within this time, if all members forward."""
BACK_S = 80.0
"""The same, if not all do, or if a store was lost with everybody who had its keys: who is told nothing, as
nobody may, waits for 60 s of silence (dpd_floor_s)."""

POINTS = (
    "before a request is sent",
    "after a transaction, before its reply",
    "before the epoch is on disk",
    "after the epoch is on disk",
    "before something is on disk",
    "after something is on disk",
    "before a datagram is sent",
)


@dataclass
class Fate:
    """One seed's cluster, and what has befallen it so far."""

    seed: int
    sizes: tuple[int, int]
    dice: random.Random
    fleet: Fleet
    mallory: Mallory
    way: str
    restores: bool
    story: list[str] = field(default_factory=list)
    befell: Counter[str] = field(default_factory=Counter)
    backups: list[tuple[int, dict[str, Item]]] = field(default_factory=list)
    drained: set[int] = field(default_factory=set)
    back_s: float = 0.0
    """How long it took at the end until all clients were back."""

    def tell(self, what: str) -> None:
        """For who reads how it came."""
        self.story.append(f"{self.fleet.now_ns / S:8.3f} s  {what}")


def draw(seed: int, sizes: tuple[int, int] = SIZES) -> Fate:
    """The cluster of this seed, not yet up. `sizes`: the fewest and the most members."""
    dice = random.Random(f"fate {seed}")
    members = dice.randint(*sizes)
    way = dice.choice(list(WAYS))
    ttl_s = dice.choice([2, 4, 4, 4, 10])
    options = GENEROUS if dice.random() < 0.5 else CrashOptions()
    fleet = Fleet(seed, members, 2 + (members + 1) // 3, ttl_s, WAYS[way], options, "start")
    fleet.dice = dice
    fate = Fate(seed, sizes, dice, fleet, Mallory(fleet), way, restores=dice.random() < 0.3)
    for gateway in fleet.gateways:
        gateway.drift = dice.choice([-DRIFT, DRIFT, dice.uniform(-DRIFT, DRIFT)])
        gateway.watch_delay_s = dice.choice([0.001, 0.1, 3.0, 60.0])
        gateway.forwards = dice.random() < 0.7
    fleet.store.drift = dice.uniform(-DRIFT, DRIFT)
    fleet.store.looks_ns = dice.choice([0, S // 2])
    fate.tell(f"{members} members, {len(fleet.clients)} clients, {way}, leases of {ttl_s} s")
    return fate


def play(seed: int, sizes: tuple[int, int] = SIZES) -> Fate:
    """The whole life. Raises AssertionError, with how to play it again."""
    fate = draw(seed, sizes)
    befall(fate)
    mend(fate)
    return fate


def befall(fate: Fate, rounds: int = ROUNDS, events: Sequence[str] = ()) -> None:
    """Bring it up, and then one thing after the other. `events`: only these, each as often; all if there are
    none."""
    fleet, dice = fate.fleet, fate.dice
    fate.backups.append(fleet.store.backup())
    fleet.up()
    fate.backups.append(fleet.store.backup())
    fleet.loss = dice.choice([0.0, 0.0, 0.02, 0.1])
    names = list(events or EVENTS)
    weights = [1 if events else EVENTS[name][0] for name in names]
    for _ in range(rounds):
        for name in dice.choices(names, weights, k=dice.choice([1, 1, 2])):
            EVENTS[name][1](fate)
            fate.befell[name] += 1
        _repair(fate)
        _traffic(fate, dice.choice([0.2, 1.0, 3.0, 6.0]), attacks=0.6)
        if dice.random() < 0.1:
            fate.mallory.storm()
        check(fate)


def mend(fate: Fate) -> None:
    """All faults end; then all members serve, and all clients are back, within a bound."""
    fleet = fate.fleet
    fate.tell("mended")
    fleet.run(5.0)  # an election that is under way ends
    fleet.store_up, fleet.slowest_s, fleet.loss = True, 0.02, 0.0
    fleet.walls.clear()
    for ghost in fleet.ghosts:
        ghost.crash()
    for gateway in fleet.gateways:
        gateway.watch_delay_s = 0.01
    fleet.heal()
    fleet.lose_watches()
    for gateway in fleet.gateways:
        gateway.stumbles, gateway.dies_at = False, ""
        if gateway.number in fate.drained:
            gateway.crash()
        if gateway.process is None:
            gateway.boot()
        elif gateway.frozen:
            gateway.thaw()
    for _ in range(int(SERVE_S + 1.2 * fleet.ttl_s)):
        if all(gateway.serves for gateway in fleet.gateways):
            break
        fleet.run(1.0)
    idle = [f"{g.number}: {g.troubles[-3:]}" for g in fleet.gateways if not g.serves]
    assert not idle, failure(fate, f"members that do not serve: {idle}")
    fleet.evacuate()
    since_ns = fleet.now_ns
    told = all(gateway.forwards for gateway in fleet.gateways) and not _keys_are_lost(fate)
    bound_s = FORWARDED_S if told else BACK_S
    fate.tell("the balancer knows who serves")
    while not all(flows := fleet.flows()) and fleet.now_ns - since_ns < bound_s * S:
        # Nobody attacks: who brings a client's questions to the owner of its SA keeps the SA.
        _traffic(fate, 2.0, attacks=0.0)
    fate.back_s = (fleet.now_ns - since_ns) / S
    assert all(flows), failure(
        fate, f"clients that are not back after {fate.back_s:.0f} s: {_lost(fate, flows)}"
    )
    check(fate)


def check(fate: Fate) -> None:
    """The invariant. Raises AssertionError."""
    assert not fate.fleet.violations, failure(fate, "; ".join(fate.fleet.violations[:5]))


def failure(fate: Fate, what: str) -> str:
    """What a person needs to see it again."""
    told = "\n  ".join(fate.story)
    sizes = "" if fate.sizes == SIZES else f" --members {fate.sizes[0]}-{fate.sizes[1]}"
    return f'seed {fate.seed}: {what}\nreplay: make seeds ARGS="--seed {fate.seed}{sizes}"\n  {told}'


# --- what befalls ------------------------------------------------------------------------------------


def _traffic(fate: Fate, seconds: float, attacks: float) -> None:
    """Every client sends five times a second; meanwhile Mallory asks around."""
    fleet = fate.fleet
    for seq in range(int(seconds / 0.2)):
        for client in fleet.clients:
            client.send(seq)
        fleet.run(fate.dice.uniform(0.0, 0.2))
        if fate.dice.random() < attacks:
            fate.mallory.attack(fate.dice)
        fleet.run(0.1)


def _repair(fate: Fate) -> None:
    """Some of what is broken is mended by itself, by people, or by a supervisor."""
    fleet, dice = fate.fleet, fate.dice
    for gateway in list(fleet.everybody):
        ghost = gateway in fleet.ghosts
        if gateway.process is None and not ghost and dice.random() < 0.4:
            fate.tell(f"{gateway.number} boots")
            gateway.boot()
        if gateway.frozen and dice.random() < 0.4:
            fate.tell(f"{gateway.number} goes on")
            gateway.thaw()
        if (gateway.deaf or gateway.mute or gateway.cut_off) and dice.random() < 0.2:
            fate.tell(f"{gateway.number} reaches the store")
            fleet.heal(gateway)
        if ghost and gateway.process is not None and dice.random() < 0.2:
            fate.tell(f"{gateway.number}, the old machine, is stopped")
            gateway.crash()
    for number in list(fate.drained):
        if dice.random() < 0.5:
            fate.drained.discard(number)
            _leave(fate, fleet.gateways[number])
    if not fleet.store_up and dice.random() < 0.3:
        fate.tell("the store is back")
        fleet.store_up = True
        fleet.store.new_leader()


def _any(fate: Fate) -> Gateway:
    return fate.dice.choice(fate.fleet.gateways)


def _client(fate: Fate) -> Client:
    return fate.dice.choice(fate.fleet.clients)


def _crash(fate: Fate) -> None:
    gateway = _any(fate)
    fate.tell(f"{gateway.number} is killed")
    gateway.crash()


def _crash_at(fate: Fate) -> None:
    """In the middle of something. For what only happens at a start it is started anew."""
    gateway = _any(fate)
    gateway.dies_at, gateway.dies_after = fate.dice.choice(POINTS), fate.dice.choice([0, 0, 1, 3, 10])
    fate.tell(f"{gateway.number} dies {gateway.dies_at}, when it has passed that {gateway.dies_after} times")
    if "epoch" in gateway.dies_at:
        point = gateway.dies_at
        gateway.crash()
        gateway.dies_at, gateway.dies_after = point, 0
        gateway.boot()


def _stop(fate: Fate) -> None:
    gateway = _any(fate)
    gateway.frozen = gateway.process is not None
    fate.tell(f"{gateway.number} is stopped")


def _stumble(fate: Fate) -> None:
    gateway = _any(fate)
    gateway.stumbles = gateway.process is not None
    fate.tell(f"{gateway.number} is stopped before it sends its next datagram")


def _suspend(fate: Fate) -> None:
    gateway = _any(fate)
    fate.tell(f"{gateway.number} is suspended")
    if gateway.process is not None:
        gateway.suspend()


def _cut_off(fate: Fate) -> None:
    gateway = _any(fate)
    fate.tell(f"{gateway.number} is cut off from the store")
    gateway.cut_off = True


def _cut_off_all(fate: Fate) -> None:
    """The store lives, and lets the leases run out."""
    fate.tell("all are cut off from the store")
    for gateway in fate.fleet.gateways:
        gateway.cut_off = True


def _deafen(fate: Fate) -> None:
    gateway = _any(fate)
    fate.tell(f"{gateway.number} gets no answers of the store, which carries out what it asks")
    gateway.deaf = True


def _mute(fate: Fate) -> None:
    """A lost lease, if it lasts; or one that nobody writes off, or no news."""
    gateway = _any(fate)
    gateway.mute = (fate.dice.choice([KeepAlive, KeepAlive, Range, Txn]),)
    fate.tell(f"{gateway.number}: each {gateway.mute[0].__name__} gets lost")


def _heal(fate: Fate) -> None:
    fate.tell("all reach the store and each other")
    fate.fleet.heal()
    fate.fleet.walls.clear()
    fate.fleet.slowest_s = 0.02


def _wall(fate: Fate) -> None:
    one, two = fate.dice.sample(range(len(fate.fleet.gateways)), 2)
    fate.tell(f"{one} and {two} can't reach each other")
    fate.fleet.walls.add(frozenset((one, two)))


def _away(fate: Fate) -> None:
    fate.tell("the store is away")
    fate.fleet.store_up = False


def _elect(fate: Fate) -> None:
    if fate.fleet.store_up:
        takes_s = fate.dice.uniform(0.1, 4.0)
        fate.tell(f"the store elects a leader, for {takes_s:.1f} s")
        fate.fleet.elect(takes_s)


def _slow(fate: Fate) -> None:
    fate.fleet.slowest_s = fate.dice.choice([0.02, 0.3, 1.5])
    fate.tell(f"requests are under way for up to {fate.fleet.slowest_s} s each way")


def _rebalance(fate: Fate) -> None:
    fate.tell("the balancer sends all clients somewhere else")
    for client in fate.fleet.clients:
        fate.fleet.rebalance(client.host, fate.dice.randrange(len(fate.fleet.gateways)))


def _evacuate(fate: Fate) -> None:
    fate.tell("the balancer takes out who does not serve")
    fate.fleet.evacuate()


def _rotate(fate: Fate) -> None:
    gateway = _any(fate)
    if gateway.process is not None and gateway.process.epoch and not gateway.frozen:
        kind = fate.dice.choice(list(KeyKind))
        fate.tell(f"{gateway.number} rotates {kind.value}")
        gateway.process.rotate(gateway.clock_ns(), fate.fleet.unix_s, kind)
        gateway.step(None)


def _drain(fate: Fate) -> None:
    gateway = _any(fate)
    if gateway.node is None or not gateway.serves or gateway.frozen:
        return
    fate.tell(f"{gateway.number} is drained")
    others = [g.number for g in fate.fleet.gateways if g is not gateway]
    for host, member in fate.fleet.table.items():
        if member == gateway.number:
            fate.fleet.rebalance(host, fate.dice.choice(others))
    fate.drained.add(gateway.number)
    gateway.work(ExtensionCommand("redirect", "drain", 0, Drain()))


def _leave(fate: Fate, gateway: Gateway | None = None) -> None:
    """An orderly stop, and a new start."""
    gateway = gateway or _any(fate)
    if gateway.process is None or gateway.frozen:
        return
    fate.tell(f"{gateway.number} gives its lease back, and starts anew")
    gateway.process.leave(gateway.clock_ns(), fate.fleet.unix_s)
    gateway.step(None)
    gateway.crash()
    if fate.dice.random() < 0.5:
        fate.fleet.run(fate.dice.uniform(0.0, 1.0))
    gateway.boot()


def _lose(fate: Fate) -> None:
    """Robustness: the process lives and has lost SAs."""
    gateway, child = _any(fate), fate.dice.choice([None, "net"])
    fate.tell(f"{gateway.number} loses its {'IKE SAs' if child is None else 'children'}")
    gateway.work(Lose(None, child))


def _rekey(fate: Fate) -> None:
    child = fate.dice.choice([None, "net"])
    if fate.dice.random() < 0.5:
        client = _client(fate)
        fate.tell(f"client {client.number} rekeys {child or 'IKE'}")
        client.work(Rekey("home", child))
    else:
        gateway = _any(fate)
        fate.tell(f"{gateway.number} rekeys {child or 'IKE'}")
        gateway.work(Rekey("net", child))


def _reconnect(fate: Fate) -> None:
    """A client begins a second SA and keeps the first."""
    client = _client(fate)
    fate.tell(f"client {client.number} loses all its SAs and connects anew")
    client.work(Lose())
    client.work(Initiate("home"))


def _replace(fate: Fate) -> None:
    """A member number is used again; whoever had it is somewhere, and runs or not."""
    gateway = _any(fate)
    if len(fate.fleet.ghosts) >= 2:
        return
    fate.tell(f"another machine is {gateway.number} now, with an empty disk; the old one is not stopped")
    made = fate.fleet.replace(gateway.number, f"machine-{gateway.number}-{len(fate.fleet.ghosts)}")
    fate.drained.discard(gateway.number)
    made.boot()


def _image(fate: Fate) -> None:
    """The boot counter goes back; not where the store may go back too (docs/cluster.md, what remains)."""
    gateway = _any(fate)
    if fate.restores:
        return
    gateway.crash()
    gateway.disk_epoch = fate.dice.randint(0, gateway.disk_epoch)
    fate.tell(f"{gateway.number} starts from an old disk image, which says epoch {gateway.disk_epoch}")
    gateway.boot()


def _back_up(fate: Fate) -> None:
    fate.backups.append(fate.fleet.store.backup())


def _restore(fate: Fate) -> None:
    if not fate.restores or not fate.backups:
        return
    fate.tell("the store is restored from a backup")
    fate.fleet.store.restore(fate.dice.choice(fate.backups))


EVENTS: dict[str, tuple[int, Callable[[Fate], None]]] = {
    "crash": (4, _crash),
    "crash at a point": (3, _crash_at),
    "stop": (3, _stop),
    "stop between look and sending": (1, _stumble),
    "suspend": (1, _suspend),
    "cut off": (4, _cut_off),
    "all cut off": (1, _cut_off_all),
    "answers lost": (2, _deafen),
    "requests lost": (3, _mute),
    "heal": (3, _heal),
    "wall": (2, _wall),
    "store away": (2, _away),
    "election": (2, _elect),
    "slow store": (1, _slow),
    "rebalance": (3, _rebalance),
    "evacuate": (3, _evacuate),
    "rotate": (3, _rotate),
    "drain": (1, _drain),
    "leave": (1, _leave),
    "lose": (1, _lose),
    "rekey": (4, _rekey),
    "reconnect": (1, _reconnect),
    "replace": (1, _replace),
    "old image": (1, _image),
    "back up": (2, _back_up),
    "restore": (2, _restore),
}


def _keys_are_lost(fate: Fate) -> bool:
    """Whether a client has an SA whose SPI no member can read any more."""
    readers = [gateway.life.ownership for gateway in fate.fleet.gateways if gateway.life is not None]
    spis = {sa.spi_r for client in fate.fleet.clients for sa in client.node.endpoint.views()}
    return any(all(reader.of_ike(spi) is Standing.UNKNOWN for reader in readers) for spi in spis)


def _lost(fate: Fate, flows: list[bool]) -> list[str]:
    lost = [c for c, flow in zip(fate.fleet.clients, flows, strict=True) if not flow]
    return [f"{c.number}: {[e.kind for _, e in c.node.events[-5:]]}" for c in lost]
