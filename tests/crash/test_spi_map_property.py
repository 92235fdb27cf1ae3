"""Random lives of two gateways: the map says what lives, and no token of it ever leaves in the clear."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.pair import Pair, Sent, child_config, host_selector

from deadpeer.crash.spi_records import TABLE, decode_record
from deadpeer.crash.tokens import MakerRole
from deadpeer.ike.io import ExtensionCommand, Initiate, Rekey, Terminate
from deadpeer.plane.model import UnknownSpi
from deadpeer.values import Address
from deadpeer.wire import NotifyType, WireError, decode_message

SIDES = ("alice", "bob")
CHILDREN = (
    child_config("net"),
    child_config("two", local_ts=(host_selector("10.10.1.2"),), remote_ts=(host_selector("10.10.2.2"),)),
)

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["up", "rekey child", "rekey ike", "down child", "down", "crash", "rotate", "loss", "ask", "send"]
        ),
        st.sampled_from(SIDES),
        st.sampled_from([0.0, 0.011, 0.031, 0.5, 3.0, 70.0]),
        st.integers(0, 1),
    ),
    max_size=14,
)


class Watch:
    """Looks at each datagram as it leaves: whoever shows a token says that the pair of SPIs is dead."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.tokens = 0
        self.lossy = False
        pair.drop_rule = self

    def __call__(self, sent: Sent) -> bool:
        if sent.reason in ("invalid spi", "announcement", "invalid ike spi"):
            self._look(sent)
        return self.lossy

    def _look(self, sent: Sent) -> None:
        octets = sent.datagram.payload
        try:
            message = decode_message(octets.removeprefix(bytes(4)) if octets[:4] == bytes(4) else octets)
        except WireError:
            return
        if message.protected is not None or not message.notifies(NotifyType.QCD_TOKEN):
            return
        self.tokens += 1
        core = self.pair.side(sent.sender).ike
        assert not core.alive(message.spi_i)
        assert not core.alive(message.spi_r)
        for notify in message.notifies(NotifyType.INVALID_SPI):
            assert core.find_by_inbound(int.from_bytes(notify.data, "big")) is None


def living(pair: Pair, name: str) -> dict[int, tuple[bytes, bytes, MakerRole]]:
    """What a side's map must say about what lives: our inbound SPI, the pair, and our role."""
    return {
        child.spi_in: (sa.spi_i, sa.spi_r, MakerRole.INITIATOR if sa.initiator else MakerRole.RESPONDER)
        for sa in pair.side(name).ike.views()
        for child in sa.child_views
    }


def check(pair: Pair) -> None:
    for name in SIDES:
        side = pair.side(name)
        kept = {}
        for key, data in side.ledger.items(TABLE):
            record = decode_record(data)
            assert record is not None
            kept[int.from_bytes(key, "big")] = (record.spi_i, record.spi_r, record.role)
        alive = living(pair, name)
        assert {spi: kept.get(spi) for spi in alive} == alive
        sizes = side.ike.sizes()
        assert sizes["spi_map.living"] == len(alive)
        assert sizes["spi_map.ended"] == len(kept) - len(alive)
        for spi, (spi_i, spi_r, _) in kept.items():
            if spi not in alive:
                assert not side.ike.alive(spi_i)
                assert not side.ike.alive(spi_r)


def ask_about_everything(pair: Pair, name: str) -> None:
    """ESP packets with every SPI that a side has or had come to it, from its peer and from a stranger."""
    side, other = pair.side(name), pair.alice if name == "bob" else pair.bob
    for key, _ in list(side.ledger.items(TABLE)):
        spi = int.from_bytes(key, "big")
        if side.ike.find_by_inbound(spi) is None:
            for source in (Address(other.host, 4500), Address("203.0.113.66", 31337)):
                pair.feed(name, UnknownSpi(spi, 120, Address(side.host, 4500), source))


def perform(pair: Pair, watch: Watch, what: str, who: str, which: int) -> None:
    child = CHILDREN[which].name
    match what:
        case "up":
            pair.feed(who, Initiate("home", child))
        case "rekey child":
            pair.feed(who, Rekey("home", child))
        case "rekey ike":
            pair.feed(who, Rekey("home", None))
        case "down child":
            pair.feed(who, Terminate("home", child))
        case "down":
            pair.feed(who, Terminate("home", None))
        case "crash":
            pair.crash(who)
            pair.boot(who)
        case "rotate":
            pair.feed(who, ExtensionCommand("qcd", "rotate"))
        case "loss":
            watch.lossy = not watch.lossy
        case "ask":
            ask_about_everything(pair, who)
        case "send":
            number = which + 1
            pair.send("alice", f"10.10.1.{number}", f"10.10.2.{number}")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPERATIONS)
def test_the_map_says_what_lives_and_never_shows_its_token(
    operations: list[tuple[str, str, float, int]],
) -> None:
    pair = Pair.with_psk(children=CHILDREN)
    watch = Watch(pair)
    pair.feed("alice", Initiate("home", "net"))
    for what, who, pause_s, which in operations:
        perform(pair, watch, what, who, which)
        pair.run(pause_s)
        check(pair)
    watch.lossy = False
    for name in SIDES:
        ask_about_everything(pair, name)
    pair.run(200)
    check(pair)


def test_the_watch_sees_the_tokens_that_there_are() -> None:
    pair = Pair.with_psk(children=CHILDREN)
    watch = Watch(pair)
    pair.up()
    pair.crash("bob")
    pair.boot("bob")
    ask_about_everything(pair, "bob")
    pair.run(1.0)
    assert watch.tokens >= 2
