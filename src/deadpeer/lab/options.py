"""What a lab run is asked to do, and what may be wrong with that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Method = Literal["qcd", "sir", "reconnect", "liveness"]
Peer = Literal["deadpeer", "strongswan"]
Side = Literal["alice", "bob"]
Lost = Literal["child", "ike", "all"]

METHODS: tuple[Method, ...] = ("qcd", "sir", "reconnect", "liveness")
ALONE: tuple[Method, ...] = ("reconnect", "liveness")
"""Methods that need nothing from the peer."""
PEERS: tuple[Peer, ...] = ("deadpeer", "strongswan")

Scenario = Literal["reboot", "robustness", "failover", "cluster"]
SCENARIOS: tuple[Scenario, ...] = ("reboot", "robustness", "failover", "cluster")

LOSSES: tuple[Lost, ...] = ("child", "ike", "all")
"""What Bob may lose while his process lives: a child SA, an IKE SA with its children, all that he has."""

PACKET_INTERVAL_MS = 10.0
"""An inner packet leaves so often."""

START_TIMEOUT_S = 90.0
"""A process of the lab must be ready within this time, seconds."""

LIVENESS_S = 3.0
"""dpd_timeout and dpd_floor of the method liveness in the lab, seconds. Outside it both are a minute."""

IDLE_PROBE_S = 2.0
"""dpd_delay of an idle tunnel in the lab, seconds. Outside it, 30 seconds."""


class LabError(Exception):
    """The lab can't do what was asked; the text is one line for a person, with the remedy.

    `usage` tells wrong usage or a missing requirement (exit status 2) from a failed run (1).
    """

    def __init__(self, text: str, *, usage: bool = False) -> None:
        super().__init__(text)
        self.usage = usage


@dataclass(frozen=True, slots=True)
class LabOptions:
    """One run. Times: `rtt_ms` of the link in milliseconds, `down_s` between kill and restart in seconds.

    `loss` is the probability, in each direction, that the link loses a datagram. `capture`: keep the
    octets of so many datagrams. `strangers`: Alice is open to peers from any address too. `resume`: with
    session resumption; `spi_map`, `announce`: Bob keeps the SPI map, and speaks first after his boot. Without
    `hints` a restarted Bob does not answer packets with unknown SPIs: most daemons are like that. `lost`: Bob
    is not killed, he loses this instead, by a fault on purpose.
    """

    method: Method = "qcd"
    rtt_ms: float = 20.0
    loss: float = 0.0
    down_s: float = 1.0
    idle: bool = False
    netns: bool = False
    peer: Peer = "deadpeer"
    seed: int = 0
    capture: int = 0
    strangers: bool = False
    resume: bool = False
    spi_map: bool = False
    announce: bool = False
    hints: bool = True
    lost: Lost | None = None

    def check(self) -> None:
        """Raise LabError for values or combinations that can't be run."""
        if not (math.isfinite(self.rtt_ms) and 0 <= self.rtt_ms <= 10_000):
            raise LabError(f"--rtt {self.rtt_ms:g}: must be between 0 and 10000 milliseconds", usage=True)
        if not 0 <= self.loss < 1:
            raise LabError(f"--loss {self.loss:g}: must be a probability, from 0 to below 1", usage=True)
        if not (math.isfinite(self.down_s) and 0 <= self.down_s <= 3600):
            raise LabError(f"--down {self.down_s:g}: must be between 0 and 3600 seconds", usage=True)
        if self.peer == "strongswan" and self.method not in ALONE:
            raise LabError(
                f"--method {self.method} needs a peer that speaks it, and strongSwan does not:"
                " add --method reconnect or --method liveness",
                usage=True,
            )
        if (self.spi_map or self.announce) and self.method != "qcd":
            raise LabError("--spi-map and --announce belong to --method qcd", usage=True)
        if not self.hints and self.method == "qcd" and not self.announce:
            raise LabError(
                "--no-hints takes Bob's tokens away: add --announce, or another --method", usage=True
            )
        if self.lost is not None and (self.peer != "deadpeer" or self.idle or self.spi_map or self.announce):
            raise LabError(
                "--scenario robustness: only deadpeer loses SAs on purpose, nobody misses them in an idle"
                " tunnel, and a gateway that did not restart has nothing to announce: leave out"
                " --peer strongswan, --idle, --spi-map and --announce",
                usage=True,
            )
        if self.resume and self.peer != "deadpeer":
            raise LabError(
                "--resume needs a peer that gives tickets: leave out --peer strongswan", usage=True
            )

    @property
    def patience_s(self) -> float:
        """Seconds after which an inner packet without an answer counts as lost."""
        return 0.1 + 3 * self.rtt_ms / 1000

    @property
    def bound_s(self) -> float:
        """Seconds within which the tunnel must have recovered, from the moment Bob can answer again.

        Generous: it ends a run that hangs; how good a recovery was is for the one who reads the numbers.
        """
        handshake = 30 + self.rtt_ms / 1000 * 10 + (20 if self.loss else 0)
        return (
            handshake
            + (3 * LIVENESS_S if self.method == "liveness" else 0)
            + (2 * IDLE_PROBE_S if self.idle else 0)
        )
