"""Answers to first messages that lead to nothing, unprotected and stateless, at a limited rate.

Cookies and INVALID_KE_PAYLOAD are no refusals: they are what an honest peer goes on with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deadpeer.rates import Bucket, BucketTable, Rate, source_key, useful_size
from deadpeer.values import Datagram, Now
from deadpeer.wire import ExchangeType, Header, Message, Notify, NotifyType, encode_message

if TYPE_CHECKING:
    from deadpeer.ike.environment import Environment

PER_SOURCE = Rate(4.0, 8.0)
TOTAL = Rate(100.0, 200.0)


class Refusals:
    """How many there are, per source address and in total: the source may be forged."""

    def __init__(self) -> None:
        self._total = Bucket(0, TOTAL)
        self._sources = BucketTable(useful_size(PER_SOURCE, TOTAL))

    def __len__(self) -> int:
        return len(self._sources)

    def allow(self, now_ns: int, host: str) -> bool:
        """Whether to answer this source once more."""
        source = source_key(host)
        if not self._sources.has(now_ns, source, PER_SOURCE) or not self._total.take(now_ns, TOTAL):
            return False
        self._sources.take(now_ns, source, PER_SOURCE)
        return True


def refuse(env: Environment, now: Now, message: Message, to: Datagram, notify: Notify, why: str) -> None:
    """Answer an IKE_SA_INIT request that leads to nothing with one notify."""
    if _allowed(env, now, to):
        reply(env, message, to, notify, why)


def reply(env: Environment, message: Message, to: Datagram, notify: Notify, why: str) -> None:
    """Answer an IKE_SA_INIT request with one notify, after which the initiator goes on."""
    env.drop(why)
    answer = Message(message.spi_i, bytes(8), message.exchange, message.message_id, False, True, (notify,))
    env.transmit(encode_message(answer), to.local, to.remote, f"refusal: {why}")


def other_version(env: Environment, now: Now, header: Header, to: Datagram) -> None:
    """RFC 7296 section 2.5: a request of a later major version is told ours; nothing else is said."""
    env.drop("other major version")
    if header.major < 3 or header.is_response or not _allowed(env, now, to):
        return
    answer = Message(
        header.spi_i, header.spi_r, header.exchange, header.message_id,
        not header.from_initiator, True, (Notify(NotifyType.INVALID_MAJOR_VERSION),),
    )  # fmt: skip
    env.transmit(encode_message(answer), to.local, to.remote, "refusal: other major version")


def critical(env: Environment, now: Now, header: Header, to: Datagram, payload_type: int) -> None:
    """RFC 7296 section 2.5, for IKE_SA_INIT; a protected message says it protected (in `IkeSa`)."""
    env.drop("unsupported critical payload")
    if header.exchange != ExchangeType.IKE_SA_INIT or header.is_response or not _allowed(env, now, to):
        return
    notify = Notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, bytes([payload_type]))
    answer = Message(header.spi_i, bytes(8), header.exchange, header.message_id, False, True, (notify,))
    env.transmit(encode_message(answer), to.local, to.remote, "refusal: unsupported critical payload")


def _allowed(env: Environment, now: Now, to: Datagram) -> bool:
    allowed = env.refusals.allow(now.mono_ns, to.remote.host)
    if not allowed:
        # The message itself is counted already, as dropped for its own reason: each has one end.
        env.count("refusal limited")
    return allowed
