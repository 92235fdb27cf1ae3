"""What is known about a peer that may have lost its SAs: a `Hint` suspects, only a `Proof` condemns.

The two are different types on purpose. Whatever arrives unauthenticated is a `Hint` and can at most
cause a probe. The one function that deletes an SA for a crash (`Core.condemn`) takes a `Verdict`, a
`Verdict` holds a `Proof`, and `Proof` can't be made directly: each kind of proof is a subclass whose
only constructor is the function that checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True, slots=True)
class Hint:
    """Unauthenticated news about an SA, for example an INVALID_SPI, or silence. Reason to look, no more."""

    kind: str
    at_ns: int
    source: str
    detail: str = ""


class Proof:
    """Evidence that condemns an SA. Each subclass is made only by the check that proves it.

    A subclass keeps a module-private `_key` object; its constructor raises TypeError without that key,
    so that no code can claim a proof that it did not check.
    """

    __slots__ = ("_at_ns", "_detail")
    kind: str = "proof"
    spoken: bool = False
    """Whether the peer has just said so itself: it is there."""
    _key: object = None

    def __init__(self, key: object, at_ns: int, detail: str) -> None:
        if type(self)._key is None or key is not type(self)._key:
            raise TypeError(f"{type(self).__name__} is made by the function that checks it, not directly")
        self._at_ns = at_ns
        self._detail = detail

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls._key is None:
            raise TypeError(f"{cls.__name__} must define its private _key")

    @property
    def at_ns(self) -> int:
        """When the proof was complete, monotonic nanoseconds."""
        return self._at_ns

    @property
    def detail(self) -> str:
        """What was seen, for a person. Never a key or a token."""
        return self._detail


_INITIAL_CONTACT_KEY = object()


@final
class InitialContact(Proof):
    """A protected INITIAL_CONTACT of the same connection and identity (RFC 7296 section 2.4)."""

    __slots__ = ()
    kind = "initial-contact"
    _key = _INITIAL_CONTACT_KEY

    @classmethod
    def check(
        cls,
        *,
        at_ns: int,
        authenticated: bool,
        same_connection: bool,
        same_identity: bool,
        announced: bool,
    ) -> InitialContact | None:
        """A proof if all four hold: the new SA is authenticated, and of the same scope as the old one."""
        if not (authenticated and same_connection and same_identity and announced):
            return None
        return cls(_INITIAL_CONTACT_KEY, at_ns, "the peer authenticated anew and holds no other SA")


@dataclass(frozen=True, slots=True)
class Verdict:
    """An SA is condemned: by which proof, after which hints, and how long it took.

    `first_suspicion_ns` is the time of the first hint of this episode (or of the proof itself).
    """

    proof: Proof
    hints: tuple[Hint, ...]
    first_suspicion_ns: int

    @property
    def took_s(self) -> float:
        """Seconds from the first suspicion to the proof."""
        return (self.proof.at_ns - self.first_suspicion_ns) / 1e9

    def evidence(self) -> list[str]:
        """The evidence as lines for logs and reports, oldest first."""
        lines = [f"{h.kind} from {h.source}" + (f": {h.detail}" if h.detail else "") for h in self.hints]
        lines.append(f"{self.proof.kind}: {self.proof.detail}")
        return lines
