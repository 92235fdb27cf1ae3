"""Copies of one gateway behind a balancer: what RFC 6290 section 9.2 warns of, counted and reproduced."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest

from deadpeer.lab.copies.place import CopiesPlan, client_host, relay_config, thief_host, write_gateway
from deadpeer.lab.copies.result import CopiesResult, Presented, count_said, given_up, pair_of
from deadpeer.lab.copies.run import run_copies
from deadpeer.lab.options import LabError
from deadpeer.lab.process import Record
from deadpeer.lab.relay import RelayConfig
from deadpeer.lab.scenarios.plan import layout
from deadpeer.lab.scenarios.truth import Said, Truth

PAIR, OTHER = ("aa" * 8, "bb" * 8), ("cc" * 8, "dd" * 8)


def up(at_ns: int, pair: tuple[str, str], sa: int = 1) -> Record:
    event = {"event": "ike_sa_up", "mono_ns": at_ns, "sa": sa, "remote": "127.77.0.20:20001"}
    return {**event, "spi_i": pair[0], "spi_r": pair[1]}


@pytest.fixture
def truth() -> Truth:
    """Gateway 0 serves from 10 to 100 and has an SA from 20 on."""
    found = Truth(2)
    found.event(0, {"event": "active", "mono_ns": 10})
    found.event(0, up(20, PAIR))
    found.stopped(0, 100, dead=True)
    return found


def test_what_was_said_counts_if_the_sa_lived_when_it_was_said(truth: Truth) -> None:
    own, seen = Said(PAIR, 50), Said(PAIR, 60, member=1)
    too_early, too_late, unknown = Said(PAIR, 15), Said(PAIR, 100), Said(OTHER, 50)
    assert count_said(truth, [own, seen, too_early, too_late, unknown]) == (2, 1)


def test_only_sas_whose_owner_had_them_were_living(truth: Truth) -> None:
    verdicts = [{"event": "verdict", "mono_ns": at, "sa": 1, "proof": "qcd-token"} for at in (50, 150)]
    events = [up(20, PAIR), *verdicts]
    assert given_up(events, truth, 0, 200) == [PAIR]
    assert given_up(events, truth, 60, 200) == [], "the owner was dead by then"
    assert given_up([verdicts[0]], truth, 0, 200) == [], "nobody knows which SA that was"


def test_a_number_names_the_sa_that_came_up_last_with_it() -> None:
    events = [up(20, PAIR), up(30, OTHER, sa=2), up(40, OTHER)]
    assert pair_of(events, 1, 35) == PAIR
    assert pair_of(events, 1, 40) == OTHER
    assert pair_of(events, 3, 99) is None


def test_a_result_counts_what_died_and_what_was_noticed() -> None:
    presented = (
        Presented(0, "a token", died=True, noticed=False, back_ms=140.0),
        Presented(1, "", False, True),
    )
    result = CopiesResult(CopiesPlan(), 320, 14, 10, 0, presented, 180.0, ("qcd-token",))
    assert (result.died, result.noticed, result.ok) == (1, 1, True)
    record = result.to_record()
    assert record["said_of_living_sas"] == 14
    assert record["living_sas_given_up_for_what_was_presented"] == 1
    assert record["presented"][0]["back_ms"] == 140.0
    assert not CopiesResult(CopiesPlan(), 0, 0, 0, 0, (), failure="nothing").ok


@pytest.mark.parametrize(
    "plan", [CopiesPlan(clients=17), CopiesPlan(gateways=1), CopiesPlan(method="liveness")]
)
def test_what_makes_no_sense_is_refused(plan: CopiesPlan) -> None:
    with pytest.raises(LabError):
        plan.check()


def test_copies_are_gateways_that_were_told_of_nobody_else(tmp_path: Path) -> None:
    plan = CopiesPlan(gateways=3, clients=2)
    place = layout(tmp_path, plan.cluster)
    tables = [tomllib.loads(write_gateway(place, number).read_text()) for number in range(3)]
    for table in tables:
        assert set(table) == {"gateway", "connections"}
        assert table["connections"] == tables[0]["connections"]
    assert len({table["gateway"]["state_dir"] for table in tables}) == 3
    hosts = [client_host(place, client) for client in place.clients] + [
        client.host for client in place.clients
    ]
    assert len({*hosts, *place.members, place.address, place.stranger, thief_host(place)}) == 4 + 3 + 3
    config = relay_config(place, plan, place.clients[0])
    assert RelayConfig.from_json(config.to_json()) == config


def test_a_token_bought_at_a_copy_ends_a_living_sa() -> None:
    """The working group's "No": RFC 6290 section 9.2, on real processes."""
    said: list[str] = []
    plan = CopiesPlan(clients=1, ask_s=0.5, rounds=1, seed=1)
    result = asyncio.run(run_copies(plan, said.append))
    assert result.ok, (result.failure, said)
    assert result.sold > 0
    assert [one.died for one in result.presented] == [True]
    assert result.verdicts == ("qcd-token",)
    assert result.moved is not None and result.moved.given_up == 1
