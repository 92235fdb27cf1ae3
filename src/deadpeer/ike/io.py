"""Inputs and outputs of the endpoint. `handle(now, input)`, then `poll()` until None, then `deadline()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from deadpeer.ike.connection import Connection
from deadpeer.plane.model import PlaneOp, PlaneReport
from deadpeer.values import Datagram

Level = Literal["debug", "info", "notice", "warning"]
Field = str | int | float | bool | None | list[str]


@dataclass(frozen=True, slots=True)
class Timeout:
    """The deadline that `deadline()` named has come."""


@dataclass(frozen=True, slots=True)
class Initiate:
    """Bring up a child (all children of the connection if None). `tag` comes back in `CommandDone`."""

    connection: str
    child: str | None = None
    tag: int = 0


@dataclass(frozen=True, slots=True)
class Terminate:
    """Delete the IKE SAs of a connection, or only one child by name."""

    connection: str
    child: str | None = None
    tag: int = 0


@dataclass(frozen=True, slots=True)
class Rekey:
    """Rekey the IKE SAs of a connection (`child` None), or the children of that name."""

    connection: str
    child: str | None = None
    tag: int = 0


@dataclass(frozen=True, slots=True)
class Lose:
    """A fault on purpose: forget, without a word to anybody, the IKE SAs of a connection (all if None) with
    their children, or only the children of that name."""

    connection: str | None = None
    child: str | None = None
    tag: int = 0


@dataclass(frozen=True, slots=True)
class Reload:
    """Use these connections from now on. Living SAs keep what they were made with."""

    connections: tuple[Connection, ...]


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Delete every SA politely; an `Event("shutdown_done")` follows when all have answered."""


@dataclass(frozen=True, slots=True)
class ExtensionCommand:
    """A command for an extension, named by it (for example rotating a secret).

    `argument` is anything that the extension knows and the core does not.
    """

    extension: str
    verb: str
    tag: int = 0
    argument: object = field(default=None, repr=False)


Command = Initiate | Terminate | Rekey | Lose | Reload | Shutdown | ExtensionCommand
Input = Datagram | Timeout | Command | PlaneReport


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this datagram; `reason` names why (for counters and for the tests)."""

    datagram: Datagram
    reason: str


@dataclass(frozen=True, slots=True)
class Plane:
    """Carry out an operation on the data plane."""

    op: PlaneOp


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for logs, `watch` and tests. Never holds a key, a token or a secret."""

    kind: str
    fields: Mapping[str, Field] = field(default_factory=dict)
    level: Level = "info"


@dataclass(frozen=True, slots=True)
class CommandDone:
    """The outcome of a command with a tag; `text` is for a person."""

    tag: int
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Persist:
    """Write `data` durably under `name` in the state directory *before* any output that follows."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Record:
    """Write one record of a table of the ledger, or delete it (`value` None).

    With `durable` it must be on disk before any output that follows; without, it may wait for a batch.
    """

    table: str
    key: bytes
    value: bytes | None = field(repr=False)
    durable: bool = False


@dataclass(frozen=True, slots=True)
class KeyLog:
    """One line of Wireshark's `ikev2_decryption_table` or `esp_sa`; only if the endpoint was told to."""

    table: Literal["ikev2_decryption_table", "esp_sa"]
    line: str = field(repr=False)


Output = Transmit | Plane | Event | CommandDone | Persist | Record | KeyLog
