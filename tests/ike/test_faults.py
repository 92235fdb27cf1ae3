"""SAs that vanish from a gateway that lives on: it says nothing, and the peer finds out all the same."""

from __future__ import annotations

import pytest
from tests.support.pair import Pair, child_config, host_selector

from deadpeer.ike.io import Lose, Rekey, Shutdown


def lost(pair: Pair, command: Lose) -> str:
    """Bob loses something; he says nothing to anybody. What he answers."""
    sent, events = len(pair.trace), len(pair.bob.events)
    pair.feed("bob", command)
    assert len(pair.trace) == sent
    assert len(pair.bob.events) == events
    done = pair.bob.done[command.tag]
    assert done.ok, done.text
    return done.text


def traffic(pair: Pair, seconds: float = 2.0) -> None:
    for seq in range(int(seconds / 0.01)):
        pair.send("alice", seq=seq)
        pair.run(0.01)


@pytest.mark.parametrize("connection", ["home", None])
def test_a_lost_ike_sa_is_proved_by_a_token_though_the_process_lives(connection: str | None) -> None:
    """
    Alice                              Bob (lost the IKE SA, has not restarted)
      ESP                    ────────▶
                             ◀────────  N(INVALID_SPI)
      INFORMATIONAL          ────────▶
                             ◀────────  N(INVALID_IKE_SPI), N(QCD_TOKEN)
    """
    pair = Pair.with_psk()
    pair.up()
    assert lost(pair, Lose(connection, tag=7)) == "1 IKE SA(s) with 1 child SA(s) lost"
    assert pair.bob.ike.sizes()["ike_sas"] == 0
    traffic(pair)
    verdict = pair.alice.last("verdict")
    assert verdict.fields["proof"] == "qcd-token"
    assert pair.ping()
    assert pair.bob.boots == 1
    assert pair.bob.ike.sizes()["ike_sas"] == 1


def test_a_lost_child_is_replaced_without_a_verdict() -> None:
    pair = Pair.with_psk()
    pair.up()
    assert lost(pair, Lose("home", "net", tag=7)) == "1 child SA(s) lost"
    traffic(pair)
    assert "verdict" not in pair.alice.kinds()
    assert pair.alice.last("child_down").fields["reason"] == "the peer does not know its SPI"
    assert pair.ping()
    assert pair.bob.ike.sizes()["child_sas"] == 1


def test_only_the_child_that_is_named_is_lost() -> None:
    there = (host_selector("10.10.3.1"),)
    pair = Pair.with_psk(children=[child_config("net"), child_config("other", remote_ts=there)])
    pair.up()
    assert pair.bob.ike.sizes()["child_sas"] == 2
    assert lost(pair, Lose(None, "other", tag=7)) == "1 child SA(s) lost"
    assert pair.bob.ike.sizes()["child_sas"] == 1


def test_a_rekeying_under_way_is_lost_with_its_sas() -> None:
    """Nothing of the SPIs that were offered stays behind, so that the peer can be told the truth."""
    pair = Pair.with_psk()
    pair.up()
    pair.hold()
    pair.feed("bob", Rekey("home", None, 5))
    pair.feed("bob", Lose("home", tag=7))
    assert not pair.bob.done[5].ok
    assert pair.bob.done[7].ok
    pair.release()
    traffic(pair, 3.0)
    # Alice's side of the rekeying is done: the SA that she has now came without a token.
    assert pair.alice.last("verdict").fields["proof"] == "replaced"
    assert pair.ping()


def test_nothing_to_lose_is_said() -> None:
    pair = Pair.with_psk()
    pair.feed("bob", Lose("home", tag=7))
    assert (pair.bob.done[7].ok, pair.bob.done[7].text) == (False, "no IKE SA is up")
    pair.feed("bob", Lose("home", "net", tag=8))
    assert (pair.bob.done[8].ok, pair.bob.done[8].text) == (False, "no child SA net is up")


def test_a_stop_after_a_loss_has_nobody_to_say_goodbye_to() -> None:
    pair = Pair.with_psk()
    pair.up()
    lost(pair, Lose(tag=7))
    pair.feed("bob", Shutdown())
    assert pair.bob.kinds()[-1] == "shutdown_done"
