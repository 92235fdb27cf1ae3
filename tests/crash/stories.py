"""What the stories of SIR and reconnect share: a crash with traffic, its times, and Mallory on the path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.support.pair import Pair, Sent

from deadpeer.crash import boot
from deadpeer.crash.options import Method, PolicyOptions, QcdOptions, SirOptions, SirRole
from deadpeer.crash.sir_wire import Check, Subject, Verb, decode, encode
from deadpeer.crash.tokens import MakerRole, make_token, token_notify
from deadpeer.ike.io import Event
from deadpeer.values import Address, Datagram
from deadpeer.wire import (
    NON_ESP_MARKER,
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    decode_message,
    encode_message,
)

LATENCY_S = 0.050
RTT_S = 2 * LATENCY_S
ALICE = Address("192.0.2.1", 4500)
BOB = Address("192.0.2.2", 4500)
MALLORY = Address("203.0.113.66", 4500)


def methods(*chosen: Method, sir: SirRole = "auto") -> dict[str, object]:
    """Fields of a connection that uses these methods and no other."""
    qcd = QcdOptions("both" if Method.QCD in chosen else "off")
    return {"extensions": (qcd, SirOptions(sir), PolicyOptions(chosen))}


SIR = methods(Method.SIR, Method.LIVENESS)
RECONNECT = methods(Method.RECONNECT, Method.LIVENESS, sir="off")


def pair_of(both: dict[str, object], **more: object) -> Pair:
    """A tunnel that is up, with a measured round trip time."""
    pair = Pair.with_psk(**{"latency_s": LATENCY_S, "both": both, **more})  # type: ignore[arg-type]
    pair.up()
    traffic(pair, 0.5)
    return pair


def traffic(
    pair: Pair, seconds: float, every_s: float = 0.005, *, until: Callable[[], bool] | None = None
) -> None:
    """Alice's host sends an echo request every `every_s`, for so long, or `until` something holds."""
    for seq in range(int(seconds / every_s)):
        if until is not None and until():
            return
        pair.send("alice", seq=seq & 0xFFFF)
        pair.run(every_s)


@dataclass(frozen=True)
class Recovery:
    """Times in seconds after Bob was back: the verdict, the first echo that made the round trip."""

    detect_s: float
    recover_s: float
    verdict: Event

    @property
    def proof(self) -> object:
        return self.verdict.fields["proof"]


def crash_and_recover(pair: Pair, down_s: float = 1.0, limit_s: float = 6.0) -> Recovery:
    """Bob crashes, is down for so long, and comes back, while Alice's host sends all the time."""
    pair.crash("bob")
    traffic(pair, down_s)
    back = pair.mono_ns
    pair.boot("bob")
    traffic(pair, pair.latency_s + 0.005)  # what was under way before the crash does not count
    heard = len(pair.alice.behind.received)
    traffic(pair, limit_s, until=lambda: len(pair.alice.behind.received) > heard)
    recovered = pair.mono_ns
    traffic(pair, 1.0)
    assert len(pair.alice.behind.received) > heard, "no echo came back"
    at, verdict = next((at, e) for at, e in pair.alice.events if e.kind == "verdict")
    return Recovery((at - back) / 1e9, (recovered - back) / 1e9, verdict)


def verdicts(pair: Pair) -> list[object]:
    """Alice's verdicts, by proof."""
    return [e.fields["proof"] for _, e in pair.alice.events if e.kind == "verdict"]


def rebuilds(pair: Pair) -> int:
    """How many new SAs Alice has begun beside another."""
    return pair.alice.kinds().count("rebuild")


def sent(pair: Pair, reason: str, sender: str = "alice") -> int:
    """How many datagrams were sent for this reason."""
    return pair.reasons(sender).count(reason)


# --- Mallory ----------------------------------------------------------------------------------------


def to_alice(message: Message, source: Address = BOB) -> Datagram:
    """An unprotected message to Alice's port 4500, as from `source`."""
    return Datagram(NON_ESP_MARKER + encode_message(message), source, ALICE)


def invalid_spi(pair: Pair) -> Message:
    """A forged N(INVALID_SPI) about the SPI that Alice sends with."""
    [sa] = [sa for sa in pair.alice.ike.views() if sa.established]
    spi = sa.child_views[-1].spi_out.to_bytes(4, "big")
    notify = Notify(NotifyType.INVALID_SPI, spi)
    return Message(bytes(8), bytes(8), ExchangeType.INFORMATIONAL, 0, True, False, (notify,))


def denial(pair: Pair) -> Message:
    """A forged N(INVALID_IKE_SPI), which needs the SPIs and no more."""
    [sa] = [sa for sa in pair.alice.ike.views() if sa.established]
    error = Notify(NotifyType.INVALID_IKE_SPI)
    return Message(sa.spi_i, sa.spi_r, ExchangeType.INFORMATIONAL, 0, False, True, (error,))


def with_tokens(message: Message, *tokens: bytes) -> Message:
    """The same message, with N(QCD_TOKEN)s."""
    return replace(message, payloads=(*message.payloads, *map(token_notify, tokens)))


def token_of(pair: Pair, maker: str = "bob") -> bytes:
    """The token that a side's peer holds, as only that side can make it."""
    [sa] = [sa for sa in pair.side(maker).ike.views() if sa.established]
    state = pair.side(maker).store.get(boot.STATE_NAME)
    assert state is not None
    role = MakerRole.INITIATOR if sa.initiator else MakerRole.RESPONDER
    return make_token(boot.decode(state).current.secret, role, sa.spi_i, sa.spi_r)


def unharmed(pair: Pair, number: int) -> None:
    """The SA that Alice had is there, alone, and carries traffic."""
    assert verdicts(pair) == []
    assert "verdict" not in pair.bob.kinds()
    assert [sa.number for sa in pair.alice.ike.views()] == [number]
    assert pair.ping()


def check_of(datagram: Datagram) -> Check:
    """The CHECK_SPI in a datagram."""
    check = decode(decode_message(datagram.payload.removeprefix(NON_ESP_MARKER)))
    assert check is not None
    return check


def nack(query: Check, cookie: bytes | None = None) -> Message:
    """Bob's denial, made by somebody who saw the query (or who guesses the cookie)."""
    return encode(Check(Verb.NACK, query.subject, query.cookie if cookie is None else cookie, False))


def nack_blind(pair: Pair, cookie: bytes) -> Message:
    """Bob's denial, made by somebody who knows the SPIs and not the query."""
    [sa] = [sa for sa in pair.alice.ike.views() if sa.established]
    return encode(Check(Verb.NACK, Subject.ike(sa.spi_i, sa.spi_r), cookie, False))


@dataclass
class Mallory:
    """On the path between Alice and Bob: sees all, answers each query with NACK, drops what he is told."""

    pair: Pair
    drops: Sequence[str] = ()
    """Reasons of Bob's datagrams that he keeps from Alice."""
    forges: bool = True
    seen: list[Datagram] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pair.drop_rule = self.rule

    def rule(self, sent: Sent) -> bool:
        if sent.reason == "CHECK_SPI query":
            self.seen.append(sent.datagram)
            if self.forges:
                # As fast as Bob's own answer, at least.
                self.pair._fly(to_alice(nack(check_of(sent.datagram))), 2 * self.pair.latency_s - 0.001)
        return sent.sender == "bob" and sent.reason in self.drops


def suspect(pair: Pair) -> None:
    """A forged hint reaches Alice."""
    pair.inject(to_alice(invalid_spi(pair)))
