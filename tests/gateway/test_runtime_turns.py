"""The pump with a scripted core: whose turn it is."""

from __future__ import annotations

from pathlib import Path

from tests.gateway.test_runtime import Bench, ScriptedCore, run

from deadpeer.values import Datagram


def test_who_has_begun_goes_on_before_others_begin(place: Path) -> None:
    """Port 500: A B (begin), port 4500: c d (go on), all there before the first is read: A c d B."""

    async def work(bench: Bench) -> None:
        for payload in (b"A", b"B"):
            bench.send(payload)
        for payload in (b"c", b"d"):
            bench.send(bytes(4) + payload, bench.nat)
        await bench.until(lambda: len(bench.core.inputs) == 4)

    core = ScriptedCore()
    run(place, core, work)
    came = [item.payload[-1:] for item in core.inputs if isinstance(item, Datagram)]
    assert came.index(b"B") == 3 or came[:2] == [b"c", b"d"], came


def test_nor_do_those_who_have_begun_keep_others_from_beginning(place: Path) -> None:
    """A flood on port 4500 has its share, and port 500 has one too."""

    async def work(bench: Bench) -> None:
        for number in range(40):
            bench.send(bytes(4) + b"%d" % number, bench.nat)
        for payload in (b"A", b"B"):
            bench.send(payload)
        await bench.until(lambda: len(bench.core.inputs) == 42)

    core = ScriptedCore()
    run(place, core, work)
    assert {item.payload for item in core.inputs if isinstance(item, Datagram)} >= {b"A", b"B"}
