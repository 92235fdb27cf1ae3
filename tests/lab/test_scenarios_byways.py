"""The lab's ways between members, by which they hand packets to each other."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from deadpeer.cli import main
from deadpeer.lab.scenarios.byways import Byways
from deadpeer.lab.scenarios.plan import ClusterPlan, layout


def test_what_is_sent_while_they_are_cut_is_lost(tmp_path: Path) -> None:
    async def story() -> tuple[list[bytes], int, int]:
        place = layout(tmp_path, ClusterPlan(members=2, clients=1))
        loop, byways = asyncio.get_running_loop(), Byways(place)
        byways.start()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            one.setblocking(False)
            other.setblocking(False)
            other.bind((place.members[1], place.forward_port))
            told = (place.own[1], place.forward_port)
            heard = []
            one.sendto(b"before", told)
            heard.append(await asyncio.wait_for(loop.sock_recv(other, 100), 20))
            byways.cut()
            one.sendto(b"meanwhile", told)
            for _ in range(2000):
                await asyncio.sleep(0.01 if not byways.lost else 0)
            byways.mend()
            one.sendto(b"after", told)
            heard.append(await asyncio.wait_for(loop.sock_recv(other, 100), 20))
        byways.stop()
        return heard, byways.passed, byways.lost

    assert asyncio.run(story()) == ([b"before", b"after"], 2, 1)


def test_members_that_hand_nothing_on_can_not_be_cut_off_from_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lab", "--scenario", "cluster", "--event", "split", "--no-forward"]) == 2
    assert "members that hand packets on" in capsys.readouterr().err
