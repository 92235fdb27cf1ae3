"""Questions that had to wait, in the pump: asked again like any other, in turns, never behind the fence."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.cluster.test_unanswered import LIVING, Nothing, ended, esp, ike, knowing
from tests.gateway.test_runtime import Bench, ScriptedCore, run
from tests.gateway.test_runtime_gate import Gate

from deadpeer.cluster.ownership import Cluster
from deadpeer.gateway.deferring import Deferring
from deadpeer.ike.io import Input
from deadpeer.plane.model import UnknownSpi
from deadpeer.values import Datagram, Now

COSTLY_S = 0.015
"""Two of these are longer than a turn."""


def remembering(bench: Bench) -> tuple[Deferring, Cluster]:
    """Of a member that hands nothing on."""
    deferring, ownership = Deferring(bench.runtime, 60.0), knowing(LIVING)
    deferring.begin(ownership, Nothing(), bench.nat.local.port)
    bench.runtime.noted = deferring.trace
    return deferring, ownership


async def asks(bench: Bench, *questions: Datagram) -> None:
    """A stranger asks, and the core has seen it."""
    before = len(bench.core.inputs)
    for question in questions:
        bench.send(question.payload, bench.nat)
    await bench.until(lambda: len(bench.core.inputs) == before + len(questions))


def test_a_question_is_asked_again_as_it_came_when_its_owners_end_is_known(place: Path) -> None:
    """The core sees the same datagram; of ESP the data plane's report, as at first."""
    core = ScriptedCore()

    async def work(bench: Bench) -> None:
        deferring, ownership = remembering(bench)
        await asks(bench, ike(1, 1), ike(2, 2), esp(1, 3), ike(0, 4))
        assert deferring.counters() == {"remembered": 3, "waiting": 3}
        first = list(core.inputs)
        deferring.look({1})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert core.inputs == first
        ownership.view = ended(1)
        core.script = lambda core, now, item: core.outputs.append(bench.transmit(b"answer"))
        deferring.look({1})
        await bench.until(lambda: len(core.inputs) == 6)
        assert core.inputs[4:] == [first[0], first[2]]
        assert isinstance(first[0], Datagram) and isinstance(first[2], UnknownSpi)
        assert deferring.counters() == {"remembered": 3, "taken up": 2, "waiting": 1}
        # What comes now is answered when it comes, and what is about the other one waits.
        await asks(bench, ike(1, 1), ike(2, 2))
        assert deferring.counters() == {"remembered": 3, "replaced": 1, "taken up": 2, "waiting": 1}
        deferring.over()
        assert deferring.counters()["waiting"] == 0
        await asks(bench, ike(2, 2))
        assert deferring.counters()["waiting"] == 0

    run(place, core, work)


def test_what_got_no_answer_is_asked_again_later(place: Path) -> None:
    def script(core: ScriptedCore, now: Now, item: Input) -> None:
        if len(core.inputs) == 3:
            core.outputs.append(answer)

    core = ScriptedCore(script)

    async def work(bench: Bench) -> None:
        nonlocal answer
        answer = bench.transmit(b"answer")
        deferring, ownership = remembering(bench)
        await asks(bench, ike(1, 1))
        ownership.view = ended(1)
        deferring.look({1})
        await bench.until(lambda: len(core.inputs) == 3)
        await bench.until(lambda: deferring.counters()["waiting"] == 0)
        assert deferring.counters() == {"remembered": 1, "taken up": 1, "taken up again": 1, "waiting": 0}
        assert [entry for entry in bench.journal if entry[0] == "send"] == [("send", b"answer")]

    answer = None
    run(place, core, work)


def test_behind_the_fence_nobody_is_asked_and_afterwards_all_are(place: Path) -> None:
    core, gate = ScriptedCore(), Gate()

    async def work(bench: Bench) -> None:
        deferring, ownership = remembering(bench)
        await asks(bench, ike(1, 1))
        gate.open = False
        ownership.view = ended(1)
        deferring.look({1})
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(core.inputs) == 1 and deferring.counters()["waiting"] == 1
        gate.open = True
        bench.runtime.resume()
        deferring.wake()
        await bench.until(lambda: len(core.inputs) == 2)

    run(place, core, work, gate=gate)


def test_hundreds_that_waited_let_others_have_their_turn(place: Path) -> None:
    core, at_once = ScriptedCore(), []

    def costly(core: ScriptedCore, now: Now, item: Input) -> None:
        time.sleep(COSTLY_S)

    async def work(bench: Bench) -> None:
        deferring, ownership = remembering(bench)
        await asks(bench, *(ike(1, number) for number in range(10)))
        ownership.view, core.script = ended(1), costly
        deferring.look({1})
        while len(core.inputs) < 20:
            before = len(core.inputs)
            await asyncio.sleep(0)
            at_once.append(len(core.inputs) - before)

    run(place, core, work)
    assert sum(at_once) == 10
    assert max(at_once) <= 2
