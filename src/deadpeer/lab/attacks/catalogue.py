"""The attacks of the lab, by name, and how each is staged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deadpeer.lab.attacks.model import Attack
from deadpeer.lab.options import LIVENESS_S, METHODS, LabError, LabOptions

Before = Literal["crash", "rekey"]
Tape = Literal["", "tokens", "everything", "checks", "tickets"]

BLACKOUT = 0.6
"""The share of an attack's time that a blackout lasts, and that of the liveness floor at most."""
FLOOR_S = 60.0
"""dpd_floor by default, seconds."""

PolicyMaker = Callable[[float, LabOptions], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """How an attack is staged.

    `per_s`: shots of an attacker beside the link, who has `sources` addresses of his own. `policy`: that of
    the man in the middle. `before`: what happens before, with the relay capturing. `blind`: he begins
    without any knowledge. `tape`: which captured datagrams he is told of, `lag_s` after they were captured
    (0: at once). `crash`: Bob really crashes while he is at it. `restless`: Alice rekeys her child meanwhile.
    `changes`: of the options of the run.
    """

    attack: Attack
    per_s: int = 0
    sources: int = 1
    policy: PolicyMaker | None = None
    before: tuple[Before, ...] = ()
    blind: bool = False
    tape: Tape = ""
    lag_s: float = 0.25
    crash: bool = False
    restless: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)


def attack(name: str) -> Attack:
    """The attack of this name. Raises LabError (usage) if there is none."""
    return scenario(name).attack


def scenario(name: str) -> Scenario:
    """How the attack of this name is staged. Raises LabError (usage) if there is none."""
    found = _BY_NAME.get(name)
    if found is None:
        raise LabError(f"there is no attack {name!r}: it is one of {', '.join(_BY_NAME)}", usage=True)
    return found


def _blackout(seconds: float, options: LabOptions) -> dict[str, Any]:
    floor_s = LIVENESS_S if options.method == "liveness" else FLOOR_S
    return {"name": "blackout", "seconds": BLACKOUT * min(seconds, floor_s)}


_SCENARIOS = (
    Scenario(
        Attack(
            "forge-invalid-spi",
            "off-path",
            METHODS,
            "floods INVALID_SPI about the living child SAs, in the name of the victim's peer",
            "a few liveness checks a second, and nothing else; a real crash is noticed as ever",
        ),
        per_s=400,
        blind=True,
        crash=True,
    ),
    Scenario(
        Attack(
            "forge-invalid-ike-spi",
            "off-path",
            METHODS,
            "floods INVALID_IKE_SPI with the living SPIs, in answer to every message ID",
            "nothing is deleted; a real crash is noticed as ever",
        ),
        per_s=400,
        blind=True,
        crash=True,
    ),
    Scenario(
        Attack(
            "forge-token",
            "off-path",
            ("qcd",),
            "guesses tokens, one to four in each forged INVALID_IKE_SPI and INVALID_SPI",
            "no guess is believed; the real token is",
        ),
        per_s=400,
        blind=True,
        crash=True,
    ),
    Scenario(
        Attack(
            "forge-init",
            "off-path",
            METHODS,
            "begins IKE SAs in the name of the victim's peer, and never goes on",
            "half-open SAs are bounded, and the peer gets in all the same",
        ),
        per_s=200,
        tape="everything",
        crash=True,
    ),
    Scenario(
        Attack(
            "forge-check-spi",
            "off-path",
            ("sir",),
            "forges CHECK_SPI denials with guessed cookies",
            "no denial counts without the cookie; no new SA is forced",
        ),
        per_s=400,
        blind=True,
    ),
    Scenario(
        Attack(
            "replay-token",
            "off-path",
            ("qcd",),
            "replays the token of an earlier, real crash, also with the SPIs of today",
            "a token is good for one SA, which is gone",
        ),
        per_s=300,
        before=("crash",),
        tape="tokens",
    ),
    Scenario(
        Attack(
            "replay-exchange",
            "off-path",
            ("qcd", "sir", "reconnect"),
            "replays whole captured exchanges and ESP, to both sides, reflected, and from elsewhere",
            "old messages are answered alike or not at all; nothing is deleted",
        ),
        per_s=300,
        sources=8,
        before=("rekey", "crash", "rekey"),
        tape="everything",
    ),
    Scenario(
        Attack(
            "enumerate",
            "off-path",
            ("qcd",),
            "asks for tokens of living, dead and made-up SPIs, from his own and from the victim's address",
            "no token of a living SA, ever; few answers, none larger than three times the question",
        ),
        per_s=300,
        sources=8,
        blind=True,
        crash=True,
    ),
    Scenario(
        Attack(
            "cookie-replay",
            "off-path",
            ("sir",),
            "replays CHECK_SPI messages and their cookies later and for other SAs, and returns the cookies of"
            " IKE_SA_INIT from other addresses",
            "a cookie is good for its question, its address and a short time",
        ),
        per_s=300,
        sources=8,
        before=("crash",),
        tape="checks",
        lag_s=1.0,  # a suspicion is over by then; who is faster stands in the middle
        changes={"strangers": True},
    ),
    Scenario(
        Attack(
            "steal-ticket",
            "on-path",
            ("qcd",),
            "shows resumption tickets that he has seen on the wire, from his own and from their owner's"
            " address, and holds back their owner's request until he has shown them",
            "no SA for the thief, bounded work for Bob, the owner is back by resumption or a full exchange",
        ),
        per_s=400,
        sources=8,
        before=("crash",),
        tape="tickets",
        lag_s=0.0,
        policy=lambda _seconds, _options: {"name": "theft"},
        crash=True,
        changes={"resume": True},
    ),
    Scenario(
        Attack(
            "mitm-nack",
            "on-path",
            ("sir",),
            "has Alice ask by CHECK_SPI, and denies before Bob confirms",
            "both were seen, so somebody lies: nothing is deleted",
        ),
        policy=lambda seconds, _options: {"name": "nack", "drop": [""], "seconds": seconds},
    ),
    Scenario(
        Attack(
            "mitm-nack-drop-ack",
            "on-path",
            ("sir",),
            "denies, and drops Bob's confirmation; then Bob's answers under protection too; then his traffic",
            "at most a bounded number of new SAs an hour, each before the old one goes",
        ),
        policy=lambda seconds, _options: {
            "name": "nack",
            "drop": ["ack", "answers", "traffic"],
            "seconds": seconds,
        },
    ),
    Scenario(
        Attack(
            "mitm-deny",
            "on-path",
            ("qcd", "reconnect"),
            "answers liveness checks in Bob's name, with guessed tokens; then drops Bob's answers too; then"
            " his traffic",
            "no guess is believed; a bounded number of new SAs an hour, each before the old one goes",
        ),
        policy=lambda seconds, _options: {
            "name": "nack",
            "deny": True,
            "drop": ["", "answers", "traffic"],
            "seconds": seconds,
        },
    ),
    Scenario(
        Attack(
            "mitm-chaos",
            "on-path",
            METHODS,
            "drops, delays, copies and reorders at random, while child SAs are rekeyed",
            "the tunnel lives",
        ),
        policy=lambda _seconds, _options: {"name": "chaos"},
        restless=True,
    ),
    Scenario(
        Attack(
            "mitm-blackout",
            "on-path",
            METHODS,
            "drops everything for a while, then lets everything pass",
            "short of the floor of liveness nothing is deleted without a replacement",
        ),
        policy=_blackout,
    ),
)

ATTACKS: tuple[Attack, ...] = tuple(each.attack for each in _SCENARIOS)
"""All of them; those beside the link come first."""

_BY_NAME = {each.attack.name: each for each in _SCENARIOS}
