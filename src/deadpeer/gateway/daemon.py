"""The gateway process, from its configuration to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadpeer.assembly import build_endpoint
from deadpeer.cluster.secrets import KeyKind
from deadpeer.crash.boot import StateError
from deadpeer.crash.redirect import Drain
from deadpeer.crypto import SystemEntropy
from deadpeer.ike.io import Event, ExtensionCommand, Field, Initiate, Lose, Rekey, Reload, Terminate
from deadpeer.plane.host import Host as PlaneHost
from deadpeer.plane.host import PlaneError
from deadpeer.plane.steering import Steering
from deadpeer.plane.tun import TunDevice, local_addresses
from deadpeer.plane.unix import UnixHost
from deadpeer.values import Now

from . import collector
from .clocks import clock
from .config import GatewayConfig, load
from .control import ControlServer, Reply
from .errors import ConfigError, StartError
from .ledger import LmdbLedger
from .lives import Site, unusable
from .logs import EventLog, LineWriter, LogFormat, record
from .machine import machine_id
from .notation import Host, parse_host
from .process import KeyLogFiles, harden, notify_service_manager, places
from .resolve import check_local_addresses
from .routes import RouteKeeper
from .runtime import Core, Runtime, TaggedCommand
from .sockets import UdpSockets, open_sockets
from .state import StateDirectory
from .warm import warm_up

if TYPE_CHECKING:
    from .cluster import ClusterMember
    from .standby import StandbyMember

GOODBYE_S = 2.0
"""How long the peers get to answer our DELETEs when we are told to stop."""
OUTCOME_S = 300.0
"""How long a client waits for a command at most: its place is for others then."""
DRAIN_S = 3600.0
"""The same for draining, which sends 50 IKE SAs away in a second."""
_FOR_ENDPOINT = frozenset({"up", "down", "rekey", "drain", "lose"})
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(file: Path, *, log_format: LogFormat = "text", keylog: Path | None = None) -> int:
    """Run the gateway in the foreground until SIGTERM, SIGINT or a "stop" command. Returns 0.

    Events go to standard output, one a line. Raises ConfigError or StartError if it can't start.
    """
    harden()
    config = load(file)
    # Unbuffered: a reader that has gone must not make the interpreter's last flush fail.
    with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as out:
        writer = LineWriter(out)
        try:
            log = EventLog(writer, config.gateway.log_level, log_format, colour=sys.stdout.isatty())
            # Never in asyncio's debug mode, whatever the environment says: it logs the arguments of calls.
            asyncio.run(Daemon(config, log, writer, keylog).run(), debug=False)
        finally:
            writer.close()
    return 0


class Daemon:
    """One life of the gateway."""

    def __init__(
        self, config: GatewayConfig, log: EventLog, writer: LineWriter, keylog: Path | None = None
    ) -> None:
        self._config = config
        self._log = log
        self._writer = writer
        self._keylog = None if keylog is None else KeyLogFiles(keylog)
        self._stop = asyncio.Event()
        self._control: ControlServer | None = None
        self._runtime: Runtime | None = None
        self._ledger: LmdbLedger | None = None
        self._hosts: tuple[Host, ...] = ()
        self._site: Site | None = None
        self._member: ClusterMember | StandbyMember | None = None
        self._one_of_two: StandbyMember | None = None
        self._failure: StartError | None = None

    async def run(self) -> None:
        """Start, serve, say goodbye."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for number in _SIGNALS:
                loop.add_signal_handler(number, self._stop.set)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            loop.set_exception_handler(self._on_loop_error)
            await self._start(stack)
            await self._stop.wait()
            self._report(clock(), Event("stopping", {}, "notice"))
            notify_service_manager("STOPPING=1")
            await self._goodbye()
        self._report(clock(), Event("stopped", {}, "notice"))
        if self._failure is not None:
            raise self._failure

    async def _start(self, stack: AsyncExitStack) -> None:
        options, file = self._config.gateway, self._config.file
        state = stack.enter_context(StateDirectory(options.state_dir, file))
        ledger = self._ledger = self._open_ledger(state.path)
        stack.callback(ledger.close)
        hosts = options.listen or _all_addresses(file)
        check_local_addresses(self._config.connections, hosts, file)
        self._hosts = hosts
        sockets = open_sockets(
            hosts,
            options.port,
            options.port_nat_t,
            options.receive_buffer,
            file,
            free=self._config.standby is not None,
        )
        stack.callback(sockets.close)
        plane = _open_plane(self._config, hosts)
        stack.callback(plane.close)
        site = self._site = self._make_site(state, ledger, hosts)
        member = self._member = self._make_member(site, sockets, hosts)
        runtime = Runtime(
            sockets=sockets,
            port_nat_t=options.port_nat_t,
            engine=site.engine(),
            host=plane,
            routes=RouteKeeper(plane, _sources(self._config, hosts)) if options.routes else None,
            store=state.store,
            ledger=ledger if self._one_of_two is None else self._one_of_two.shown(ledger),
            keylog=self._keylog,
            report=self._report,
            core_clock=None if member is None else member.core_clock,
        )
        self._runtime = runtime
        stack.callback(runtime.stop)
        control = ControlServer(options.control, self._handle, file)
        await control.start()
        stack.push_async_callback(control.close)
        self._control = control
        if self._keylog is not None:
            fields: dict[str, Field] = {
                "text": "KEYS OF ALL SAs ARE BEING WRITTEN TO A FILE; never do this in use"
            }
            self._report(clock(), Event("keylog", fields, "warning"))
        if options.faults:
            text = "gateway.faults is on: commands make SAs vanish and clocks run wrong; for laboratories"
            self._report(clock(), Event("faults", {"text": text}, "warning"))
        endpoint = _alone(site) if member is None else None
        warmed = warm_up(self._config.connections, site.entropy)
        collector.spare()
        self._report(clock(), Event("warmed", {"algorithms": list(warmed)}, "debug"))
        if member is not None:
            notify_service_manager("READY=1")
            member.start(runtime, stack)
        elif endpoint is not None:
            # First what it does by itself: who sends when we are ready shall find the traps and routes there.
            runtime.attach(endpoint)
            self._on_ready(hosts)
            notify_service_manager("READY=1")

    def _make_site(self, state: StateDirectory, ledger: LmdbLedger, hosts: Sequence[Host]) -> Site:
        config = self._config
        local_hosts = tuple(str(host) for host in hosts)
        return Site(
            file=config.file,
            state_dir=state.path,
            endpoint=replace(config.endpoint, local_hosts=local_hosts, keylog=self._keylog is not None),
            connections=config.connections,
            crash=config.crash,
            store=state.store,
            ledger=ledger,
            entropy=SystemEntropy(),
            machine_id=machine_id(state.path),
            hold_packets=config.gateway.hold_packets,
        )

    def _make_member(
        self, site: Site, sockets: UdpSockets, hosts: Sequence[Host]
    ) -> ClusterMember | StandbyMember | None:
        config = self._config
        if config.standby is not None:
            from . import standby

            def ready() -> None:
                self._on_ready(hosts)

            near = standby.Surroundings(site, self._report, self._fail, ready)
            self._one_of_two = standby.StandbyMember(config.standby, near)
            return self._one_of_two
        if config.cluster is None:
            return None
        try:
            from .cluster import ClusterMember, Surroundings
        except ModuleNotFoundError as error:
            package = (error.name or "etcd3gw").partition(".")[0]
            problem = f"needs the package {package}; install it: pip install 'deadpeer[cluster]'"
            raise ConfigError(config.file, "cluster", problem) from None
        around = Surroundings(
            site=site,
            sockets=sockets,
            receive_buffer=config.gateway.receive_buffer,
            report=self._report,
            fatal=self._fail,
            ready=lambda: self._on_ready(hosts),
        )
        return ClusterMember(config.cluster, around)

    def _fail(self, error: StartError) -> None:
        self._failure = error
        self._stop.set()

    def _on_ready(self, hosts: Sequence[Host]) -> None:
        self._report(clock(), Event("ready", self._ready(hosts), "notice"))

    def _open_ledger(self, state: Path) -> LmdbLedger:
        loop = asyncio.get_running_loop()

        def on_trouble(reason: str) -> None:
            event = Event("ledger_write_failed", {"reason": reason}, "warning")
            with suppress(RuntimeError):  # The loop has ended: nobody listens any more.
                loop.call_soon_threadsafe(lambda: self._report(clock(), event))

        try:
            ledger = LmdbLedger(state / "ledger", on_trouble=on_trouble)
        except OSError as error:
            raise ConfigError(
                self._config.file,
                "gateway.state_dir",
                f"{state}/ledger can't be used: {error.strerror or error}; delete it, or name another"
                " directory",
            ) from None
        if ledger.discarded is not None:
            self._report(clock(), Event("ledger_discarded", {"reason": ledger.discarded}, "warning"))
        return ledger

    def _ready(self, hosts: Sequence[Host]) -> Mapping[str, Field]:
        options = self._config.gateway
        return {
            "pid": os.getpid(),
            "listen": [str(host) for host in hosts],
            "port": options.port,
            "port_nat_t": options.port_nat_t,
            "control": str(options.control),
            "connections": [connection.name for connection in self._config.connections],
        }

    async def _goodbye(self) -> None:
        runtime = self._runtime
        if runtime is not None and runtime.serves:
            runtime.shutdown()
            try:
                await asyncio.wait_for(runtime.down.wait(), GOODBYE_S)
            except TimeoutError:
                self._report(clock(), Event("goodbye_unanswered", {"after_s": GOODBYE_S}, "notice"))
        if self._member is not None:
            await self._member.leave()

    def _report(self, now: Now, event: Event) -> None:
        self._log.write(now, event)
        if self._control is not None:
            self._control.publish(record(now, event))

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio would print with whatever the exception quotes."""
        error = context.get("exception")
        where = list(places(error.__traceback__ if error is not None else None))
        fields: dict[str, Field] = {"during": "asyncio", "error": type(error).__name__, "at": where}
        self._report(clock(), Event("internal_error", fields, "warning"))

    # Commands

    def _reload(self) -> Reply:
        """Take the connections of the file as it is now; a file that can't be used changes nothing."""
        try:
            new = load(self._config.file)
            check_local_addresses(new.connections, self._hosts, new.file)
        except ConfigError as error:
            self._report(clock(), Event("reload_failed", {"error": str(error)}, "warning"))
            return Reply(False, str(error))
        runtime = self._runtime
        if runtime is None:
            return Reply(False, "the gateway is still starting; try again")
        fields: dict[str, Field] = {"connections": [c.name for c in new.connections]}
        level, connections = self._config.gateway.log_level, self._config.connections
        if (
            replace(new, gateway=replace(new.gateway, log_level=level), connections=connections)
            != self._config
        ):
            fields["restart_needed"] = (
                "what changed outside of the connections, log_level aside, waits for a restart"
            )
        if self._site is not None:
            self._site.connections = new.connections
        self._log.level = new.gateway.log_level
        runtime.reload(Reload(new.connections))
        self._report(clock(), Event("reload", fields, "notice"))
        text = f"{len(new.connections)} connections" + (
            "; restart needed" if "restart_needed" in fields else ""
        )
        return Reply(True, text)

    async def _handle(self, command: str, args: Mapping[str, Any]) -> Reply:
        runtime = self._runtime
        if runtime is None:
            return Reply(False, "the gateway is still starting; try again")
        if command in _FOR_ENDPOINT and (why := self._idle()) is not None:
            return Reply(False, why)
        match command:
            case "up" | "down" | "rekey":
                return await self._on_connection(runtime, command, args)
            case "rotate":
                return await self._rotate(runtime, args)
            case "lose" if self._config.gateway.faults:
                return await self._lose(runtime, args)
            case "clock" if self._config.gateway.faults and self._member is not None:
                return self._member.skew(args.get("rate"))
            case "sas":
                now = runtime.now()
                return Reply(True, data={"sas": runtime.sas(now), "mono_ns": now.mono_ns} | self._of_member())
            case "counters":
                counters = runtime.all_counters() | {"log": dict(self._writer.counters)}
                if self._member is not None:
                    counters |= self._member.counters()
                if self._ledger is not None:
                    counters["ledger"] = self._ledger.counters()
                # With what a check wants to know every second, which must not cost a list of all SAs.
                return Reply(True, data={"counters": counters} | self._of_member())
            case "reload":
                return self._reload()
            case "activate" | "standby":
                return self._moved(command)
            case "drain":
                return await self._drain(runtime, args)
            case "stop":
                self._stop.set()
                return Reply(True, "stopping")
        return Reply(False, f"there is no command {command!r}")

    async def _rotate(self, runtime: Runtime, args: Mapping[str, Any]) -> Reply:
        tickets, spi = args.get("tickets") is True, args.get("spi") is True
        if self._member is not None:
            kind = KeyKind.TICKET if tickets else KeyKind.SPI if spi else KeyKind.QCD
            return await self._member.rotate(kind)
        if spi:
            return Reply(False, "a gateway by itself keeps its SPI key; only members of a cluster share one")
        what = "tickets" if tickets else "qcd"
        return await _outcome(runtime, lambda tag: ExtensionCommand(what, "rotate", tag))

    async def _lose(self, runtime: Runtime, args: Mapping[str, Any]) -> Reply:
        connection, child = args.get("connection"), args.get("child")
        if not isinstance(connection, str | None) or not isinstance(child, str | None):
            return Reply(False, "lose takes the name of a connection, and perhaps of a child, or neither")
        return await _outcome(runtime, lambda tag: Lose(connection, child, tag))

    def _of_member(self) -> dict[str, Any]:
        """What a cluster's member, or one of two, says of itself; nothing of a gateway alone."""
        if self._member is None:
            return {}
        return {"cluster" if self._config.standby is None else "standby": self._member.status()}

    def _idle(self) -> str | None:
        """Why one of two that share an address does not serve; None: it does, or is no such gateway."""
        return None if self._one_of_two is None else self._one_of_two.idle()

    def _moved(self, command: str) -> Reply:
        one = self._one_of_two
        if one is None:
            return Reply(False, "there is no table [standby] in the gateway's configuration")
        return one.activate() if command == "activate" else one.stand_by()

    async def _drain(self, runtime: Runtime, args: Mapping[str, Any]) -> Reply:
        to = args.get("to")
        if not isinstance(to, str | None):
            return Reply(False, "drain takes the address to go to, or none")
        if to is None and self._config.standby is not None:
            return Reply(
                False,
                "its address is the one that the partner would have: name another one to go to, or just move"
                " the address",
            )
        try:
            host = None if to is None else str(parse_host(to))
        except ValueError as error:
            return Reply(False, str(error))
        return await _outcome(
            runtime, lambda tag: ExtensionCommand("redirect", "drain", tag, Drain(host)), DRAIN_S
        )

    async def _on_connection(self, runtime: Runtime, command: str, args: Mapping[str, Any]) -> Reply:
        name, child = args.get("connection"), args.get("child")
        if not isinstance(name, str) or not isinstance(child, str | None):
            return Reply(False, f"{command} needs the name of a connection, and perhaps of a child")
        make: dict[str, TaggedCommand] = {
            "up": lambda tag: Initiate(name, child, tag),
            "down": lambda tag: Terminate(name, child, tag),
            "rekey": lambda tag: Rekey(name, child, tag),
        }
        return await _outcome(runtime, make[command])


async def _outcome(runtime: Runtime, make: TaggedCommand, wait_s: float = OUTCOME_S) -> Reply:
    try:
        done = await asyncio.wait_for(runtime.command(make), wait_s)
    except TimeoutError:
        return Reply(False, f"no outcome within {wait_s:g} s; the gateway goes on trying")
    return Reply(done.ok, done.text)


def _alone(site: Site) -> Core:
    """An endpoint in a new boot epoch. Raises ConfigError if the state directory can't be used."""
    try:
        return build_endpoint(
            clock(),
            site.endpoint,
            site.connections,
            site.entropy,
            site.store,
            site.crash,
            ledger=site.ledger,
            machine_id=site.machine_id,
        )
    except (StateError, OSError) as error:
        raise unusable(error, site.file, site.state_dir) from None


def _all_addresses(file: Path) -> tuple[Host, ...]:
    try:
        found = local_addresses()
    except PlaneError as error:
        raise ConfigError(file, "gateway.listen", f"is empty, and {error}") from None
    if not found:
        raise ConfigError(
            file,
            "gateway.listen",
            "is empty, and this host has no address but loopback and link-local ones; name the addresses, for"
            ' example: listen = ["127.0.0.1"]',
        )
    return found


def _steering(config: GatewayConfig, hosts: Sequence[Host]) -> Steering | None:
    options = config.gateway
    if not options.routes or options.route_table == 0:
        return None
    outer = [(host, port) for host in hosts for port in (options.port, options.port_nat_t)]
    try:
        return Steering(options.route_table, outer)
    except PlaneError as error:
        raise ConfigError(config.file, "gateway.route_table", str(error)) from None


def _sources(config: GatewayConfig, hosts: Sequence[Host]) -> tuple[Host, ...]:
    """Our addresses, to choose the source of inner packets from: those of the TUN device first."""
    own = tuple(interface.ip for interface in config.gateway.tun_addresses)
    if config.gateway.plane != "tun":
        return own
    try:
        return (*own, *local_addresses())
    except PlaneError:
        return (*own, *hosts)


def _open_plane(config: GatewayConfig, hosts: Sequence[Host]) -> PlaneHost:
    options = config.gateway
    if options.plane == "tun":
        steering = _steering(config, hosts)
        try:
            return TunDevice(
                options.tun, mtu=options.tun_mtu, addresses=options.tun_addresses, steering=steering
            )
        except PlaneError as error:
            if steering is not None:
                steering.release()
            raise ConfigError(config.file, "gateway.tun", str(error)) from None
    if options.unix_local is None or options.unix_peer is None:
        raise StartError(f"{config.file}: gateway.unix_local: is missing; name the gateway's end")
    try:
        return UnixHost(options.unix_local, options.unix_peer)
    except PlaneError as error:
        raise ConfigError(config.file, "gateway.unix_local", str(error)) from None
