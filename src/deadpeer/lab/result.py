"""The numbers of a run, and the sentence that says what they mean. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deadpeer.lab.options import LIVENESS_S, LabOptions, Lost, Method
from deadpeer.lab.process import Record
from deadpeer.lab.recording import SideEvent
from deadpeer.lab.traffic import TrafficLog

STRONGSWAN_DEFAULT_S = 174
"""Seconds until traffic was back after a strongSwan peer with default timers had restarted, measured."""

MANY_RTTS = 20
"""From so many round trips on, seconds say more."""

PROOF_OF: dict[Method, str] = {
    "qcd": "qcd-token",
    "sir": "sir",
    "reconnect": "replaced",
    "liveness": "liveness",
}
"""The kind of proof that each method is about."""

TOLD = "the peer does not know its SPI"
"""Why a child ends whose loss the peer has told of under protection."""

LOST_WORDS: dict[Lost, str] = {
    "child": "the child SA",
    "ike": "the IKE SA with its child",
    "all": "all his SAs",
}
"""What Bob lost, in the words of a sentence."""

REBUILDERS: tuple[Method, ...] = ("sir", "reconnect")
"""Methods whose proof is the new SA itself: with a ticket, that the session resumed, unless Bob was away
for so long that Alice fell back on a full exchange."""


@dataclass(frozen=True, slots=True)
class Moments:
    """When things happened, monotonic ns. None: they did not."""

    killed_ns: int
    ready_ns: int
    recovered_ns: int | None


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run. Times in milliseconds count from the moment that Bob could answer again.

    Negative: it happened before. `detect_ms` ends with the verdict, `recover_ms` with the first inner
    packet that made the round trip after it (with an idle tunnel: when the new child SA was up).
    """

    options: LabOptions
    ok: bool
    peer_down_s: float | None = None
    detect_ms: float | None = None
    recover_ms: float | None = None
    packets_sent: int = 0
    packets_lost: int = 0
    lost_while_down: int = 0
    verdict: str | None = None
    evidence: tuple[str, ...] = ()
    timeline: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    failure: str | None = None

    @property
    def detect_rtts(self) -> float | None:
        return self._in_rtts(self.detect_ms)

    @property
    def recover_rtts(self) -> float | None:
        return self._in_rtts(self.recover_ms)

    def to_record(self) -> dict[str, Any]:
        """The run as `deadpeer lab --json` prints it.

        `lost`: "process", or what a Bob who lives has lost. If that is a child, no verdict is needed and
        `verdict` is null: `detect_ms` ends when Alice has Bob's protected INVALID_SPI.
        """
        options = self.options
        return {
            "scenario": "reboot" if options.lost is None else "robustness",
            "lost": options.lost or "process",
            "method": options.method,
            "rtt_ms": options.rtt_ms,
            "resume": options.resume,
            "peer_down_s": self.peer_down_s,
            "detect_ms": self.detect_ms,
            "recover_ms": self.recover_ms,
            "detect_rtts": self.detect_rtts,
            "recover_rtts": self.recover_rtts,
            "packets_sent": self.packets_sent,
            "packets_lost": self.packets_lost,
            "verdict": self.verdict,
            "evidence": list(self.evidence),
            "ok": self.ok,
            "failure": self.failure,
            "peer": options.peer,
            "netns": options.netns,
            "idle": options.idle,
            "loss": options.loss,
            "spi_map": options.spi_map or options.announce,
            "announce": options.announce,
            "hints": options.hints,
            "seed": options.seed,
            "packets_lost_while_down": self.lost_while_down,
            "dpd_timeout_s": LIVENESS_S if options.method == "liveness" else None,
            "timeline": list(self.timeline),
        }

    def _in_rtts(self, ms: float | None) -> float | None:
        return None if ms is None or not self.options.rtt_ms else round(ms / self.options.rtt_ms, 3)


def measure(options: LabOptions, moments: Moments, traffic: TrafficLog, known: SideEvent | None) -> RunResult:
    """Work out the numbers of a run. It is ok if it recovered, and by the method that was asked for.

    `known`: the event by which Alice knew, a verdict, or where a child was lost the end of that child.
    """
    lost = traffic.lost()
    half_ns = round(options.rtt_ms * 1e6 / 2)
    while_down = sum(1 for at in lost if moments.killed_ns <= at + half_ns < moments.ready_ns)
    fields = {} if known is None else known.fields
    proof = str(fields["proof"]) if "proof" in fields else None
    if options.lost == "child":
        evidence, failure = _of_child(moments, fields)
    else:
        evidence = tuple(map(str, fields.get("evidence", ())))
        failure = _failure(options, moments, proof)
    return RunResult(
        options,
        ok=failure is None,
        peer_down_s=round((moments.ready_ns - moments.killed_ns) / 1e9, 3),
        detect_ms=None if known is None else _ms(known.at_ns - moments.ready_ns),
        recover_ms=None if moments.recovered_ns is None else _ms(moments.recovered_ns - moments.ready_ns),
        packets_sent=len(traffic.sent),
        packets_lost=len(lost),
        lost_while_down=while_down,
        verdict=proof,
        evidence=evidence,
        failure=failure,
    )


def summary(result: RunResult) -> str:
    """What happened, in sentences for somebody who has never heard of any of this."""
    if result.options.lost is not None:
        return _summary_of_loss(result)
    if result.peer_down_s is None or result.detect_ms is None or result.recover_ms is None:
        return f"The tunnel did not come back: {result.failure}."
    sentences = [f"Bob was dead for {result.peer_down_s:.1f} s."]
    sentences.append(f"{_after(result)}{_recovered(result)}.")
    if not result.options.idle:
        sentences.append(_losses(result))
    if result.options.method == "liveness":
        sentences.append(
            f"The lab gives up a silent peer after {LIVENESS_S:g} s; outside it that is a minute or more."
        )
    if result.failure is not None:
        sentences.append(f"But {result.failure}.")
    sentences.append(f"Today's default (strongSwan on both sides, measured) is {STRONGSWAN_DEFAULT_S} s.")
    return " ".join(sentences)


_PROOFS = {
    "qcd-token": "a token only Bob could have made",
    "liveness": "for long enough Bob had not said a word that only he could say",
    "sir": "Bob's denial, that nobody contradicted, and a new SA that he authenticated",
    "replaced": "a new SA that Bob authenticated, while he could not answer on the old one",
    "resumed": "Bob resumed with a key that only the two of them have",
    "initial-contact": "Bob authenticated anew and holds no other SA",
}


def _summary_of_loss(result: RunResult) -> str:
    what = LOST_WORDS[result.options.lost or "all"]
    sentences = [f"Bob lost {what} and said nothing; his process lived."]
    if result.detect_ms is None or result.recover_ms is None:
        return f"{sentences[0]} The tunnel did not come back: {result.failure}."
    held = _PROOFS.get(str(result.verdict), str(result.verdict))
    if result.verdict is None:
        held = "his word under protection that he does not know its SPI: no verdict is needed,"
    sentences.append(
        f"{_duration(result.detect_ms)}{_rtts(result.detect_ms, result)} later Alice held {held}"
        f"{_recovered(result)}."
    )
    lost = result.packets_lost
    sentences.append("No packet was lost." if lost == 0 else f"Packets lost: {lost}.")
    if result.failure is not None:
        sentences.append(f"But {result.failure}.")
    return " ".join(sentences)


def _after(result: RunResult) -> str:
    proof = _PROOFS.get(str(result.verdict), str(result.verdict))
    ms = result.detect_ms or 0.0
    when = f"{_duration(abs(ms))}{_rtts(abs(ms), result)} {'after' if ms >= 0 else 'before'} he came back"
    return f"{when} Alice held proof \N{EM DASH} {proof} \N{EM DASH}"


def _recovered(result: RunResult) -> str:
    what = "the tunnel stood again" if result.options.idle else "traffic flowed again"
    ms = result.recover_ms or 0.0
    return f" and after {_duration(ms)}{_rtts(ms, result)} {what}"


def _losses(result: RunResult) -> str:
    lost, others = result.packets_lost, result.packets_lost - result.lost_while_down
    if lost == 0:
        return "No packet was lost."
    noun = "packet was" if lost == 1 else "packets were"
    if others == 0:
        return f"{lost} {noun} lost, all while Bob was down."
    if others == lost:
        return f"{lost} {noun} lost."
    return f"{lost} {noun} lost, all but {others} while Bob was down."


def _duration(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _rtts(ms: float, result: RunResult) -> str:
    if not result.options.rtt_ms or ms / result.options.rtt_ms >= MANY_RTTS:
        return ""
    return f" ({ms / result.options.rtt_ms:.1f} round trips)"


def _of_child(moments: Moments, fields: Record) -> tuple[tuple[str, ...], str | None]:
    """The evidence that a child is lost, and what went wrong (None: nothing)."""
    reason = fields.get("reason")
    if reason is None:
        return (), "Alice never heard that the child is lost"
    if reason != TOLD:
        return (), f"the child ended otherwise: {reason}"
    missing = "the tunnel did not carry traffic again" if moments.recovered_ns is None else None
    return (f"INVALID_SPI, protected by the IKE SA: {reason}",), missing


def _failure(options: LabOptions, moments: Moments, proof: str | None) -> str | None:
    if proof is None:
        return "Alice never came to a verdict"
    resumed = options.resume and options.method in REBUILDERS and proof == "resumed"
    if proof != PROOF_OF[options.method] and not resumed:
        return f"the proof was {proof}, not {PROOF_OF[options.method]}"
    if moments.recovered_ns is None:
        return "the tunnel did not carry traffic again"
    return None


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
