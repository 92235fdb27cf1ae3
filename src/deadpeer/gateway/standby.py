"""A gateway as one of two with one address: joins the core of it, the kernel's news, the pump, and lives.

Whatever `cluster.standby.Standby` says is obeyed in its order, as in virtual time
(tests/cluster/test_standby.py). The kernel is asked for news of the address each time that the pump asks for
the time, so before each datagram is served and before anything is sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from deadpeer.cluster.membership import LifeBegins, LifeOver, PersistEpoch, Trouble
from deadpeer.cluster.ownership import AddressHeld
from deadpeer.cluster.secrets import ClusterSecrets, KeyKind, Sealer
from deadpeer.cluster.standby import BELIEVE_S, Output, PartnerLives, Standby, ToPartner
from deadpeer.cluster.standby_map import ShownLedger
from deadpeer.cluster.unanswered import keep_s
from deadpeer.crash.spi_records import TABLE
from deadpeer.ike.io import Event, Field
from deadpeer.store import Ledger
from deadpeer.values import NS_PER_S, Now

from .addresses import AddressWatch, News
from .clocks import FencedClock, boottime_ns, clock
from .control import Reply
from .deferring import Deferring
from .errors import ConfigError
from .lives import EpochFile, Fatal, Lives, Site
from .notation import parse_host
from .runtime import Runtime
from .sockets import UdpSocket
from .standby_config import StandbyOptions

LOOK_EVERY_S = 0.5
"""How often the address is looked for, besides the kernel's news."""
HEAR_EVERY_S = 0.005
"""So often the partner is heard, however much others have to say."""
RETRY_S = 1.0
"""How soon the epoch is written again after the disk refused it."""
_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon has opened. `report` gets events; `fatal` ends the gateway; `ready` is called when it
    can take the address over."""

    site: Site
    report: Callable[[Now, Event], None]
    fatal: Fatal
    ready: Callable[[], None]


class StandbyMember:
    """One of the two, from its start to its end.

    `core_clock` is for the `Runtime`, which is handed over by `start`.
    """

    def __init__(self, options: StandbyOptions, around: Surroundings) -> None:
        """Raises ConfigError if the state directory or the address to listen on can't be used."""
        site = around.site
        self.counters_of_glue: Counter[str] = Counter()
        self._options = options
        self._around = around
        self._epochs = EpochFile(site.store, f"standby/{options.number}", site.file, site.state_dir)
        keys = list(options.keys)
        map_size = site.crash.spi_map_size if site.crash.spi_map else 0
        self._standby = Standby(options.number, self._epochs.epoch, keys, site.entropy, map_size)
        self.core_clock = FencedClock(_Fence(self), self._on_fence)
        self._loop = asyncio.get_running_loop()
        self._watch: AddressWatch | None = None
        self._partner: UdpSocket | None = None
        self._lives: Lives | None = None
        self._runtime: Runtime | None = None
        self._deferring: Deferring | None = None
        self._held = False
        """What was last said of the address."""
        self._heard_ns = 0
        self._wanted: int | None = None
        """The epoch that is to be on disk."""
        self._partner_lives = True
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._look_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._stepping = False
        self._blind = False

    def start(self, runtime: Runtime, stack: AsyncExitStack) -> None:
        """Watch from now on; `stack` undoes it. Raises ConfigError if we can't listen or watch."""
        options, site = self._options, self._around.site
        self._runtime, self._deferring = runtime, Deferring(runtime, keep_s(BELIEVE_S))
        self._lives = Lives(site, runtime, Sealer(options.keys[0], "standby"), options.number)
        stack.callback(self._stop)
        stack.callback(self._deferring.stop)
        self._partner = self._listen()
        if options.by == "address":
            self._watch = self._open_watch()
            self._loop.add_reader(self._watch.fileno(), self._on_news)
        runtime.listen()
        fields: dict[str, Field] = {
            "number": options.number,
            "address": str(options.address),
            "by": options.by,
            "partner": str(options.partner),
        }
        self._report("watching", fields)
        self._around.ready()
        self._look()

    def shown(self, ledger: Ledger) -> Ledger:
        """The ledger for the `Runtime`: what it writes into the SPI map the partner is shown."""
        return ShownLedger(ledger, TABLE, self._standby.map.note)

    async def leave(self) -> None:
        """Serve no more."""
        self._address(False)
        self._drain()

    async def rotate(self, kind: KeyKind) -> Reply:
        """Keys come from a file here."""
        return Reply(
            False,
            "the two share their keys in a file: add the new one to standby.key_file of both, restart both,"
            " then move it to the front in both",
        )

    def activate(self) -> Reply:
        """The address is ours: somebody who moves it says so."""
        if self._options.by != "command":
            return Reply(False, _WATCHED)
        self._address(True)
        self._drain()
        if not self.core_clock.open:
            return Reply(False, "the epoch can't be written to the state directory yet; the gateway goes on")
        return Reply(True, f"active, epoch {self._epochs.epoch}")

    def stand_by(self) -> Reply:
        """The address is not ours any more: somebody who moves it says so."""
        if self._options.by != "command":
            return Reply(False, _WATCHED)
        self._address(False)
        self._drain()
        return Reply(True, "standby")

    def skew(self, _rate: object) -> Reply:
        """Nothing here is counted by a clock that is compared to another one's."""
        return Reply(False, "one of two that share an address has no lease; only members of a cluster have")

    def idle(self) -> str | None:
        """Why there is nothing to command; None: it serves."""
        if self.core_clock.enter() is not None:
            return None
        if not self._held:
            return f"this gateway stands by: it does not hold {self._options.address}"
        return f"this gateway holds {self._options.address}, but can't begin to serve yet; its log says why"

    def status(self) -> dict[str, Any]:
        """What a person wants to know of it, JSON-able and without secrets."""
        self.core_clock.enter()
        active = self.core_clock.open and self._lives is not None and self._lives.life is not None
        return {
            "number": self._options.number,
            "address": str(self._options.address),
            "state": "active" if active else "fenced" if self._held else "standby",
            "epoch": self._epochs.epoch,
            "by": self._options.by,
            "partner_lives": self._partner_lives if active else None,
            "both_active": bool(self._standby.counters["both hold the address"]),
            "lives": 0 if self._lives is None else self._lives.count,
        }

    def counters(self) -> dict[str, dict[str, int]]:
        """What was counted of the partner's words, of looking for the address, and of what had to wait."""
        partner = {} if self._partner is None else dict(self._partner.counters)
        waited = {} if self._deferring is None else self._deferring.counters()
        shared = self._standby.map
        told = dict(self._standby.counters + shared.counters + self.counters_of_glue) | shared.sizes()
        return {"standby": told, "partner": partner, "unanswered": waited}

    # --- the address -------------------------------------------------------------------------------

    def is_open(self, now_ns: int) -> bool:
        """Whether we may serve, as the kernel's newest word has it."""
        told = self._read_news()
        if now_ns - self._heard_ns >= HEAR_EVERY_S * NS_PER_S:
            # Who was stopped for long finds its sockets full. The partner waits for a word, and not for long.
            told |= self._hear()
        if told:
            # Not now: whoever has just asked for the time goes on first, and finds the fence closed.
            self._loop.call_soon(self._drain)
        return self._standby.is_open(now_ns)

    def _read_news(self) -> bool:
        """Whether there were any."""
        watch = self._watch
        if watch is None:
            return False
        try:
            news = watch.news()
        except OSError as error:
            self._on_blind(error)
            return False
        if news is News.NONE:
            return False
        self.counters_of_glue["news of the address"] += 1
        if News.WENT in news:
            self._address(False)
        self._see()
        return True

    def _see(self) -> None:
        """Look whether the address is ours. What can't be seen is not said: the fence closes by itself."""
        if self._watch is None:
            self._address(self._held)
            return
        try:
            held = self._watch.look()
        except OSError as error:
            self._on_blind(error)
            return
        self._blind = False
        self._address(held)

    def _address(self, held: bool) -> None:
        self._held = held
        self._standby.address(boottime_ns(), held)

    def _on_news(self) -> None:
        self._read_news()
        self._drain()

    def _look(self) -> None:
        self._look_timer = self._loop.call_later(LOOK_EVERY_S, self._look)
        self._read_news()
        self._see()
        self._drain()

    def _on_blind(self, error: OSError) -> None:
        self.counters_of_glue["address not seen"] += 1
        if not self._blind:
            self._blind = True
            self._report("address_unseen", {"reason": error.strerror or str(error)}, "warning")

    # --- the core ----------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Obey all outputs; what obeying them causes comes after them."""
        if self._stepping:
            return
        self._stepping = True
        try:
            while (output := self._standby.poll()) is not None or self._persist():
                if output is not None:
                    self._obey(output)
        except ConfigError as error:
            self._around.fatal(error)
        finally:
            self._stepping = False
        self.core_clock.enter()
        self._arm()

    def _obey(self, output: Output) -> None:
        match output:
            case PersistEpoch(epoch=epoch):
                self._wanted = epoch
            case LifeBegins(epoch=epoch, secrets=secrets):
                self._begin(epoch, secrets)
            case LifeOver(why=why):
                self._over(why)
            case ToPartner(octets=octets, asks=asks):
                if self._partner is not None:
                    self._partner.send(octets, self._options.partner)
                if asks:
                    self._standby.asked(boottime_ns())
            case PartnerLives(lives=lives):
                self._judge(lives)
            case Trouble(kind=kind, why=why):
                self._report(kind, {"why": why}, "warning")

    def _persist(self) -> bool:
        """Put the newest epoch on disk, if it isn't there: when nothing else is to be obeyed, so that none
        but the newest is ever said to be there. Whether that was done."""
        if self._wanted is None or self._retry_timer is not None:
            return False
        try:
            self._epochs.put(self._wanted)
        except OSError as error:
            fields: dict[str, Field] = {"name": "epochs", "reason": error.strerror or str(error)}
            self._report("state_write_failed", fields, "warning")
            self._retry_timer = self._loop.call_later(RETRY_S, self._retry)
            return False
        self._wanted = None
        self._hear()
        self._standby.persisted(boottime_ns())
        return True

    def _retry(self) -> None:
        self._retry_timer = None
        self._drain()

    def _begin(self, epoch: int, secrets: ClusterSecrets) -> None:
        if self._lives is None:
            return
        self._partner_lives = True
        self.core_clock.enter()
        life = self._lives.begin(epoch, secrets, None, self._standby.map.hand_over(boottime_ns()))
        endpoint = self._lives.endpoint
        if self._deferring is not None and endpoint is not None and isinstance(life.ownership, AddressHeld):
            self._deferring.begin(life.ownership, endpoint, self._around.site.endpoint.port_nat_t)
        self._defer(True)
        self._report("active", {"number": self._options.number, "epoch": epoch})

    def _over(self, why: str) -> None:
        if self._lives is None or self._lives.life is None:
            return
        self._report("standby", {"number": self._options.number, "why": why}, "warning")
        if self._deferring is not None:
            self._deferring.over()
        self._defer(False)
        self._lives.over()

    def _judge(self, lives: bool) -> None:
        life = None if self._lives is None else self._lives.life
        if life is None or not isinstance(life.ownership, AddressHeld):
            return
        life.ownership.partner_lives = self._partner_lives = lives
        self._defer(lives)
        if self._deferring is not None:
            self._deferring.look({1 - self._options.number})
        self._report("partner", {"lives": lives}, "info")

    def _defer(self, needed: bool) -> None:
        """Whether datagrams are looked at for what may be answered later: while the partner may live."""
        if self._runtime is not None and self._deferring is not None:
            self._runtime.noted = self._deferring.trace if needed else None

    def _arm(self) -> None:
        due = self._standby.deadline()
        # One that is due and waits for its turn stays: else a flood of words would put it off for good.
        if due is None or (self._timer is not None and self._timer_ns <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        left_s = max(0, due - boottime_ns()) / NS_PER_S
        self._timer, self._timer_ns = self._loop.call_later(left_s, self._expire), due

    def _expire(self) -> None:
        self._timer = None
        self._read_news()
        self._hear()
        self._standby.expire(boottime_ns())
        self._drain()

    def _on_fence(self, is_open: bool) -> None:
        if is_open and self._runtime is not None:
            # Not now: whoever has just asked for the time goes on first.
            self._loop.call_soon(self._runtime.resume)
            if self._deferring is not None:
                self._deferring.wake()

    # --- the partner -------------------------------------------------------------------------------

    def _on_partner(self) -> None:
        # What we say must not be older than what the kernel knows.
        self._read_news()
        self._hear()
        self._drain()

    def _hear(self) -> bool:
        """What the partner has said by now, if anything: the disk may have taken longer than it had for its
        answer."""
        self._heard_ns, some = boottime_ns(), False
        for datagram in self._partner.receive() if self._partner is not None else ():
            some = True
            self._standby.receive(boottime_ns(), datagram.payload)
        return some

    def _listen(self) -> UdpSocket:
        listen = self._options.listen
        try:
            made = UdpSocket(parse_host(listen.host), listen.port, _BUFFER)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                self._around.site.file,
                "standby.listen",
                f"{listen} can't be listened on: {reason}; name an address of ours and a free port",
            ) from None
        self._loop.add_reader(made.fileno(), self._on_partner)
        return made

    def _open_watch(self) -> AddressWatch:
        try:
            return AddressWatch(self._options.address)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                self._around.site.file,
                "standby.by",
                f"the kernel's addresses can't be watched: {reason}; allow netlink, or write command here",
            ) from None

    # --- the end -----------------------------------------------------------------------------------

    def _stop(self) -> None:
        for timer in (self._timer, self._look_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()
        for each in (self._watch, self._partner):
            if each is not None:
                self._loop.remove_reader(each.fileno())
                each.close()
        self._watch = self._partner = None

    def _report(self, kind: str, fields: Mapping[str, Field], level: Any = "notice") -> None:
        self._around.report(clock(), Event(kind, dict(fields), level))


class _Fence:
    """What the gate asks."""

    def __init__(self, member: StandbyMember) -> None:
        self._member = member

    def is_open(self, now_ns: int) -> bool:
        return self._member.is_open(now_ns)


_WATCHED = (
    'the gateway watches the address itself; this is for by = "command" in [standby] of its configuration'
)
