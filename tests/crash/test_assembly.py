"""Real endpoints wired by `build_endpoint`, real ESP, virtual time: crashes from beginning to end."""

import pytest
from tests.crash.fakes import protected_request
from tests.support.pair import Pair

from deadpeer.crash import boot
from deadpeer.crash.boot import StateError
from deadpeer.crash.options import Method, PolicyOptions, QcdOptions, Roles, TokenMethod
from deadpeer.ike.io import ExtensionCommand, Rekey
from deadpeer.plane.memory import MemoryHost
from deadpeer.plane.model import RemoveChild
from deadpeer.values import Address, Datagram
from deadpeer.wire import ExchangeType, add_marker

RTT_S = 0.1
MALLORY = Address("203.0.113.66", 31337)


def tunnel(**both: object) -> Pair:
    pair = Pair.with_psk(both=both, latency_s=RTT_S / 2)
    pair.up()
    assert pair.ping()
    return pair


def qcd(roles: Roles) -> dict[str, object]:
    return {"extensions": (QcdOptions(roles), PolicyOptions((Method.QCD, Method.LIVENESS)))}


def verdicts(pair: Pair, name: str = "alice") -> list[str]:
    return [str(e.fields["proof"]) for _, e in pair.side(name).events if e.kind == "verdict"]


def when(pair: Pair, kind: str, name: str = "alice") -> int:
    return next(at_ns for at_ns, e in reversed(pair.side(name).events) if e.kind == kind)


def traffic(pair: Pair, seconds: float, every_s: float = 0.01) -> None:
    for _ in range(round(seconds / every_s)):
        pair.send("alice")
        pair.run(every_s)


def reboot(pair: Pair, name: str = "bob", down_s: float = 1.0) -> int:
    """Crash and boot, with traffic all the while. Returns when it could answer again (ns)."""
    pair.crash(name)
    traffic(pair, down_s)
    pair.boot(name)
    return pair.mono_ns


# Alice                                    Bob
#   ESP every 10 ms                         +   crash, one second down, boot
#                                      <--  N(INVALID_SPI)
#   SK{}                               -->
#                                      <--  N(INVALID_IKE_SPI), N(QCD_TOKEN)
#   IKE_SA_INIT, IKE_AUTH, ESP         <->
@pytest.mark.parametrize("method", ["spi", "spi-address"])
def test_traffic_flows_again_within_the_bounds(method: TokenMethod) -> None:
    pair = tunnel(extensions=(QcdOptions(method=method),))
    back_ns = reboot(pair)
    before = len(pair.alice.behind.received)
    traffic(pair, 1.0)
    assert verdicts(pair) == ["qcd-token"]
    assert (when(pair, "verdict") - back_ns) / 1e9 <= 1.5 * RTT_S + 0.01
    assert (when(pair, "child_up") - back_ns) / 1e9 <= 3.5 * RTT_S + 0.01
    assert len(pair.alice.behind.received) > before
    assert pair.ping()


def test_alice_s_crash_is_found_by_bob() -> None:
    pair = tunnel()
    reboot(pair, "alice", down_s=0.1)
    for _ in range(100):
        pair.send("bob", "10.10.2.1", "10.10.1.1")
        pair.run(0.01)
    assert verdicts(pair, "bob") == ["qcd-token"]
    assert pair.ping()


@pytest.mark.parametrize("rekeyed_by", ["alice", "bob"])
@pytest.mark.parametrize("crashed", ["alice", "bob"])
def test_a_crash_after_an_ike_rekey(rekeyed_by: str, crashed: str) -> None:
    pair = tunnel()
    pair.feed(rekeyed_by, Rekey("home"))
    pair.settle()
    assert "ike_sa_rekeyed" in pair.side(rekeyed_by).kinds()
    pair.crash(crashed)
    pair.boot(crashed)
    other, args = ("bob", ("10.10.2.1", "10.10.1.1")) if crashed == "alice" else ("alice", ())
    for _ in range(60):
        pair.send(other, *args)
        pair.run(0.01)
    assert verdicts(pair, other) == ["qcd-token"]


@pytest.mark.parametrize(
    ("alice", "bob", "proved"),
    [("taker", "maker", True), ("both", "both", True), ("maker", "both", False), ("both", "taker", False)],
)
def test_roles(alice: Roles, bob: Roles, proved: bool) -> None:
    pair = Pair.with_psk(alice=qcd(alice), bob=qcd(bob), latency_s=RTT_S / 2)
    pair.up()
    reboot(pair)
    traffic(pair, 1.0)
    assert verdicts(pair) == (["qcd-token"] if proved else [])
    assert pair.ping() is proved


def rotate(pair: Pair, name: str, tag: int) -> str:
    pair.feed(name, ExtensionCommand("qcd", "rotate", tag))
    pair.settle()
    return pair.side(name).done[tag].text


def test_four_rotations_renew_the_token_and_a_crash_is_still_found() -> None:
    pair = tunnel()
    texts = [rotate(pair, "bob", tag) for tag in range(100, 104)]
    assert texts[-1] == "generation 5 is current, 3 older kept"
    assert pair.alice.kinds().count("token_received") == 2
    stored = boot.decode(pair.bob.store.get("boot") or b"")
    assert [g.number for g in stored.generations] == [5, 4, 3, 2]
    reboot(pair)
    traffic(pair, 0.5)
    assert verdicts(pair) == ["qcd-token"]


def test_a_peer_that_moved_gets_a_new_address_bound_token() -> None:
    """What the core signals when a NAT mapping changes; the address in the token is today's."""
    pair = tunnel(extensions=(QcdOptions(method="spi-address"),))
    [sa] = pair.bob.ike.views()
    sa.move(pair.now, sa.local, Address("192.0.2.77", sa.remote.port))
    pair.feed("bob", ExtensionCommand("none", "drain"))
    assert pair.bob.kinds().count("token_sent") == 2


# Mallory                                        Bob, whose SA with Alice lives
#   every order of SPIs, either flag       -->     not a word
def test_mallory_gets_nothing_about_a_living_sa() -> None:
    pair = tunnel()
    [sa] = pair.bob.ike.views()
    before = len(pair.trace)
    for spis in (
        (sa.spi_i, sa.spi_r),
        (sa.spi_r, sa.spi_i),
        (sa.spi_i, b"whatever"),
        (b"whatever", sa.spi_r),
    ):
        for flag in (True, False):
            for exchange in (ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA):
                request = protected_request(*spis, from_initiator=flag, exchange=exchange)
                pair.inject(Datagram(add_marker(request), MALLORY, Address(pair.bob.host, 4500)))
    assert [s for s in pair.trace[before:] if s.sender == "bob"] == []
    assert pair.ping()


# Bob loses one child (his data plane was reset), the IKE SA lives
#   ESP                                -->
#                                      <--  SK{ N(INVALID_SPI) }
#   CREATE_CHILD_SA                    <->   traffic again, the IKE SA is the same
def test_a_lost_child_alone_is_replaced_inside_the_ike_sa() -> None:
    pair = tunnel()
    [sa] = pair.bob.ike.views()
    [child] = sa.child_views
    assert pair.bob.engine is not None
    pair.bob.engine.apply(pair.mono_ns, RemoveChild(child.number))
    traffic(pair, 2.0)
    assert verdicts(pair) == []
    assert [v.number for v in pair.bob.ike.views()] == [sa.number]
    assert pair.ping()


def test_a_flap_of_forty_seconds_does_not_end_the_tunnel() -> None:
    pair = tunnel(dpd_timeout_s=20.0, **qcd("both"))
    pair.drop_rule = lambda sent: True
    traffic(pair, 40.0, every_s=0.2)
    pair.drop_rule = lambda sent: False
    pair.run(15.0)
    assert pair.ping()
    assert verdicts(pair) == verdicts(pair, "bob") == []


def test_after_a_flap_reconnect_moves_the_traffic_and_never_breaks_before_it_makes() -> None:
    pair = tunnel(dpd_timeout_s=20.0)
    pair.drop_rule = lambda sent: True
    traffic(pair, 40.0, every_s=0.2)
    assert pair.ike_sas()[0] >= 1
    assert verdicts(pair) == verdicts(pair, "bob") == []
    pair.drop_rule = lambda sent: False
    traffic(pair, 2.0, every_s=0.2)
    assert pair.ping()
    assert set(verdicts(pair)) <= {"replaced"}
    assert verdicts(pair, "bob") == []


def test_a_peer_that_is_gone_is_condemned_after_the_floor_and_not_before() -> None:
    pair = tunnel(dpd_timeout_s=20.0, dpd_floor_s=30.0)
    gone_ns = pair.mono_ns
    pair.crash("bob")
    traffic(pair, 29.0, every_s=0.2)
    assert verdicts(pair) == []
    traffic(pair, 40.0, every_s=0.2)
    assert verdicts(pair)[:1] == ["liveness"]
    first = next(at for at, e in pair.alice.events if e.kind == "verdict")
    assert (first - gone_ns) / 1e9 >= 30.0
    pair.boot("bob")
    traffic(pair, 5.0, every_s=0.1)
    assert pair.ping()


def test_silence_starts_the_check_and_an_answer_ends_it() -> None:
    """Traffic that goes one way by nature: the peer is asked, ever less often."""
    pair = tunnel()
    pair.bob.behind = MemoryHost()
    traffic(pair, 60.0, every_s=0.05)
    probes = [s for s in pair.trace if s.sender == "alice" and s.reason == "silence"]
    assert 3 <= len(probes) <= 9
    assert verdicts(pair) == []


def test_damaged_state_keeps_the_gateway_from_starting() -> None:
    pair = tunnel()
    pair.bob.store.put("boot", (pair.bob.store.get("boot") or b"")[:-1])
    pair.crash("bob")
    with pytest.raises(StateError, match="state 'boot': damaged"):
        pair.boot("bob")


def test_no_token_or_secret_in_any_event() -> None:
    pair = tunnel()
    reboot(pair)
    traffic(pair, 0.5)
    for side in (pair.alice, pair.bob):
        state = boot.decode(side.store.get("boot") or b"")
        text = repr(side.events)
        for generation in state.generations:
            assert generation.secret.hex() not in text
            assert repr(generation.secret) not in text
