"""What is done to copies of one gateway: attackers ask, what they got is presented, a gateway dies."""

from __future__ import annotations

import asyncio
import time

from deadpeer.lab.copies.field import CALM_S, PATIENCE_S, Copies, open_copies
from deadpeer.lab.copies.place import CopiesPlan
from deadpeer.lab.copies.result import CopiesResult, Moved, Presented, count_said, given_up
from deadpeer.lab.copies.thief import dead, hint
from deadpeer.lab.options import LabError
from deadpeer.lab.scenarios.field import Say
from deadpeer.lab.scenarios.outcome import losses
from deadpeer.lab.scenarios.truth import Pair

BUY_S = 8.0
"""So long he tries to buy: gateways answer strangers at a limited rate."""
QUERY_S = 3.0
"""So long he waits for a client's question."""
TOKEN_S = 10.0
"""So long he waits at most for what comes of a token."""
DENIAL_S = 1.5
"""The same of a denial, after which nothing may happen at all; a window is open for two round trips."""
BACK_S = 20.0
"""So long is waited for traffic, and for verdicts about a gateway that is dead."""


async def run_copies(plan: CopiesPlan, say: Say) -> CopiesResult:
    """Start the copies and do all of it. Raises LabError if it can't even begin."""
    async with open_copies(plan, say) as copies:
        began_ns = time.monotonic_ns()
        asked = await copies.ask(plan.ask_s)
        await _calm(copies)
        sold, to_asker = count_said(copies.truth, copies.truth.said)
        say(f"asked {asked} times: {sold} answers that speak of a living SA as lost")
        presented = [one for _ in range(plan.rounds) for one in await _present(copies)]
        died = sum(one.died for one in presented)
        say(f"presented {len(presented)} times: {died} living SAs given up")
        now_ns = time.monotonic_ns()
        every = sum(len(given_up(c.events, copies.truth, began_ns, now_ns)) for c in copies.clients)
        moved = await _move(copies)
        say(f"the balancer moved clients of a gateway that lives: {moved}")
        back_ms, verdicts = await _kill(copies)
        say(f"a gateway was killed; its clients were back after {back_ms} ms")
        return CopiesResult(
            plan,
            asked,
            sold,
            to_asker,
            every - died,
            tuple(presented),
            back_ms,
            verdicts,
            _failure(sold, presented, back_ms),
            moved,
        )


def _failure(sold: int, presented: list[Presented], back_ms: float | None) -> str | None:
    """What kept something from being measured."""
    if sold and not presented:
        return "what gateways gave could not be had again"
    return "the clients of a gateway that was killed did not come back" if back_ms is None else None


async def _calm(copies: Copies) -> None:
    """Wait until every client's packets come back. Raises LabError if they do not."""
    await asyncio.sleep(CALM_S)
    from_ns = time.monotonic_ns()
    await copies.wait_for("traffic of every client", lambda: copies.back(from_ns), BACK_S)


async def _present(copies: Copies) -> list[Presented]:
    """Buy for each client's SA, once each, and present it."""
    found = []
    for client in range(copies.plan.clients):
        if copies.plan.method == "qcd":
            found.append(await _with_token(copies, client))
        else:
            found += [await _with_old_denial(copies, client), await _on_the_path(copies, client)]
        await _calm(copies)
    return [one for one in found if one is not None]


async def _with_token(copies: Copies, client: int) -> Presented | None:
    pair, spi, other = _aim(copies, client)
    tokens = await copies.thief.buy_tokens(other, pair, BUY_S)
    if not tokens:
        return None
    at_ns = time.monotonic_ns()
    copies.thief.present(client, dead(pair, spi, tokens))
    return await _what_came(copies, client, "a token bought at another gateway", at_ns, TOKEN_S)


async def _with_old_denial(copies: Copies, client: int) -> Presented | None:
    """He is not on the path, and has no cookie of the client's."""
    pair, spi, other = _aim(copies, client)
    denial = await copies.thief.buy_denial(other, pair, BUY_S)
    if denial is None:
        return None
    at_ns = time.monotonic_ns()
    copies.thief.present(client, hint(pair, spi))
    copies.thief.present(client, denial)
    return await _what_came(copies, client, "a denial bought at another gateway", at_ns, DENIAL_S)


async def _on_the_path(copies: Copies, client: int) -> Presented | None:
    """He sees the client's question, and is back with a denial before the owner's answer is."""
    pair, spi, other = _aim(copies, client)
    copies.queries.clear()
    copies.thief.present(client, hint(pair, spi))
    seen = await copies.until(lambda: copies.query_of(client), QUERY_S)
    if seen is None:
        return None
    lane, octets = seen
    denial = await copies.thief.bring(other, lane, octets, BUY_S)
    if denial is None:
        return None
    at_ns = time.monotonic_ns()
    copies.thief.present(client, denial, lane)
    return await _what_came(copies, client, "her own question, denied by another gateway", at_ns, DENIAL_S)


def _aim(copies: Copies, client: int) -> tuple[Pair, str, int]:
    """A client's SA, its ESP SPI, and a gateway that does not have it. Raises LabError."""
    found, owner = copies.sa_of(client), copies.owner(client)
    if found is None or owner is None:
        raise LabError(f"client {client} has no SA at any gateway")
    return (*found, (owner + 1) % copies.plan.gateways)


async def _what_came(copies: Copies, client: int, how: str, at_ns: int, patience_s: float) -> Presented:
    """Wait for a verdict, or the report of an attack; after a verdict for traffic."""
    daemon, log = copies.clients[client], copies.traffic[client]

    def decided() -> int | None:
        return daemon.first("verdict", at_ns) or daemon.first("attack_suspected", at_ns)

    await copies.until(decided, patience_s)
    verdict_ns, back = daemon.first("verdict", at_ns), None
    if verdict_ns is not None:
        back = await copies.until(lambda: copies.back(verdict_ns, [client]), BACK_S)
    end_ns = time.monotonic_ns()
    await asyncio.sleep(PATIENCE_S)
    return Presented(
        client,
        how,
        bool(given_up(daemon.events, copies.truth, at_ns, end_ns)),
        daemon.first("attack_suspected", at_ns) is not None,
        None if back is None else round((back[client] - at_ns) / 1e6, 3),
        losses([log], at_ns, end_ns)[1],
    )


async def _move(copies: Copies) -> Moved:
    """Take a gateway out of the balancer that goes on running; its clients' packets come to others."""
    number, concerned = _busiest(copies)
    at_ns = time.monotonic_ns()
    await copies.steer(number, away=True)
    found = [await _recovered(copies, client, at_ns) for client in concerned]
    await asyncio.sleep(CALM_S)
    end_ns = time.monotonic_ns()
    await copies.steer(number, away=False)
    await asyncio.sleep(PATIENCE_S)
    back = [each[0] for each in found if each is not None]
    sent, lost = losses([copies.traffic[client] for client in concerned], at_ns, end_ns)
    return Moved(
        sum(len(given_up(copies.clients[c].events, copies.truth, at_ns, end_ns)) for c in concerned),
        sent,
        lost,
        round((max(back) - at_ns) / 1e6, 3) if back and len(back) == len(found) else None,
    )


async def _kill(copies: Copies) -> tuple[float | None, tuple[str, ...]]:
    """SIGKILL to the gateway with the most clients; when the slowest of them was back, and their proofs."""
    number, concerned = _busiest(copies)
    at_ns = await copies.gateways[number].kill()
    copies.truth.stopped(number, at_ns, dead=True)
    await copies.steer(number, away=True)
    found = [await _recovered(copies, client, at_ns) for client in concerned]
    back = [each for each in found if each is not None]
    if len(back) < len(found):
        return None, ()
    slowest_ns = max(back_ns for back_ns, _ in back) - at_ns
    return round(slowest_ns / 1e6, 3), tuple(sorted({proof for _, proof in back}))


async def _recovered(copies: Copies, client: int, at_ns: int) -> tuple[int, str] | None:
    """When a client's traffic flowed again after a loss, and by which proof it knew."""
    daemon = copies.clients[client]
    verdict_ns = await copies.until(lambda: daemon.first("verdict", at_ns), BACK_S)
    if verdict_ns is None:
        return None
    back = await copies.until(lambda: copies.back(verdict_ns, [client]), BACK_S)
    proof = next(e["proof"] for e in daemon.events if e["event"] == "verdict" and e["mono_ns"] == verdict_ns)
    return None if back is None else (back[client], str(proof))


def _busiest(copies: Copies) -> tuple[int, list[int]]:
    """The gateway with the most clients, and these."""
    owners = [copies.owner(client) for client in range(copies.plan.clients)]
    number = max(range(copies.plan.gateways), key=owners.count)
    return number, [client for client, owner in enumerate(owners) if owner == number]
