"""What the tests of the SPI map share: traffic, a crash of Bob, and what he said and kept."""

from __future__ import annotations

from tests.support.pair import Pair, Side

from deadpeer.crash.options import CrashOptions, QcdOptions, TokenMethod
from deadpeer.crash.spi_records import TABLE, SpiRecord, decode_record
from deadpeer.plane.model import UnknownSpi
from deadpeer.values import Address
from deadpeer.wire import Message, NotifyType, decode_message

SILENT = CrashOptions(announce=False)


def traffic(pair: Pair, seconds: float, every_s: float = 0.010) -> None:
    """Alice's host sends an echo request every `every_s`."""
    for seq in range(int(seconds / every_s)):
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


def seconds_to(pair: Pair, kind: str, since_ns: int) -> float:
    """From `since_ns` to Alice's next event of that kind."""
    return next(at - since_ns for at, e in pair.alice.events if e.kind == kind and at >= since_ns) / 1e9


def records(side: Side) -> dict[int, SpiRecord]:
    """What the side's ledger holds."""
    found = {int.from_bytes(key, "big"): decode_record(data) for key, data in side.ledger.items(TABLE)}
    return {spi: record for spi, record in found.items() if record is not None}


def shown(pair: Pair, since: int = 0) -> list[Message]:
    """The unprotected INVALID_SPI messages of Bob, from this place of the trace on."""
    found = []
    for sent in pair.trace[since:]:
        if sent.sender == "bob" and sent.reason in ("invalid spi", "announcement"):
            message = decode_message(sent.datagram.payload.removeprefix(bytes(4)))
            if message.protected is None:
                found.append(message)
    return found


def tokens(messages: list[Message]) -> int:
    """How many tokens there are in them."""
    return sum(len(message.notifies(NotifyType.QCD_TOKEN)) for message in messages)


def reboot_bob(pair: Pair, down_s: float = 1.0) -> int:
    """Bob crashes under traffic and comes back; returns when."""
    pair.crash("bob")
    traffic(pair, down_s)
    pair.boot("bob")
    return pair.mono_ns


def ask(pair: Pair, spi: int, octets: int, source: Address | None = None) -> None:
    """An ESP packet of this SPI comes to Bob."""
    remote = source or Address(pair.alice.host, 4500)
    pair.feed("bob", UnknownSpi(spi, octets, Address(pair.bob.host, 4500), remote))


def crashed_before(method: TokenMethod = "spi") -> tuple[Pair, int]:
    """Bob is back, and nobody has found out yet."""
    pair = Pair.with_psk(options=SILENT, both={"extensions": (QcdOptions(method=method),)})
    pair.up()
    [spi] = records(pair.bob)
    pair.crash("bob")
    pair.boot("bob")
    return pair, spi
