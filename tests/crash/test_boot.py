"""Boot state: each life has its epoch, secrets survive, damage is said and never papered over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.crash import boot
from deadpeer.crash.boot import BootState, Generation, StateError
from deadpeer.crypto import SeededEntropy
from deadpeer.store import MemoryStore

SECRETS = st.binary(min_size=32, max_size=32)


@st.composite
def states(draw: st.DrawFn) -> BootState:
    count = draw(st.integers(1, 4))
    newest = draw(st.integers(count, 2**63))
    generations = tuple(Generation(newest - n, draw(SECRETS)) for n in range(count))
    return BootState(draw(st.integers(1, 2**63)), draw(SECRETS), generations)


@given(states())
def test_round_trip(state: BootState) -> None:
    assert boot.decode(boot.encode(state)) == state


@given(states(), st.data())
def test_any_damage_is_noticed(state: BootState, data: st.DataObject) -> None:
    octets = boot.encode(state)
    position = data.draw(st.integers(0, len(octets) - 1))
    flipped = octets[position] ^ data.draw(st.integers(1, 255))
    with pytest.raises(StateError, match="restore it from a backup"):
        boot.decode(octets[:position] + bytes([flipped]) + octets[position + 1 :])
    with pytest.raises(StateError, match="damaged"):
        boot.decode(octets[:position])
    with pytest.raises(StateError, match="damaged"):
        boot.decode(octets + b"\0")


def test_each_start_raises_the_epoch_and_keeps_the_rest() -> None:
    store = MemoryStore()
    first = boot.start(store, SeededEntropy(1))
    second = boot.start(store, SeededEntropy(2))
    assert (first.epoch, second.epoch) == (1, 2)
    assert (second.spi_key, second.generations) == (first.spi_key, first.generations)
    assert len(first.current.secret) == 32
    assert boot.decode(store.get("boot") or b"") == second


def test_the_epoch_is_stored_before_start_returns() -> None:
    class FullDisk(MemoryStore):
        def put(self, name: str, data: bytes) -> None:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        boot.start(FullDisk(), SeededEntropy(1))


@pytest.mark.parametrize("damage", [b"", b"x", bytes(77), bytes(112)])
def test_a_damaged_file_is_refused_and_left_alone(damage: bytes) -> None:
    store = MemoryStore()
    store.put("boot", damage)
    with pytest.raises(StateError) as caught:
        boot.start(store, SeededEntropy(1))
    assert caught.value.name == "boot"
    assert caught.value.remedy
    assert store.get("boot") == damage


def test_another_version_is_not_called_damaged() -> None:
    import hashlib

    octets = bytearray(boot.encode(boot.start(MemoryStore(), SeededEntropy(1)))[:-32])
    octets[6] = 9
    with pytest.raises(StateError, match="version 9"):
        boot.decode(bytes(octets) + hashlib.sha256(octets).digest())


def test_rotation_keeps_three_older_generations() -> None:
    state = boot.start(MemoryStore(), SeededEntropy(1))
    assert state.doomed is None
    for n in range(2, 7):
        state = state.rotated(bytes([n]) * 32)
    assert [g.number for g in state.generations] == [6, 5, 4, 3]
    assert state.current.secret == bytes([6]) * 32
    assert state.doomed == 3
    assert state.has(3)
    assert not state.has(2)


def test_boots_since() -> None:
    def living_in(epoch: int) -> BootState:
        return BootState(epoch, bytes(32), (Generation(1, bytes(32)),))

    assert living_in(5).boots_since(5) == 0
    assert living_in(5).boots_since(3) == 2
    assert living_in(5).boots_since(6) is None
    # After 2**20 boots the counter's 20 bits have gone round: each value was an epoch.
    assert living_in(2**20 + 2).boots_since(2) == 0
    assert living_in(2**20 + 2).boots_since(2**20 - 1) == 3
    assert living_in(2**20 + 2).boots_since(3) == 2**20 - 1


def test_nothing_secret_in_the_repr() -> None:
    state = boot.start(MemoryStore(), SeededEntropy(1))
    text = repr(state)
    for secret in (state.spi_key, state.current.secret):
        assert repr(secret) not in text
        assert secret.hex() not in text
