"""One attack from beginning to end: build, measure in peace, attack, perhaps crash, judge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import takewhile

from deadpeer.gateway.client import ControlError
from deadpeer.lab.attacks import gauges
from deadpeer.lab.attacks.attackers import Knowledge
from deadpeer.lab.attacks.beside import BesideConfig
from deadpeer.lab.attacks.catalogue import Scenario, scenario
from deadpeer.lab.attacks.checks import judge
from deadpeer.lab.attacks.forgery import KnownSa
from deadpeer.lab.attacks.model import Attack, AttackResult, Cost
from deadpeer.lab.attacks.observed import (
    Counters,
    Observed,
    Recovery,
    Shots,
    Span,
    events_of,
    grown,
    ike_traffic,
    inner_traffic,
)
from deadpeer.lab.attacks.replays import message_of, read_message
from deadpeer.lab.attacks.tapes import recorded
from deadpeer.lab.gateway_config import CHILD, CONNECTION
from deadpeer.lab.link import Passing
from deadpeer.lab.options import START_TIMEOUT_S, LabError, LabOptions, Side
from deadpeer.lab.process import Process, Record, launch
from deadpeer.lab.recording import Observer, SideEvent
from deadpeer.lab.runs import build
from deadpeer.lab.session import Session, Stage, open_session
from deadpeer.lab.sites import SIDES
from deadpeer.lab.trace import Lane, Way
from deadpeer.values import Address
from deadpeer.wire import NotifyType

FULL_SECONDS = 30.0
"""How long an attack lasts at full size."""
LONGEST_S = 300.0
"""What a recording holds of a link under traffic is enough for so long."""
BLIND_SHARE = 0.25
"""The share of an attack's time in which a forger knows nothing."""
DOWN_S = 0.5
RECOVERY_TIMEOUT_S = 60.0
SETTLE_S = 0.3
RESTLESS_S = 1.0
"""Between two rekeys of a scenario that has them."""
WATCH_S = 0.1
QUIET, BLIND, KNOWING = "quiet", "attacked by one who knows nothing", "attacked"
"""The phases of a run, for its observer."""


async def run_attack(
    attack: Attack, options: LabOptions, observer: Observer, *, seconds: float = FULL_SECONDS
) -> AttackResult:
    """Attack two real gateways under traffic for `seconds`, after half as long in peace.

    Raises LabError (usage) for options that an attack can't have, LabError if it can't even begin. Where
    the run breaks off later, the result's `failure` says why.
    """
    staged = scenario(attack.name)
    _require(attack, options, seconds)
    options = replace(options, **staged.changes)
    man = {} if staged.policy is None else staged.policy(seconds, options)
    stage = Stage(tap=True, inject=staged.per_s > 0, attack=man)
    async with open_session(options, observer, stage) as session:
        await build(session)
        try:
            return await Course(session, staged, options, seconds).run()
        except (LabError, ControlError, OSError) as error:
            ends = "".join(gauges.gateway(session, side).epitaph() for side in SIDES)
            return _broken_off(attack, options, f"{error}{ends}")


def _require(attack: Attack, options: LabOptions, seconds: float) -> None:
    if options.method not in attack.methods:
        methods = " or ".join(attack.methods)
        raise LabError(
            f"--attack {attack.name} says nothing about {options.method}: use --method {methods}", usage=True
        )
    if options.netns or options.peer != "deadpeer" or options.idle:
        raise LabError("--attack needs traffic between two gateways of ours on loopback", usage=True)
    if not 1 <= seconds <= LONGEST_S:
        raise LabError(f"an attack lasts between 1 and {LONGEST_S:g} seconds, not {seconds:g}", usage=True)


def _broken_off(attack: Attack, options: LabOptions, why: str) -> AttackResult:
    nothing = Cost(0.0, 0.0, 0.0)
    return AttackResult(
        attack, options.method, options, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, nothing, nothing, (), failure=why
    )


@dataclass
class _Notes:
    """What is gathered on the way."""

    answers: list[tuple[Lane, bytes]] = field(default_factory=list)
    tokens: set[bytes] = field(default_factory=set)
    half_open: int = 0
    dead: dict[KnownSa, None] = field(default_factory=dict)
    living: tuple[KnownSa, ...] = ()
    tape: tuple[Passing, ...] = ()
    taped_ns: int = 0


class Course:
    """The course of one attack in a session whose tunnel stands and carries traffic."""

    def __init__(self, session: Session, staged: Scenario, options: LabOptions, seconds: float) -> None:
        self._session = session
        self._staged = staged
        self._options = options
        self._seconds = seconds
        self._notes = _Notes()
        self._beside: Process | None = None

    async def run(self) -> AttackResult:
        """Carry it out. Raises LabError where there is nothing to judge yet."""
        async with AsyncExitStack() as stack:
            await self._before()
            if self._staged.per_s:
                self._beside = await self._launch(stack)
            return await self._measured(stack)

    # --- the phases ------------------------------------------------------------------------------

    async def _before(self) -> None:
        for step in self._staged.before:
            if step == "crash":
                if (await self._crash()).recovered_ns is None:
                    raise LabError("the tunnel did not recover from the crash before the attack")
            else:
                await gauges.rekey(self._session, CONNECTION, CHILD)
                await gauges.rekey(self._session, CONNECTION, None)
            await asyncio.sleep(SETTLE_S)

    async def _measured(self, stack: AsyncExitStack) -> AttackResult:
        session, notes = self._session, self._notes
        living = notes.living = await gauges.alices_sas(session)
        notes.tokens.update(gauges.true_tokens(session, living))
        memory = {side: gauges.memory_mb(session, side) for side in SIDES}
        before = await self._counters()

        await stack.enter_async_context(self._background())
        quiet, quiet_cost = await self._spend(QUIET, self._seconds / 2)
        self._begin()
        blind, blind_shots, blind_grew = Span(quiet.end_ns, quiet.end_ns), Shots(), {}
        blind_s = self._seconds * BLIND_SHARE if self._staged.blind else 0.0
        if blind_s:
            blind, _ = await self._spend(BLIND, blind_s)
            blind_shots = await self._count("count")
            blind_grew = await self._grown(before)
        await self._learn()
        span, cost = await self._spend(KNOWING, self._seconds - blind_s)
        mischief = await self._mischief("count")
        shots = _since(blind_shots, await self._count("count"))
        lived = set(map(_pair, living)) & set(map(_pair, await gauges.alices_sas(session)))
        grew = await self._grown(before)
        memory_after = {side: gauges.memory_mb(session, side) for side in SIDES}
        leaks, token_answers = self._leaks(notes.tokens), self._token_answers()

        crash, bob_after = None, _NO_COUNTERS
        if self._staged.crash:
            await asyncio.sleep(self._options.patience_s)  # what was sent before is not lost by the crash
            crash = await self._crash()
            await asyncio.sleep(SETTLE_S)
            bob_after = await gauges.counters(session, "bob")
            leaks += self._leaks(set(gauges.true_tokens(session, await gauges.alices_sas(session))))
        await self._count("rest")
        await self._mischief("rest")
        flows = await self._flows()
        ended_ns = time.monotonic_ns()
        session.recording.take_phase("done", ended_ns)

        recording = session.recording
        verdicts = events_of(recording, "verdict", Span(quiet.end_ns, ended_ns))
        sent, lost = inner_traffic(recording, Span(blind.begin_ns, span.end_ns - self._patience_ns))
        observed = Observed(
            quiet=quiet,
            blind=blind,
            attack=span,
            quiet_cost=quiet_cost,
            attack_cost=cost,
            quiet_ike=ike_traffic(recording.sightings, quiet),
            attack_ike=ike_traffic(recording.sightings, span),
            blind_shots=blind_shots,
            blind_counters=blind_grew,
            shots=shots,
            mischief=mischief,
            verdicts=tuple(_without_honest(verdicts, crash)),
            rebuilt=len(events_of(recording, "rebuild", Span(quiet.end_ns, span.end_ns))),
            inner_sent=sent,
            inner_lost=lost,
            starved=sum(_starved(counters) for counters in grew.values()),
            memory_mb={side: (memory[side], memory_after[side]) for side in SIDES},
            counters=grew,
            internal_errors=len(events_of(recording, "internal_error", Span(0, ended_ns))),
            living=len(living),
            lived=len(lived),
            leaks=leaks,
            token_answers=token_answers,
            half_open=notes.half_open,
            crash=crash,
            bob_after_crash=bob_after,
            flows_after=flows,
        )
        return self._result(observed)

    def _result(self, seen: Observed) -> AttackResult:
        packets, octets = seen.sent
        back, back_octets = seen.answered
        return AttackResult(
            attack=self._staged.attack,
            method=self._options.method,
            options=self._options,
            seconds=seen.attack.seconds,
            sent=packets,
            sent_octets=octets,
            answered=back,
            answered_octets=back_octets,
            sas_lost=len(seen.verdicts),
            rebuilt=seen.rebuilt,
            packets_sent=seen.inner_sent,
            packets_lost=seen.inner_lost,
            quiet=seen.quiet_cost,
            attacked=seen.attack_cost,
            checks=judge(self._staged, self._options, seen),
            counters={side: _told(counters) for side, counters in seen.counters.items()},
        )

    # --- steps -----------------------------------------------------------------------------------

    async def _spend(self, name: str, seconds: float) -> tuple[Span, Cost]:
        """Let that time pass; what it cost the gateways."""
        begin_ns, before = time.monotonic_ns(), gauges.cpu_s(self._session)
        self._session.recording.take_phase(name, begin_ns)
        await asyncio.sleep(seconds)
        end_ns, after = time.monotonic_ns(), gauges.cpu_s(self._session)
        used = {side: after[side] - before[side] for side in SIDES}
        return Span(begin_ns, end_ns), Cost((end_ns - begin_ns) / 1e9, used["alice"], used["bob"])

    async def _crash(self) -> Recovery:
        """Kill Bob, start him again, wait for traffic over the new SA."""
        session = self._session
        killed_ns = await session.kill("bob")
        session.recording.take_phase("killed", killed_ns)
        await asyncio.sleep(DOWN_S)
        ready_ns = await session.restart("bob")
        session.recording.take_phase("ready", ready_ns)

        def look() -> int | None:
            verdict = session.recording.first("alice", "verdict", killed_ns)
            if verdict is None:
                return None
            return session.recording.traffic.first_reply_after(max(verdict.at_ns, ready_ns))

        recovered_ns = None
        with contextlib.suppress(LabError):
            recovered_ns = await session.wait_for("the recovery", look, RECOVERY_TIMEOUT_S)
            session.recording.take_phase("recovered", recovered_ns)
        return Recovery(killed_ns, ready_ns, recovered_ns)

    async def _flows(self) -> bool:
        """Whether traffic flows when the attack is over."""
        session, now_ns = self._session, time.monotonic_ns()
        look = session.recording.traffic.first_round_trip_after
        try:
            await session.wait_for("traffic after the attack", lambda: look(now_ns), RECOVERY_TIMEOUT_S)
        except LabError:
            return False
        finally:
            await session.traffic.pause()
            await asyncio.sleep(self._options.patience_s)
        return True

    @property
    def _patience_ns(self) -> int:
        return round(self._options.patience_s * 1e9)

    # --- the attacker ----------------------------------------------------------------------------

    async def _launch(self, stack: AsyncExitStack) -> Process:
        site, staged = self._session.site, self._staged
        targets = {
            way: (Address(host, site.port), Address(host, site.port_nat_t))
            for way, host in ((Way.TO_ALICE, site.outer["alice"].host), (Way.TO_BOB, site.outer["bob"].host))
        }
        config = BesideConfig(
            staged.attack.name,
            self._session.inject_path,
            targets,
            staged.per_s,
            self._options.seed,
            random.SystemRandom().randrange(256),
            staged.sources,
        )
        command = [sys.executable, "-m", "deadpeer.lab.attacks.beside", config.to_json()]
        beside = await launch("the attacker", command, self._hear)
        stack.push_async_callback(beside.stop)
        await beside.expect("ready", START_TIMEOUT_S)
        return beside

    def _hear(self, record: Record) -> None:
        if "answer" in record:
            self._notes.answers.append((Lane(record["lane"]), bytes.fromhex(record["answer"])))

    def _begin(self) -> None:
        if self._beside is not None:
            self._beside.tell(json.dumps({"begin": True}))
        if self._staged.policy is not None:
            self._session.relay.tell("attack")

    async def _count(self, command: str) -> Shots:
        if self._beside is None:
            return Shots()
        event = "rested" if command == "rest" else "counted"
        answer = asyncio.create_task(self._beside.expect(event, START_TIMEOUT_S))
        await asyncio.sleep(0)
        self._beside.tell(json.dumps({command: True}))
        record = await answer
        return Shots(record["counts"], record["notes"], record["worst"])

    async def _mischief(self, command: str) -> dict[str, int]:
        """What the man in the middle has done; with `rest` he does no more."""
        if self._staged.policy is None:
            return {}
        answer = asyncio.create_task(self._session.relay.expect("mischief", START_TIMEOUT_S))
        await asyncio.sleep(0)
        self._session.relay.tell(command)
        mischief: dict[str, int] = (await answer)["mischief"]
        return mischief

    async def _learn(self) -> None:
        """Tell the attacker beside the link what the scenario lets him know by now."""
        notes = self._notes
        living = await gauges.alices_sas(self._session)
        notes.tokens.update(gauges.true_tokens(self._session, living))
        notes.dead.update({sa: None for sa in notes.living if _pair(sa) not in set(map(_pair, living))})
        notes.living = living
        self._tell()

    def _tell(self) -> None:
        notes = self._notes
        if self._beside is not None:
            self._wind()
            knowledge = Knowledge(notes.living, tuple(notes.dead)[-8:], notes.tape)
            self._beside.tell(json.dumps({"learn": knowledge.to_record()}))

    # --- what goes on meanwhile ------------------------------------------------------------------

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._keep_watch())]
        if self._beside is not None:
            tasks.append(asyncio.create_task(self._keep_informed()))
        if self._staged.restless:
            tasks.append(asyncio.create_task(self._keep_rekeying()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_informed(self) -> None:
        """An attacker who knows, knows the SAs of a recovery too, and what is captured later."""
        recording, staged = self._session.recording, self._staged
        ups, events = 0, 0
        while True:
            await (asyncio.sleep(WATCH_S) if staged.lag_s else self._session.changed())
            if staged.blind and KNOWING not in recording.phases:
                continue
            if self._wind():
                self._tell()
            if len(recording.events) == events:
                continue
            events, before = len(recording.events), ups
            ups = sum(1 for event in recording.events if event.side == "alice" and event.kind == "child_up")
            if ups != before:
                with contextlib.suppress(ControlError):
                    await self._learn()

    def _wind(self) -> bool:
        """Put what was captured since, `lag_s` ago or more, on the attacker's tape; whether there was any."""
        notes, tapped = self._notes, self._session.recording.tapped
        until_ns = time.monotonic_ns() - round(self._staged.lag_s * 1e9)
        late = takewhile(lambda passing: passing.arrived_ns > notes.taped_ns, reversed(tapped))
        new = [passing for passing in late if passing.arrived_ns <= until_ns]
        if not new:
            return False
        notes.taped_ns = new[0].arrived_ns
        found = recorded(self._staged.tape, reversed(new))
        notes.tape = recorded(self._staged.tape, (*notes.tape, *found))
        return bool(found)

    async def _keep_watch(self) -> None:
        """The half-open SAs of both gateways, at their most."""
        while True:
            await asyncio.sleep(WATCH_S)
            for side in SIDES:
                with contextlib.suppress(ControlError, LabError):
                    self._notes.half_open = max(
                        self._notes.half_open, await gauges.half_open(self._session, side)
                    )

    async def _keep_rekeying(self) -> None:
        while True:
            if KNOWING not in self._session.recording.phases:
                await asyncio.sleep(WATCH_S)
                continue
            with contextlib.suppress(LabError, ControlError):
                await gauges.rekey(self._session, CONNECTION, CHILD)
            await asyncio.sleep(RESTLESS_S)

    # --- what was heard --------------------------------------------------------------------------

    async def _grown(self, before: Mapping[Side, Counters]) -> dict[Side, Counters]:
        return {side: grown(before[side], after) for side, after in (await self._counters()).items()}

    async def _counters(self) -> dict[Side, Counters]:
        return {side: await gauges.counters(self._session, side) for side in SIDES}

    def _leaks(self, tokens: Set[bytes]) -> int:
        """Datagrams, at the attacker's addresses and on the link, that show one of these tokens."""
        seen = [payload for _, payload in self._notes.answers]
        seen += [passing.payload for passing in self._session.recording.tapped]
        return sum(1 for payload in seen if any(token in payload for token in tokens))

    def _token_answers(self) -> int:
        """Messages with tokens in the clear since the attack began."""
        since_ns = self._session.recording.phases[QUIET]
        late = [p for p in self._session.recording.tapped if p.arrived_ns >= since_ns]
        messages = [message_of(passing) for passing in late]
        messages += [read_message(lane, payload) for lane, payload in self._notes.answers]
        return sum(1 for m in messages if m is not None and m.notify(NotifyType.QCD_TOKEN) is not None)


_NO_COUNTERS: Counters = {}


def _pair(sa: KnownSa) -> tuple[bytes, bytes]:
    return sa.spi_i, sa.spi_r


def _since(before: Shots, after: Shots) -> Shots:
    """The shots after those of before; notes and the worst answer are of both."""
    counts = {what: number - before.counts.get(what, 0) for what, number in after.counts.items()}
    return Shots(counts, after.notes, after.worst)


def _without_honest(verdicts: list[SideEvent], crash: Recovery | None) -> list[SideEvent]:
    """All but Alice's first verdict after the real crash, which is the truth."""
    if crash is None:
        return verdicts
    honest = next((v for v in verdicts if v.side == "alice" and v.at_ns >= crash.killed_ns), None)
    return [v for v in verdicts if v is not honest]


def _starved(counters: Counters) -> int:
    """What a gateway's sockets had no room for, towards its host and from the network."""
    waited = counters.get("gateway", {}).get("host_waited_in_vain", 0)
    return waited + counters.get("udp", {}).get("kernel_dropped", 0)


def _told(counters: Counters) -> dict[str, int]:
    """What the reasons say, in one flat table: what became of what came in, and packets lost on the way."""
    lost = {
        f"{group}: {name}": number
        for group in ("gateway", "udp")
        for name, number in counters.get(group, {}).items()
        if name.endswith(("refused", "in_vain", "dropped", "failed", "held_by_state")) and number
    }
    reasons = {**counters.get("endpoint", {}), **counters.get("esp_dropped", {})}
    return {name: number for name, number in reasons.items() if number} | lost
