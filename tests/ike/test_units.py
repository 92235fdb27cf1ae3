"""The small parts: timers, windows, cookies, round trip times, matching of connections, tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.invariants import check_one_tunnel
from tests.support.pair import Pair, child_config, connection

from deadpeer.crypto import SeededEntropy
from deadpeer.ike.connection import Connection
from deadpeer.ike.cookie import CookieJar
from deadpeer.ike.io import Initiate, Rekey
from deadpeer.ike.matching import connections_for, local_host
from deadpeer.ike.rtt import INITIAL_RTO_S, MAX_RTO_S, RttEstimator, interval_s
from deadpeer.ike.timers import TimerQueue
from deadpeer.ike.window import MAX_MESSAGE_ID, REKEY_MESSAGE_ID, Arrival, RecvWindow, SendWindow
from deadpeer.values import Address, Now

# --- timers --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 50), st.booleans())))
def test_timers_fire_in_order_each_once_the_last_armed_counts(
    steps: list[tuple[str, str, int, bool]],
) -> None:
    queue, model, fired = TimerQueue(), {}, []
    for owner, reason, at, cancel in steps:
        if cancel:
            queue.cancel(owner, reason)
            model.pop((owner, reason), None)
        else:
            queue.arm(owner, reason, at, lambda now, k=(owner, reason): fired.append((now.mono_ns, k)))  # type: ignore[misc]
            model[owner, reason] = at
        assert len(queue) == len(model)
        assert queue.armed(owner, reason) == model.get((owner, reason))
    while (deadline := queue.next()) is not None:
        assert deadline.at_ns == min(model.values())
        due = {k for k, at in model.items() if at <= deadline.at_ns}
        already = len(fired)
        queue.fire(Now(deadline.at_ns, 0.0))
        assert {k for _, k in fired[already:]} == due
        assert len(fired) - already == len(due)
        for k in due:
            del model[k]
    assert not model


def test_a_callback_may_arm_and_cancel() -> None:
    queue, seen = TimerQueue(), []

    def first(now: Now) -> None:
        seen.append("first")
        queue.cancel("me", "second")
        queue.arm("me", "third", now.mono_ns, lambda t: seen.append("third"))

    queue.arm("me", "first", 1, first)
    queue.arm("me", "second", 2, lambda t: seen.append("second"))
    assert queue.fire(Now(5, 0.0)) == 2
    assert seen == ["first", "third"]


def test_all_timers_of_an_owner_can_be_cancelled() -> None:
    queue = TimerQueue()
    for reason in "xyz":
        queue.arm("me", reason, 1, lambda t: None)
    queue.arm("you", "x", 2, lambda t: None)
    queue.cancel_all("me")
    deadline = queue.next()
    assert deadline is not None
    assert (len(queue), deadline.at_ns, deadline.reason) == (1, 2, "x")


def test_timers_that_are_put_off_for_ever_do_not_pile_up() -> None:
    queue = TimerQueue()
    for at in range(100_000):
        queue.arm("me", "idle", 1_000_000 + at, lambda t: None)
    assert len(queue._heap) < 200


# --- windows -------------------------------------------------------------------------------------------


def test_one_request_at_a_time_with_ids_in_order() -> None:
    window = SendWindow()
    for expected in range(5):
        assert window.room
        assert window.open((b"request",), 7).message_id == expected
        assert not window.room
        with pytest.raises(RuntimeError):
            window.open((b"another",), 8)
        assert window.awaits(expected)
        assert not window.awaits(expected + 1)
        assert not window.awaits(expected - 1)
        window.close()
        assert not window.awaits(expected)


@given(st.lists(st.integers(0, 6), max_size=60))
def test_each_request_is_new_once_and_the_last_can_be_repeated(ids: list[int]) -> None:
    window, answered = RecvWindow(), []
    for message_id in ids:
        request = b"request %d" % message_id
        arrival = window.classify(message_id)
        done = len(answered)
        if message_id == done:
            assert arrival is Arrival.NEW
            window.record(request, (b"response %d" % message_id,))
            answered.append(message_id)
        elif done and message_id == done - 1:
            assert arrival is Arrival.REPEATED
            assert window.stored(request) == (b"response %d" % message_id,)
            assert window.stored(request + b"!") == ()
        else:
            assert arrival is (Arrival.STALE if message_id < done else Arrival.AHEAD)
    assert answered == list(range(len(answered)))


def test_an_ike_sa_is_replaced_before_its_message_ids_are_used_up() -> None:
    pair = Pair.with_psk(both={"dpd_delay_s": 0.0})
    pair.up()
    (hers,), (his,) = pair.alice.ike.views(), pair.bob.ike.views()
    hers.send.next_id = his.recv.next_id = REKEY_MESSAGE_ID - 1
    pair.feed("alice", Rekey("home", "net", 9))
    pair.run(10.0)
    assert pair.alice.kinds().count("ike_sa_rekeyed") == 1
    check_one_tunnel(pair)


def test_used_up_message_ids_end_the_ike_sa_and_another_follows() -> None:
    pair = Pair.with_psk(children=[child_config(close_action="start")], both={"dpd_delay_s": 0.0})
    pair.up()
    (hers,), (his,) = pair.alice.ike.views(), pair.bob.ike.views()
    hers.send.next_id = his.recv.next_id = MAX_MESSAGE_ID
    pair.feed("alice", Rekey("home", "net", 8))
    pair.run(10.0)
    assert pair.alice.kinds().count("ike_sa_down") == 1
    assert pair.ping()


# --- cookies -------------------------------------------------------------------------------------------

SOURCE = Address("192.0.2.1", 500)


def at(seconds: float) -> Now:
    return Now(int(seconds * 1e9), 0.0)


def test_a_cookie_is_good_for_whom_it_was_made_and_for_one_to_two_minutes() -> None:
    jar = CookieJar(SeededEntropy(b"cookies"))
    cookie = jar.make(at(100), b"nonce", b"i" * 8, SOURCE)
    assert 1 <= len(cookie) <= 64
    assert jar.check(at(159), cookie, b"nonce", b"i" * 8, SOURCE)
    assert jar.check(at(161), cookie, b"nonce", b"i" * 8, SOURCE)
    assert not jar.check(at(161), cookie, b"other", b"i" * 8, SOURCE)
    assert not jar.check(at(161), cookie, b"nonce", b"j" * 8, SOURCE)
    assert not jar.check(at(161), cookie, b"nonce", b"i" * 8, Address("192.0.2.9", 500))
    assert not jar.check(at(161), cookie[:-1], b"nonce", b"i" * 8, SOURCE)
    assert not jar.check(at(161), b"", b"nonce", b"i" * 8, SOURCE)
    assert not jar.check(at(222), cookie, b"nonce", b"i" * 8, SOURCE)


def test_no_old_secret_survives_a_long_pause() -> None:
    jar = CookieJar(SeededEntropy(b"cookies"))
    cookie = jar.make(at(0), b"nonce", b"i" * 8, SOURCE)
    assert not jar.check(at(500), cookie, b"nonce", b"i" * 8, SOURCE)
    assert len(jar._secrets) == 1


def test_two_secrets_make_two_cookies() -> None:
    jar = CookieJar(SeededEntropy(b"cookies"))
    made = {jar.make(at(70 * n), b"nonce", b"i" * 8, SOURCE) for n in range(300)}
    assert len(made) == 300
    assert len(jar._secrets) == 2


# --- round trip times ------------------------------------------------------------------------------------


def test_the_first_interval_is_fixed_then_measured() -> None:
    rtt = RttEstimator()
    assert (rtt.smoothed_s, rtt.rto_s) == (None, INITIAL_RTO_S)
    rtt.sample(0.1)
    assert rtt.smoothed_s == 0.1
    assert rtt.rto_s == pytest.approx(0.3)


@given(st.lists(st.floats(1e-5, 5.0), min_size=1, max_size=50))
def test_the_estimate_stays_between_the_samples_and_the_interval_above_it(samples: list[float]) -> None:
    rtt = RttEstimator()
    for sample in samples:
        rtt.sample(sample)
    assert rtt.smoothed_s is not None
    assert min(samples) * 0.999 <= rtt.smoothed_s <= max(samples) * 1.001
    assert min(rtt.smoothed_s + 0.049, MAX_RTO_S) <= rtt.rto_s <= MAX_RTO_S


def test_what_a_setup_took_counts_until_something_better_is_known() -> None:
    """Hundreds set up SAs at once, and each waits for its turn."""
    rtt = RttEstimator(0.02)
    rtt.sample(0.8, of_setup=True)
    rtt.sample(0.9, of_setup=True)
    assert rtt.rto_s > 0.5
    rtt.sample(0.02)
    assert (rtt.smoothed_s, rtt.rto_s) == (0.02, pytest.approx(0.07))
    quiet = RttEstimator()
    for of_setup in (True, True, False):
        quiet.sample(0.1, of_setup=of_setup)
    assert quiet.rto_s < 0.22, "a setup that was not kept waiting has measured the path"


def test_a_steady_path_has_an_interval_just_above_its_round_trip() -> None:
    rtt = RttEstimator()
    for _ in range(100):
        rtt.sample(0.1)
    assert rtt.rto_s == pytest.approx(0.15)


@given(st.floats(0.001, 8.0), st.integers(1, 10_000), st.floats(0.05, 8.0))
def test_intervals_double_up_to_the_cap(rto: float, attempts: int, cap: float) -> None:
    interval = interval_s(rto, attempts, cap)
    assert interval <= cap
    assert interval == min(cap, rto * 2.0 ** min(attempts - 1, 16))


# --- matching ------------------------------------------------------------------------------------------

US, THEM = Address("192.0.2.2", 500), Address("192.0.2.1", 500)


def conn(name: str, local: Iterable[str], remote: Iterable[str]) -> Connection:
    base = connection(name, ("192.0.2.2", "192.0.2.1"), "bob", "alice", ())
    return replace(
        base, local_addrs=tuple(map(ip_network, local)), remote_addrs=tuple(map(ip_network, remote))
    )


def test_the_longest_prefix_of_the_peer_wins_then_ours_then_the_order() -> None:
    anybody = conn("anybody", [], [])
    here = conn("here", ["192.0.2.2"], [])
    net = conn("net", [], ["192.0.2.0/24"])
    one = conn("one", [], ["192.0.2.1"])
    one_here = conn("one here", ["192.0.2.0/24"], ["192.0.2.1", "198.51.100.0/24"])
    twin = conn("twin", [], ["192.0.2.1"])
    other = conn("other", [], ["203.0.113.1"])
    v6 = conn("v6", [], ["2001:db8::/32"])
    elsewhere = conn("elsewhere", ["192.0.2.3"], ["192.0.2.1"])
    everything = [anybody, here, net, one, one_here, twin, other, v6, elsewhere]
    found = [c.name for c in connections_for(everything, US, THEM)]
    assert found == ["one here", "one", "twin", "net", "here", "anybody"]
    assert connections_for(everything, US, Address("2001:db8::1", 500))[0].name == "v6"
    assert connections_for([other], US, THEM) == []


# --- tables --------------------------------------------------------------------------------------------


def test_the_tables_find_an_sa_among_thousands_without_walking_through_them() -> None:
    """Looking up costs the same with 2,000 SAs as with one: it touches none of the others."""
    pair = Pair.with_psk(bob={"remote_addrs": ()})
    pair.up()
    (sa,) = pair.bob.ike.views()
    table = pair.bob.ike._env.table

    class Untouchable(dict):  # type: ignore[type-arg]
        def values(self) -> object:  # type: ignore[override]
            raise AssertionError("somebody walks through all SAs")

        __iter__ = items = values  # type: ignore[assignment]

    table._by_number = Untouchable(table._by_number)
    assert table.with_peer(sa.remote) == [sa]
    assert table.of_connection("home") == [sa]
    assert table.by_outbound(next(iter(sa.children.values())).spi_out, sa.remote.host) is sa
    assert table.find(sa.spi_i, sa.spi_r) is sa
    assert table.alive(sa.peer_spi)
    pair.feed("alice", Rekey("home", "net", 8))
    pair.feed("alice", Rekey("home", None, 9))
    pair.run(10.0)
    pair.feed("alice", Initiate("home", None, 10))
    pair.crash("alice")
    pair.boot("alice")
    pair.up()
    pair.run(2.0)
    assert pair.ping()


OURS = ("192.0.2.1", "198.51.100.7", "2001:db8::7", "198.51.100.8")


@pytest.mark.parametrize(
    ("local_addrs", "remote", "expected"),
    [
        ((), "203.0.113.1", "192.0.2.1"),
        ((), "2001:db8::1", "2001:db8::7"),
        (("198.51.100.8",), "203.0.113.1", "198.51.100.8"),
        (("198.51.100.0/24",), "203.0.113.1", "198.51.100.7"),
        (("198.51.100.8/31", "192.0.2.0/24"), "203.0.113.1", "198.51.100.8"),
        (("203.0.113.0/24", "192.0.2.0/24"), "203.0.113.1", "192.0.2.1"),
        (("203.0.113.0/24",), "203.0.113.1", None),
        (("192.0.2.1", "2001:db8::7"), "2001:db8::1", "2001:db8::7"),
        (("0.0.0.0/0", "::/0"), "2001:db8::1", "2001:db8::7"),
        (("192.0.2.9",), None, "192.0.2.9"),
        (("192.0.2.0/24",), None, None),
        ((), None, None),
    ],
)
def test_we_initiate_from_an_address_that_the_connection_permits(
    local_addrs: tuple[str, ...], remote: str | None, expected: str | None
) -> None:
    base = connection("home", ("192.0.2.1", remote or "192.0.2.2"), "alice", "bob", ())
    chosen = replace(base, local_addrs=tuple(map(ip_network, local_addrs)))
    if remote is None:
        chosen = replace(chosen, remote_addrs=())
    assert local_host(chosen, OURS) == expected
