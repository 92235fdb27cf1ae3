"""What must survive a crash: the boot counter, the SPI key and the generations of the token secret.

It is one small value in the state directory. Every start raises the boot counter and stores it durably
before anything else happens, so that no two lives of a gateway share an epoch.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from itertools import pairwise
from struct import Struct

from deadpeer.cluster.spi import KEY_SIZE, lives_since
from deadpeer.crypto import Entropy
from deadpeer.store import Store

STATE_NAME = "boot"
"""Under which name the state is kept."""

MAX_GENERATIONS = 4
"""The current secret and up to three older ones (RFC 6290 section 4.4, PROTOCOLS: four tokens)."""

SECRET_SIZE = 32


class StateError(Exception):
    """State on disk can't be used. `problem` says what is wrong, `remedy` what a person can do."""

    def __init__(self, name: str, problem: str, remedy: str) -> None:
        super().__init__(f"state '{name}': {problem}; {remedy}")
        self.name = name
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of QCD_TOKEN_SECRET. Numbers begin at 1 and only grow."""

    number: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BootState:
    """`epoch` counts boots from 1. `generations`: newest first, 1 to 4."""

    epoch: int
    spi_key: bytes = field(repr=False)
    generations: tuple[Generation, ...]

    @property
    def current(self) -> Generation:
        """The generation that new tokens are made with."""
        return self.generations[0]

    @property
    def doomed(self) -> int | None:
        """The number of the generation that the next rotation would drop, if it would drop one."""
        return self.generations[-1].number if len(self.generations) == MAX_GENERATIONS else None

    def has(self, generation: int) -> bool:
        """Whether tokens of this generation can still be made."""
        return any(g.number == generation for g in self.generations)

    def boots_since(self, spi_epoch: int) -> int | None:
        """How many boots ago an SPI's epoch (20 bits) was; 0: this one; None: it has not come yet."""
        return lives_since(self.epoch, spi_epoch)

    def rotated(self, secret: bytes) -> BootState:
        """The state with a new current secret (32 octets); the oldest of four generations goes."""
        new = Generation(self.current.number + 1, secret)
        return replace(self, generations=(new, *self.generations)[:MAX_GENERATIONS])


def start(store: Store, entropy: Entropy) -> BootState:
    """Begin a new life: load the state (or make it on the first start), raise the epoch, store it.

    Raises StateError for a state that is there but damaged: going on with a fresh secret would leave
    every peer with tokens that nobody can verify. Raises OSError from the store.
    """
    data = store.get(STATE_NAME)
    if data is None:
        state = BootState(1, entropy.octets(KEY_SIZE), (Generation(1, entropy.octets(SECRET_SIZE)),))
    else:
        state = decode(data)
        state = replace(state, epoch=state.epoch + 1)
    store.put(STATE_NAME, encode(state))
    return state


def encode(state: BootState) -> bytes:
    """The octets of a state: magic and version, epoch, SPI key, generations, SHA-256 of all before."""
    body = _HEAD.pack(_MAGIC, _VERSION, len(state.generations), state.epoch, state.spi_key)
    body += b"".join(_GENERATION.pack(g.number, g.secret) for g in state.generations)
    return body + hashlib.sha256(body).digest()


def decode(data: bytes) -> BootState:
    """The state in these octets. Raises StateError if they are damaged or of another version."""
    if len(data) < _HEAD.size + _DIGEST_SIZE:
        raise _damaged(f"only {len(data)} octets")
    body, digest = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
    magic, version, count, epoch, spi_key = _HEAD.unpack_from(body)
    if magic != _MAGIC:
        raise _damaged("not a boot state of deadpeer")
    if not hmac.compare_digest(hashlib.sha256(body).digest(), digest):
        raise _damaged("the checksum is wrong")
    if version != _VERSION:
        raise StateError(STATE_NAME, f"version {version}, not {_VERSION}", "run the deadpeer that wrote it")
    if not 1 <= count <= MAX_GENERATIONS or len(body) != _HEAD.size + count * _GENERATION.size:
        raise _damaged(f"{len(data)} octets for {count} generations")
    generations = tuple(Generation(*each) for each in _GENERATION.iter_unpack(body[_HEAD.size :]))
    if epoch < 1 or any(a.number <= b.number for a, b in pairwise(generations)):
        raise _damaged("epoch or generations out of order")
    return BootState(epoch, spi_key, generations)


_MAGIC = b"DPBOOT"
_VERSION = 1
_DIGEST_SIZE = 32

# magic, version, number of generations, epoch, SPI key
_HEAD = Struct(f"!6sBBQ{KEY_SIZE}s")
# number, secret
_GENERATION = Struct(f"!Q{SECRET_SIZE}s")


def _damaged(problem: str) -> StateError:
    return StateError(
        STATE_NAME,
        f"damaged ({problem})",
        "restore it from a backup, or delete it: then peers notice a crash only by liveness, not by token",
    )
