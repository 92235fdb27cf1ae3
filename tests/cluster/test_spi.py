"""The SPI codec: what goes in comes out, others' SPIs do not pass, and it looks random to others."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deadpeer.cluster.spi import EpochSpis, EspCodec, SpiCodec, SpiOrigin, SpiRing, lives_since
from deadpeer.crypto import SeededEntropy

EPOCHS = st.integers(0, 2**20 - 1)
MEMBERS = st.integers(0, 255)
RANDOM = st.integers(0, 2**20 - 1)
KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS, EPOCHS, MEMBERS, RANDOM)
def test_decodes_to_where_it_came_from(key: bytes, epoch: int, member: int, random_bits: int) -> None:
    spi = SpiCodec(key).encode(epoch, member, random_bits)
    assert len(spi) == 8
    assert SpiCodec(key).decode(spi) == SpiOrigin(epoch, member)


@given(EPOCHS, MEMBERS, RANDOM, EPOCHS, MEMBERS, RANDOM)
def test_different_fields_have_different_spis(
    epoch: int, member: int, random_bits: int, other_epoch: int, other_member: int, other_random: int
) -> None:
    codec = SpiCodec(b"k" * 32)
    same = (epoch, member, random_bits) == (other_epoch, other_member, other_random)
    assert (
        codec.encode(epoch, member, random_bits) == codec.encode(other_epoch, other_member, other_random)
    ) is same


def test_epoch_and_random_bits_wrap_and_member_does_not() -> None:
    codec = SpiCodec(b"k" * 32)
    assert codec.encode(2**20 + 3, 1, 2**20 + 5) == codec.encode(3, 1, 5)
    for member in (-1, 256):
        with pytest.raises(ValueError, match="member"):
            codec.encode(1, member, 0)
    with pytest.raises(ValueError, match="32 octets"):
        SpiCodec(b"short")


def test_of_random_values_about_one_in_65536_passes() -> None:
    codec, entropy = SpiCodec(b"k" * 32), SeededEntropy(7)
    passed = sum(codec.decode(entropy.octets(8)) is not None for _ in range(200_000))
    assert passed <= 15  # expected 3.05; 16 or more has a chance below 1e-6


@pytest.mark.parametrize("bit", range(64))
def test_one_flipped_bit_is_garbage(bit: int) -> None:
    codec = SpiCodec(b"k" * 32)
    for random_bits in range(50):
        spi = int.from_bytes(codec.encode(4, 0, random_bits), "big") ^ (1 << bit)
        assert codec.decode(spi.to_bytes(8, "big")) is None


def test_another_key_is_garbage_and_so_is_another_length() -> None:
    spi = SpiCodec(b"k" * 32).encode(1, 0, 99)
    assert SpiCodec(b"l" * 32).decode(spi) is None
    assert SpiCodec(b"k" * 32).decode(spi[:7]) is None
    assert SpiCodec(b"k" * 32).decode(bytes(8)) is None


def test_neighbours_differ_in_half_their_bits() -> None:
    """Each input bit, the random ones in particular, moves each output bit every other time."""
    codec, trials = SpiCodec(b"k" * 32), 400
    flips = Counter[int]()
    for n in range(trials):
        changed = int.from_bytes(codec.encode(1, 0, n), "big") ^ int.from_bytes(
            codec.encode(1, 0, n ^ (1 << n % 20)), "big"
        )
        flips.update(bit for bit in range(64) if changed >> bit & 1)
    # Binomial(400, 1/2): standard deviation 10; six of them on 64 bits.
    assert all(abs(flips[bit] - trials / 2) < 60 for bit in range(64))


def test_octets_of_one_epoch_are_evenly_spread() -> None:
    spis = EpochSpis(SpiCodec(b"k" * 32), 1, 0, SeededEntropy(3))
    seen = [spis.ike_spi() for _ in range(8192)]
    for position in range(8):
        counts = Counter(spi[position] for spi in seen)
        chi_square = sum((counts[value] - 32) ** 2 / 32 for value in range(256))
        assert chi_square < 400  # 255 degrees of freedom: mean 255, standard deviation 22.6


def test_a_source_gives_spis_of_its_epoch_and_member() -> None:
    codec = SpiCodec(b"k" * 32)
    spis = EpochSpis(codec, 41, 6, SeededEntropy(1))
    seen = {spis.ike_spi() for _ in range(100)}
    assert len(seen) > 95
    assert {codec.decode(spi) for spi in seen} == {SpiOrigin(41, 6)}


def test_zero_is_never_handed_out() -> None:
    class Zeroing(SpiCodec):
        calls = 0

        def encode(self, epoch: int, member: int, random_bits: int) -> bytes:
            self.calls += 1
            return bytes(8) if self.calls == 1 else super().encode(epoch, member, random_bits)

    assert any(EpochSpis(Zeroing(b"k" * 32), 1, 0, SeededEntropy(1)).ike_spi())


@given(st.lists(KEYS, min_size=1, max_size=4, unique=True), EPOCHS, MEMBERS, RANDOM, st.data())
def test_a_ring_makes_with_the_newest_key_and_knows_all(
    keys: list[bytes], epoch: int, member: int, random_bits: int, data: st.DataObject
) -> None:
    ring = SpiRing(keys)
    assert ring.encode(epoch, member, random_bits) == SpiCodec(keys[0]).encode(epoch, member, random_bits)
    older = SpiCodec(data.draw(st.sampled_from(keys)))
    spi = older.encode(epoch, member, random_bits)
    newer = next(codec for key in keys if (codec := SpiCodec(key)).decode(spi) is not None)
    assert ring.decode(spi) == newer.decode(spi)


@pytest.mark.parametrize("count", [0, 6])
def test_a_ring_is_small(count: int) -> None:
    with pytest.raises(ValueError, match="SPI keys"):
        SpiRing([bytes([n]) * 32 for n in range(count)])


@given(KEYS, MEMBERS, st.integers(0, 2**24 - 1))
def test_an_esp_spi_names_its_member(key: bytes, member: int, random_bits: int) -> None:
    spi = EspCodec(key).encode(member, random_bits)
    assert 0 <= spi < 2**32
    assert EspCodec(key).member(spi) == member


def test_esp_spis_of_one_member_look_random() -> None:
    spis = [EspCodec(b"k" * 32).encode(3, n) for n in range(20_000)]
    assert len(set(spis)) == len(spis)
    for shift in (0, 8, 16, 24):
        counts = Counter(spi >> shift & 0xFF for spi in spis)
        chi_squared = sum((counts[v] - len(spis) / 256) ** 2 / (len(spis) / 256) for v in range(256))
        assert 170 < chi_squared < 360  # 255 degrees of freedom: one in 10,000 lies outside


def test_a_source_of_a_cluster_gives_esp_spis_of_its_member() -> None:
    codec, esp = SpiCodec(b"k" * 32), EspCodec(b"e" * 32)
    source = EpochSpis(codec, 5, 7, SeededEntropy(1), esp)
    assert {esp.member(source.esp_spi()) for _ in range(100)} == {7}


def test_epochs_wrap() -> None:
    assert lives_since(5, 6) is None
    assert lives_since(5, 5) == 0
    assert lives_since(2**20 + 2, 2**20 - 1) == 3
