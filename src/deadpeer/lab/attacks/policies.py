"""The man in the middle, as policies that wrap the plain one inside the relay. Pure.

He sees every datagram, and may drop, delay, copy and forge. Until `begin` and after `rest` he lets all pass.
`mischief` counts what he did, by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from deadpeer.crash.sir_wire import Check, Verb, decode, encode
from deadpeer.lab.attacks.forgery import TOKEN, KnownSa, ike_datagram, invalid_ike_spi, invalid_spi
from deadpeer.lab.garbage import Dice
from deadpeer.lab.link import NS_PER_MS, Delivery, Passing, Policy, chance
from deadpeer.lab.trace import EspSeen, IkeSeen, Lane, Way, look
from deadpeer.wire import ExchangeType, WireError, decode_message, strip_marker

PROVOKE_EVERY_MS = 100.0


class AttackPolicy(Policy, Protocol):
    """A policy that can be told when to begin and when to rest."""

    @property
    def mischief(self) -> Mapping[str, int]:
        """What was done so far, as counts."""
        ...

    def begin(self, now_ns: int) -> None: ...

    def rest(self) -> None:
        """Let everything pass from now on."""
        ...


def wrap(attack: Mapping[str, Any], inner: Policy, seed: int) -> AttackPolicy:
    """The policy `attack["name"]` with the other entries as its parameters. Raises KeyError, TypeError."""
    parameters = {name: value for name, value in attack.items() if name != "name"}
    return _POLICIES[attack["name"]](inner, seed, **parameters)


class ManInTheMiddle:
    """What all have in common. A subclass says what becomes of a datagram while he is at work."""

    def __init__(self, inner: Policy, seed: int) -> None:
        self._inner = inner
        self._seed = seed
        self._since_ns: int | None = None
        self.mischief: Counter[str] = Counter()

    def begin(self, now_ns: int) -> None:
        self._since_ns = now_ns

    def rest(self) -> None:
        self._since_ns = None

    def decide(self, passing: Passing) -> Sequence[Delivery]:
        deliveries = self._inner.decide(passing)
        if self._since_ns is None:
            self._watch(passing)
            return deliveries
        return self._attack(passing, deliveries, (passing.arrived_ns - self._since_ns) / 1e9)

    def _watch(self, passing: Passing) -> None:
        """Learn from what passes, before the attack too."""

    def _attack(
        self, passing: Passing, deliveries: Sequence[Delivery], elapsed_s: float
    ) -> Sequence[Delivery]:
        raise NotImplementedError

    def _drop(self, what: str, octets: int) -> Sequence[Delivery]:
        self.mischief[f"dropped {what}"] += 1
        self.mischief["dropped octets"] += octets
        return ()

    def _forge(self, at_ns: int, way: Way, lane: Lane, payload: bytes, what: str) -> Delivery:
        self.mischief[f"forged {what}"] += 1
        self.mischief["forged octets"] += len(payload)
        return Delivery(at_ns, way, lane, payload, forged=True)


class Nack(ManInTheMiddle):
    """Denies in Bob's name what Alice asks by CHECK_SPI, after he has made her ask.

    With `deny` he answers her liveness checks, too: INVALID_IKE_SPI with guessed tokens, before Bob does.
    `drop`: what of Bob's he drops, too, one after the other in equal parts of `seconds`: "" nothing; "ack"
    Bob's ACKs; "answers" also Bob's protected answers; "traffic" also Bob's ESP.
    """

    def __init__(
        self,
        inner: Policy,
        seed: int,
        drop: Sequence[str] = ("",),
        seconds: float = 1.0,
        deny: bool = False,
    ) -> None:
        super().__init__(inner, seed)
        self._drops = tuple(drop)
        self._deny = deny
        self._dice = Dice(seed)
        self._seconds = seconds
        self._esp_spi: bytes | None = None
        self._provoke_ns = 0

    def _watch(self, passing: Passing) -> None:
        seen = look(passing.payload, passing.lane)
        if passing.way is Way.TO_BOB and isinstance(seen, EspSeen):
            self._esp_spi = bytes.fromhex(seen.spi)

    def _attack(
        self, passing: Passing, deliveries: Sequence[Delivery], elapsed_s: float
    ) -> Sequence[Delivery]:
        self._watch(passing)
        part = int(elapsed_s / self._seconds * len(self._drops))
        extent = _EXTENTS.index(self._drops[min(part, len(self._drops) - 1)])
        out = [*self._pass_or_drop(passing, deliveries, extent), *self._provoke(passing)]
        check = _check_of(passing)
        if check is not None and check.verb is Verb.QUERY:
            lie = replace(check, verb=Verb.NACK, from_initiator=not check.from_initiator)
            octets = ike_datagram(encode(lie), passing.lane)
            out.append(self._forge(passing.arrived_ns, Way.TO_ALICE, passing.lane, octets, "NACK"))
        if self._deny:
            out += self._denial(passing)
        return out

    def _denial(self, passing: Passing) -> Sequence[Delivery]:
        seen = look(passing.payload, passing.lane)
        if (
            not isinstance(seen, IkeSeen)
            or passing.way is Way.TO_ALICE
            or not seen.protected
            or seen.response
        ):
            return ()
        pair = bytes.fromhex(seen.spi_i), bytes.fromhex(seen.spi_r)
        message = invalid_ike_spi(
            KnownSa(*pair, seen.initiator),
            not seen.initiator,
            seen.message_id,
            [self._dice.octets(TOKEN) for _ in range(4)],
            seen.exchange,
        )
        octets = ike_datagram(message, passing.lane)
        return (self._forge(passing.arrived_ns, Way.TO_ALICE, passing.lane, octets, "denial"),)

    def _provoke(self, passing: Passing) -> Sequence[Delivery]:
        """An INVALID_SPI about the child that Alice sends with, so that she suspects something."""
        if self._esp_spi is None or passing.arrived_ns < self._provoke_ns:
            return ()
        self._provoke_ns = passing.arrived_ns + round(PROVOKE_EVERY_MS * NS_PER_MS)
        octets = ike_datagram(invalid_spi(self._esp_spi), Lane.NAT_T)
        return (self._forge(passing.arrived_ns, Way.TO_ALICE, Lane.NAT_T, octets, "INVALID_SPI"),)

    def _pass_or_drop(
        self, passing: Passing, deliveries: Sequence[Delivery], extent: int
    ) -> Sequence[Delivery]:
        if passing.way is Way.TO_BOB or not extent:
            return deliveries
        octets, seen = len(passing.payload), look(passing.payload, passing.lane)
        if isinstance(seen, EspSeen):
            return self._drop("ESP", octets) if extent >= _EXTENTS.index("traffic") else deliveries
        check = _check_of(passing)
        if check is not None and check.verb is Verb.ACK:
            return self._drop("ACK", octets)
        answer = (
            isinstance(seen, IkeSeen)
            and seen.protected
            and seen.response
            and seen.exchange == ExchangeType.INFORMATIONAL
        )
        return self._drop("answer", octets) if answer and extent >= _EXTENTS.index("answers") else deliveries


class Chaos(ManInTheMiddle):
    """Drops, copies and delays at random; what is delayed by up to `delay_ms` is overtaken by others."""

    def __init__(
        self,
        inner: Policy,
        seed: int,
        drop: float = 0.1,
        copy: float = 0.1,
        delay: float = 0.3,
        delay_ms: float = 60.0,
    ) -> None:
        super().__init__(inner, seed)
        self._drop_p, self._copy_p, self._delay_p = drop, copy, delay
        self._delay_ns = delay_ms * NS_PER_MS
        self._count = 0

    def _attack(
        self, passing: Passing, deliveries: Sequence[Delivery], elapsed_s: float
    ) -> Sequence[Delivery]:
        self._count += 1
        if self._dice("drop") < self._drop_p:
            seen = look(passing.payload, passing.lane)
            return self._drop("ESP" if isinstance(seen, EspSeen) else "IKE", len(passing.payload))
        out = []
        for delivery in deliveries:
            late = round(self._dice("late") * self._delay_ns) if self._dice("delay") < self._delay_p else 0
            if late:
                self.mischief["delayed"] += 1
            out.append(replace(delivery, at_ns=delivery.at_ns + late))
            if self._dice("copy") < self._copy_p:
                again = delivery.at_ns + round(self._dice("again") * self._delay_ns)
                out.append(self._forge(again, delivery.way, delivery.lane, delivery.payload, "copy"))
        return out

    def _dice(self, what: str) -> float:
        return chance(self._seed, what, self._count)


class Blackout(ManInTheMiddle):
    """Nothing passes for `seconds` from his beginning; then everything does."""

    def __init__(self, inner: Policy, seed: int, seconds: float = 1.0) -> None:
        super().__init__(inner, seed)
        self._seconds = seconds

    def _attack(
        self, passing: Passing, deliveries: Sequence[Delivery], elapsed_s: float
    ) -> Sequence[Delivery]:
        if elapsed_s >= self._seconds:
            return deliveries
        return self._drop("everything", len(passing.payload))


class Theft(ManInTheMiddle):
    """Holds back each resumption request for `delay_ms`, so that a thief can show the ticket first."""

    def __init__(self, inner: Policy, seed: int, delay_ms: float = 100.0) -> None:
        super().__init__(inner, seed)
        self._delay_ns = round(delay_ms * NS_PER_MS)

    def _attack(
        self, passing: Passing, deliveries: Sequence[Delivery], elapsed_s: float
    ) -> Sequence[Delivery]:
        seen = look(passing.payload, passing.lane)
        if not isinstance(seen, IkeSeen) or seen.exchange != ExchangeType.IKE_SESSION_RESUME or seen.response:
            return deliveries
        self.mischief["delayed"] += 1
        return [replace(delivery, at_ns=delivery.at_ns + self._delay_ns) for delivery in deliveries]


def _check_of(passing: Passing) -> Check | None:
    """The CHECK_SPI message in a datagram, if it is one."""
    seen = look(passing.payload, passing.lane)
    if not isinstance(seen, IkeSeen) or seen.protected or seen.exchange != ExchangeType.INFORMATIONAL:
        return None
    try:
        octets = strip_marker(passing.payload) if passing.lane is Lane.NAT_T else passing.payload
        return decode(decode_message(octets))
    except WireError:
        return None


_EXTENTS = ("", "ack", "answers", "traffic")
_POLICIES: Mapping[str, Callable[..., AttackPolicy]] = {
    "nack": Nack,
    "chaos": Chaos,
    "blackout": Blackout,
    "theft": Theft,
}
