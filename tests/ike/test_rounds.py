"""The peer dies between IKE_SA_INIT and IKE_AUTH: a new round begins, and what is forged costs little."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from tests.support.invariants import check_no_leaks, check_one_tunnel
from tests.support.pair import Pair, Sent, child_config, host_selector

from deadpeer.crash.options import Method, PolicyOptions, QcdOptions, ResumptionOptions, SirOptions
from deadpeer.ike.attempts import MAX_DENIALS
from deadpeer.ike.connection import EndpointConfig
from deadpeer.ike.io import CommandDone, Initiate, Terminate
from deadpeer.values import Address, Datagram
from deadpeer.wire import (
    NON_ESP_MARKER,
    ExchangeType,
    Message,
    Notify,
    NotifyType,
    decode_header,
    encode_message,
)

AUTH = "IKE_AUTH request"
ANSWER = "IKE_AUTH response"
INIT = "IKE_SA_INIT request"
DENIAL = "invalid ike spi"
AGAIN = ("retransmission", "retransmission: unprotected error")
FAREWELL = "farewell DELETE"
MORE = child_config("more", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),))


def begun(**options: object) -> Pair:
    """Alice's first IKE_AUTH request is held."""
    pair = Pair.with_psk(**options)  # type: ignore[arg-type]
    pair.hold(AUTH)
    pair.feed("alice", Initiate("home", None, 1))
    pair.settle()
    return pair


def restart(pair: Pair, name: str = "bob") -> None:
    """Down and up again, with no time between."""
    pair.crash(name)
    pair.boot(name)


def let_go(pair: Pair) -> None:
    """What is held arrives, and nothing is held any more."""
    pair.hold_rule = lambda sent: False
    pair.release()


def sent(pair: Pair, reason: str, sender: str = "alice") -> int:
    return pair.reasons(sender).count(reason)


def until_up(pair: Pair, limit_s: float = 70.0) -> float:
    """Seconds until a ping makes the round trip; fails after the limit."""
    before, began = len(pair.alice.behind.received), pair.mono_ns
    while pair.mono_ns - began < limit_s * 1e9:
        pair.send("alice")
        pair.run(0.05)
        if len(pair.alice.behind.received) > before:
            return (pair.mono_ns - began) / 1e9
    raise AssertionError("no echo came back")


# --- the peer says that it does not know the SPIs --------------------------------------------------------


@pytest.mark.parametrize("children", [1, 2])
def test_up_succeeds_though_the_peer_restarts_between_its_two_answers(children: int) -> None:
    """
    Alice                            Bob
      IKE_SA_INIT     ──────────▶
                      ◀──────────
                                     (restarts)
      IKE_AUTH        ──────────▶
                      ◀──────────    N(INVALID_IKE_SPI), unprotected: a hint
      IKE_AUTH        ──────────▶    once more
                      ◀──────────    N(INVALID_IKE_SPI)
      IKE_SA_INIT     ──────────▶    a new round
                         ...
    """
    kids = [child_config(), MORE][:children]
    pair = begun(children=kids)
    restart(pair)
    let_go(pair)
    pair.run(1.0)
    assert pair.alice.done[1].ok, pair.alice.done[1].text
    assert sent(pair, INIT) == 2
    assert pair.alice.kinds().count("initiate_again") == 1
    check_one_tunnel(pair, children)


def test_a_late_protected_answer_ends_the_doubt() -> None:
    """Within the retransmission interval: no new round."""
    pair = begun()
    forge(pair)
    let_go(pair)
    pair.run(1.0)
    assert pair.alice.done[1].ok
    assert sent(pair, INIT) == 1
    assert pair.alice.last("hint").fields["detail"] == "INVALID_IKE_SPI"
    check_one_tunnel(pair)


def test_an_answer_that_comes_during_the_new_round_is_taken() -> None:
    """Both rounds live until one has authenticated; here it is the first one."""
    pair = begun()
    pair.hold(AUTH, INIT, *AGAIN)
    forge(pair)
    pair.run(0.5)
    assert pair.alice.kinds().count("initiate_again") == 1
    pair.release(AUTH)
    pair.run(0.5)
    assert pair.alice.done[1].ok
    assert pair.ike_sas() == (1, 1)
    let_go(pair)
    pair.run(40.0)  # what Bob has half open of the second round
    assert sent(pair, INIT) == 2
    check_one_tunnel(pair)


def test_the_round_that_was_too_slow_is_deleted_at_the_peer_too() -> None:
    """Bob authenticated the first one, but his answer was lost on the way."""
    pair = Pair.with_psk(children=[child_config(close_action="start")])
    pair.drop_rule = lambda s: s.reason in (ANSWER, "response again") and sent(pair, INIT) == 1
    pair.feed("alice", Initiate("home", None, 1))
    pair.settle()
    forge(pair)
    pair.run(1.0)
    assert pair.alice.done[1].ok
    assert sent(pair, FAREWELL) == 1
    assert pair.bob.kinds().count("ike_sa_up") == 2
    check_one_tunnel(pair)


@pytest.mark.parametrize(
    "change",
    [
        {"message_id": 2},
        {"exchange": ExchangeType.INFORMATIONAL},
        {"is_response": False},
        {"payloads": (Notify(NotifyType.INVALID_SYNTAX),)},
        {"spi_r": bytes(7) + b"x"},
        {"source": Address("203.0.113.66", 4500)},
        {"source": Address("192.0.2.2", 4501)},
    ],
    ids=str,
)
def test_a_denial_that_fits_not_exactly_is_nothing(change: dict[str, object]) -> None:
    pair = begun()
    before = sent(pair, INIT), pair.reasons("alice").count("retransmission: unprotected error")
    forge(pair, **change)
    pair.run(0.4)
    assert (sent(pair, INIT), sent(pair, "retransmission: unprotected error")) == before
    assert "hint" not in pair.alice.kinds()
    let_go(pair)
    pair.run(1.0)
    assert pair.alice.done[1].ok
    check_one_tunnel(pair)


def test_who_forges_on_the_path_restarts_a_setup_three_times_and_then_only_time_ends_it() -> None:
    pair = Pair.with_psk()
    pair.drop_rule = lambda s: s.sender == "alice" and forge_at_once(pair, s)
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(59.0)
    assert sent(pair, INIT) == 1 + MAX_DENIALS
    assert sent(pair, "retransmission: unprotected error") == MAX_DENIALS
    assert 1 not in pair.alice.done
    pair.run(2.0)
    assert not pair.alice.done[1].ok
    assert "INVALID_IKE_SPI" in pair.alice.done[1].text
    assert pair.alice.ike.sizes()["ike_sas"] == 0
    pair.run(40.0)
    check_no_leaks(pair.alice)


def test_who_forges_but_can_stop_nothing_delays_nothing() -> None:
    """Each IKE_AUTH of Alice's is denied before Bob can answer; she gets on with the answer all the same."""
    pair = Pair.with_psk()
    pair.drop_rule = lambda s: s.sender == "alice" and forge_at_once(pair, s) and False
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(0.05)
    assert pair.alice.done[1].ok
    assert sent(pair, INIT) == 1
    check_one_tunnel(pair)


def test_a_slow_peer_is_waited_for_even_if_somebody_forges() -> None:
    """Bob takes ten seconds for each answer to IKE_AUTH; the forger has used up his three rounds by then."""
    pair = Pair.with_psk()

    def delays(s: Sent) -> Sequence[float]:
        return [10.0] if s.reason in (ANSWER, "response again") else [0.01]

    pair.delays_rule = delays
    pair.drop_rule = lambda s: s.sender == "alice" and forge_at_once(pair, s) and False
    pair.feed("alice", Initiate("home", None, 1))
    pair.run(11.0)
    assert pair.alice.done[1].ok
    pair.run(60.0)
    check_one_tunnel(pair)


def test_initial_contact_is_said_in_the_new_round_and_the_old_one_is_gone() -> None:
    pair = begun(both={"initial_contact": True})
    restart(pair)
    let_go(pair)
    pair.run(1.0)
    assert pair.alice.done[1].ok
    check_one_tunnel(pair)


def test_down_during_the_second_round_closes_both_and_answers_once() -> None:
    pair = begun()
    restart(pair)
    pair.hold(INIT, "retransmission")
    pair.release(AUTH)
    pair.run(0.5)
    assert pair.alice.ike.sizes()["ike_sas"] == 2
    done = pair.alice.done = Answered()
    pair.feed("alice", Terminate("home", None, 2))
    assert sorted(done.tags) == [1, 2]
    assert pair.alice.ike.sizes()["ike_sas"] == 0
    check_no_leaks(pair.alice)


# --- the peer says nothing -------------------------------------------------------------------------------


def quiet_bob(pair: Pair) -> None:
    """From now on he says nothing about SPIs that he does not know, as most daemons do."""
    pair.drop_rule = lambda s: s.sender == "bob" and s.reason in (DENIAL, "invalid spi")


RECONNECT: dict[str, object] = {
    "extensions": (QcdOptions("off"), SirOptions("off"), PolicyOptions((Method.RECONNECT,)))
}
RESUMED: dict[str, object] = {"extensions": (QcdOptions("both"), ResumptionOptions(True))}


def recovering(both: dict[str, object]) -> Pair:
    """Bob has lost his SAs, and Alice's IKE_AUTH to recover is held."""
    pair = Pair.with_psk(both=both)
    pair.up()
    for _ in range(10):
        assert pair.ping()
    restart(pair)
    pair.hold(AUTH, "IKE_AUTH request")
    for _ in range(100):
        pair.send("alice")
        pair.run(0.05)
        if any(s.reason == AUTH for s in pair.held):
            return pair
    raise AssertionError("no recovery")


@pytest.mark.parametrize("says", ["denial", "nothing"])
@pytest.mark.parametrize("both", [{}, RECONNECT, RESUMED], ids=["qcd", "reconnect", "resumed"])
def test_a_recovery_overcomes_that_the_peer_dies_once_more(both: dict[str, object], says: str) -> None:
    pair = recovering(both)
    if says == "nothing":
        quiet_bob(pair)
    restart(pair)
    let_go(pair)
    took = until_up(pair)
    assert took < (1.0 if says == "denial" else 4.0)
    pair.run(40.0)
    check_one_tunnel(pair)


def test_silence_does_not_hurry_a_setup_that_recovers_nothing() -> None:
    """Bob may be asking somebody else; a single `up` has its time."""
    pair = begun(alice_config=EndpointConfig(init_timeout_s=30.0))
    quiet_bob(pair)
    restart(pair)
    let_go(pair)
    pair.run(29.0)
    assert sent(pair, INIT) == 1
    pair.run(2.0)
    assert not pair.alice.done[1].ok


def test_the_patience_doubles_with_each_round_of_a_recovery() -> None:
    """A peer that is busy is not asked for ever more."""
    pair = recovering({})
    began = pair.mono_ns
    times = []
    pair.drop_rule = lambda s: s.reason in (AUTH, "retransmission") and s.sender == "alice"
    pair.held.clear()
    pair.run(50.0)
    times = [(s.at_ns - began) / 1e9 for s in pair.trace if s.reason == INIT and s.at_ns > began]
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert 2.0 <= gaps[0] <= 3.1
    assert all(1.5 <= b / a <= 2.5 for a, b in pairwise(gaps))
    assert len(gaps) == 4


def test_a_forged_answer_to_ike_sa_init_costs_a_recovery_one_round() -> None:
    """
    Alice                         Mallory                     Bob
      IKE_SA_INIT   ──────────────────────────────────────▶
                    ◀──────────   with an SPIr of his own
      IKE_AUTH      ──────────────────────────────────────▶   half open, another SPIr: nothing is said
      IKE_SA_INIT   ──────────────────────────────────────▶   two seconds later
    """
    pair = Pair.with_psk()
    pair.up()
    forged = [0]

    def rule(s: Sent) -> bool:
        if s.reason != "IKE_SA_INIT response" or forged[0]:
            return False
        forged[0] = 1
        octets = bytearray(s.datagram.payload)
        octets[8:16] = b"mallorys"
        pair._fly(Datagram(bytes(octets), s.datagram.local, s.datagram.remote))
        return True

    pair.drop_rule = rule
    restart(pair)
    assert 2.0 < until_up(pair) < 4.0
    assert forged == [1]
    pair.run(40.0)
    check_one_tunnel(pair)


def test_resumed_ike_auth_that_is_lost_is_repeated() -> None:
    """Three losses are no reason to begin anew: only IKE_SESSION_RESUME may be unknown to a peer."""
    pair = recovering(RESUMED)
    lost = [0]

    def rule(s: Sent) -> bool:
        again = s.sender == "alice" and s.reason in (AUTH, "retransmission") and lost[0] < 5
        lost[0] += again
        return again

    pair.drop_rule = rule
    pair.hold_rule = lambda s: False
    pair.held.clear()
    assert until_up(pair) < 2.5
    assert lost[0] == 5
    pair.run(40.0)
    check_one_tunnel(pair)


# --- the peer is away ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [INIT, AUTH])
@pytest.mark.parametrize("away_s", [1.0, 3.0, 10.0, 30.0])
def test_a_setup_goes_on_soon_after_the_peer_is_back(away_s: float, reason: str) -> None:
    """Within a second, or a quarter of the time that it was away."""
    pair = Pair.with_psk(children=[child_config(start_action="trap")])
    pair.drop_rule = lambda s: s.reason == reason
    pair.send("alice")
    pair.settle()
    pair.drop_rule = lambda s: False
    pair.crash("bob")
    pair.run(away_s)
    pair.boot("bob")
    assert until_up(pair) < max(1.0, away_s / 3) + 0.3
    assert sum(s.sender == "alice" and s.reason != "ESP" for s in pair.trace) < 30


# --- helpers ---------------------------------------------------------------------------------------------


def denial(question: Datagram, **change: object) -> Message:
    """What one who sees the IKE_AUTH request makes of it."""
    header = decode_header(question.payload.removeprefix(NON_ESP_MARKER))
    fields: dict[str, object] = {
        "spi_i": header.spi_i,
        "spi_r": header.spi_r,
        "exchange": header.exchange,
        "message_id": header.message_id,
        "from_initiator": False,
        "is_response": True,
        "payloads": (Notify(NotifyType.INVALID_IKE_SPI),),
    }
    return Message(**{**fields, **change})  # type: ignore[arg-type]


def forge(pair: Pair, *, source: object = None, **change: object) -> None:
    """A denial of the last IKE_AUTH request reaches Alice."""
    question = next(s for s in reversed(pair.trace) if s.reason == AUTH).datagram
    payload = NON_ESP_MARKER + encode_message(denial(question, **change))
    pair.inject(Datagram(payload, source if isinstance(source, Address) else question.remote, question.local))


def forge_at_once(pair: Pair, seen: Sent) -> bool:
    """Deny the IKE_AUTH request that passes by. True if it is one."""
    if seen.reason == "ESP":
        return False
    header = decode_header(seen.datagram.payload.removeprefix(NON_ESP_MARKER))
    if header.exchange != ExchangeType.IKE_AUTH:
        return False
    payload = NON_ESP_MARKER + encode_message(denial(seen.datagram))
    pair._fly(Datagram(payload, seen.datagram.remote, seen.datagram.local), 0.001)
    return True


class Answered(dict[int, CommandDone]):
    """Keeps the tags of answered commands, so that one that is answered twice shows."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[int] = []

    def __setitem__(self, tag: int, outcome: CommandDone) -> None:
        self.tags.append(tag)
        super().__setitem__(tag, outcome)
