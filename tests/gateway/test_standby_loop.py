"""One of two in its loop: what the partner has said is heard before it is judged, however slow the disk is,
and it is asked however much strangers say."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deadpeer.cluster.ownership import AddressHeld
from deadpeer.cluster.spi import EspCodec, SpiRing
from deadpeer.cluster.standby import ANSWER_S, LAST_WORD_S, SILENT_S, Standby, ToPartner
from deadpeer.crash.options import CrashOptions
from deadpeer.crypto import SeededEntropy
from deadpeer.gateway import standby as module
from deadpeer.gateway.lives import Site
from deadpeer.gateway.runtime import Runtime
from deadpeer.gateway.sockets import DRAIN
from deadpeer.gateway.standby import HEAR_EVERY_S, StandbyMember, Surroundings
from deadpeer.gateway.standby_config import StandbyOptions
from deadpeer.ike.io import Event
from deadpeer.store import MemoryStore
from deadpeer.values import Address

KEY = bytes(range(32))


class Idle:
    """A runtime that nothing comes to."""

    serves = False
    noted = None

    def listen(self) -> None: ...
    def resume(self) -> None: ...


class Lives:
    """Lives without endpoints."""

    def __init__(self, *_: object) -> None:
        self.life: Any = None
        self.endpoint = None
        self.count = 0

    def begin(self, epoch: int, *_: object) -> object:
        self.life = SimpleNamespace(ownership=AddressHeld(SpiRing([KEY]), EspCodec(KEY), epoch, 1))
        return self.life

    def over(self) -> None:
        self.life = None


class Partner:
    """It was silent for long, holds the address, and goes on just when the address comes to the other."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self._standby = Standby(0, 0, [KEY], SeededEntropy(b"partner"))
        self._standby.address(0, True)
        self._standby.persisted(0)

    def answer(self) -> None:
        """All that is in the socket."""
        while True:
            try:
                question, sender = self.socket.recvfrom(100)
            except BlockingIOError:
                return
            self._standby.receive(0, question)
            while (output := self._standby.poll()) is not None:
                if isinstance(output, ToPartner) and not output.asks:
                    self.socket.sendto(output.octets, sender)

    def drain(self) -> list[bytes]:
        """What has been said to it so far, unread."""
        said = []
        while True:
            try:
                said.append(self.socket.recv(100))
            except BlockingIOError:
                return said

    def ask(self, whom: Address) -> None:
        """Put a question, with a nonce of its own."""
        other = Standby(0, 0, [KEY], SeededEntropy(b"asks"))
        other.expire(1)
        while (output := other.poll()) is not None:
            if isinstance(output, ToPartner):
                self.socket.sendto(output.octets, whom)


class SlowStore(MemoryStore):
    """A disk that takes longer than the partner has for its last word; that comes meanwhile."""

    def __init__(self, partner: Partner) -> None:
        super().__init__()
        self._partner = partner

    def put(self, name: str, data: bytes) -> None:
        self._partner.answer()
        time.sleep(LAST_WORD_S + 0.01)
        super().put(name, data)


def member_of(
    place: Path, partner: Partner, store: MemoryStore, events: list[Event], port: int = 0
) -> StandbyMember:
    site = cast(Any, Site)(
        file=place / "gateway.toml", state_dir=place, endpoint=None, connections=(), crash=CrashOptions(),
        store=store, ledger=None, entropy=SeededEntropy(1), machine_id=b"", hold_packets=0,
    )  # fmt: skip
    around = Surroundings(site, lambda _, event: events.append(event), lambda _: None, lambda: None)
    theirs = Address(*partner.socket.getsockname())
    ours = Address("127.0.0.1", port)
    return StandbyMember(
        StandbyOptions(1, ip_address("127.0.0.9"), (KEY,), ours, theirs, by="command"), around
    )


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@pytest.fixture(autouse=True)
def without_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Lives", Lives)


def test_a_partner_that_answered_while_the_disk_was_slow_is_not_spoken_for(place: Path) -> None:
    events: list[Event] = []

    async def main() -> dict[str, Any]:
        partner = Partner()
        async with AsyncExitStack() as stack:
            stack.callback(partner.socket.close)
            member = member_of(place, partner, SlowStore(partner), events)
            member.start(cast(Runtime, Idle()), stack)
            await asyncio.sleep(2 * SILENT_S)
            member.activate()
            await asyncio.sleep(3 * LAST_WORD_S)
            return member.status()

    status = asyncio.run(main())
    assert (status["state"], status["partner_lives"], status["both_active"]) == ("active", True, True)
    assert [event.fields["lives"] for event in events if event.kind == "partner"] == []
    assert "both_active" in [event.kind for event in events]


def test_strangers_who_talk_all_the_time_do_not_keep_it_from_judging_the_partner(place: Path) -> None:
    """Each time that the loop looks there is something from them; the partner is dead."""
    events: list[Event] = []

    async def main() -> None:
        partner = Partner()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            async with AsyncExitStack() as stack:
                stack.callback(partner.socket.close)
                address = ("127.0.0.1", free_port())
                member = member_of(place, partner, MemoryStore(), events, address[1])
                member.start(cast(Runtime, Idle()), stack)
                member.activate()
                end = time.monotonic() + 10 * ANSWER_S
                while time.monotonic() < end and "partner" not in [event.kind for event in events]:
                    for _ in range(DRAIN + 1):
                        stranger.sendto(b"?", address)
                    await asyncio.sleep(0)

    asyncio.run(main())
    assert [event.fields["lives"] for event in events if event.kind == "partner"] == [False]


def test_the_partner_is_heard_among_all_that_waited_while_a_process_was_stopped(place: Path) -> None:
    """
    0: stopped, its sockets are full ... goes on, and serves them
    1 ── do you hold the address? ──▶ 0      (in a socket whose turn would come last)
    1 ◀── I do ────────────────────── 0      as soon as 0 asks for the time
    """

    async def main() -> list[bytes]:
        partner = Partner()
        async with AsyncExitStack() as stack:
            stack.callback(partner.socket.close)
            port = free_port()
            member = member_of(place, partner, MemoryStore(), [], port)
            member.start(cast(Runtime, Idle()), stack)
            member.activate()
            await asyncio.sleep(3 * ANSWER_S)
            loop = asyncio.get_running_loop()
            loop.remove_reader(cast(Any, member)._partner.fileno())  # its turn does not come
            partner.drain()
            partner.ask(Address("127.0.0.1", port))
            await asyncio.sleep(2 * HEAR_EVERY_S)
            member.core_clock.enter()  # as for each datagram of others
            await asyncio.sleep(0)
            return partner.drain()

    answers = [said for said in asyncio.run(main()) if said[1] == 2]
    assert len(answers) == 1
