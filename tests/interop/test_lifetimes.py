"""SAs that are replaced when their time is up, by either side's clock, and what follows a deletion."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.traffic import Count
from tests.interop.harness.tunnels import SIDES, Side, Tunnel, other

from deadpeer.ike.switch import LIMIT_FLOOR_S

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("by", [*SIDES, None], ids=["a", "b", "both"])
def test_rekeyed_by_the_clock_without_losing_a_packet(start_pair: StartPair, by: Side | None) -> None:
    """With the same time on both sides their rekeyings meet now and then."""
    clocks = SIDES if by is None else (by,)
    tunnel = Tunnel(
        "timed",
        1,
        esp="aes128gcm16-x25519",
        settings={side: {"rekey_time": "3s", "over_time": "9s", "rand_time": "0s"} for side in clocks},
        child_settings={side: {"rekey_time": "1s", "life_time": "9s", "rand_time": "0s"} for side in clocks},
    )
    pair = start_pair([tunnel])
    before = pair.up(tunnel, by="a")
    mark = pair.marks()["b"]
    with pair.pinging(tunnel) as forward, pair.pinging(tunnel, by="b") as backward:
        pair.log_has("b", r"(?s)(outbound CHILD_SA timed-c.*){4}", mark)
        pair.wait_agreed(tunnel, also=lambda sa: sa.spi_i != before.spi_i)
        for pinged in (forward.finish(), backward.finish()):
            assert pinged == Count(pinged.sent, pinged.sent)
            assert pinged.sent > 0


def test_strongswan_reauthenticates_make_before_break(start_pair: StartPair) -> None:
    """A whole new IKE SA with a child for the same selectors, then the old one is deleted.

    As its responder we go on with the old child until strongSwan uses the new one, or deletes the old; so it
    never gets a packet of a child that it has not installed yet. On a busy machine it loses some itself: a
    thread that takes in the answer to its DELETE removes the old child before another one has worked off the
    packets that came ahead of that answer. Each lost ping must be such a packet, and none may have left after
    we had heard of the old child's end.
    """
    tunnel = Tunnel(
        "again",
        1,
        settings={
            "a": {"silence": "0s"},
            "b": {"reauth_time": "2s", "over_time": "9s", "rand_time": "0s"},
        },
    )
    pair = start_pair([tunnel], charon={"make_before_break": "yes", "filelog.log.esp": "2"})
    before = pair.up(tunnel, by="b")
    mark = pair.marks()["b"]
    with pair.pinging(tunnel) as forward, pair.pinging(tunnel, by="b") as backward:
        pair.log_has("b", r"reauthenticating IKE_SA again", mark)
        pair.wait_agreed(tunnel, also=lambda sa: sa.spi_i != before.spi_i)
        done = forward.finish(), backward.finish()
    early, late = refused_by_charon(pair.peers["b"].log_since(0))
    assert early == Counter()
    assert all(pinged.sent > 0 for pinged in done)
    assert sum(pinged.sent - pinged.received for pinged in done) <= late.total()
    lines = (line for line in pair.peers["a"].log_since(0).splitlines() if '"event":"child_down"' in line)
    told_s = max(json.loads(line)["time"] for line in lines)
    assert all(pinged.last_lost_s <= told_s for pinged in done)


def refused_by_charon(log: str) -> tuple[Counter[str], Counter[str]]:
    """How many ESP packets charon had no SA for, by SPI: those that came before it said that the child was
    established, and those that came after. A child that took it longer than we wait for its word does not
    count as early."""
    asked_s, took_s = 0.0, dict[str, float]()
    parsed = dict[str, str]()
    early, late = Counter[str](), Counter[str]()
    for line in log.splitlines():
        found = re.match(r"(\d+):(\d+):([\d.]+) (\d+)\[[A-Z]+\] (.*)", line)
        if found is None:
            continue
        at_s = 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
        thread, text = found[4], found[5]
        if text.startswith("generating IKE_AUTH request"):
            asked_s = at_s
        elif established := re.search(r"CHILD_SA .* established with SPIs (\w+)_i", text):
            took_s[established[1]] = (at_s - asked_s) % 86_400
        elif header := re.match(r"parsed ESP header with SPI (\w+)", text):
            parsed[thread] = header[1]
        elif text.startswith("inbound ESP packet does not belong to an installed SA"):
            spi = parsed[thread]
            (late if spi in took_s else early)[spi] += 1
    slow = {spi for spi in early if took_s.get(spi, 0.0) >= LIMIT_FLOOR_S}
    return Counter({s: n for s, n in early.items() if s not in slow}), late + Counter(
        {s: early[s] for s in slow}
    )


# strongSwan's userspace ESP has no traps.
@pytest.mark.parametrize(("deleting", "action"), [("a", "start"), ("b", "start"), ("b", "trap")])
def test_close_action_brings_a_deleted_child_back(start_pair: StartPair, deleting: Side, action: str) -> None:
    closing = other(deleting)
    tunnel = Tunnel("back", 1, children=("c", "d"), child_settings={closing: {"close_action": action}})
    pair = start_pair([tunnel])
    pair.up(tunnel, by="a", child="c")
    before = pair.up(tunnel, by="a", child="d")
    old = {child.spi_in for child in before.children}
    pair.peers[deleting].down(tunnel, "c")
    if action == "trap":
        pair.wait(lambda: pair.answers(tunnel, by=closing), "traffic brings it back")
    pair.wait_agreed(tunnel, also=lambda sa: len(sa.children) == 2 and {c.spi_in for c in sa.children} != old)
    pair.carries(tunnel, "c")
    pair.carries(tunnel, "d")
