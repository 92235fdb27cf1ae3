"""Every attack of the lab at a small size: real gateways in real processes, under traffic, on loopback.

They run a few at a time, for they mostly wait; each test then judges one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

import pytest

from deadpeer.lab.attacks import catalogue, gauges
from deadpeer.lab.attacks.forgery import KnownSa
from deadpeer.lab.attacks.model import AttackResult, Check
from deadpeer.lab.attacks.run import run_attack
from deadpeer.lab.options import LabError, LabOptions, Method
from deadpeer.lab.recording import Silent
from deadpeer.lab.session import Session

SECONDS = 2.0
AT_ONCE = 3
ATTEMPTS = 5
"""On a busy machine an attacker may not come to what he is to do; then he tries again."""

FIRST: list[tuple[str, Method]] = [(attack.name, attack.methods[0]) for attack in catalogue.ATTACKS]
FURTHER: list[tuple[str, Method]] = [
    ("forge-invalid-ike-spi", "reconnect"),
    ("mitm-deny", "reconnect"),
    ("mitm-blackout", "liveness"),
]

Key = tuple[str, Method]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> Iterator[Mapping[Key, Future[AttackResult]]]:
    """The attacks of the tests that were selected, under way in a thread; each test waits for its own."""
    selected = [
        item.callspec.params.get("key") for item in request.session.items if hasattr(item, "callspec")
    ]
    futures: dict[Key, Future[AttackResult]] = {k: Future() for k in FIRST + FURTHER if k in selected}
    loop = asyncio.new_event_loop()
    task = loop.create_task(_all(futures))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
    thread.start()
    yield futures
    loop.call_soon_threadsafe(task.cancel)
    thread.join()
    loop.close()


async def _all(futures: Mapping[Key, Future[AttackResult]]) -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(_one(key, future, turn) for key, future in futures.items()))


async def _one(key: Key, future: Future[AttackResult], turn: asyncio.Semaphore) -> None:
    name, method = key
    async with turn:
        try:
            future.set_result(await _until_shown(name, LabOptions(method=method, seed=7)))
        except Exception as error:
            future.set_exception(error)


async def _until_shown(name: str, options: LabOptions) -> AttackResult:
    """The first attempt in which something broke, or in which the attacker did what he is to do."""
    for attempt in range(1, ATTEMPTS + 1):
        result = await run_attack(catalogue.attack(name), options, Silent(), seconds=attempt * SECONDS)
        if not result.kept or not _missing(result):
            break
    return result


def _missing(result: AttackResult) -> list[Check]:
    return [check for check in result.broken if check.bound.startswith("at least")]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("key", FIRST + FURTHER, ids="-".join)
def test_what_must_hold_holds(results: Mapping[Key, Future[AttackResult]], key: Key) -> None:
    """How fast it is, and what a busy machine loses, is judged in `make acceptance`."""
    result = results[key].result(850)
    assert result.kept, (result.failure, result.broken, result.counters)
    assert not _missing(result), (result.broken, result.counters)
    assert result.sent > 0
    if result.method == "qcd":
        assert result.sas_lost == 0
    assert result.quiet.alice_cpu_s > 0
    assert result.attacked.bob_cpu_s > 0


def test_an_attack_that_says_nothing_about_a_method_is_refused() -> None:
    run = run_attack(catalogue.attack("mitm-nack"), LabOptions(method="qcd"), Silent(), seconds=2)
    with pytest.raises(LabError, match="use --method sir") as caught:
        asyncio.run(run)
    assert caught.value.usage


@pytest.mark.parametrize("options", [LabOptions(idle=True), LabOptions(netns=True)])
def test_an_attack_needs_traffic_on_loopback(options: LabOptions) -> None:
    with pytest.raises(LabError, match="on loopback"):
        asyncio.run(run_attack(catalogue.attack("forge-token"), options, Silent(), seconds=2))


@pytest.mark.parametrize("seconds", [0.5, 301.0])
def test_an_attack_has_its_time(seconds: float) -> None:
    with pytest.raises(LabError, match="between 1 and 300 seconds"):
        asyncio.run(run_attack(catalogue.attack("forge-token"), LabOptions(), Silent(), seconds=seconds))


def test_a_run_that_breaks_off_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(session: Session) -> tuple[KnownSa, ...]:
        await session.kill("alice")
        raise LabError("Alice is gone")

    monkeypatch.setattr(gauges, "alices_sas", gone)
    result = asyncio.run(run_attack(catalogue.attack("mitm-chaos"), LabOptions(), Silent(), seconds=1))
    assert result.failure.startswith("Alice is gone; alice's gateway has ended")
    assert not result.ok


def test_there_is_no_such_attack() -> None:
    with pytest.raises(LabError, match="steal-ticket") as caught:
        catalogue.attack("tickle")
    assert caught.value.usage
