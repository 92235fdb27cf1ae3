"""The ways to find out as the report sets them side by side: a method, with what belongs to it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from deadpeer.lab.costs.model import Role, Way
from deadpeer.lab.options import LIVENESS_S, LabError, LabOptions, Method, Peer


@dataclass(frozen=True, slots=True)
class Variant:
    """One column of the comparison.

    `says` is a sentence for people; `needs` and `proof` are what it needs from Bob and what proves the
    loss. `theory` is (detect, recover) in round trips, processing left out; None: it is not a matter of
    round trips. `way` is its name in the costs, `alice` and `bob` the roles that each side plays there.
    `secrets` says which keys there are, for both sides.
    """

    key: str
    title: str
    short: str
    method: Method
    says: str
    needs: str
    proof: str
    secrets: str
    way: Way
    theory: tuple[float, float] | None = None
    alice: tuple[Role, ...] = ()
    bob: tuple[Role, ...] = ()
    spi_map: bool = False
    announce: bool = False
    idle: bool = False
    hints: bool = True
    peer: Peer = "deadpeer"

    @property
    def resumable(self) -> bool:
        """Whether Bob gives tickets."""
        return self.peer == "deadpeer"

    @property
    def options_text(self) -> str:
        """What makes it, as words of `deadpeer lab`."""
        words = [f"--method {self.method}"]
        words += [] if self.peer == "deadpeer" else [f"--peer {self.peer}"]
        words += ["--announce"] if self.announce else ["--spi-map"] if self.spi_map else []
        words += ["--idle"] if self.idle else []
        words += [] if self.hints or self.peer != "deadpeer" else ["--no-hints"]
        return " ".join(words)

    def options(self, base: LabOptions, *, rtt_ms: float, resume: bool, seed: int) -> LabOptions:
        """One run of it. Of `base` are the loss, how long Bob is down, and the place."""
        return LabOptions(
            method=self.method,
            rtt_ms=rtt_ms,
            loss=base.loss,
            down_s=base.down_s,
            netns=base.netns or self.peer == "strongswan",
            idle=self.idle,
            peer=self.peer,
            seed=seed,
            resume=resume,
            spi_map=self.spi_map,
            announce=self.announce,
            hints=self.hints,
        )


_TOLD = "a token that only Bob can have made"
_QCD_KEYS = "Bob: one secret for all SAs, and up to three older generations of it. Alice: none"
_REPLACED = "a new SA that Bob authenticated, while the old one stays mute"

VARIANTS: tuple[Variant, ...] = (
    Variant(
        "qcd",
        "QCD (RFC 6290)",
        "QCD",
        "qcd",
        "Bob gave Alice a token with the SA. After the crash he recomputes it from a secret on disk, and she"
        " compares.",
        "a token, given with the SA",
        _TOLD,
        _QCD_KEYS,
        "qcd",
        (1.5, 4.5),
        ("token-taker",),
        ("token-maker",),
    ),
    Variant(
        "qcd-map",
        "QCD with Bob's SPI map",
        "QCD + map",
        "qcd",
        "Bob kept a map from ESP SPIs to IKE SPIs on disk: his first answer has the token.",
        "a token, and a map on Bob's disk",
        _TOLD,
        _QCD_KEYS,
        "qcd-map",
        (0.5, 3.5),
        ("token-taker",),
        ("token-maker", "spi-map"),
        spi_map=True,
    ),
    Variant(
        "qcd-announced",
        "QCD, announced, tunnel idle",
        "QCD announced, idle",
        "qcd",
        "Nobody sends. Bob, back from his crash, presents the tokens of all SAs in his map by himself.",
        "a token, and a map on Bob's disk",
        _TOLD,
        _QCD_KEYS,
        "qcd-announced",
        (0.5, 2.5),
        ("token-taker",),
        ("token-maker", "spi-map"),
        spi_map=True,
        announce=True,
        idle=True,
    ),
    Variant(
        "sir",
        "SIR (CHECK_SPI)",
        "SIR",
        "sir",
        "Alice asks a stateless question. A denial that nobody contradicts lets her build a new SA first and"
        " drop the old one after.",
        "a stateless responder",
        "a denial without contradiction, and a new SA that Bob authenticated",
        "Alice: a cookie key in memory. Bob: none",
        "sir",
        (3.5, 4.5),
        ("sir",),
        ("sir",),
    ),
    Variant(
        "reconnect",
        "Reconnect, on a hint",
        "reconnect, hint",
        "reconnect",
        "Bob says INVALID_SPI, which anybody could say. Alice asks him under protection, hears nothing she"
        " can trust, and builds a new SA beside the old one.",
        "only that it says INVALID_SPI (RFC 7296, 1.5)",
        _REPLACED,
        "none",
        "reconnect",
        (3.5, 4.5),
    ),
    Variant(
        "reconnect-mute",
        "Reconnect, Bob gives no hint",
        "reconnect, no hint",
        "reconnect",
        "Bob says nothing about unknown SPIs, as most daemons do. Alice has only his silence to go by, and"
        " builds a new SA beside the old one.",
        "nothing: any RFC 7296 peer",
        _REPLACED,
        "none",
        "reconnect",
        hints=False,
    ),
    Variant(
        "liveness",
        f"Liveness, timer lowered to {LIVENESS_S:g} s",
        f"liveness, {LIVENESS_S:g} s",
        "liveness",
        "Alice repeats a question until Bob has been silent for long enough, counted from his death: in the"
        f" lab {LIVENESS_S:g} seconds, outside it a minute or more (RFC 7296, 2.4).",
        "nothing: any RFC 7296 peer",
        "requests unanswered, and a floor of time",
        "none",
        "liveness",
    ),
    Variant(
        "strongswan",
        "Reconnect, Bob is strongSwan",
        "strongSwan Bob, reconnect",
        "reconnect",
        "Bob is an unmodified strongSwan, killed and restarted. He says nothing about unknown SPIs and knows"
        " nothing of deadpeer.",
        "nothing: an unmodified strongSwan",
        _REPLACED,
        "none",
        "reconnect",
        hints=False,
        peer="strongswan",
    ),
)


def variant(key: str) -> Variant:
    """The variant of that name. Raises LabError for an unknown one."""
    for one in VARIANTS:
        if one.key == key:
            return one
    raise LabError(f"there is no variant {key}", usage=True)
