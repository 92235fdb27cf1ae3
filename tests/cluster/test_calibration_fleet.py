"""A member with a slow clock as its clients see it, with whole gateways. Virtual time."""

from __future__ import annotations

from tests.support.fleet import Fleet


def test_clients_of_a_member_with_a_slow_clock_are_told_at_once_and_by_others() -> None:
    fleet = Fleet(1, members=3, clients=3).up()
    slow = fleet.gateways[0]
    slow.skew(-0.2)
    for _ in range(150):
        fleet.traffic(0.1)
        if not slow.serves:
            break
    assert "clock_slow" in [trouble.kind for trouble in slow.troubles]
    fleet.evacuate()
    fleet.traffic(1.5)
    assert fleet.flows() == [True] * 3
    assert [len(client.verdicts()) for client in fleet.clients] == [1, 0, 0]
    assert str(fleet.clients[0].verdicts()[0]) == "qcd-token"
    assert fleet.violations == []
    slow.skew(0.0)
    fleet.run(30.0)
    assert slow.serves
    assert slow.lives == [1, 2]
    assert fleet.flows() == [True] * 3
    assert fleet.violations == []
