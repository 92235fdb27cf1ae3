"""What an IKE SA and its exchanges need from the endpoint: outputs, timers, entropy, numbers, extensions."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from deadpeer.crypto import Entropy, EspKeys
from deadpeer.ike import keylog
from deadpeer.ike.connection import ChildConfig, EndpointConfig
from deadpeer.ike.extension import Extension, Signal, Slot, SpiSource, by_signal, overriding
from deadpeer.ike.io import CommandDone, Event, Field, KeyLog, Level, Output, Persist, Plane, Transmit
from deadpeer.ike.refusals import Refusals
from deadpeer.ike.table import SaTable
from deadpeer.ike.timers import TimerQueue
from deadpeer.plane.model import PlaneOp
from deadpeer.values import Address, Datagram, Now
from deadpeer.wire import FIRST_ESP_SPI, NON_ESP_MARKER, Message, Notify, Payload

if TYPE_CHECKING:
    from deadpeer.ike.child import ChildSa
    from deadpeer.ike.sa import IkeSa

POLICIES_BEFORE_SWEEP = 1024


@dataclass(slots=True)
class _Expected:
    """The outcomes that a command with several parts still waits for, and those that came."""

    left: int
    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


class Lifecycle(Protocol):
    """What the endpoint is told about its SAs, to decide what comes next."""

    def respond(self, now: Now, sa: IkeSa, request: Message) -> Sequence[Payload]:
        """Handle the decrypted request of the peer; the payloads of the response."""
        ...

    def arm_ike(self, now: Now, sa: IkeSa) -> None:
        """An IKE SA is established: arm its timers."""
        ...

    def arm_child(self, now: Now, sa: IkeSa, child: ChildSa) -> None:
        """A child SA is installed, or moved to this IKE SA: arm its timers."""
        ...

    def rekey_due(self, now: Now, sa: IkeSa) -> None:
        """The IKE SA must be replaced soon."""
        ...

    def impatient(self, now: Now, sa: IkeSa, attempts: int) -> bool:
        """The first message of a setup is unanswered: True if something else is tried instead."""
        ...

    def setup_failed(self, now: Now, sa: IkeSa, why: str) -> None:
        """An IKE SA that we initiated did not come up; it is closed already."""
        ...

    def sa_established(self, now: Now, sa: IkeSa) -> None:
        """An IKE SA is up, its first child (if any) installed."""
        ...

    def initial_contact(self, now: Now, sa: IkeSa) -> None:
        """The peer of the new `sa` says, protected, that it holds no other SA with us."""
        ...

    def ended(self, now: Now, sa: IkeSa, why: str) -> None:
        """An established IKE SA ends, not by our wish: close it; `close_action` says what comes next."""
        ...

    def hold(self, sa: IkeSa, child: ChildSa) -> None:
        """Packets of the child's policy wait from now on until a new child is installed."""
        ...

    def holds(self, policy: int) -> bool:
        """Whether packets wait, or may come to wait, for a child of this policy."""
        ...

    def child_lost(self, now: Now, sa: IkeSa, child: ChildSa, action: str) -> None:
        """A child was closed by the peer, or expired; `action` is none, trap or start."""
        ...


class Environment:
    """Shared by all SAs of an endpoint. Everything that leaves the core goes through here."""

    def __init__(
        self,
        config: EndpointConfig,
        entropy: Entropy,
        spis: SpiSource,
        lifecycle: Lifecycle,
        extensions: Sequence[Extension],
    ) -> None:
        self.config = config
        self.entropy = entropy
        self.lifecycle = lifecycle
        self.extensions = tuple(extensions)
        self.asked = overriding(self.extensions, "orphan")
        self.timed = overriding(self.extensions, "deadline")
        self._observers = by_signal(self.extensions)
        self._contributors = overriding(self.extensions, "notifies", "answers")
        self.table = SaTable()
        self.timers = TimerQueue()
        self.refusals = Refusals()
        self.doors_closed = False
        self.counters: Counter[str] = Counter()
        self._spis = spis
        self._outputs: deque[Output] = deque()
        self._expected: dict[int, _Expected] = {}
        self._policies: dict[tuple[str, str, str], int] = {}
        self._policies_made = 0
        self._sweep_at = POLICIES_BEFORE_SWEEP
        self._policy_keys: dict[int, tuple[str, str, str]] = {}
        self._sa_number = 0
        self._child_number = 0

    # --- outputs ---------------------------------------------------------------------------------

    def poll(self) -> Output | None:
        """The next output, in order."""
        return self._outputs.popleft() if self._outputs else None

    @property
    def quiet(self) -> bool:
        """Whether there is no output."""
        return not self._outputs

    def emit(self, output: Output) -> None:
        """Queue an output."""
        self._outputs.append(output)

    def transmit(self, octets: bytes, local: Address, remote: Address, reason: str) -> int:
        """Send an IKE message (without marker); returns the octets of UDP payload."""
        payload = NON_ESP_MARKER + octets if local.port == self.config.port_nat_t else octets
        self._outputs.append(Transmit(Datagram(payload, local, remote), reason))
        self.counters[f"sent: {reason}"] += 1
        return len(payload)

    def transmit_raw(self, payload: bytes, local: Address, remote: Address, reason: str) -> None:
        """Send a UDP payload that is not an IKE message, as it is."""
        self._outputs.append(Transmit(Datagram(payload, local, remote), reason))
        self.counters[f"sent: {reason}"] += 1

    def plane(self, op: PlaneOp) -> None:
        """Hand an operation to the data plane."""
        self._outputs.append(Plane(op))

    def persist(self, name: str, data: bytes) -> None:
        """Have `data` written durably before anything that is sent after this call."""
        self._outputs.append(Persist(name, data))

    def event(self, kind: str, level: Level = "info", **fields: Field) -> None:
        """Report an event."""
        self._outputs.append(Event(kind, fields, level))

    def expect(self, tag: int, outcomes: int) -> None:
        """The command with this tag has so many outcomes; it is answered with the last of them."""
        if tag and outcomes > 1:
            self._expected[tag] = _Expected(outcomes)

    def done(self, tag: int, ok: bool, text: str) -> None:
        """An outcome of the command with this tag; 0 is no command. The command is answered once."""
        if not tag:
            return
        expected = self._expected.get(tag)
        if expected is not None:
            expected.left -= 1
            (expected.good if ok else expected.bad).append(text)
            if expected.left > 0:
                return
            del self._expected[tag]
            ok, text = not expected.bad, "; ".join(dict.fromkeys(expected.bad or expected.good))
        self._outputs.append(CommandDone(tag, ok, text))

    def count(self, counter: str, amount: int = 1) -> None:
        """Add to a named counter."""
        self.counters[counter] += amount

    def drop(self, reason: str) -> None:
        """Count a datagram that led to nothing."""
        self.counters[f"dropped: {reason}"] += 1

    # --- numbers ---------------------------------------------------------------------------------

    def sa_number(self) -> int:
        """A number for an IKE SA, never used before in this process."""
        self._sa_number += 1
        return self._sa_number

    def child_number(self) -> int:
        """A number for a child SA, never used before in this process."""
        self._child_number += 1
        return self._child_number

    def policy_number(self, sa: IkeSa, config: ChildConfig) -> int:
        """The policy that a child of this SA serves: one for each peer and configured child."""
        peer = "" if sa.connection.remote_host else str(sa.remote_identity)
        return self.policy(sa.connection.name, config.name, peer)

    def policy(self, connection: str, child: str, peer: str = "") -> int:
        """The number of a policy; `peer` tells the peers of an %any connection apart."""
        key = (connection, child, peer)
        number = self._policies.get(key)
        if number is None:
            if len(self._policies) >= self._sweep_at:
                self._sweep_policies()
            self._policies_made += 1
            number = self._policies[key] = self._policies_made
            self._policy_keys[number] = key
        return number

    def _sweep_policies(self) -> None:
        """Forget the numbers of peers that have come and gone, so that the table can't grow with them."""
        for key, number in list(self._policies.items()):
            if key[2] and not self.table.serving(number) and not self.lifecycle.holds(number):
                del self._policies[key], self._policy_keys[number]
        self._sweep_at = max(POLICIES_BEFORE_SWEEP, 2 * len(self._policies))

    def policy_of(self, number: int) -> tuple[str, str, str] | None:
        """(connection, child, peer) of a policy number."""
        return self._policy_keys.get(number)

    def ike_spi(self) -> bytes:
        """A fresh IKE SPI that no SA has on our side."""
        while self.table.ours(spi := self._spis.ike_spi()) is not None or spi == bytes(8):
            self.counters["ike spi collisions"] += 1
        return spi

    def esp_spi(self) -> int:
        """A fresh inbound ESP SPI, 256 or more."""
        while True:
            spi = self._spis.esp_spi()
            if spi >= FIRST_ESP_SPI and self.table.child_by_inbound(spi) is None:
                return spi

    # --- extensions ------------------------------------------------------------------------------

    def signal(self, now: Now, signal: Signal) -> None:
        """Tell every extension that observes it what happened."""
        for extension in self._observers[type(signal)]:
            extension.observe(now, signal)

    def contribute(
        self, now: Now, slot: Slot, sa: IkeSa, *, response: bool, request: Message | None = None
    ) -> list[Notify]:
        """What the extensions put into our message of this slot; `request` is what a response answers."""
        found: list[Notify] = []
        asked = request.all(Notify) if request is not None else ()
        for extension in self._contributors:
            found.extend(extension.notifies(now, slot, sa, response=response))
            if asked:
                found.extend(extension.answers(now, slot, sa, asked))
        return found

    # --- key log ---------------------------------------------------------------------------------

    def keylog_sa(self, sa: IkeSa) -> None:
        """Write the keys of an IKE SA, if the endpoint was told to."""
        if self.config.keylog and sa.keys is not None:
            line = keylog.ike_line(sa.spi_i, sa.spi_r, sa.suite, sa.keys)
            if line is not None:
                self._outputs.append(KeyLog("ikev2_decryption_table", line))

    def keylog_child(self, sa: IkeSa, child: ChildSa, inbound: EspKeys, outbound: EspKeys) -> None:
        """Write the keys of both directions of a child SA, if the endpoint was told to."""
        if not self.config.keylog:
            return
        ways = (
            (sa.remote.host, sa.local.host, child.spi_in, inbound),
            (sa.local.host, sa.remote.host, child.spi_out, outbound),
        )
        for source, destination, spi, keys in ways:
            line = keylog.esp_line(source, destination, spi, child.suite, keys)
            if line is not None:
                self._outputs.append(KeyLog("esp_sa", line))
