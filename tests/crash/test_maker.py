"""The token maker: whose messages carry a token, when one is replaced, how the secret rotates."""

from dataclasses import replace

import pytest
from tests.crash.fakes import ALICE, BOB, FakeSa, Gateway, at, connection

from deadpeer.crash import boot
from deadpeer.crash.maker import HANDOVER
from deadpeer.crash.options import CrashOptions, Roles, TokenMethod
from deadpeer.crash.tokens import MakerRole, make_token
from deadpeer.ike.connection import Connection
from deadpeer.ike.extension import (
    AddressChanged,
    RequestAnswered,
    SaClosed,
    SaEstablished,
    SaRekeyed,
    Slot,
)
from deadpeer.store import MemoryStore
from deadpeer.values import Address
from deadpeer.wire import NotifyType

MS = 1_000_000


def gateway(config: Connection, *, renewals_at_once: int = 64) -> Gateway:
    return Gateway(MemoryStore(), config, options=CrashOptions(renewals_at_once=renewals_at_once))


def sa_of(gateway: Gateway, config: Connection, number: int = 1, *, initiator: bool = False) -> FakeSa:
    """An SA of Bob's with Alice, token given in IKE_AUTH."""
    sa = FakeSa(number, config, initiator, _spi_i(number), b"r" * 8, BOB, ALICE)
    gateway.core.sas.append(sa)
    gateway.notifies(at(0), Slot.AUTH, sa, response=not initiator)
    gateway.signal(at(0), SaEstablished(sa))
    return sa


def _spi_i(number: int) -> bytes:
    """Eight times the number, where it is small."""
    return bytes([number]) * 8 if number < 256 else number.to_bytes(8, "big")


def secret(gateway: Gateway) -> bytes:
    return gateway.maker.state.current.secret


def answered(gateway: Gateway, sa: FakeSa, reason: str = HANDOVER) -> None:
    gateway.signal(at(1), RequestAnswered(sa, 100 * MS, False, reason))


def informed(gateway: Gateway) -> list[tuple[int, bytes]]:
    """SA number and token of each INFORMATIONAL that carried one."""
    for _, notifies, reason in gateway.core.informs:
        assert [n.type for n in notifies] == [NotifyType.QCD_TOKEN]
        assert reason == HANDOVER
    return [(number, notifies[0].data) for number, notifies, _ in gateway.core.informs]


def rotations(gateway: Gateway, count: int) -> None:
    for _ in range(count):
        assert gateway.command(at(0), "rotate")


# --- slots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", ["both", "maker", "taker", "off"])
@pytest.mark.parametrize("initiator", [True, False])
@pytest.mark.parametrize("slot", list(Slot))
@pytest.mark.parametrize("response", [True, False])
def test_who_puts_a_token_where(roles: Roles, initiator: bool, slot: Slot, response: bool) -> None:
    """In AUTH both sides, in a rekey its responder only (its initiator can't know the new SPIs yet)."""
    config = connection(roles=roles)
    bob = gateway(config)
    sa = FakeSa(1, config, initiator, b"i" * 8, b"r" * 8, BOB, ALICE)
    notifies = bob.notifies(at(0), slot, sa, response=response)
    if roles in ("both", "maker") and (slot is Slot.AUTH or (slot is Slot.IKE_REKEY and response)):
        role = MakerRole.INITIATOR if initiator else MakerRole.RESPONDER
        assert [n.data for n in notifies] == [make_token(secret(bob), role, b"i" * 8, b"r" * 8)]
        assert notifies[0].protocol == 1
    else:
        assert notifies == ()


def test_the_address_bound_token_holds_the_taker_s_address() -> None:
    config = connection(method="spi-address")
    bob = gateway(config)
    sa = FakeSa(1, config, False, b"i" * 8, b"r" * 8, BOB, Address("2001:db8::7", 4500))
    [notify] = bob.notifies(at(0), Slot.AUTH, sa, response=True)
    assert notify.data == make_token(secret(bob), MakerRole.RESPONDER, b"i" * 8, b"r" * 8, "2001:db8::7")


# Bob                                     Alice
#   CREATE_CHILD_SA (rekey)          -->
#                                    <--   response (her token for the new SPIs)
#   INFORMATIONAL N(QCD_TOKEN)       -->   at once
def test_the_initiator_of_a_rekey_sends_its_token_at_once_after() -> None:
    config = connection()
    bob = gateway(config)
    old = sa_of(bob, config)
    new = FakeSa(2, config, True, b"I" * 8, b"R" * 8, BOB, ALICE)
    bob.signal(at(1), SaRekeyed(old, new, True))
    assert informed(bob) == [(2, make_token(secret(bob), MakerRole.INITIATOR, b"I" * 8, b"R" * 8))]


def test_the_responder_of_a_rekey_has_said_it_in_the_exchange() -> None:
    config = connection()
    bob = gateway(config)
    old = sa_of(bob, config)
    new = FakeSa(2, config, False, b"I" * 8, b"R" * 8, BOB, ALICE)
    assert len(bob.notifies(at(1), Slot.IKE_REKEY, new, response=True)) == 1
    bob.signal(at(1), SaRekeyed(old, new, False))
    assert informed(bob) == []


def test_a_taker_sends_none_after_a_rekey() -> None:
    config = connection(roles="taker")
    bob = gateway(config)
    old = sa_of(bob, config)
    bob.signal(at(1), SaRekeyed(old, replace(old, number=2), True))
    assert informed(bob) == []


# --- the taker moves ------------------------------------------------------------------------------


def test_an_address_bound_token_follows_the_address() -> None:
    config = connection(method="spi-address")
    bob = gateway(config)
    sa = sa_of(bob, config)
    sa.remote = Address("192.0.2.99", 1024)
    bob.signal(at(1), AddressChanged(sa, ALICE))
    expected = make_token(secret(bob), MakerRole.RESPONDER, sa.spi_i, sa.spi_r, "192.0.2.99")
    assert informed(bob) == [(1, expected)]
    answered(bob, sa)
    assert len(informed(bob)) == 1


def test_another_port_or_the_other_method_needs_no_new_token() -> None:
    methods: tuple[TokenMethod, ...] = ("spi-address", "spi")
    for method in methods:
        config = connection(method=method)
        bob = gateway(config)
        sa = sa_of(bob, config)
        sa.remote = ALICE._replace(port=9)
        bob.signal(at(1), AddressChanged(sa, ALICE))
        if method == "spi":
            sa.remote = Address("192.0.2.99", 9)
            bob.signal(at(1), AddressChanged(sa, ALICE))
        assert informed(bob) == []


def test_an_address_that_moved_during_ike_auth_is_noticed() -> None:
    config = connection(method="spi-address")
    bob = gateway(config)
    sa = FakeSa(1, config, True, b"i" * 8, b"r" * 8, BOB, ALICE, established=False)
    bob.notifies(at(0), Slot.AUTH, sa, response=False)
    sa.remote, sa.established = Address("192.0.2.50", 4500), True
    bob.signal(at(0), SaEstablished(sa))
    assert [number for number, _ in informed(bob)] == [1]


# --- rotation -------------------------------------------------------------------------------------


def test_a_rotation_is_stored_before_the_new_secret_is_used() -> None:
    config = connection()
    bob = gateway(config)
    before = secret(bob)
    rotations(bob, 1)
    [(name, data)] = bob.core.persisted
    assert name == boot.STATE_NAME
    stored = boot.decode(data)
    assert stored == bob.maker.state
    assert stored.epoch == bob.state.epoch
    assert [g.number for g in stored.generations] == [2, 1]
    assert stored.generations[1].secret == before != stored.current.secret
    assert bob.core.finished == [(1, True, "generation 2 is current, 1 older kept")]
    assert "secret_rotated" in bob.core.kinds()


def test_three_rotations_need_no_renewal_and_the_fourth_renews_first() -> None:
    config = connection()
    bob = gateway(config)
    sa = sa_of(bob, config)
    rotations(bob, 3)
    assert [g.number for g in bob.maker.generations] == [4, 3, 2, 1]
    assert informed(bob) == []

    # Bob                                    Alice, who holds a token of generation 1
    #   rotate: would drop generation 1
    #   INFORMATIONAL N(QCD_TOKEN, 4)   -->
    #                                   <--  answer: now generation 1 can go
    rotations(bob, 1)
    assert informed(bob) == [(1, make_token(secret(bob), MakerRole.RESPONDER, sa.spi_i, sa.spi_r))]
    assert [g.number for g in bob.maker.generations] == [4, 3, 2, 1]
    assert len(bob.core.finished) == 3

    answered(bob, sa, "some other request")
    assert [g.number for g in bob.maker.generations] == [4, 3, 2, 1]
    answered(bob, sa)
    assert [g.number for g in bob.maker.generations] == [5, 4, 3, 2]
    assert bob.core.finished[-1][:2] == (1, True)
    assert bob.core.order[-2:] == ["inform", "persist"]


def test_a_rotation_that_waits_refuses_another() -> None:
    config = connection()
    bob = gateway(config)
    sa = sa_of(bob, config)
    rotations(bob, 4)
    bob.command(at(1), "rotate", tag=77)
    assert bob.core.finished[-1] == (77, False, "a rotation is waiting for 1 peers to take a new token")
    assert bob.maker.counters()["qcd.rotation_waits_for"] == 1
    answered(bob, sa)
    assert bob.maker.state.current.number == 5


@pytest.mark.parametrize("end", ["closed", "rekeyed"])
def test_an_sa_that_goes_does_not_hold_the_rotation_up(end: str) -> None:
    config = connection()
    bob = gateway(config)
    sa = sa_of(bob, config)
    rotations(bob, 4)
    if end == "closed":
        bob.signal(at(1), SaClosed(sa, "dead"))
    else:
        new = replace(sa, number=2, spi_i=b"I" * 8)
        bob.notifies(at(1), Slot.IKE_REKEY, new, response=True)
        bob.signal(at(1), SaRekeyed(sa, new, False))
    assert bob.maker.state.current.number == 5


def test_only_those_who_need_it_are_renewed_and_not_all_at_once() -> None:
    config = connection()
    bob = gateway(config, renewals_at_once=3)
    old = [sa_of(bob, config, n) for n in range(1, 11)]
    rotations(bob, 1)
    for n in range(11, 15):
        sa_of(bob, config, n)  # hold generation 2
    rotations(bob, 3)
    outstanding: list[int] = []
    done = 0
    while bob.maker.state.current.number == 4:
        sent = [number for number, _ in informed(bob)]
        outstanding = sent[done:]
        assert 0 < len(outstanding) <= 3
        answered(bob, old[sent[done] - 1])
        done += 1
    assert [number for number, _ in informed(bob)] == list(range(1, 11))
    assert done == 10


def test_an_sa_that_comes_up_with_a_token_of_a_dropped_generation_gets_a_new_one() -> None:
    config = connection()
    bob = gateway(config)
    sa = FakeSa(1, config, True, b"i" * 8, b"r" * 8, BOB, ALICE, established=False)
    bob.core.sas.append(sa)
    bob.notifies(at(0), Slot.AUTH, sa, response=False)
    rotations(bob, 4)  # four commands while IKE_AUTH is under way: generation 1 is gone
    sa.established = True
    bob.signal(at(0), SaEstablished(sa))
    assert informed(bob) == [(1, make_token(secret(bob), MakerRole.INITIATOR, b"i" * 8, b"r" * 8))]


def test_other_commands() -> None:
    bob = gateway(connection())
    assert bob.command(at(0), "dance", tag=5)
    assert bob.core.finished == [(5, False, "qcd has no command 'dance', only 'rotate'")]
    from deadpeer.ike.io import ExtensionCommand

    assert not any(e.command(at(0), ExtensionCommand("tickets", "rotate")) for e in bob.extensions)


def test_what_is_kept_goes_with_the_sa() -> None:
    config = connection()
    bob = gateway(config)
    sas = [sa_of(bob, config, n) for n in range(1, 101)]
    assert bob.maker.counters()["qcd.tokens_made"] == 100
    for sa in sas:
        bob.signal(at(1), SaClosed(sa, "deleted"))
    assert bob.maker.counters()["qcd.tokens_made"] == 0


def test_what_is_kept_of_sas_that_go_without_a_word_stays_bounded() -> None:
    config = connection()
    bob = gateway(config)
    sas = [sa_of(bob, config, n) for n in range(1, 101)]
    del bob.core.sas[:60]
    largest = 0
    for n in range(101, 1000):
        sa_of(bob, config, n)
        bob.core.sas.pop()
        largest = max(largest, bob.maker.counters()["qcd.tokens_made"])
    assert largest <= 128
    assert bob.maker.handed(sas[-1].number) is not None


def test_ten_thousand_sas_are_walked_through_a_few_times_not_at_each_new_one() -> None:
    config = connection()
    bob = gateway(config)
    walks: list[int] = []

    def views() -> list[FakeSa]:
        walks.append(len(bob.core.sas))
        return bob.core.sas

    bob.core.views = views  # type: ignore[method-assign]
    for n in range(1, 10_001):
        sa_of(bob, config, n)
    assert bob.maker.counters()["qcd.tokens_made"] == 10_000
    assert sum(walks) <= 2 * 10_000


def test_boot_is_told() -> None:
    bob = gateway(connection())
    assert bob.core.events[0].kind == "boot"
    assert bob.core.events[0].fields == {"epoch": 1, "generations": 1}
