"""Each liveness check is an event, with what caused it."""

from __future__ import annotations

from tests.support.pair import Pair

from deadpeer.crash.options import CrashOptions


def probes(pair: Pair) -> list[tuple[object, object]]:
    events = [event for _, event in pair.alice.events if event.kind == "probe"]
    assert all(event.level == "debug" for event in events)
    return [(event.fields["reason"], event.fields["repeated"]) for event in events]


def test_a_hint_is_followed_by_a_question_that_says_why() -> None:
    pair = Pair.with_psk(latency_s=0.050, options=CrashOptions(spi_map=False))
    pair.up()
    pair.crash("bob")
    pair.boot("bob")
    assert probes(pair) == []
    pair.send("alice")
    pair.run(1.0)
    assert probes(pair) == [("invalid-spi", False)]
    kinds = pair.alice.kinds()
    assert kinds.index("hint") < kinds.index("probe") < kinds.index("verdict")


def test_a_question_under_way_is_repeated_rather_than_asked_anew() -> None:
    pair = Pair.with_psk(latency_s=0.050, options=CrashOptions(spi_map=False))
    pair.up()
    pair.crash("bob")
    pair.send("alice")
    pair.run(1.0)
    assert probes(pair)[0] == ("silence", False)
    pair.boot("bob")
    pair.send("alice")
    pair.run(1.0)
    assert ("invalid-spi", True) in probes(pair)
