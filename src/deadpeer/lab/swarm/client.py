"""One client of a swarm: an endpoint of its own with its own sockets, SPIs and data plane, and a host in
memory behind it that sends echo requests through the tunnel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

from deadpeer.assembly import build_endpoint
from deadpeer.crypto import Entropy, Identity
from deadpeer.gateway.config import GatewayConfig
from deadpeer.gateway.runtime import Core
from deadpeer.gateway.sockets import UdpSockets, open_sockets
from deadpeer.ike.connection import Connection
from deadpeer.ike.io import Event, Initiate, Input, Persist, Plane, Record, Timeout, Transmit
from deadpeer.lab.scenarios.plan import SERVER_INNER
from deadpeer.lab.swarm.files import client_id
from deadpeer.lab.swarm.plan import SwarmPlace
from deadpeer.plane.engine import EspEngine
from deadpeer.plane.packets import decode_echo, echo_request
from deadpeer.store import MemoryLedger, MemoryStore
from deadpeer.values import Datagram, Deadline, Now
from deadpeer.wire import TrafficSelector, UdpKind, classify

IDENT = 0x6290
RECEIVE_BUFFER = 256 * 1024
Tell = Callable[[str, int, dict[str, object]], None]
"""Told of what happened, when (monotonic ns), and more."""


class SwarmClient:
    """A client. Its clock is the caller's: each call that does something takes the present moment.

    `tell` hears of "up" (it has a child SA, and the pair of SPIs of its IKE SA), "back" (the first answer
    that came through that), "verdict" (with the proof), "failed" (it could not connect; why) and "down" (an
    IKE SA is gone).
    """

    def __init__(
        self,
        now: Now,
        connection: Connection,
        inner: str,
        config: GatewayConfig,
        entropy: Entropy,
        tell: Tell,
    ) -> None:
        """`inner`: the address of its host. Raises ConfigError if its sockets can't be opened."""
        self.armed_ns: int | None = None
        """When its owner will look at it again."""
        self._inner = inner
        self._tell = tell
        self._name = connection.name
        self._port_nat_t = config.endpoint.port_nat_t
        hosts = [ip_address(net.network_address) for net in connection.local_addrs]
        endpoint = replace(config.endpoint, local_hosts=tuple(str(host) for host in hosts))
        self.sockets: UdpSockets = open_sockets(
            hosts, endpoint.port, endpoint.port_nat_t, RECEIVE_BUFFER, config.file
        )
        self._store, self._ledger = MemoryStore(), MemoryLedger()
        self._engine = EspEngine(entropy, hold_packets=config.gateway.hold_packets)
        self._core: Core = build_endpoint(
            now,
            endpoint,
            [connection],
            entropy,
            self._store,
            config.crash,
            ledger=self._ledger,
            machine_id=str(connection.local.identity).encode(),
        )
        self._core_due: Deadline | None = None
        self._moved = True
        """Whether the core's deadline may be another one: nothing moves it but what is handed over."""
        self._sent: dict[int, int] = {}
        self._answered: set[int] = set()
        self._pair: list[object] = []
        self._waits_for_answer = False
        self._greets = False
        self._lost = False
        self._holds = False
        self._drain(now)

    # --- what it is told -------------------------------------------------------------------------

    def connect(self, now: Now) -> None:
        """Begin to set up an IKE SA and a child SA."""
        self._hand_over(now, Initiate(self._name))
        self._drain(now)

    def arrive(self, now: Now, datagram: Datagram) -> None:
        """A datagram came to one of its sockets."""
        if datagram.local.port == self._port_nat_t:
            kind = classify(datagram.payload, port_4500=True)
            if kind is UdpKind.ESP:
                self._engine.inbound(now.mono_ns, datagram.payload, datagram.local, datagram.remote)
                self._drain(now)
                return
            if kind is UdpKind.KEEPALIVE:
                return
        self._hand_over(now, datagram)
        self._drain(now)

    def expire(self, now: Now) -> None:
        """Do what is due."""
        self._engine.expire(now.mono_ns)
        self._drain(now)
        if (due := self._core.deadline()) is not None and due.at_ns <= now.mono_ns:
            self._hand_over(now, Timeout())
            self._drain(now)

    def send(self, now: Now) -> None:
        """The host behind it sends an echo request."""
        seq = len(self._sent) + 1
        self._sent[seq] = now.mono_ns
        self._holds = self._holds or self._lost
        packet = echo_request(self._inner, SERVER_INNER, IDENT, seq & 0xFFFF)
        self._engine.outbound(now.mono_ns, packet)
        self._drain(now)

    # --- what is known of it ---------------------------------------------------------------------

    def deadline_ns(self) -> int | None:
        """When `expire` wants to be called."""
        if self._moved:
            self._core_due, self._moved = self._core.deadline(), False
        due = [d.at_ns for d in (self._core_due, self._engine.deadline()) if d is not None]
        return min(due, default=None)

    def tally(self, from_ns: int, until_ns: int) -> tuple[int, int]:
        """(sent, without an answer by now) of the packets that its host sent in a span of time."""
        sent = [seq for seq, at_ns in self._sent.items() if from_ns <= at_ns < until_ns]
        return len(sent), sum(seq not in self._answered for seq in sent)

    # --- helpers ---------------------------------------------------------------------------------

    def _drain(self, now: Now) -> None:
        """Obey all outputs in their order, until endpoint and data plane are both quiet."""
        core, engine = self._core, self._engine
        while True:
            quiet = True
            while (output := core.poll()) is not None:
                quiet = False
                match output:
                    case Transmit():
                        self.sockets.send(output.datagram)
                    case Plane():
                        engine.apply(now.mono_ns, output.op)
                    case Event():
                        self._event(now, output)
                    case Persist():
                        self._store.put(output.name, output.data)
                    case Record():
                        self._ledger.write(output.table, output.key, output.value, durable=output.durable)
                    case _:
                        pass
            while (datagram := engine.poll_datagram()) is not None:
                self.sockets.send(datagram)
            while (packet := engine.poll_packet()) is not None:
                self._receive(now, packet)
            while (report := engine.poll_report()) is not None:
                quiet = False
                self._hand_over(now, report)
            if quiet:
                break
        if self._greets:
            # The answer shall tell when the tunnel carries traffic, not when the host's next turn was.
            self._greets = False
            self.send(now)

    def _hand_over(self, now: Now, item: Input) -> None:
        self._moved = True
        self._core.handle(now, item)

    def _event(self, now: Now, event: Event) -> None:
        match event.kind:
            case "ike_sa_up":
                self._pair = [event.fields["spi_i"], event.fields["spi_r"]]
            case "child_up":
                # A packet that waited goes now, and is as good as one of now.
                self._waits_for_answer, self._greets = True, not self._holds
                self._lost = self._holds = False
                self._tell("up", now.mono_ns, {"pair": self._pair})
            case "ike_sa_down":
                self._tell("down", now.mono_ns, {"reason": event.fields.get("reason")})
            case "verdict":
                self._lost = True
                self._tell("verdict", now.mono_ns, {"proof": event.fields.get("proof")})
            case "initiate_failed":
                self._tell("failed", now.mono_ns, {"reason": event.fields.get("reason")})
            case _:
                pass

    def _receive(self, now: Now, packet: bytes) -> None:
        echo = decode_echo(packet)
        if echo is None or echo.request or echo.ident != IDENT:
            return
        self._answered.add(len(self._sent) - ((len(self._sent) - echo.seq) & 0xFFFF))
        if self._waits_for_answer:
            self._waits_for_answer = False
            self._tell("back", now.mono_ns, {})


def connection_of(template: Connection, place: SwarmPlace, number: int, remote: str) -> Connection:
    """A client's connection to `remote`: the template with its own addresses and identity."""
    host, inner = ip_address(place.host(number)), ip_address(place.inner(number))
    child = replace(template.children[0], local_ts=(TrafficSelector(0, 0, 65535, inner, inner),))
    return replace(
        template,
        local_addrs=(ip_network(host),),
        remote_addrs=(ip_network(remote),),
        local=replace(template.local, identity=Identity.parse(client_id(number))),
        children=(child,),
    )
