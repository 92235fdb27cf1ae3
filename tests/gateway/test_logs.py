"""Log lines: one per event, safe for terminals, never in the way of the gateway."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.gateway.logs import EventLog, LineWriter, json_line, text_line
from deadpeer.ike.io import Event
from deadpeer.values import NS_PER_S, Now

NOW = Now(5_000_000_000, 1_700_000_000.25)
VERDICT = Event(
    "verdict",
    {"proof": "token", "evidence": ["INVALID_SPI from 192.0.2.1", "token: matched"], "took_s": 0.123456789},
    "notice",
)

fields = st.dictionaries(
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
    st.one_of(
        st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.text(), max_size=3)
    ),
    max_size=4,
)


def lines(log_format: Any, level: Any, *events: tuple[Now, Event]) -> list[str]:
    out = io.BytesIO()
    writer = LineWriter(out)
    log = EventLog(writer, level, log_format)
    for now, event in events:
        log.write(now, event)
    writer.close()
    return out.getvalue().decode().splitlines()


def test_a_verdict_as_json_has_its_evidence() -> None:
    assert json.loads(json_line(NOW, VERDICT)) == {
        "time": 1_700_000_000.25,
        "mono_ns": 5_000_000_000,
        "level": "notice",
        "event": "verdict",
        "proof": "token",
        "evidence": ["INVALID_SPI from 192.0.2.1", "token: matched"],
        "took_s": 0.123456789,
    }


def test_a_verdict_as_text_has_its_evidence() -> None:
    line = text_line(NOW, VERDICT)
    assert line.endswith(
        'notice  verdict proof=token evidence="INVALID_SPI from 192.0.2.1; token: matched" took_s=0.123457'
    )


def test_fields_can_not_pass_for_the_head() -> None:
    line = json.loads(json_line(NOW, Event("x", {"event": "ready", "time": 0, "mono_ns": 0})))
    assert (line["event"], line["mono_ns"]) == ("x", NOW.mono_ns)


@given(fields)
def test_an_event_is_one_printable_line_whatever_a_peer_sent(values: dict[str, Any]) -> None:
    event = Event("x", values)
    assert text_line(NOW, event).isprintable()
    assert text_line(NOW, event).isascii()
    assert json_line(NOW, event).isprintable()
    assert json.loads(json_line(NOW, event))["event"] == "x"


def test_colours_only_where_asked_for() -> None:
    assert "\x1b" not in text_line(NOW, VERDICT)
    assert text_line(NOW, VERDICT, colour=True).startswith("\x1b[1m")


@pytest.mark.parametrize(
    ("level", "kinds"),
    [("debug", ["a", "b", "c", "d"]), ("info", ["b", "c", "d"]), ("warning", ["d"])],
)
def test_levels(level: str, kinds: list[str]) -> None:
    events = [Event("a", {}, "debug"), Event("b"), Event("c", {}, "notice"), Event("d", {}, "warning")]
    written = lines("json", level, *((NOW, event) for event in events))
    assert [json.loads(line)["event"] for line in written] == kinds


def test_a_flood_of_one_kind_is_cut_and_counted_and_others_pass() -> None:
    flood = [(NOW, Event("garbage")) for _ in range(10_000)]
    later = Now(NOW.mono_ns + NS_PER_S, NOW.unix_s + 1)
    written = [
        json.loads(line) for line in lines("json", "info", *flood, (NOW, VERDICT), (later, Event("garbage")))
    ]
    assert len(written) == 500 + 1 + 2
    assert written[500]["event"] == "verdict"
    assert (written[501]["event"], written[501]["of"], written[501]["count"]) == (
        "events_left_out",
        "garbage",
        9500,
    )
    assert written[502]["event"] == "garbage"


@pytest.mark.parametrize(
    "kind", ["verdict", "recovering", "ike_sa_down", "child_down", "ike_sa_up", "child_up"]
)
def test_of_what_strangers_cant_cause_nothing_is_left_out(kind: str) -> None:
    """A hub whose two thousand peers are lost at once."""
    events = [(NOW, Event(kind, {"sa": number, "evidence": ["seen"]}, "notice")) for number in range(2000)]
    written = [json.loads(line) for line in lines("json", "info", *events)]
    assert [(line["event"], line["sa"], line["evidence"]) for line in written] == [
        (kind, number, ["seen"]) for number in range(2000)
    ]


def test_a_reader_that_stops_reading_stops_nobody() -> None:
    read, write = os.pipe()
    with open(write, "wb", buffering=0) as out:
        writer = LineWriter(out, capacity=100)
        for _ in range(5000):
            writer.put("x" * 1000)
        assert writer.counters["log_lost"] >= 5000 - 100 - 100
        os.close(read)  # the thread's write ends with EPIPE
        writer.close()
    assert not [t for t in threading.enumerate() if t.name == "log" and t.is_alive() and t is writer.thread]


def test_a_reader_that_is_gone() -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb", buffering=0) as out:
        writer = LineWriter(out)
        writer.put("x")
        writer.close()
        assert writer.counters["log_lost"] == 1


def test_lines_that_come_together_are_written_in_their_order_all_of_them() -> None:
    out = io.BytesIO()
    writer = LineWriter(out)
    for number in range(2000):
        writer.put(str(number))
    writer.close()
    assert out.getvalue().decode().split() == [str(number) for number in range(2000)]


def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    """Somebody else who has the same terminal may have set it so."""
    tries = 0

    class Full(io.BytesIO):
        def write(self, octets: Any) -> int:
            nonlocal tries
            tries += 1
            return super().write(octets) if time.monotonic() > until else None  # type: ignore[return-value]

    until, out = time.monotonic() + 0.3, Full()
    writer = LineWriter(out)
    writer.put("x")
    writer.close()
    assert out.getvalue() == b"x\n"
    assert tries <= 20
