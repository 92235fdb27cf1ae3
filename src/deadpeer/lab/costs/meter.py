"""How much of the CPU goes into cryptographic primitives, and how often each of them runs.

CPython tells a profile function of every call of a function that is written in C or Rust, before and after.
Those of `cryptography` and of hashlib's OpenSSL are timed; nothing in deadpeer need know. It tells nothing
of constructors, so the names of those that do work (an HMAC, a hash, an AEAD key) are replaced meanwhile, in
deadpeer's modules, by functions that time them. What the timing itself adds to each call is measured at the
start, with a primitive that does nothing, and taken off.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, ModuleType, SimpleNamespace
from typing import Any

import cryptography.hazmat.bindings._rust as rust
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV, ChaCha20Poly1305

from deadpeer.lab.costs.model import Operations

clock_ns = time.thread_time_ns
"""CPU of this thread alone: what other processes take does not count."""

_CONSTRUCTORS: tuple[type, ...] = (hmac.HMAC, hashes.Hash, AESGCM, AESSIV, ChaCha20Poly1305)
_MODULES: tuple[ModuleType, ...] = (hmac, hashes)
_EMPTY_CALLS = 2000


@dataclass(slots=True)
class Tally:
    """Nanoseconds in primitives, and how often each was called, by its qualified name."""

    ns: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)

    def operations(self) -> Operations:
        """The calls in classes that mean something to a cryptographer."""
        return operations(self.calls)


def operations(calls: Counter[str]) -> Operations:
    """Count primitives by what they are. Pure."""

    def ending(*ends: str) -> int:
        return sum(count for name, count in calls.items() if name.endswith(ends))

    return Operations(
        signatures=ending("PrivateKey.sign"),
        verifications=ending("PublicKey.verify"),
        certificates=ending(".verify_directly_issued_by"),
        exchanges=ending(".exchange"),
        macs=ending("HMAC.finalize"),
        seals=sum(
            ending(f"{kind.__name__}.encrypt", f"{kind.__name__}.decrypt")
            for kind in (AESGCM, AESSIV, ChaCha20Poly1305)
        ),
    )


class Meter:
    """While `running`, what primitives take is added to the tally that `into` names; None: to nobody's."""

    def __init__(self) -> None:
        self.into: Tally | None = None
        self._functions = frozenset(id(f) for f in _functions(rust))
        self._depth = 0
        self._begun_ns = 0
        self._overhead_ns = 0.0
        self._overhead_ns = self._calibrate()

    @property
    def overhead_ns(self) -> float:
        """What is taken off for each call."""
        return self._overhead_ns

    @contextmanager
    def running(self) -> Iterator[None]:
        """Meter this thread."""
        patched = list(_patch(self._timed))
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            for module, name, value in patched:
                setattr(module, name, value)

    def _profile(self, frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call":
            if self._is_primitive(what):
                self._enter()
        elif event in ("c_return", "c_exception") and self._is_primitive(what):
            self._leave(what.__qualname__)

    def _is_primitive(self, what: Any) -> bool:
        if id(what) in self._functions:
            return True
        module = type(what.__self__).__module__
        return (
            module.startswith(("cryptography.hazmat.bindings", "_hashlib")) or what.__module__ == "_hashlib"
        )

    def _enter(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._begun_ns = clock_ns()

    def _leave(self, name: str) -> None:
        ended_ns = clock_ns()
        self._depth -= 1
        if self._depth == 0 and self.into is not None:
            self.into.ns += max(0.0, ended_ns - self._begun_ns - self._overhead_ns)
            self.into.calls[name] += 1

    def _timed(self, make: type) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._enter()
            try:
                return make(*args, **kwargs)
            finally:
                self._leave(make.__name__)

        return timed

    def _calibrate(self) -> float:
        """Nanoseconds that an empty primitive seems to take."""
        update = hashes.Hash(hashes.SHA256()).update
        empty: list[float] = []
        sys.setprofile(self._profile)
        for _ in range(_EMPTY_CALLS):
            self.into = Tally()
            update(b"")
            empty.append(self.into.ns)
        sys.setprofile(None)
        self.into = None
        return statistics.median(empty)


def _functions(module: ModuleType) -> Iterator[Any]:
    """The functions of the library's Rust module and of the modules in it."""
    for value in vars(module).values():
        if isinstance(value, ModuleType) and value is not module:
            yield from _functions(value)
        elif callable(value) and not isinstance(value, type):
            yield value


def _patch(timed: Callable[[type], Callable[..., Any]]) -> Iterator[tuple[ModuleType, str, Any]]:
    """Replace the names of constructors in deadpeer's modules; yields what is to be put back."""
    timers: dict[type, Callable[..., Any]] = {kind: timed(kind) for kind in _CONSTRUCTORS}
    stand_ins = {module.__name__: _stand_in(module, timers) for module in _MODULES}
    for module in [m for name, m in sys.modules.items() if name.startswith("deadpeer.")]:
        if module.__name__.startswith("deadpeer.lab."):
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in timers:
                setattr(module, name, timers[value])
            elif isinstance(value, ModuleType) and value in _MODULES:
                setattr(module, name, stand_ins[value.__name__])
            else:
                continue
            yield module, name, value


def _stand_in(module: ModuleType, timers: dict[type, Callable[..., Any]]) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            name: timers[value] if isinstance(value, type) and value in timers else value
            for name, value in vars(module).items()
            if not name.startswith("__")
        }
    )
