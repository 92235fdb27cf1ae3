"""The token taker: what it keeps, and how it judges the news of strangers."""

from dataclasses import replace

import pytest
from tests.crash.fakes import ALICE, BOB, MALLORY, FakeSa, Gateway, at, connection

from deadpeer.crash.evidence import TokenMatch
from deadpeer.crash.options import Roles
from deadpeer.ike.extension import PeerNotifies, SaClosed, Slot
from deadpeer.store import MemoryStore
from deadpeer.values import Address
from deadpeer.wire import ExchangeType, Message, Notify, NotifyType, Payload

TOKEN = b"the token of Bob"
SPI_OUT = 0x2222_2222


def gateway(roles: Roles = "both", token: bytes | None = TOKEN) -> tuple[Gateway, FakeSa]:
    """Alice, with an SA with Bob and his token, a request of hers in flight."""
    config = connection(roles=roles)
    alice = Gateway(MemoryStore(), config)
    sa = FakeSa(1, config, True, b"i" * 8, b"r" * 8, ALICE, BOB, request_in_flight=True)
    alice.core.sas.append(sa)
    if token is not None:
        give(alice, sa, token)
    return alice, sa


def give(
    alice: Gateway, sa: FakeSa, token: bytes, slot: Slot = Slot.AUTH, *, protocol: int = 1, seconds: float = 0
) -> None:
    notifies = (
        Notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED),
        Notify(NotifyType.QCD_TOKEN, token, protocol),
    )
    alice.signal(at(seconds), PeerNotifies(sa, slot, notifies))


def no_such_sa(*tokens: bytes, protocol: int = 1) -> Message:
    """What Bob says to a request for an SA that he lost."""
    payloads: tuple[Payload, ...] = (
        Notify(NotifyType.INVALID_IKE_SPI),
        *(Notify(NotifyType.QCD_TOKEN, token, protocol) for token in tokens),
    )
    return Message(b"i" * 8, b"r" * 8, ExchangeType.INFORMATIONAL, 5, False, True, payloads)


def no_such_child(*tokens: bytes, spi: bytes = b"\x22" * 4, spi_i: bytes = bytes(8)) -> Message:
    """What Bob says to an ESP packet with an SPI that he lost."""
    payloads: tuple[Payload, ...] = (
        Notify(NotifyType.INVALID_SPI, spi),
        *(Notify(NotifyType.QCD_TOKEN, token, 1) for token in tokens),
    )
    return Message(spi_i, spi_i, ExchangeType.INFORMATIONAL, 0, True, False, payloads)


# --- keeping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", ["both", "maker", "taker", "off"])
@pytest.mark.parametrize("slot", list(Slot))
def test_who_keeps_a_token(roles: Roles, slot: Slot) -> None:
    alice, sa = gateway(roles, token=None)
    give(alice, sa, TOKEN, slot)
    wanted = roles in ("both", "taker") and slot in (Slot.AUTH, Slot.IKE_REKEY, Slot.INFORMATIONAL)
    assert alice.taker.holds(sa) is wanted
    assert ("token_received" in alice.core.kinds()) is wanted


@pytest.mark.parametrize("protocol", [0, 1])
@pytest.mark.parametrize("size", [16, 64, 128])
def test_tokens_as_others_make_them(size: int, protocol: int) -> None:
    alice, sa = gateway(token=None)
    give(alice, sa, b"t" * size, protocol=protocol)
    alice.news(at(1), no_such_sa(b"t" * size, protocol=protocol), BOB)
    assert len(alice.core.condemned) == 1


@pytest.mark.parametrize("size", [0, 15, 129])
def test_tokens_of_wrong_size_are_not_kept_and_do_not_replace(size: int) -> None:
    alice, sa = gateway()
    give(alice, sa, b"t" * size, Slot.INFORMATIONAL)
    assert alice.core.counts["token_malformed"] == 1
    alice.news(at(1), no_such_sa(TOKEN), BOB)
    assert len(alice.core.condemned) == 1


def test_a_gratuitous_token_replaces_the_one_before() -> None:
    alice, sa = gateway()
    give(alice, sa, b"n" * 16, Slot.INFORMATIONAL)
    alice.news(at(1), no_such_sa(TOKEN), BOB)
    assert alice.core.condemned == []
    alice.news(at(1), no_such_sa(b"n" * 16), BOB)
    assert len(alice.core.condemned) == 1


def test_the_token_goes_with_the_sa() -> None:
    alice, sa = gateway()
    alice.signal(at(1), SaClosed(sa, "deleted"))
    assert not alice.taker.holds(sa)
    assert alice.taker.counters() == {"qcd.tokens_held": 0}


# --- a proof --------------------------------------------------------------------------------------


# Alice                                     Bob, who lost everything
#   INFORMATIONAL request            -->
#                                    <--    N(INVALID_IKE_SPI), N(QCD_TOKEN) x 4
#   verdict; nothing is sent
@pytest.mark.parametrize("position", range(4))
def test_any_of_four_tokens_condemns(position: int) -> None:
    alice, sa = gateway()
    tokens = [bytes([n]) * 16 for n in range(4)]
    tokens[position] = TOKEN
    alice.news(at(1), no_such_sa(*tokens), BOB)
    [(number, verdict)] = alice.core.condemned
    assert number == sa.number
    assert isinstance(verdict.proof, TokenMatch)
    assert alice.core.informs == []
    assert alice.core.probes == []


# Alice                                     Bob, who lost everything but his SPI map
#   ESP                              -->
#                                    <--    N(INVALID_SPI), N(QCD_TOKEN), header SPIs whatever
def test_tokens_with_invalid_spi_condemn_the_sa_of_the_outbound_child() -> None:
    for header_spi in (bytes(8), b"zzzzzzzz"):
        alice, sa = gateway()
        sa.request_in_flight = False
        alice.news(at(1), no_such_child(TOKEN, spi_i=header_spi), BOB)
        assert [number for number, _ in alice.core.condemned] == [1]


# Alice                                     Bob, who died while he rekeyed the child
#                                    <--    N(INVALID_SPI) of the child before, N(QCD_TOKEN), header SPIs
def test_tokens_for_a_child_that_is_gone_condemn_the_sa_that_the_header_names() -> None:
    def news(*tokens: bytes) -> Message:
        return replace(no_such_child(*tokens, spi=b"\x33" * 4), spi_i=b"i" * 8, spi_r=b"r" * 8)

    for tokens, source, condemned in (
        ((TOKEN,), BOB, [1]),
        ((b"x" * 16, TOKEN), BOB, [1]),
        ((TOKEN,), MALLORY, []),
        ((b"x" * 16,), BOB, []),
        ((), BOB, []),
    ):
        alice, _ = gateway()
        alice.news(at(1), news(*tokens), source)
        assert [number for number, _ in alice.core.condemned] == condemned
        assert alice.core.probes == []


def test_the_evidence_of_a_verdict_has_the_hints_before_it() -> None:
    alice, sa = gateway()
    sa.request_in_flight = False
    alice.news(at(1), no_such_child(), BOB)
    assert sa.request_in_flight
    alice.news(at(1.1), no_such_sa(TOKEN), BOB)
    [(_, verdict)] = alice.core.condemned
    assert [h.kind for h in verdict.hints] == ["invalid-spi"]
    assert verdict.took_s == pytest.approx(0.1)
    assert verdict.evidence() == [
        "invalid-spi from 198.51.100.2:4500: 22222222",
        "qcd-token: token 1 of 1 from 198.51.100.2:4500 is the one that the peer gave us 1.1 s before",
    ]


# --- no proof -------------------------------------------------------------------------------------


def test_a_mismatch_sends_nothing_keeps_the_sa_and_is_told_at_a_limited_rate() -> None:
    alice, sa = gateway()
    for n in range(100):
        alice.news(at(n / 1000), no_such_sa(b"x" * 16, b"y" * 128), BOB)
        alice.news(at(n / 1000), no_such_child(b"x" * 16), BOB)
    assert alice.core.sas == [sa]
    assert alice.core.probes == alice.core.informs == alice.core.answers == alice.core.condemned == []
    assert alice.core.counts["token_mismatch"] == 200
    assert alice.core.kinds().count("token_mismatch") == 5


@pytest.mark.parametrize("roles", ["both", "maker", "off"])
def test_without_a_token_of_the_peer_tokens_are_a_hint(roles: Roles) -> None:
    alice, _ = gateway(roles, token=None)
    alice.news(at(1), no_such_sa(TOKEN), BOB)
    assert alice.core.condemned == []
    assert alice.core.probes == [(1, "invalid-ike-spi")]


def test_plain_errors_are_hints_at_a_limited_rate() -> None:
    alice, _ = gateway()
    for n in range(1000):
        alice.news(at(n / 100), no_such_sa(), BOB)
        alice.news(at(n / 100), no_such_child(), BOB)
    assert alice.core.condemned == []
    assert len(alice.core.probes) <= 3 + 10


@pytest.mark.parametrize(
    ("counted", "message", "source", "in_flight"),
    [
        ("news.other_address", no_such_sa(TOKEN), MALLORY, True),
        ("news.other_address", no_such_sa(TOKEN), BOB._replace(port=4501), True),
        ("news.no_request", no_such_sa(TOKEN), BOB, False),
        ("news.no_sa", no_such_child(TOKEN), MALLORY, True),
        ("news.no_sa", no_such_child(TOKEN, spi=b"\x33" * 4), BOB, True),
        ("news.no_sa", no_such_child(TOKEN, spi=b"\x22" * 3), BOB, True),
        ("news.no_sa", no_such_child(TOKEN, spi=b""), BOB, True),
    ],
)
def test_news_that_matches_no_living_sa_is_ignored(
    counted: str, message: Message, source: Address, in_flight: bool
) -> None:
    alice, sa = gateway()
    sa.request_in_flight = in_flight
    alice.news(at(1), message, source)
    assert alice.core.counts[counted] == 1
    assert alice.core.condemned == alice.core.probes == []


def test_news_of_an_unknown_or_replaced_sa_is_ignored() -> None:
    alice, sa = gateway()
    sa.established = False
    alice.news(at(1), no_such_sa(TOKEN), BOB)
    alice.news(at(1), no_such_child(TOKEN), BOB)
    alice.core.sas.clear()
    alice.news(at(1), no_such_sa(TOKEN), BOB)
    assert alice.core.counts["news.no_sa"] == 3
    assert alice.core.condemned == []


@pytest.mark.parametrize(
    "type_", [NotifyType.AUTHENTICATION_FAILED, NotifyType.QCD_TOKEN, NotifyType.INVALID_SPI]
)
def test_other_unprotected_messages_are_ignored(type_: NotifyType) -> None:
    """A token alone, an unprotected error, INVALID_SPI in a response: none says what it must say."""
    alice, _ = gateway()
    payloads = (Notify(type_, TOKEN, 1 if type_ is NotifyType.QCD_TOKEN else 0),)
    alice.news(at(1), Message(b"i" * 8, b"r" * 8, 37, 5, False, True, payloads), BOB)
    assert alice.core.counts["news.other"] == 1
    assert alice.core.condemned == alice.core.probes == []


def test_no_token_in_events() -> None:
    alice, sa = gateway()
    give(alice, sa, b"n" * 16, Slot.INFORMATIONAL)
    alice.news(at(1), no_such_sa(TOKEN), BOB)
    alice.news(at(1), no_such_sa(b"n" * 16), BOB)
    text = repr(alice.core.events) + repr(alice.core.condemned[0][1].evidence())
    for token in (TOKEN, b"n" * 16):
        assert token.hex() not in text
        assert repr(token)[2:-1] not in text
    assert TOKEN.decode() not in repr(alice.taker._tokens)
