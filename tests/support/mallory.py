"""Somebody who sees all that goes on between clients and members, and tries to buy tokens with it.

He brings packets of SAs to every member, from the address of the one who sent them and from his own, asks
about their SPIs in all the ways there are, and carries what he is told to the client whose SA it is about.
"""

from __future__ import annotations

import random
from typing import TypeVar

from tests.support.fleet import VIP, Fleet
from tests.support.witness import Pair

from deadpeer.crash.sir_wire import COOKIE_SIZE, Check, Subject, Verb, encode
from deadpeer.values import Address, Datagram
from deadpeer.wire import NON_ESP_MARKER, UdpKind, classify, encode_message

MALLORY = "203.0.113.66"
SERVED = Address(VIP, 4500)
REMEMBERED = 60
"""SAs, and ESP SPIs: the newest ones."""
K = TypeVar("K")
V = TypeVar("V")

_INITIATOR, _RESPONSE = 0x08, 0x20
_FLAGS = 4 + 19
_PLAUSIBLE = 4 + 57


class Mallory:
    """On the path, not in possession of any key."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.requests: dict[Pair, tuple[bytes, Address]] = {}
        """The last protected IKE message of each SA on its way to the cluster, and whose it was."""
        self.esp: dict[int, tuple[bytes, Address]] = {}
        """The last packet of each child, in either direction, and its client."""
        self.asked = 0
        self.answered = 0
        fleet.listeners.append(self._see)

    # --- what he sees ----------------------------------------------------------------------------

    def _see(self, datagram: Datagram) -> None:
        payload = datagram.payload
        if datagram.remote.host == MALLORY:
            self.answered += 1
            self._pass_on(payload)
            return
        if 4500 not in (datagram.local.port, datagram.remote.port):
            return
        client = datagram.remote if datagram.local.host == VIP else datagram.local
        match classify(payload, True):
            case UdpKind.IKE if datagram.remote.host == VIP and len(payload) >= _PLAUSIBLE:
                _keep(self.requests, (payload[4:12], payload[12:20]), (payload, client))
            case UdpKind.ESP:
                _keep(self.esp, int.from_bytes(payload[:4], "big"), (payload, client))
            case _:
                pass

    def _pass_on(self, payload: bytes) -> None:
        """What a member told him goes to the client whose SA it is about, as if the member had sent it, with
        the flag that he flipped and with the one that fits."""
        found = self.requests.get((payload[4:12], payload[12:20]))
        if found is None:
            return
        flipped = bytearray(payload)
        flipped[_FLAGS] ^= _INITIATOR
        for told in (payload, bytes(flipped)):
            self._fleet.deliver(Datagram(told, SERVED, found[1]))

    # --- what he does ----------------------------------------------------------------------------

    def storm(self) -> None:
        """Every way to ask about every SA, to every member, now."""
        for pair in list(self.requests):
            for way in range(_WAYS):
                self._everywhere(*self._about(pair, way))
        for spi in list(self.esp):
            for way in range(_ESP_WAYS):
                self._everywhere(*self._about_child(spi, way))

    def attack(self, dice: random.Random) -> None:
        """One way to ask about one SA, or about one child, to every member, from the one address or the
        other."""
        if self.requests and dice.random() < 0.7:
            asked = self._about(_newer(dice, list(self.requests)), dice.randrange(_WAYS))
        elif self.esp:
            asked = self._about_child(_newer(dice, list(self.esp)), dice.randrange(_ESP_WAYS))
        else:
            return
        self._everywhere(*asked, dice)

    def _about(self, pair: Pair, way: int) -> tuple[bytes, Address]:
        payload, client = self.requests[pair]
        if way >= 4:  # CHECK_SPI, with both flags, of the pair and of the pair exchanged
            spis = pair if way < 6 else pair[::-1]
            check = Check(Verb.QUERY, Subject.ike(*spis), bytes(COOKIE_SIZE), bool(way & 1))
            return NON_ESP_MARKER + encode_message(encode(check)), client
        made = bytearray(payload)
        made[_FLAGS] &= ~_RESPONSE
        if way & 1:
            made[_FLAGS] ^= _INITIATOR
        if way & 2:
            made[4:20] = pair[1] + pair[0]
        return bytes(made), client

    def _about_child(self, spi: int, way: int) -> tuple[bytes, Address]:
        payload, client = self.esp[spi]
        if way == 0:
            return payload, client
        check = Check(Verb.QUERY, Subject.esp(spi), bytes(COOKIE_SIZE), True)
        return NON_ESP_MARKER + encode_message(encode(check)), client

    def _everywhere(self, payload: bytes, client: Address, dice: random.Random | None = None) -> None:
        senders = (client, Address(MALLORY, client.port))
        for gateway in self._fleet.everybody:
            for sender in senders if dice is None else (dice.choice(senders),):
                self.asked += 1
                gateway.arrive(Datagram(payload, SERVED, sender))


_WAYS, _ESP_WAYS = 8, 2


def _keep(found: dict[K, V], key: K, value: V) -> None:
    found.pop(key, None)
    found[key] = value
    if len(found) > REMEMBERED:
        del found[next(iter(found))]


def _newer(dice: random.Random, found: list[K]) -> K:
    """One of them, rather one that was seen lately."""
    return found[max(dice.randrange(len(found)), dice.randrange(len(found)))]
