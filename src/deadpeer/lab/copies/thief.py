"""The one who buys at one gateway what he presents to a client of another.

From an address of his own he asks a gateway that does not have the SA. A token is all he needs: he presents
it as the gateway's word (RFC 6290 section 8.2), from the address that the client takes for the gateway's. Of
SIR's denials he needs one with the client's own cookie in it: those he gets only on the path, where he sees
her question, brings it to another gateway, and is back with the denial before the owner's answer is.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from deadpeer.crash.sir_wire import COOKIE_SIZE, Check, Subject, Verb, decode, encode, is_check
from deadpeer.lab.attacks.forgery import KnownSa, ike_datagram, invalid_spi, protected_request
from deadpeer.lab.attacks.replays import read_message
from deadpeer.lab.garbage import Dice
from deadpeer.lab.relay import LANES as RELAY_LANES
from deadpeer.lab.relay import WAYS
from deadpeer.lab.scenarios.plan import Layout
from deadpeer.lab.scenarios.truth import Pair
from deadpeer.lab.trace import Lane, Way
from deadpeer.wire import Message, NotifyType

AGAIN_S = 0.3
"""Without an answer he asks again after so long: gateways answer strangers at a limited rate."""
SEALED = 40


class Thief:
    """Has sockets at an address of his own. `forge(client, octets)` hands a datagram to a client's relay."""

    def __init__(self, place: Layout, host: str, seed: int, forge: Callable[[int, bytes], None]) -> None:
        self._place = place
        self._dice = Dice(seed)
        self._forge = forge
        self._answers: asyncio.Queue[tuple[Lane, bytes]] = asyncio.Queue()
        self._sockets: dict[Lane, socket.socket] = {}
        for lane, port in ((Lane.IKE, place.port), (Lane.NAT_T, place.port_nat_t)):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.bind((host, port))
            self._sockets[lane] = sock
            asyncio.get_running_loop().add_reader(sock.fileno(), self._read, lane, sock)

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()

    async def buy_tokens(self, member: int, pair: Pair, timeout_s: float) -> list[bytes]:
        """The tokens that a gateway gives for an SA; empty if it gives none in that time."""
        spi_i, spi_r = (bytes.fromhex(spi) for spi in pair)

        def question() -> bytes:
            sealed = self._dice.octets(SEALED)
            return protected_request(spi_i, spi_r, True, self._dice.below(1 << 16), sealed, Lane.NAT_T)

        answer = await self._buy(
            member, question, lambda m: bool(m.notifies(NotifyType.QCD_TOKEN)), timeout_s
        )
        return [] if answer is None else [n.data for n in answer.notifies(NotifyType.QCD_TOKEN)]

    async def buy_denial(self, member: int, pair: Pair, timeout_s: float) -> Message | None:
        """A denial of an SA, with a cookie that he made up."""
        spi_i, spi_r = (bytes.fromhex(spi) for spi in pair)
        cookie = self._dice.octets(COOKIE_SIZE)
        query = encode(Check(Verb.QUERY, Subject.ike(spi_i, spi_r), cookie, True))
        return await self._buy(member, lambda: ike_datagram(query, Lane.NAT_T), _denies, timeout_s)

    async def bring(self, member: int, lane: Lane, query: bytes, timeout_s: float) -> Message | None:
        """What another gateway says to a client's own question, which he brings there."""
        return await self._buy(member, lambda: query, _denies, timeout_s, lane)

    def present(self, client: int, message: Message, lane: Lane = Lane.NAT_T) -> None:
        """Have a client hear this from where its gateway is."""
        octets = bytes([WAYS.index(Way.TO_ALICE), RELAY_LANES.index(lane)]) + ike_datagram(message, lane)
        self._forge(client, octets)

    async def _buy(
        self,
        member: int,
        question: Callable[[], bytes],
        wanted: Callable[[Message], bool],
        timeout_s: float,
        lane: Lane = Lane.NAT_T,
    ) -> Message | None:
        while not self._answers.empty():
            self._answers.get_nowait()
        port = self._place.port if lane is Lane.IKE else self._place.port_nat_t
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while loop.time() < end:
            self._sockets[lane].sendto(question(), (self._place.members[member], port))
            again = loop.time() + AGAIN_S
            while (left := min(again, end) - loop.time()) > 0:
                try:
                    message = read_message(*await asyncio.wait_for(self._answers.get(), left))
                except TimeoutError:
                    break
                if message is not None and wanted(message):
                    return message
        return None

    def _read(self, lane: Lane, sock: socket.socket) -> None:
        while True:
            try:
                self._answers.put_nowait((lane, sock.recv(65_535)))
            except OSError:
                return


def hint(pair: Pair, spi: str) -> Message:
    """What anybody can say: that an ESP SPI is unknown."""
    return dead(pair, spi, [])


def dead(pair: Pair, spi: str, tokens: list[bytes]) -> Message:
    """That an ESP SPI is unknown, with tokens (RFC 6290 section 8.2)."""
    sa = KnownSa(bytes.fromhex(pair[0]), bytes.fromhex(pair[1]), True)
    return invalid_spi(bytes.fromhex(spi), tokens, sa)


def is_query(message: Message) -> bool:
    """Whether it is a client's question of SIR's about an IKE SA."""
    check = decode(message) if is_check(message) else None
    return check is not None and check.verb is Verb.QUERY and len(check.subject.spi) == 16


def _denies(message: Message) -> bool:
    check = decode(message) if is_check(message) else None
    return check is not None and check.verb is Verb.NACK
