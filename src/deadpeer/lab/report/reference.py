"""What there is to compare with: strongSwan on both sides, its timers at their defaults, Bob killed.

It takes three minutes, in which hardly anything happens. Namespaces and charon need root.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from deadpeer.lab import charon_files, netns, strongswan
from deadpeer.lab.gateway_config import ESP_PROPOSAL, IKE_PROPOSAL, identity
from deadpeer.lab.options import START_TIMEOUT_S, LabError, LabOptions, Side
from deadpeer.lab.process import launch, run
from deadpeer.lab.recording import Recording, Silent
from deadpeer.lab.relay import RelayConfig
from deadpeer.lab.report.model import Reference
from deadpeer.lab.sites import INNER, SIDES, Site, lab_directory
from deadpeer.lab.traffic import PingReader, TrafficLog

DPD_DELAY_S = 10
"""strongSwan asks a silent peer after so long, seconds. By default it never asks; every guide sets this."""
PING_MS = 200.0
TUNNEL_TIMEOUT_S = 30.0
RECOVERY_TIMEOUT_S = 400.0
FLOW_REPLIES = 5
SECRET = "measured and thrown away"  # noqa: S105 - in namespaces that nobody else reaches


async def measure_reference(options: LabOptions) -> Reference:
    """Crash strongSwan's Bob and wait until strongSwan's Alice has brought the tunnel back.

    Of `options` are the round trip time and how long Bob is down. Raises LabError.
    """
    netns.require_root("unshare")
    strongswan.require_strongswan()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(lab_directory())
        site = await stack.enter_async_context(netns.netns_site(directory))
        recording = Recording(Silent())
        config = RelayConfig(options.rtt_ms, 0.0, options.seed, site.lanes())
        relay = await launch(
            "relay",
            [*site.prefix("relay"), sys.executable, "-m", "deadpeer.lab.relay", config.to_json()],
            recording.take_relay,
        )
        stack.push_async_callback(relay.stop)
        await relay.expect("ready", START_TIMEOUT_S)
        charons = {side: _charon(site, directory, side) for side in SIDES}
        for side in ("bob", "alice"):
            stack.push_async_callback(charons[side].stop)
            await _begin(site, side, charons[side])
        await charons["alice"].initiate("inner")
        await _flow(site, recording, stack)
        log = recording.traffic
        await _wait("traffic through the tunnel", lambda: len(log.replies) >= FLOW_REPLIES, TUNNEL_TIMEOUT_S)
        return await _crash(site, charons["bob"], log, options)


async def _crash(site: Site, bob: strongswan.Charon, log: TrafficLog, options: LabOptions) -> Reference:
    await bob.kill()
    await asyncio.sleep(options.down_s)
    await bob.start()
    await bob.load(swanctl_conf(site, "bob"))
    ready_ns = time.monotonic_ns()
    await _wait(
        "traffic after the crash",
        lambda: log.first_round_trip_after(ready_ns) is not None,
        RECOVERY_TIMEOUT_S,
    )
    back_ns = log.first_round_trip_after(ready_ns) or time.monotonic_ns()
    return Reference(
        round((back_ns - ready_ns) / 1e9, 1),
        time.strftime("%Y-%m-%d"),
        await version(),
        here=True,
        rtt_ms=options.rtt_ms,
    )


async def version() -> str:
    """strongSwan's, as charon says it. Raises LabError."""
    words = (await run([str(charon_files.CHARON), "--version"])).split()
    return next((word for word in words if word[:1].isdigit()), "of unknown version")


def swanctl_conf(site: Site, side: Side) -> str:
    """Both sides' connection: what guides recommend for a tunnel that is to come back by itself."""
    other: Side = "bob" if side == "alice" else "alice"
    outer = site.outer[side]
    return f"""connections {{
  lab {{
    version = 2
    local_addrs = {outer.host}
    remote_addrs = {outer.relay}
    proposals = {IKE_PROPOSAL}
    encap = yes
    dpd_delay = {DPD_DELAY_S}s
    local {{
      auth = psk
      id = {identity(side)}
    }}
    remote {{
      auth = psk
      id = {identity(other)}
    }}
    children {{
      inner {{
        local_ts = {INNER[side]}/32
        remote_ts = {INNER[other]}/32
        esp_proposals = {ESP_PROPOSAL}
        dpd_action = restart
      }}
    }}
  }}
}}
secrets {{
  ike-lab {{
    id-1 = {identity(side)}
    id-2 = {identity(other)}
    secret = "{SECRET}"
  }}
}}
"""


def _charon(site: Site, directory: Path, side: Side) -> strongswan.Charon:
    return strongswan.Charon(directory / f"charon-{side}", site.namespaces[side])


async def _begin(site: Site, side: Side, charon: strongswan.Charon) -> None:
    await run(["ip", "-n", site.namespaces[side], "addr", "add", f"{INNER[side]}/32", "dev", "lo"])
    await charon.start()
    await charon.load(swanctl_conf(site, side))


async def _flow(site: Site, recording: Recording, stack: AsyncExitStack) -> None:
    """The real ping, at a pace that takes no time from what runs beside."""
    reader = PingReader(time.monotonic_ns() - time.time_ns(), PING_MS, recording.take_traffic)
    words = ["ping", "-D", "-O", "-n", "-i", f"{PING_MS / 1000:g}", "-I", INNER["alice"], INNER["bob"]]
    ping = await launch("ping", [*site.prefix("alice"), *words], on_text=reader.line, env={"LC_ALL": "C"})
    stack.push_async_callback(ping.stop, number=signal.SIGINT)


async def _wait(what: str, look: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > end:
            raise LabError(f"{what} did not come within {timeout_s:g} s")
        await asyncio.sleep(0.05)
