"""Attackers who try to buy tokens for living SAs: from every member, from their own address and, as somebody
who can forge a source address, from the victim's.

They know the SPIs of every SA, and ask with a message that looks like a protected request of it and with
SIR's query, with the Initiator flag both ways, and with an ESP packet. What reaches their own address they
read; what goes to the victim's the balancer sees.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from deadpeer.crash.sir_wire import COOKIE_SIZE, Check, Subject, Verb, encode
from deadpeer.lab.attacks.forgery import esp_packet, ike_datagram, protected_request
from deadpeer.lab.garbage import Dice
from deadpeer.lab.scenarios.plan import Layout
from deadpeer.lab.scenarios.truth import Pair
from deadpeer.lab.trace import IkeSeen, Lane, look
from deadpeer.wire import WireError

LANES = (Lane.IKE, Lane.NAT_T)
ROUND_S = 0.25
"""Each SA is asked about so often, at each member, in each way."""
PAUSE_S = 0.002
SEALED = 40


class Buyers:
    """Asks until it is stopped. `targets`: SAs and the number of the client of each, as of now."""

    def __init__(
        self,
        layout: Layout,
        inject: str,
        seed: int,
        targets: Callable[[], Iterable[tuple[Pair, int, tuple[str, ...]]]],
        heard: Callable[[IkeSeen], None],
    ) -> None:
        self.asked: Counter[str] = Counter()
        self.not_sent = 0
        self._layout = layout
        self._inject = inject
        self._dice = Dice(seed)
        self._targets = targets
        self._heard = heard
        self._forger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._forger.setblocking(False)
        self._own = [self._bound(port) for port in (layout.port, layout.port_nat_t)]
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        for lane, sock in enumerate(self._own):
            loop.add_reader(sock.fileno(), self._read, sock, LANES[lane])
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End, and close everything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for sock in self._own:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._forger.close()

    async def _run(self) -> None:
        while True:
            for pair, client, spis in list(self._targets()):
                for member in range(len(self._layout.members)):
                    for lane, payload in self._questions(pair, spis):
                        self._send(member, client, lane, payload)
                    # Not all at once: a UNIX socket of datagrams has room for ten.
                    await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(ROUND_S)

    def _questions(self, pair: Pair, spis: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
        spi_i, spi_r = (bytes.fromhex(spi) for spi in pair)
        for flag in (True, False):
            lane = self._dice.below(2)
            message_id, sealed = self._dice.below(1 << 16), self._dice.octets(SEALED)
            yield lane, protected_request(spi_i, spi_r, flag, message_id, sealed, LANES[lane])
            check = Check(Verb.QUERY, Subject.ike(spi_i, spi_r), self._dice.octets(COOKIE_SIZE), flag)
            yield lane, ike_datagram(encode(check), LANES[lane])
        for spi in spis:
            sequence = 1 + self._dice.below(1 << 31)
            yield 1, esp_packet(bytes.fromhex(spi), sequence, self._dice.octets(SEALED))

    def _send(self, member: int, client: int, lane: int, payload: bytes) -> None:
        target = (self._layout.members[member], (self._layout.port, self._layout.port_nat_t)[lane])
        for what, sock, octets, to in (
            ("own address", self._own[lane], payload, target),
            ("victim's address", self._forger, bytes([member, client, lane]) + payload, self._inject),
        ):
            try:
                sock.sendto(octets, to)
            except OSError:
                self.not_sent += 1
            else:
                self.asked[what] += 1

    def _read(self, sock: socket.socket, lane: Lane) -> None:
        while True:
            try:
                payload = sock.recv(65_535)
            except OSError:
                return
            try:
                seen = look(payload, lane)
            except WireError:
                continue
            if isinstance(seen, IkeSeen):
                self._heard(seen)

    def _bound(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((self._layout.stranger, port))
        return sock
