"""Token maths and the proofs: what makes a token another one, and who can make a Proof."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crash.boot import Generation
from deadpeer.crash.evidence import LivenessExhausted, TokenMatch
from deadpeer.crash.options import QcdOptions, Roles
from deadpeer.crash.tokens import MakerRole, make_token, recompute, token_notify, token_of
from deadpeer.ike.evidence import Proof
from deadpeer.wire import Notify, NotifyType

SECRET = b"\x42" * 32
SPI_I, SPI_R = b"iiiiiiii", b"rrrrrrrr"
S = 1_000_000_000


def test_a_token_is_the_documented_hmac() -> None:
    expected = hmac.new(SECRET, b"\0" + SPI_I + SPI_R, hashlib.sha256).digest()[:16]
    assert make_token(SECRET, MakerRole.RESPONDER, SPI_I, SPI_R) == expected
    bound = hmac.new(SECRET, b"\1" + SPI_I + SPI_R + bytes([192, 0, 2, 1]), hashlib.sha256).digest()[:16]
    assert make_token(SECRET, MakerRole.INITIATOR, SPI_I, SPI_R, "192.0.2.1") == bound
    v6 = bytes.fromhex("20010db8000000000000000000000001")
    bound = hmac.new(SECRET, b"\1" + SPI_I + SPI_R + v6, hashlib.sha256).digest()[:16]
    assert make_token(SECRET, MakerRole.INITIATOR, SPI_I, SPI_R, "2001:db8::1") == bound


def test_secret_role_spis_and_address_all_count() -> None:
    tokens = {
        make_token(SECRET, MakerRole.RESPONDER, SPI_I, SPI_R),
        make_token(b"\x43" * 32, MakerRole.RESPONDER, SPI_I, SPI_R),
        make_token(SECRET, MakerRole.INITIATOR, SPI_I, SPI_R),
        make_token(SECRET, MakerRole.RESPONDER, SPI_R, SPI_I),
        make_token(SECRET, MakerRole.RESPONDER, SPI_I, b"rrrrrrrs"),
        make_token(SECRET, MakerRole.RESPONDER, SPI_I, SPI_R, "192.0.2.1"),
        make_token(SECRET, MakerRole.RESPONDER, SPI_I, SPI_R, "192.0.2.2"),
        make_token(SECRET, MakerRole.RESPONDER, SPI_I, SPI_R, "2001:db8::1"),
    }
    assert len(tokens) == 8


def test_recompute_gives_newest_first_and_at_most_four() -> None:
    generations = [Generation(n, bytes([n]) * 32) for n in (9, 8, 7, 6)]

    def token(n: int, taker: str | None) -> bytes:
        return make_token(bytes([n]) * 32, MakerRole.RESPONDER, SPI_I, SPI_R, taker)

    def ask(*methods: str) -> list[bytes]:
        return recompute(generations, set(methods), MakerRole.RESPONDER, SPI_I, SPI_R, "192.0.2.1")  # type: ignore[arg-type]

    assert ask("spi") == [token(n, None) for n in (9, 8, 7, 6)]
    assert ask("spi-address") == [token(n, "192.0.2.1") for n in (9, 8, 7, 6)]
    assert ask("spi", "spi-address") == [
        token(9, None),
        token(9, "192.0.2.1"),
        token(8, None),
        token(8, "192.0.2.1"),
    ]
    assert ask() == []


@pytest.mark.parametrize("protocol", [0, 1])
@given(st.binary(min_size=16, max_size=128))
def test_valid_tokens_are_taken_whole(protocol: int, token: bytes) -> None:
    assert token_of(Notify(NotifyType.QCD_TOKEN, token, protocol)) == token


@pytest.mark.parametrize(
    "notify",
    [
        Notify(NotifyType.QCD_TOKEN, bytes(15), 1),
        Notify(NotifyType.QCD_TOKEN, bytes(129), 1),
        Notify(NotifyType.QCD_TOKEN, bytes(16), 3),
        Notify(NotifyType.QCD_TOKEN, bytes(16), 1, bytes(8)),
        Notify(NotifyType.COOKIE, bytes(16), 1),
    ],
)
def test_others_are_not_tokens(notify: Notify) -> None:
    assert token_of(notify) is None


def test_our_notify_is_as_the_rfc_has_it() -> None:
    notify = token_notify(bytes(16))
    assert (notify.type, notify.protocol, notify.spi) == (16419, 1, b"")


@pytest.mark.parametrize(
    ("roles", "makes", "takes"),
    [("both", True, True), ("maker", True, False), ("taker", False, True), ("off", False, False)],
)
def test_roles(roles: Roles, makes: bool, takes: bool) -> None:
    qcd = QcdOptions(roles)
    assert (qcd.makes, qcd.takes) == (makes, takes)


# --- proofs ---------------------------------------------------------------------------------------


def match(stored: bytes, *presented: bytes) -> TokenMatch | None:
    return TokenMatch.check(at_ns=9 * S, stored=stored, since_ns=2 * S, presented=presented, source="bob")


def test_any_of_four_tokens_proves_and_the_detail_shows_none() -> None:
    tokens = [bytes([n]) * 16 for n in range(1, 5)]
    for n, token in enumerate(tokens, 1):
        proof = match(token, *tokens)
        assert proof is not None
        assert proof.kind == "qcd-token"
        assert proof.at_ns == 9 * S
        assert f"token {n} of 4 from bob" in proof.detail
        assert "7.0 s before" in proof.detail
        assert token.hex() not in proof.detail


def test_no_match_no_proof() -> None:
    assert match(b"a" * 16) is None
    assert match(b"a" * 16, b"b" * 16, b"a" * 15, b"a" * 17) is None
    assert match(b"", b"") is None


def test_work_per_message_is_bounded_at_eight() -> None:
    wrong = [bytes([n]) * 16 for n in range(8)]
    assert match(b"z" * 16, *wrong[:7], b"z" * 16) is not None
    assert match(b"z" * 16, *wrong, b"z" * 16) is None


def exhausted(
    *, sent: float = 0, heard: float = 0, now: float = 60, attempts: int = 5
) -> LivenessExhausted | None:
    return LivenessExhausted.check(
        at_ns=int(now * S),
        first_sent_ns=int(sent * S),
        last_heard_ns=int(heard * S),
        attempts=attempts,
        floor_s=60,
    )


def test_liveness_is_exhausted_only_after_the_floor_and_repeated_attempts() -> None:
    proof = exhausted()
    assert proof is not None
    assert "5 attempts in 60.0 s" in proof.detail
    assert exhausted(now=59.9) is None
    assert exhausted(now=70, sent=11) is None  # first sent too late
    assert exhausted(now=70, heard=11) is None  # heard of in between
    assert exhausted(now=600, attempts=2) is None  # the machine slept


@pytest.mark.parametrize("kind", [TokenMatch, LivenessExhausted])
def test_a_proof_cant_be_made_directly(kind: type[Proof]) -> None:
    for key in (None, object(), kind):
        with pytest.raises(TypeError, match="checks it"):
            kind(key, 0, "believe me")
    with pytest.raises(TypeError, match="checks it"):
        Proof(None, 0, "believe me")
