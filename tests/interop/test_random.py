"""Random commands, pauses and crashes of either side against strongSwan: traffic always flows again.

INTEROP_SEEDS ("7", or "1-20") and INTEROP_ROUNDS ask for other, or longer, series than the short one here.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from tests.interop.conftest import StartPair
from tests.interop.harness.pair import Pair
from tests.interop.harness.traffic import BRIEF_S, ping
from tests.interop.harness.tunnels import SIDES, Auth, Tunnel

pytestmark = pytest.mark.interop

_ROUNDS = int(os.environ.get("INTEROP_ROUNDS", "40"))
_FIRST, _, _LAST = os.environ.get("INTEROP_SEEDS", "1").partition("-")
_SEEDS = range(int(_FIRST), int(_LAST or _FIRST) + 1)
_BOUND_S = 60.0
_OURS: dict[str, object] = {
    "dpd_delay": "1s",
    "dpd_timeout": "2s",
    "dpd_floor": "2s",
    "silence": "500ms",
    "fragment_size": 700,
}
_KINDS: Sequence[tuple[str, Auth]] = [
    ("aes128gcm16-x25519", "psk"),
    ("aes256-sha256-ecp256", "ecdsa"),
    ("chacha20poly1305", "rsa"),
]
_TUNNELS = [
    Tunnel(
        f"random-{number}",
        number,
        esp=esp,
        auth=auth,
        children=("c", "d"),
        settings={"a": _OURS, "b": {"dpd_delay": "1s"}},
        child_settings={"a": {"start_action": "trap", "dpd_action": "restart", "close_action": "trap"}},
    )
    for number, (esp, auth) in enumerate(_KINDS, 1)
]
_IMPATIENT = {"retransmit_timeout": "0.5", "retransmit_tries": "3", "retransmit_base": "1"}
_QUIET = ("up", "rekey", "rekey-ike", "down-child")
_WILD = (*_QUIET, "rekey", "rekey-ike", "down", "pause", "kill")


@pytest.mark.timeout(60 + 10 * _ROUNDS)
@pytest.mark.parametrize("seed", _SEEDS)
def test_traffic_always_flows_again(start_pair: StartPair, seed: int) -> None:
    chance = random.Random(seed)
    pair = start_pair(_TUNNELS, charon=_IMPATIENT)
    with ThreadPoolExecutor(4) as pool:
        for number in range(_ROUNDS):
            story = _round(pair, chance, pool)
            for tunnel in _TUNNELS:
                for child in tunnel.children:
                    _flows(pair, tunnel, child, f"seed {seed}, round {number}: {', '.join(story)}")
    log = pair.peers["a"].log_since(0)
    assert "internal_error" not in log
    assert "Traceback" not in log


def _round(pair: Pair, chance: random.Random, pool: ThreadPoolExecutor) -> Sequence[str]:
    """A few things at once; what was done. That a command fails, for want of an SA, is no failure here."""
    story: list[str] = []
    running: list[Future[None]] = []
    victim = None
    wild = chance.random() < 0.4
    for _ in range(chance.choice([1, 2, 2, 3])):
        what = chance.choice(_WILD if wild else _QUIET)
        tunnel, side = chance.choice(_TUNNELS), chance.choice(SIDES)
        child = chance.choice(tunnel.children)
        story.append(f"{what} {tunnel.name}-{child} by {side}")
        peer = pair.peers[side]
        if what == "kill":
            victim = peer
        elif what == "pause":
            peer.freeze()
            time.sleep(chance.random() / 2)
            peer.thaw()
        elif what == "up":
            running.append(pool.submit(peer.up, tunnel, child))
        elif what in ("rekey", "rekey-ike"):
            running.append(pool.submit(peer.rekey, tunnel, child if what == "rekey" else None))
        else:
            running.append(pool.submit(peer.down, tunnel, child if what == "down-child" else None))
    if victim is not None:
        time.sleep(chance.random() / 20)
        victim.kill()
        victim.start()
    for command in running:
        error = command.exception(90)
        assert error is None or isinstance(error, RuntimeError | OSError), repr(error)
        # A command that nobody answers is a failure, whatever happened to its SA.
        assert "no answer within" not in str(error), error
    return story


def _flows(pair: Pair, tunnel: Tunnel, child: str, story: str) -> None:
    ends = tunnel.inner_address("a", child), tunnel.inner_address("b", child)
    end = time.monotonic() + _BOUND_S
    while ping(pair.spaces["a"], *ends, count=1, linger_s=BRIEF_S).received == 0:
        if time.monotonic() > end:
            states: list[object] = []
            for side in SIDES:
                with contextlib.suppress(RuntimeError):
                    states += pair.sas(tunnel, side)
            raise AssertionError(f"{story}: no traffic on {tunnel.name}-{child}: {states}\n{pair.tails()}")
