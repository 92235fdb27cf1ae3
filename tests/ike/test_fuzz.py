"""Garbage from strangers, and from peers with valid keys: no exception, nothing lost, everything counted."""

from __future__ import annotations

import random

import pytest
from tests.ike.test_fragments import rsa_pair
from tests.support.invariants import check_one_tunnel
from tests.support.pair import Pair, child_config, host_selector

from deadpeer.ike.io import Initiate, Rekey
from deadpeer.ike.protection import Protection
from deadpeer.values import Address, Datagram

MORE = child_config("more", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),))
STRANGER = Address("198.51.100.66", 4500)


def recorded() -> Pair:
    """A living pair that has done everything once: its trace is full of valid datagrams."""
    pair = Pair.with_psk(children=[child_config(), MORE], bob={"remote_addrs": ()}, both={"dpd_delay_s": 0.0})
    pair.up(child="net")
    pair.feed("bob", Rekey("home", "net", 2))
    pair.run(2.0)
    pair.feed("alice", Rekey("home", None, 3))
    pair.run(10.0)
    assert pair.ping()
    return pair


def mutations(octets: bytes, rng: random.Random) -> list[bytes]:
    """Flipped bits, cut off, grown, a field changed."""
    found = []
    for _ in range(12):
        changed = bytearray(octets)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        found.append(bytes(changed))
    found += [octets[: rng.randrange(len(octets))] for _ in range(4)]
    found.append(octets + rng.randbytes(rng.randrange(1, 40)))
    middle = rng.randrange(len(octets))
    found.append(octets[:middle] + rng.randbytes(4) + octets[middle + 4 :])
    return found


def counted(pair: Pair) -> int:
    """How many datagrams both sides have accounted for under some reason of refusal."""
    total = 0
    for side in (pair.alice, pair.bob):
        assert side.engine is not None
        total += sum(n for reason, n in side.ike.counters.items() if not reason.startswith("sent"))
        total += sum(side.engine.drops.values())
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stranger", [True, False])
def test_mutated_datagrams_hurt_nobody(seed: int, stranger: bool) -> None:
    rng = random.Random(seed)
    pair = recorded()
    before = counted(pair)
    sas = [sa["spi_i"] for sa in pair.alice.ike.snapshot(pair.now)]
    for sent in list(pair.trace):
        for octets in mutations(sent.datagram.payload, rng):
            source = STRANGER if stranger else sent.datagram.local
            pair.inject(Datagram(octets, source, sent.datagram.remote))
        pair.run(0.01)
    assert counted(pair) > before + 100
    assert [sa["spi_i"] for sa in pair.alice.ike.snapshot(pair.now)] == sas
    pair.run(40.0)
    assert pair.bob.ike.sizes()["half_open"] == 0
    check_one_tunnel(pair)


@pytest.mark.parametrize("seed", range(4))
def test_everything_that_was_ever_said_again_in_any_order_hurts_nobody(seed: int) -> None:
    rng = random.Random(seed)
    pair = recorded()
    said = [s.datagram for s in pair.trace] * 2
    rng.shuffle(said)
    for datagram in said:
        pair.inject(datagram)
    pair.run(40.0)
    assert "verdict" not in pair.alice.kinds() + pair.bob.kinds()
    check_one_tunnel(pair)


def test_random_octets_on_every_port_hurt_nobody() -> None:
    rng = random.Random(1)
    pair = recorded()
    for _ in range(3000):
        port = rng.choice([500, 4500])
        octets = rng.randbytes(rng.choice([0, 1, 4, 20, 28, 60, 200]))
        if rng.random() < 0.5:
            octets = bytes(4) + octets
        pair.inject(Datagram(octets, Address("198.51.100.66", port), Address(pair.bob.host, port)))
    pair.run(40.0)
    check_one_tunnel(pair)


class Hostile:
    """Changes what a side says before it seals it: the other side gets it under valid keys."""

    def __init__(self, rng: random.Random, sender: str, rate: float) -> None:
        self.rng, self.sender, self.rate = rng, sender, rate
        self.active = ""
        self.changed = 0

    def __call__(self, content: tuple[int, bytes]) -> tuple[int, bytes]:
        rng, (first, inner) = self.rng, content
        if self.active != self.sender or rng.random() > self.rate:
            return content
        self.changed += 1
        changed = bytearray(inner)
        for _ in range(rng.choice([1, 1, 2, 5])):
            if changed:
                changed[rng.randrange(len(changed))] = rng.choice([0, 1, 255, rng.randrange(256)])
        if rng.random() < 0.15:
            del changed[rng.randrange(len(changed) + 1) :]
        if rng.random() < 0.1:
            first = rng.randrange(30, 60)
        return first, bytes(changed)


@pytest.mark.parametrize("sender", ["alice", "bob"])
@pytest.mark.parametrize("certificates", [False, True])
def test_a_peer_with_valid_keys_can_not_raise_anything(
    monkeypatch: pytest.MonkeyPatch, sender: str, certificates: bool
) -> None:
    """Much of what the hostile side says inside its protected messages is changed, setup after setup."""
    seal, changed = Protection.seal, 0
    for seed in range(60 if certificates else 150):
        rng = random.Random(seed)
        hostile = Hostile(rng, sender, rng.choice([0.1, 0.3, 0.6]))

        def sealing(
            self: Protection,
            exchange: int,
            message_id: int,
            is_response: bool,
            content: tuple[int, bytes],
            room: int | None,
            hostile: Hostile = hostile,
        ) -> tuple[bytes, ...]:
            return seal(self, exchange, message_id, is_response, hostile(content), room)

        monkeypatch.setattr(Protection, "seal", sealing)
        pair = rsa_pair() if certificates else Pair.with_psk(children=[child_config(), MORE], seed=seed)
        for side in (pair.alice, pair.bob):
            _mark(side.ike, side.name, hostile)
        pair.feed("alice", Initiate("home", None, 1))
        for name, command in (
            ("alice", Rekey("home", "net")),
            ("bob", Rekey("home")),
            ("bob", Rekey("home", "net")),
        ):
            pair.run(1.0)
            pair.feed(name, command)
        pair.run(8.0)
        changed += hostile.changed
    assert changed > 50


def _mark(endpoint: object, name: str, hostile: Hostile) -> None:
    """Let the hostile one know whose turn it is."""
    handle = endpoint.handle  # type: ignore[attr-defined]

    def marked(now: object, item: object) -> None:
        hostile.active = name
        handle(now, item)

    endpoint.handle = marked  # type: ignore[attr-defined]


def test_a_flood_of_first_messages_leaves_the_tunnel_alone() -> None:
    pair = recorded()
    request = next(s for s in pair.trace if s.reason == "IKE_SA_INIT request")
    rng = random.Random(1)
    for number in range(2000):
        octets = rng.randbytes(8) + request.datagram.payload[8:]
        source = Address(f"198.51.{number % 200}.{number % 7 + 1}", 500)
        pair.inject(Datagram(octets, source, request.datagram.remote))
    sizes = pair.bob.ike.sizes()
    assert sizes["half_open"] <= 30
    pair.run(40.0)
    assert pair.bob.ike.sizes()["half_open"] == 0
    check_one_tunnel(pair)
