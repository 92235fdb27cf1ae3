"""A gateway as a member of a cluster: joins its membership, etcd, the pump, and the lives that come of it.

Whatever the membership says is obeyed in its order, as in virtual time (tests/support/fleet.py): what is to
be on disk is there before it is told so, a life begins with the secrets and the view of that moment, and
while the fence is closed the core's clock stands still.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

from deadpeer.cluster.forward import Forwarder
from deadpeer.cluster.membership import (
    LifeBegins,
    LifeOver,
    Membership,
    Output,
    PersistEpoch,
    SecretsChanged,
    Trouble,
    ViewChanged,
)
from deadpeer.cluster.ownership import Cluster
from deadpeer.cluster.records import View
from deadpeer.cluster.secrets import ClusterSecrets, KeyKind, Sealer
from deadpeer.cluster.steps import MemberConfig
from deadpeer.cluster.store import Asked, Input, Replied, Revoke
from deadpeer.cluster.unanswered import changed, keep_s
from deadpeer.crash.shared import ClusterLife
from deadpeer.ike.io import Event, ExtensionCommand, Field
from deadpeer.values import NS_PER_S, Now

from .clocks import FencedClock, LeaseClock, clock
from .cluster_config import ClusterOptions
from .control import Reply
from .deferring import Deferring
from .errors import ConfigError, StartError
from .etcd import EtcdStore
from .forwarding import Forwarding
from .lives import EpochFile, Fatal, Lives, Site, machine
from .process import places
from .runtime import Runtime
from .sockets import UdpSockets

RETRY_S = 1.0
"""How soon something is tried again: the epoch is written after the disk refused it, say."""
LEAVE_S = 1.0
"""How long etcd gets to take our lease back."""
ROTATE_S = 60.0
"""How long who asked for a rotation waits until all members have the new key."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon has opened. `report` gets events; `fatal` ends the gateway; `ready` is called when the
    first life has begun."""

    site: Site
    sockets: UdpSockets
    receive_buffer: int
    report: Callable[[Now, Event], None]
    fatal: Fatal
    ready: Callable[[], None]


class ClusterMember:
    """One member, from its start to its leaving.

    `core_clock` is for the `Runtime`, which is handed over by `start`.
    """

    def __init__(self, options: ClusterOptions, around: Surroundings) -> None:
        """Raises ConfigError if the state directory can't be used."""
        site = around.site
        self._options = options
        self._around = around
        self._sealer = Sealer(options.key, options.name)
        name = f"{options.name}/{options.member}"
        self._epochs = EpochFile(site.store, name, site.file, site.state_dir)
        config = MemberConfig(
            cluster=options.name,
            number=options.member,
            machine=machine(site.state_dir),
            forward="" if options.advertise is None else str(options.advertise),
            ttl_s=options.ttl_s,
            margin=options.margin,
        )
        self._membership = Membership(config, self._epochs.epoch, self._sealer, site.entropy)
        self._clock = LeaseClock()
        self.core_clock = FencedClock(self._membership.fence, self._on_fence, self._clock)
        self._loop = asyncio.get_running_loop()
        self._etcd: EtcdStore | None = None
        self._runtime: Runtime | None = None
        self._lives: Lives | None = None
        self._forwarding: Forwarding | None = None
        self._deferring: Deferring | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fence_timer: asyncio.TimerHandle | None = None
        self._closed_at_ns: int | None = None
        self._owed: ClusterSecrets | None = None
        self._adopting: asyncio.Task[None] | None = None
        self._rotating: list[tuple[KeyKind, int, asyncio.Future[None]]] = []
        self._revoke: int | None = None
        self._left = asyncio.Event()
        self._stepping = False
        self._leaving = False
        self._not_before_s = 0.0

    def start(self, runtime: Runtime, stack: AsyncExitStack) -> None:
        """Begin to join; `stack` undoes it. Raises ConfigError if the address to forward to can't be had."""
        options, around = self._options, self._around
        self._runtime = runtime
        self._lives = Lives(around.site, runtime, self._sealer, options.member)
        deferring = self._deferring = Deferring(runtime, keep_s(options.lease_s))
        stack.callback(deferring.stop)
        if options.forward is not None:
            forwarding = Forwarding(
                options.forward,
                around.sockets,
                around.receive_buffer,
                lambda: self._membership.view,
                deferring.trace,
                runtime.take,
                around.site.file,
            )
            stack.callback(forwarding.close)
            self._forwarding = forwarding
            runtime.router = forwarding.route
        else:
            runtime.noted = deferring.trace
        self._etcd = EtcdStore(options.etcd, self._from_etcd)
        stack.callback(self._stop)
        runtime.listen()
        fields: dict[str, Field] = {"cluster": options.name, "member": options.member}
        self._report("joining", fields | {"etcd": list(options.etcd.endpoints)})
        self._step(None)

    async def leave(self) -> None:
        """Serve no more, and give the lease back, so that the others need not wait for its end."""
        self._leaving = True
        self._membership.leave(self._clock(), time.time())
        self._drain()
        self.core_clock.enter()
        if self._revoke is None:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), LEAVE_S)

    def skew(self, rate: object) -> Reply:
        """Let the clock of the lease run at another rate: only for laboratories."""
        if not isinstance(rate, int | float) or not 0.1 <= rate <= 10:
            return Reply(False, "clock takes a rate between 0.1 and 10")
        self._clock.skew(float(rate))
        self._step(None)
        return Reply(True, f"the clock of the lease runs at {rate:g} times its rate")

    async def rotate(self, kind: KeyKind) -> Reply:
        """Have all members use a new key of this kind."""
        secrets = self._membership.secrets
        if secrets is None or not self.core_clock.open:
            return Reply(False, "this member has no lease; try again when it has one")
        done: asyncio.Future[None] = self._loop.create_future()
        self._rotating = [each for each in self._rotating if not each[2].done()]
        self._rotating.append((kind, secrets.of(kind)[0].number, done))
        self._membership.rotate(self._clock(), time.time(), kind)
        self._drain()
        try:
            await asyncio.wait_for(done, ROTATE_S)
        except TimeoutError:
            return Reply(False, f"not all members had the new key within {ROTATE_S:g} s; they go on trying")
        return Reply(True, f"all members use the new {kind.value} key")

    def status(self) -> dict[str, Any]:
        """What a person wants to know of it, JSON-able and without secrets."""
        membership, now_ns = self._membership, self._clock()
        self.core_clock.enter()
        until_ns = membership.fence.until_ns
        secrets, view, calibration = membership.secrets, membership.view, membership.calibration
        return {
            "name": self._options.name,
            "member": self._options.member,
            "epoch": membership.epoch,
            "serving": self.core_clock.open and self._life is not None,
            "fenced": not self.core_clock.open,
            "lease_s": self._options.lease_s,
            "ttl_s": self._options.ttl_s,
            "lease_left_s": 0.0 if until_ns is None else max(0.0, (until_ns - now_ns) / NS_PER_S),
            "clock_slow": calibration.slow is not None,
            "clock_rate": calibration.rate(now_ns),
            "paused_s": self.core_clock.paused_s,
            "lives": 0 if self._lives is None else self._lives.count,
            "secrets_version": 0 if secrets is None else secrets.version,
            "members": [
                {
                    "member": number,
                    "epoch": record.registered,
                    "ended": record.ended,
                    "leased": number in view.leases,
                    "forward": view.leases[number].forward if number in view.leases else "",
                }
                for number, record in sorted(view.members.items())
            ],
        }

    def counters(self) -> dict[str, dict[str, int]]:
        """Counts of the membership, of what is handed from member to member, and of what had to wait."""
        forwarded = {} if self._forwarding is None else dict(self._forwarding.counters)
        waited = {} if self._deferring is None else self._deferring.counters()
        return {"membership": dict(self._membership.counters), "forwarding": forwarded, "unanswered": waited}

    # --- the membership --------------------------------------------------------------------------

    @property
    def _life(self) -> ClusterLife | None:
        return None if self._lives is None else self._lives.life

    @property
    def _ownership(self) -> Cluster | None:
        ownership = None if self._life is None else self._life.ownership
        return ownership if isinstance(ownership, Cluster) else None

    def _from_etcd(self, item: Input) -> None:
        """In one of etcd's threads."""
        with suppress(RuntimeError):  # The loop has ended: nobody listens any more.
            self._loop.call_soon_threadsafe(self._step, item)

    def _step(self, item: Input | None) -> None:
        if self._leaving:
            if isinstance(item, Replied) and item.number == self._revoke:
                self._left.set()
            return
        try:
            self._membership.handle(self._clock(), time.time(), item)
        except Exception as error:
            # A mistake of ours, perhaps about a record that nobody expected. Without a timer that is set anew
            # this member would be fenced for good; and a deadline in the past must not make the loop spin.
            self._confess("membership", error)
            self._not_before_s = self._loop.time() + RETRY_S
        self._drain()

    def _drain(self) -> None:
        """Obey all outputs; what obeying them causes comes after them."""
        if self._stepping:
            return
        self._stepping = True
        try:
            while (output := self._membership.poll()) is not None:
                self._obey(output)
        except ConfigError as error:
            self._around.fatal(error)
        except Exception as error:
            # It might hold its lease, and serve nobody: somebody has to start it anew.
            self._confess("cluster", error)
            self._around.fatal(StartError("internal error, of which the log says where; please report it"))
        finally:
            self._stepping = False
        self.core_clock.enter()
        self._arm()

    def _obey(self, output: Output) -> None:
        match output:
            case Asked():
                if self._leaving and isinstance(output.request, Revoke):
                    # Those before are of leases by which our clock was measured.
                    self._revoke = output.number
                if self._etcd is not None:
                    self._etcd.ask(output)
            case PersistEpoch(epoch=epoch):
                self._persist(epoch)
            case LifeBegins(epoch=epoch, secrets=secrets):
                self._begin(epoch, secrets)
            case LifeOver(why=why):
                self._over(why)
            case SecretsChanged(secrets=secrets):
                self._owed = secrets
                self._adopt()
                self._tell_rotated(secrets)
            case ViewChanged(view=view):
                self._know(view)
            case Trouble(kind=kind, why=why, numbers=numbers):
                self._report(kind, {"why": why, **numbers}, "warning")

    def _know(self, view: View) -> None:
        """Fenced or not: what is known of the others may grow while the core stands still."""
        ownership = self._ownership
        if ownership is None:
            return
        before, ownership.view = ownership.view, view
        if self._deferring is not None:
            self._deferring.look(changed(before, view))

    def _arm(self) -> None:
        """The membership's own timer, and one that notices that the fence has closed."""
        for timer in (self._timer, self._fence_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._fence_timer = None
        now_ns = self._clock()
        if (due := self._membership.deadline()) is not None:
            at_s = max(self._loop.time() + (due - now_ns) / NS_PER_S, self._not_before_s)
            self._timer = self._loop.call_at(at_s, self._step, None)
        until_ns = self._membership.fence.until_ns
        if until_ns is not None and until_ns > now_ns:
            left_s = (until_ns - now_ns) / NS_PER_S
            self._fence_timer = self._loop.call_later(left_s, self.core_clock.enter)

    def _persist(self, epoch: int) -> None:
        try:
            self._epochs.put(epoch)
        except OSError as error:
            fields: dict[str, Field] = {"name": "epochs", "reason": error.strerror or str(error)}
            self._report("state_write_failed", fields, "warning")
            self._loop.call_later(RETRY_S, self._persist_again, epoch)
            return
        self._membership.persisted(self._clock(), time.time())

    def _persist_again(self, epoch: int) -> None:
        if self._membership.epoch == epoch:
            self._persist(epoch)
            self._drain()

    # --- lives -----------------------------------------------------------------------------------

    def _begin(self, epoch: int, secrets: ClusterSecrets) -> None:
        lives, runtime, options = self._lives, self._runtime, self._options
        if lives is None or runtime is None:
            return
        self._owed = None
        self.core_clock.enter()
        lives.begin(epoch, secrets, self._membership.view)
        config = self._around.site.endpoint
        if self._deferring is not None and lives.endpoint is not None and self._ownership is not None:
            self._deferring.begin(self._ownership, lives.endpoint, config.port_nat_t)
        if self._forwarding is not None:
            ports, key = (config.port, config.port_nat_t), self._sealer.derive("forward")
            entropy, rate = self._around.site.entropy, options.forward_rate
            self._forwarding.begin(Forwarder(key, options.member, epoch, ports, entropy, rate))
        self._report("life_begins", {"member": options.member, "epoch": epoch})
        if lives.count == 1:
            self._around.ready()

    def _over(self, why: str) -> None:
        self._report("epoch_ended", {"member": self._options.member, "why": why}, "warning")
        self._owed = None
        if self._adopting is not None:
            self._adopting.cancel()
        if self._deferring is not None:
            self._deferring.over()
        if self._forwarding is not None:
            self._forwarding.over()
        if self._lives is not None:
            self._lives.over()

    # --- the fence -------------------------------------------------------------------------------

    def _on_fence(self, is_open: bool) -> None:
        member: dict[str, Field] = {"member": self._options.member}
        if not is_open:
            self._closed_at_ns = self._clock()
            self._report("fenced", member, "warning")
            return
        if self._closed_at_ns is not None:
            after_s = round((self._clock() - self._closed_at_ns) / NS_PER_S, 3)
            self._report("unfenced", member | {"after_s": after_s})
        # Not now: whoever has just asked for the time goes on first.
        self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._runtime is not None:
            self._runtime.resume()
        if self._deferring is not None:
            self._deferring.wake()
        self._adopt()

    # --- secrets ---------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Begin to use the newest secrets; where the fence is closed, as soon as it is open."""
        if self._owed is None or not self.core_clock.open or self._life is None:
            return
        secrets, self._owed = self._owed, None
        before = self._adopting

        async def adopt() -> None:
            if before is not None and not before.done():
                before.cancel()
            await self._use(secrets)

        self._adopting = self._loop.create_task(adopt())

    async def _use(self, secrets: ClusterSecrets) -> None:
        runtime = self._runtime
        if runtime is None:
            return
        changed = SecretsChanged(secrets)
        done = await runtime.command(lambda tag: ExtensionCommand("cluster", "secrets", tag, changed))
        if done.ok:
            self._membership.acknowledge(self._clock(), time.time(), secrets.version)
            self._drain()
        elif self._owed is None and self._life is not None:
            self._owed = secrets

    def _tell_rotated(self, secrets: ClusterSecrets) -> None:
        waiting = []
        for kind, before, done in self._rotating:
            if done.done():
                continue
            if secrets.of(kind)[0].number > before:
                done.set_result(None)
            else:
                waiting.append((kind, before, done))
        self._rotating = waiting

    # --- the end ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        for timer in (self._timer, self._fence_timer):
            if timer is not None:
                timer.cancel()
        if self._adopting is not None:
            self._adopting.cancel()
        if self._etcd is not None:
            self._etcd.close()

    def _confess(self, during: str, error: Exception) -> None:
        fields: dict[str, Field] = {"during": during, "error": type(error).__name__}
        self._report("internal_error", fields | {"at": list(places(error.__traceback__))}, "warning")

    def _report(self, kind: str, fields: Mapping[str, Field], level: Any = "notice") -> None:
        self._around.report(clock(), Event(kind, dict(fields), level))
