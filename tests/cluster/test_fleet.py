"""Whole gateways as members of a cluster: no token for a living SA, from nobody, ever; and all come back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.crash.fakes import protected_request
from tests.support.fates import QCD, RESUMING, SIR, play
from tests.support.fleet import VIP, Fleet
from tests.support.mallory import Mallory
from tests.support.simstore import S

from deadpeer.cluster.secrets import KeyKind
from deadpeer.cluster.steps import ttl_of
from deadpeer.crash.options import CrashOptions
from deadpeer.values import Address, Datagram

ROOT = Path(__file__).parents[2]
SEEDS = int(os.environ.get("DEADPEER_SEEDS", "150"))


def test_clients_of_a_dead_member_come_back_by_the_tokens_of_others() -> None:
    """
    Member 0 dies. Its lease runs out, another member writes its life off, the balancer moves its clients:

      ESP, old SA       ──────▶  member 1: made by 0, whose life has ended: INVALID_SPI
      liveness request  ──────▶  member 1: INVALID_IKE_SPI, the token that 0 would have made
      new SA            ◀─────▶  member 1
    """
    fleet = Fleet(1, members=3, clients=6, extensions=QCD).up()
    fleet.gateways[0].crash()
    fleet.traffic(5.5)
    fleet.evacuate()
    fleet.traffic(0.5)
    assert fleet.flows() == [True] * 6
    assert [c.verdicts() for c in fleet.clients] == [["qcd-token"], [], [], ["qcd-token"], [], []]
    assert fleet.told >= 2
    assert fleet.violations == []


def test_before_the_lease_has_run_out_nobody_says_a_word() -> None:
    """The balancer is faster than the membership: silence, then the token."""
    fleet = Fleet(2, members=3, clients=3, extensions=QCD).up()
    fleet.gateways[0].crash()
    fleet.evacuate()
    fleet.traffic(2.0)
    assert fleet.told == 0
    assert fleet.flows() == [False, True, True]
    fleet.traffic(6.0)
    assert fleet.flows() == [True] * 3
    assert fleet.clients[0].verdicts() == ["qcd-token"]
    assert fleet.violations == []


def test_a_dead_member_s_clients_are_told_at_once_however_many_they_are() -> None:
    """Two thousand ask one member in the same moment, long after that one's own boot.

    That is as after a boot of its own: the limits in total are ten times as large for a while.
    """
    fleet = Fleet(5, members=3, clients=0, extensions=QCD).up()
    [dead, asked, _] = fleet.gateways
    assert dead.life is not None
    assert asked.life is not None
    assert asked.node is not None
    spis = [dead.life.spis.ike_spi() for _ in range(2000)]
    fleet.run(CrashOptions().boot_window_s)

    def ask(number: int) -> None:
        request = protected_request(b"of peer!", spis[number], from_initiator=True)
        host = f"203.0.{number >> 8}.{number & 255}"
        asked.arrive(Datagram(request, Address(VIP, 500), Address(host, 500)))

    asked.defers = False  # What is remembered is taken up by itself: test_deferred.py
    counters = asked.node.endpoint.counters
    dead.crash()
    for number in range(2000):
        ask(number)
    assert counters["invalid_ike_spi_sent"] == 0
    fleet.run(8.0)
    for number in range(2000):
        ask(number)
    assert counters["invalid_ike_spi_sent"] == 2000
    assert fleet.violations == []


@pytest.mark.parametrize("forwards", [True, False])
def test_packets_of_a_living_sa_that_a_balancer_brings_to_another_member(forwards: bool) -> None:
    fleet = Fleet(3, members=3, clients=3, extensions=QCD)
    mallory = Mallory(fleet)
    fleet.up()
    for gateway in fleet.gateways:
        gateway.forwards = forwards
    for client in fleet.clients:
        fleet.rebalance(client.host, (fleet.table[client.host] + 1) % 3)
    fleet.traffic(3.0)
    assert fleet.flows() == [forwards] * 3
    mallory.storm()
    assert mallory.asked >= 180
    fleet.run(1.0)
    assert fleet.told == 0
    assert fleet.violations == []
    assert [c.verdicts() for c in fleet.clients] == [[], [], []]


def test_a_member_that_lost_its_sas_says_so_itself() -> None:
    """Robustness: the owner lives and decides by its own table, whoever brings the question."""
    fleet = Fleet(4, members=3, clients=3, extensions=QCD).up()
    fleet.gateways[1].crash()
    fleet.run(0.3)
    fleet.gateways[1].boot()
    fleet.run(0.5)
    assert fleet.gateways[1].lives == [1, 2]
    fleet.traffic(1.0)
    assert fleet.flows() == [True] * 3
    assert fleet.clients[1].verdicts() == ["qcd-token"]
    assert fleet.violations == []


@pytest.mark.parametrize("frozen_s", [2.0, 30.0])
def test_a_member_that_was_stopped_and_goes_on(frozen_s: float) -> None:
    """SIGSTOP, SIGCONT: its socket's queue is full of packets, and the first thing it asks is its fence."""
    fleet = Fleet(5, members=3, clients=3, extensions=QCD).up()
    frozen = fleet.gateways[0]
    frozen.frozen = True
    fleet.traffic(frozen_s / 2)
    if frozen_s > 5:
        fleet.evacuate()
    fleet.traffic(frozen_s / 2)
    frozen.thaw()
    fleet.traffic(5.0)
    assert fleet.violations == []
    assert fleet.flows() == [True] * 3
    assert fleet.clients[0].verdicts() == (["qcd-token"] if frozen_s > 5 else [])


def test_the_store_is_away_for_a_minute() -> None:
    """All are fenced, no SA is deleted, and all go on without a handshake, for their lives still hold."""
    fleet = Fleet(6, members=3, clients=3, extensions=QCD).up()
    spis = [[sa.spi_i for sa in g.node.endpoint.views()] for g in fleet.gateways if g.node]
    fleet.store_up = False
    fleet.traffic(10.0, 0.2)
    assert fleet.flows() == [False] * 3
    fleet.run(45.0)
    fleet.store_up = True
    fleet.store.new_leader()
    back_ns = fleet.now_ns
    fleet.traffic(3.0, 0.1)
    assert fleet.flows() == [True] * 3
    assert fleet.now_ns - back_ns < 5 * S
    assert [[sa.spi_i for sa in g.node.endpoint.views()] for g in fleet.gateways if g.node] == spis
    assert fleet.told == 0
    assert fleet.violations == []


def test_with_a_long_lease_nobody_notices_that_the_store_is_away() -> None:
    fleet = Fleet(7, members=3, clients=3, ttl_s=ttl_of(90), extensions=QCD).up()
    fleet.store_up = False
    sent = [c.heard for c in fleet.clients]
    fleet.traffic(55.0, 0.1)
    fleet.run(0.1)
    assert [c.heard - old for c, old in zip(fleet.clients, sent, strict=True)] == [550] * 3


def test_a_rotated_secret_recovers_the_clients_of_a_dead_member() -> None:
    """Tokens made before rotations and after them, by a member that died."""
    fleet = Fleet(8, members=3, clients=3, extensions=QCD).up()
    for _ in range(6):
        process = fleet.gateways[2].process
        assert process is not None
        process.rotate(fleet.gateways[2].clock_ns(), fleet.unix_s, KeyKind.QCD)
        fleet.gateways[2].step(None)
        fleet.run(4.0)
    secrets = fleet.gateways[1].process.secrets  # type: ignore[union-attr]
    assert secrets is not None
    assert [key.number for key in secrets.of(KeyKind.QCD)] == [7, 6, 5, 4]
    fleet.gateways[0].crash()
    fleet.traffic(6.0)
    fleet.evacuate()
    fleet.traffic(1.0)
    assert fleet.clients[0].verdicts() == ["qcd-token"]
    assert fleet.flows() == [True] * 3
    assert fleet.violations == []


def test_a_session_with_a_dead_member_is_resumed_with_another() -> None:
    """The token says that the SA is lost; the ticket of the dead member opens at the one that told it."""
    fleet = Fleet(10, members=3, clients=3, extensions=(*QCD, *RESUMING)).up()
    fleet.gateways[0].crash()
    fleet.evacuate()
    fleet.traffic(7.0)
    client = fleet.clients[0]
    kinds = [event.kind for _, event in client.node.events]
    assert client.verdicts() == ["qcd-token"]
    assert kinds.count("resumed") == 1 and "resume_refused" not in kinds, kinds
    redeemed = [g.node.endpoint.counters["ticket.redeemed"] for g in fleet.gateways[1:] if g.node]
    assert sorted(redeemed) == [0, 1]
    assert fleet.flows() == [True] * 3
    assert fleet.violations == []


def test_sir_denies_only_what_has_ended() -> None:
    fleet = Fleet(9, members=3, clients=3, extensions=SIR).up()
    fleet.gateways[0].crash()
    fleet.evacuate()
    fleet.traffic(3.0)
    assert fleet.told == 0
    fleet.traffic(6.0)
    assert fleet.clients[0].verdicts() == ["sir"]
    assert fleet.flows() == [True] * 3
    assert fleet.violations == []


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_lives(seed: int) -> None:
    """Whatever befalls members, store, network and clients (tests/support/fates.py): no token, no denial and
    no claim for a living SA, while Mallory asks everybody; and at the end all are back.

    DEADPEER_SEEDS=20 plays fewer, `make seeds` more of these lives.
    """
    fate = play(seed)
    assert fate.mallory.asked > 0


def test_a_seed_is_the_same_life_again_wherever_it_is_played() -> None:
    """Not even Python's own hash seed decides anything."""
    script = (
        "from tests.support.fates import play\n"
        "for seed in (3, 4):\n"
        "    fate = play(seed)\n"
        "    print(fate.story, fate.fleet.witness.counts, fate.back_s, fate.fleet.now_ns)\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1
    assert "members" in told.pop()
